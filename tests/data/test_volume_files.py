"""Files of volumes: one orientation whatever the header, nothing silent about broken files, no name of a patient anywhere."""

from __future__ import annotations

import gzip
import itertools
import logging
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from gkd_bench.data import nifti as nifti_module
from gkd_bench.data.dicom import dicom
from gkd_bench.data.domain import Stack
from gkd_bench.data.nifti import nifti
from gkd_bench.data.volumefiles import bands, black_and_white, in_order, inside, listed, pair, pictures
from gkd_bench.data.volumewriters import write_dicom_series, write_mask_pngs, write_nifti
from gkd_bench.errors import DataError
from tests.data.made_up_volumes import SPACING, Body, arrays, body

nib: Any = nibabel
LIVER = bands((0, 0, 0), (1, 1, 1))
AXCODES = [
    "".join(codes) for order in itertools.permutations(("LR", "PA", "SI")) for codes in itertools.product(*order)
]
IN_PLANE = [codes for codes in AXCODES if codes[2] in "SI"]


def open_nifti(folder: Path, name: str = "v.nii") -> Stack:
    return pair(nifti(folder / name), nifti(folder / f"m{name}"), LIVER)


def write_niftis(folder: Path, made: Body, axcodes: str = "LPS", name: str = "v.nii") -> None:
    write_nifti(folder / name, made.values, SPACING, axcodes)
    write_nifti(folder / f"m{name}", made.label, SPACING, axcodes)


def open_series(folder: Path) -> Stack:
    return pair(dicom(listed(folder / "d")), pictures(listed(folder / "m")), black_and_white, by_number=True)


def write_series(folder: Path, made: Body, **options: Any) -> None:
    axcodes = options.get("axcodes", "LPS")
    write_dicom_series(folder / "d", made.values, SPACING, **options)
    write_mask_pngs(folder / "m", made.label, (255,), axcodes=axcodes)


def same(stack: Stack, made: Body) -> bool:
    values, label = arrays(stack)
    assert values.dtype == np.float32 and label.dtype == np.uint8
    assert stack.shape == values.shape == label.shape
    return bool((values == made.values).all() and (label == made.label).all())


def one_line(call: Callable[[], object], *parts: str) -> str:
    """The call fails with one line that holds these parts."""
    with pytest.raises(DataError) as error:
        call()
    (line,) = error.value.problems
    for part in parts:
        assert part in line
    return line


# ---------------------------------------------------------------- orientation, scale, pairing


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axcodes", AXCODES)
def test_nifti_in_any_of_48_orientations_gives_the_same_planes(tmp_path: Path, axcodes: str, ending: str) -> None:
    made = body()
    write_niftis(tmp_path, made, axcodes, f"v{ending}")
    stack = open_nifti(tmp_path, f"v{ending}")
    assert same(stack, made)
    assert stack.spacing == pytest.approx(SPACING)
    assert same(stack, made)  # may be read again


def test_mask_and_image_may_be_stored_in_different_orientations(tmp_path: Path) -> None:
    made = body()
    write_nifti(tmp_path / "v.nii", made.values, SPACING, "RAS")
    write_nifti(tmp_path / "mv.nii", made.label, SPACING, "ASL")
    assert same(open_nifti(tmp_path), made)


@pytest.mark.parametrize("axcodes", IN_PLANE)
def test_axial_dicom_in_any_orientation_gives_the_same_planes(tmp_path: Path, axcodes: str) -> None:
    made = body()
    write_series(tmp_path, made, axcodes=axcodes)
    stack = open_series(tmp_path)
    assert same(stack, made)
    assert stack.spacing == pytest.approx(SPACING)


def test_sagittal_series_is_refused(tmp_path: Path) -> None:
    write_dicom_series(tmp_path, body().values, SPACING, axcodes="PSL")
    one_line(lambda: dicom(listed(tmp_path)), str(tmp_path), "not an axial slice")


@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (2, -1000), (0.5, 0)])
def test_dicom_values_are_hounsfield_units_by_slope_and_intercept(
    tmp_path: Path, slope: float, intercept: float
) -> None:
    made = body()
    made = made._replace(values=(made.values // 2 * 2).astype(np.int16))
    write_series(tmp_path, made, slope=slope, intercept=intercept)
    assert same(open_series(tmp_path), made)


def test_each_slice_has_its_own_scale(tmp_path: Path) -> None:
    made = body(2)
    for number, slope in enumerate((1, 2)):
        part = made.values[number : number + 1] // 2 * 2
        write_dicom_series(tmp_path, part, SPACING, slope=slope, names=f"{number}_{{:d}}.dcm")
    slices = dicom(listed(tmp_path))
    assert (np.stack([*slices.read([0, 1])]) == made.values // 2 * 2).all()


def test_nifti_scale_is_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([-1, -1, 1, 1]))
    image.header.set_slope_inter(2.0, -1024.0)
    image.to_filename(tmp_path / "v.nii.gz")
    stored = np.asarray(nib.load(tmp_path / "v.nii.gz").dataobj)
    planes = np.stack([*nifti(tmp_path / "v.nii.gz").read(range(5))], -1)
    assert (planes == stored).all()


def test_slices_pair_with_masks_by_file_name_where_places_run_the_other_way(tmp_path: Path) -> None:
    made = body()
    write_series(tmp_path, made, axcodes="LPI")
    assert same(open_series(tmp_path), made)


def test_disordered_places_do_not_break_the_pairs(tmp_path: Path) -> None:
    made = body()
    write_series(tmp_path, made, positions=[0, 6, 3, 12, 9])
    stack = open_series(tmp_path)
    assert same(stack, made)
    assert stack.spacing is not None and stack.spacing[0] == pytest.approx(3.0)


def test_series_may_be_sorted_by_place_for_masks_that_know_theirs(tmp_path: Path) -> None:
    made = body()
    write_dicom_series(tmp_path, made.values, SPACING, positions=[0, 6, 3, 12, 9])
    slices = dicom(listed(tmp_path), by_position=True)
    assert (np.stack([*slices.read(range(5))]) == made.values[[0, 2, 1, 4, 3]]).all()


def test_spacing_between_slices_is_that_of_places_not_of_thickness(tmp_path: Path) -> None:
    write_series(tmp_path, body(), positions=[0, 2, 4, 6, 8])
    spacing = open_series(tmp_path).spacing
    assert spacing is not None and spacing[0] == pytest.approx(2.0)
    write_series(tmp_path, body(), tags={"ImagePositionPatient": None, "SpacingBetweenSlices": None})
    assert open_series(tmp_path).spacing == pytest.approx(SPACING)
    write_series(tmp_path, body(), tags={"PixelSpacing": None})
    assert open_series(tmp_path).spacing is None


def test_numbers_in_names_sort_by_value(tmp_path: Path) -> None:
    names = [Path(f"image_{number}") for number in (10, 9, 100, 1)]
    assert [path.name for path in in_order(names)] == ["image_1", "image_9", "image_10", "image_100"]


def test_header_without_orientation_is_remarked(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), None)
    image.to_filename(tmp_path / "v.nii")
    assert "does not state" in nifti(tmp_path / "v.nii").remark
    write_dicom_series(tmp_path / "d", body().values, SPACING, tags={"ImageOrientationPatient": None})
    assert "do not state" in dicom(listed(tmp_path / "d")).remark


def test_trailing_axes_of_one_are_accepted(tmp_path: Path) -> None:
    made = body()
    write_niftis(tmp_path, made)
    image = nib.load(tmp_path / "v.nii")
    nib.Nifti1Image(image.get_fdata().astype(np.int16)[..., None], image.affine).to_filename(tmp_path / "v.nii")
    assert same(open_nifti(tmp_path), made)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", ">f8", "u1"])
def test_every_number_type_and_byte_order_is_read(tmp_path: Path, kind: Any, dtype: str) -> None:
    values = np.arange(60).reshape(3, 4, 5).astype(dtype)
    header = kind(values, np.diag([-1, -1, 1, 1])).header.as_byteswapped(dtype[0] if dtype[0] in "<>" else "<")
    kind(values, np.diag([-1, -1, 1, 1]), header).to_filename(tmp_path / "v.nii")
    assert (np.stack([*nifti(tmp_path / "v.nii").read(range(5))], -1) == np.arange(60).reshape(3, 4, 5)).all()


# ---------------------------------------------------------------- broken files


def test_truncated_files_are_one_line(tmp_path: Path) -> None:
    for name in ("v.nii", "v.nii.gz"):
        write_niftis(tmp_path, body(), name=name)
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-40])
        one_line(lambda name=name: arrays(open_nifti(tmp_path, name)), str(path), "damaged")
    write_series(tmp_path, body())
    for path in (listed(tmp_path / "d")[2], listed(tmp_path / "m")[2]):
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])
        one_line(lambda: arrays(open_series(tmp_path)), str(path))
        path.write_bytes(whole)


def test_gzip_whose_checksum_is_wrong_is_one_line(tmp_path: Path) -> None:
    write_niftis(tmp_path, body(), name="v.nii.gz")
    path = tmp_path / "v.nii.gz"
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF
    path.write_bytes(data)
    one_line(lambda: arrays(open_nifti(tmp_path, "v.nii.gz")), str(path), "damaged")


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b", b"hello " * 200, b"\x89PNG\r\n\x1a\n", gzip.compress(b"no volume" * 99, mtime=0)]
)
def test_foreign_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    one_line(lambda: nifti(path), str(path), "NIfTI")
    one_line(lambda: dicom([path]), str(path), "DICOM")
    one_line(lambda: pictures([path]), str(path), "picture")


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    for call in (nifti, lambda path: dicom([path]), lambda path: pictures([path])):
        one_line(lambda call=call: call(tmp_path / "gone"), "gone: file is missing")


def test_masks_of_another_size_or_number_are_one_line(tmp_path: Path) -> None:
    write_series(tmp_path, body())
    write_mask_pngs(tmp_path / "m", body(rows=20).label, (255,))
    one_line(lambda: open_series(tmp_path), str(tmp_path / "m"), "32x20 pixels", "32x24")
    write_mask_pngs(tmp_path / "m", body(6).label, (255,))
    one_line(lambda: open_series(tmp_path), "6 masks for 5 slices")
    write_niftis(tmp_path, body())
    write_nifti(tmp_path / "mv.nii", body(columns=30).label, SPACING)
    one_line(lambda: open_nifti(tmp_path), "mv.nii", "30x24 pixels")


def test_mask_that_says_it_lies_elsewhere_is_one_line(tmp_path: Path) -> None:
    write_niftis(tmp_path, body())
    mask = nib.load(tmp_path / "mv.nii")
    affine = mask.affine.copy()
    affine[2, 3] += 40
    nib.Nifti1Image(mask.get_fdata().astype(np.uint8), affine).to_filename(tmp_path / "mv.nii")
    one_line(lambda: open_nifti(tmp_path), "mv.nii", "lies 40 mm away")


@pytest.mark.parametrize("level", [3.0, 0.5, np.nan, -1.0])
def test_unknown_level_of_a_volume_is_one_line(tmp_path: Path, level: float) -> None:
    write_niftis(tmp_path, body())
    mask = body().label.astype(np.float32)
    mask[2, 3, 4] = level
    write_nifti(tmp_path / "mv.nii", mask, SPACING)
    one_line(lambda: arrays(open_nifti(tmp_path)), "mv.nii", "1 pixels of a mask have levels", "known are 0, 1")


def test_grey_mask_is_one_line_and_never_thresholded_at_zero(tmp_path: Path) -> None:
    write_series(tmp_path, body())
    path = listed(tmp_path / "m")[1]
    grey = np.full((24, 32), 3, np.uint8)
    grey[:8] = 250
    Image.fromarray(grey).save(path)
    assert arrays(open_series(tmp_path))[1][1].sum() == 8 * 32
    grey[:8] = 100
    Image.fromarray(grey).save(path)
    one_line(lambda: arrays(open_series(tmp_path)), str(path), "neither dark nor bright")


def header_with(path: Path, **fields: Any) -> Path:
    """A NIfTI file whose header says something else than its content."""
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.int16), np.diag([-1, -1, 1, 1]))
    image.to_filename(path)
    data = bytearray(path.read_bytes())
    header = np.frombuffer(data[:348], nib.Nifti1Header.template_dtype).copy()
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.tobytes() + bytes(data[348:]))
    return path


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dim": [3, 30000, 30000, 9000, 1, 1, 1, 1]}, "more than any scan has"),
        ({"dim": [3, 512, 512, 32767, 1, 1, 1, 1]}, "more than any scan has"),
        ({"dim": [3, 4, 5, 0, 1, 1, 1, 1]}, "empty"),
        ({"dim": [3, 4, -5, 6, 1, 1, 1, 1]}, "empty"),
        ({"dim": [2, 4, 5, 1, 1, 1, 1, 1]}, "2 axes"),
        ({"dim": [4, 4, 5, 6, 7, 1, 1, 1]}, "4 axes"),
        ({"dim": [5, 4, 5, 6, 1, 3, 1, 1]}, "5 axes"),
        ({"datatype": 128, "bitpix": 24}, "no plain numbers"),
        ({"datatype": 1792, "bitpix": 128}, "no plain numbers"),
        ({"datatype": 31000}, "damaged"),
        ({"vox_offset": 1e12}, "cannot"),
        ({"vox_offset": np.nan}, "damaged"),
        ({"scl_slope": 2.0, "scl_inter": np.nan}, "damaged"),
        ({"srow_x": [np.nan] * 4}, "orientation"),
        ({"srow_x": [0] * 4}, "orientation"),
        ({"magic": b"ni1"}, "damaged"),
    ],
)
def test_absurd_nifti_headers_are_refused_before_voxels_are_read(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    path = header_with(tmp_path / "v.nii", **fields)
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as error:
            [*nifti(path).read([0])]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    (line,) = error.value.problems
    assert str(path) in line and says in line.replace("which cannot be", "cannot").replace(
        "than any header has", "cannot"
    )
    assert peak < 2_000_000


def rewritten(path: Path, syntax: str | None = None, **tags: Any) -> None:
    """Change a DICOM file; none removes a tag."""
    data = pydicom.dcmread(path)
    for tag, value in tags.items():
        if value is None:
            delattr(data, tag)
        else:
            setattr(data, tag, value)
    if syntax:
        data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path)


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"NumberOfFrames": 2}, "more than one frame"),
        ({"PixelData": None}, "no pixel data"),
        ({"PixelData": b"\0" * 10}, "damaged"),
        ({"Rows": 60000, "Columns": 60000}, "more than any scan has"),
        ({"Rows": 0}, "empty"),
        ({"Rows": None}, "without a picture"),
        ({"Rows": 12}, "pixels, but"),
        ({"BitsAllocated": None}, "damaged"),
        ({"SamplesPerPixel": 3}, "plain grey"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "plain grey"),
        ({"RescaleSlope": 0}, "no usable scale"),
        ({"PixelSpacing": [0.1, 9.0]}, "one series"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "one series"),
    ],
)
def test_bad_dicom_slice_is_one_line(tmp_path: Path, tags: dict[str, Any], says: str) -> None:
    write_series(tmp_path, body())
    path = listed(tmp_path / "d")[3]
    rewritten(path, **tags)
    one_line(lambda: arrays(open_series(tmp_path)), str(path), says)


def test_deflated_dicom_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, body())
    path = listed(tmp_path / "d")[0]
    rewritten(path, DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr("zlib.decompress", lambda *_: pytest.fail("was unpacked"))
    one_line(lambda: open_series(tmp_path), str(path), "Deflate")


def test_compression_that_cannot_be_decoded_here_is_one_line(tmp_path: Path) -> None:
    write_series(tmp_path, body())
    path = listed(tmp_path / "d")[1]
    data = pydicom.dcmread(path)
    data.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    data.save_as(path)
    one_line(lambda: arrays(open_series(tmp_path)), str(path), "that can be decoded here")


def test_compression_that_can_be_decoded_is_read(tmp_path: Path) -> None:
    made = body()
    write_series(tmp_path, made)
    for path in listed(tmp_path / "d"):
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path)
    assert same(open_series(tmp_path), made)


def test_swollen_dicom_file_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, body())
    path = listed(tmp_path / "d")[0]
    with path.open("ab") as file:
        file.truncate(2**25)
    one_line(lambda: open_series(tmp_path), str(path), "far larger")


def test_pictures_of_absurd_size_foreign_format_or_more_bits_are_refused(tmp_path: Path) -> None:
    Image.new("1", (5000, 10)).save(tmp_path / "wide.png")
    one_line(lambda: pictures([tmp_path / "wide.png"]), "more than any scan has")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    one_line(lambda: pictures([tmp_path / "deep.png"]), "8 bits")
    Image.new("RGB", (8, 8)).save(tmp_path / "script.png", "EPS")
    one_line(lambda: pictures([tmp_path / "script.png"]), "no picture")


def test_link_out_of_the_folder_is_not_inside_it(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    (other / "file").touch()
    (home / "link").symlink_to(other / "file")
    (home / "file").touch()
    (tmp_path / "alias").symlink_to(home)
    assert inside(home, home / "file") and inside(tmp_path / "alias", tmp_path / "alias" / "file")
    assert not inside(home, home / "link") and not inside(home, home / ".." / "other" / "file")


# ---------------------------------------------------------------- privacy


def test_no_name_of_a_patient_reaches_messages_logs_warnings_or_output(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secret: dict[str, Any] = dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "StudyDescription"), "DOE^JANE"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library says of a date that is a name while it is written
        write_dicom_series(tmp_path / "d", body(1).values, SPACING, patient="DOE^JANE", tags=secret)
    caplog.clear()
    capfd.readouterr()
    (path,) = listed(tmp_path / "d")
    whole = path.read_bytes()
    image = nib.Nifti1Image(body().values, np.diag([-1, -1, 1, 1]))
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[field] = b"DOE^JANE"
    image.to_filename(tmp_path / "v.nii")
    volume, texts, rng = (tmp_path / "v.nii").read_bytes(), [], np.random.default_rng(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(300):
            path.write_bytes(_broken(whole, rng, number))
            (tmp_path / "v.nii").write_bytes(_broken(volume, rng, number))
            for call in (lambda: [*dicom([path]).read([0])], lambda: [*nifti(tmp_path / "v.nii").read([0])]):
                try:
                    call()
                except DataError as error:
                    texts.append(f"{error} {error.problems} {error.__cause__}")
    assert len(texts) > 50
    texts += [str(warning.message) for warning in caught] + [caplog.text, *capfd.readouterr()]
    assert [text for text in texts if "DOE" in text or "JANE" in text] == []


def test_text_inside_a_picture_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "v.tif"
    Image.new("L", (8, 8)).save(path, tiffinfo={315: "DOE^JANE"})
    Image.open(path).load()
    assert "DOE" in caplog.text  # what Pillow does on its own
    caplog.clear()
    assert next(pictures([path]).read([0])).shape == (8, 8)
    assert "DOE" not in caplog.text
    Image.open(path).load()
    assert "DOE" in caplog.text  # and may go on to do elsewhere


def _broken(whole: bytes, rng: np.random.Generator, number: int) -> bytes:
    """Shortened, or with a few bytes of the header changed, or with the name where a number should be."""
    if number % 3 == 0:
        return whole[: int(rng.integers(1, len(whole)))]
    if number % 3 == 1:
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 1200), 12):
            data[place] = int(rng.integers(0, 256))
        return bytes(data)
    place = int(rng.integers(0, min(len(whole), 1200)))
    return whole[:place] + b"DOE^JANE" + whole[place + 8 :]


# ---------------------------------------------------------------- memory


def test_gzipped_volume_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    shape = (256, 256, 120)
    for name in ("v.nii.gz", "mv.nii.gz"):
        nib.Nifti1Image(np.zeros(shape, np.uint8), np.diag([-1, -1, 1, 1])).to_filename(tmp_path / name)
    tracemalloc.start()
    try:
        count = sum(1 for _ in open_nifti(tmp_path, "v.nii.gz").planes())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 120
    assert peak < 4 * 256 * 256 * 8 + 2**20 < np.prod(shape) // 2


def test_gzipped_volume_that_must_be_unpacked_as_a_whole_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_niftis(tmp_path, body(), "SPL", "v.nii.gz")
    monkeypatch.setattr(nifti_module, "MOST_LOADED", 100)
    one_line(lambda: arrays(open_nifti(tmp_path, "v.nii.gz")), "v.nii.gz", "unpack it (gunzip)")


def test_gzip_that_holds_more_than_its_header_says_is_refused(tmp_path: Path) -> None:
    write_niftis(tmp_path, body())
    data = (tmp_path / "v.nii").read_bytes() + bytes(2**21)
    (tmp_path / "v.nii.gz").write_bytes(gzip.compress(data))
    one_line(lambda: [*nifti(tmp_path / "v.nii.gz").read(range(5))], "v.nii.gz", "damaged")


# ---------------------------------------------------------------- anything


def _valid(kind: str) -> bytes:
    """A small valid file."""
    with tempfile.TemporaryDirectory() as folder:
        made = body(3, 10, 12)
        if kind == "dicom":
            path = write_dicom_series(Path(folder), made.values[:1], SPACING)[0]
        elif kind == "png":
            path = write_mask_pngs(Path(folder), made.label[:1], (255,))[0]
        elif kind == "jpeg":
            path = Path(folder) / "v.jpg"
            Image.fromarray(made.label[1] * np.uint8(255)).save(path)
        else:
            path = write_nifti(Path(folder) / kind, made.values, SPACING)
        return path.read_bytes()


def _read_any(kind: str, path: Path) -> list[NDArray[Any]]:
    slices = dicom([path]) if kind == "dicom" else pictures([path]) if kind in ("png", "jpeg") else nifti(path)
    planes = [*slices.read(range(slices.shape[0]))]
    assert all(plane.shape == slices.shape[1:] for plane in planes)
    return planes


@pytest.mark.parametrize("kind", ["dicom", "v.nii", "v.nii.gz", "png", "jpeg"])
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_changed_bytes_give_a_stack_or_a_data_error_and_nothing_else(kind: str, data: st.DataObject) -> None:
    content = bytearray(_valid(kind))
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("v.gz" if kind.endswith("gz") else "v")
        path.write_bytes(content)
        try:
            _read_any(kind, path)
        except DataError as error:
            problems = error.problems
        else:
            problems = ()
        assert all(str(path) in line for line in problems)

from __future__ import annotations

import json
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from gkd_bench.data.abdomen import LEVELS_OF, Drawn, Tissue, draw_volume
from gkd_bench.data.catalogue import open_reader
from gkd_bench.data.domain import Stack
from gkd_bench.data.readers.phantom_volumes import LEVELS, PhantomCt, PhantomMr, PhantomVolume
from gkd_bench.data.volumewriters import turned, write_dicom_series, write_mask_pngs, write_nifti

READERS = (PhantomCt, PhantomMr)
SPACING = (3.0, 2.0, 1.5)


@cache
def drawings(reader: type[PhantomVolume]) -> list[Drawn]:
    return [draw_volume(reader.style, int(raw.subject)) for raw in reader().images()]


def read(stack: Stack) -> Drawn:
    planes = list(stack.planes())
    return Drawn(np.stack([plane.values for plane in planes]), np.stack([plane.label for plane in planes]))


def middle(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Slice, row and column."""
    return np.asarray([np.mean(places) for places in np.nonzero(mask)])


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


# ---------------------------------------------------------------- drawing


@pytest.mark.parametrize("reader", READERS)
def test_same_subject_has_the_same_voxels_and_subjects_differ(reader: type[PhantomVolume]) -> None:
    first = drawings(reader)
    draw_volume.cache_clear()
    second = [draw_volume(reader.style, int(raw.subject)) for raw in reader().images()]
    assert all(np.array_equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))
    assert len({drawn.label.tobytes() for drawn in first}) == len(first) == 12


def test_voxels_of_the_cache_cannot_be_written_to() -> None:
    drawn = draw_volume(PhantomCt.style, 1)
    with pytest.raises(ValueError, match="read-only"):
        drawn.values[0] = 0


@pytest.mark.parametrize("reader", READERS)
def test_subject_is_drawn_within_half_a_second_of_processor_time(reader: type[PhantomVolume]) -> None:
    draw_volume.cache_clear()
    start = time.process_time()
    for subject in (1, 2, 3):
        draw_volume(reader.style, subject)
    assert time.process_time() - start < 3 * 0.5


@pytest.mark.parametrize("reader", READERS)
def test_organs_lie_where_they_belong(reader: type[PhantomVolume]) -> None:
    for drawn in drawings(reader):
        fat = drawn.values > (-300 if reader is PhantomCt else 0.3 * np.percentile(drawn.values, 99))
        _, row, column = middle(fat)
        liver, right, left, spleen = (middle(drawn.label == number) for number in (1, 2, 3, 4))
        assert liver[2] < column < spleen[2]
        assert right[2] < column < left[2]
        assert min(right[1], left[1]) > max(row, liver[1])  # the kidneys lie at the back
        assert max(right[0], left[0]) < min(liver[0], spleen[0])  # and lower


def test_spine_is_the_brightest_of_ct_and_below_the_middle_of_the_body() -> None:
    for drawn in drawings(PhantomCt):
        rows, columns = drawn.values.shape[1:]
        centre = drawn.values[:, :, columns // 2 - 10 : columns // 2 + 10]
        bone = centre[:, : rows - 20] > 350  # without the table
        assert middle(bone)[1] > middle(drawn.values > -300)[1] + 5


@pytest.mark.parametrize("reader", READERS)
def test_every_class_is_there_and_some_slices_are_empty(reader: type[PhantomVolume]) -> None:
    for drawn in drawings(reader):
        counts = np.bincount(drawn.label.ravel())
        assert len(counts) == 5 and counts.min() > 150
        with_liver = (drawn.label == 1).any(axis=(1, 2))
        assert 0.5 < with_liver.mean() < 0.9
        assert not drawn.label[[0, -1]].any()


def test_ct_values_are_hounsfield_units_of_their_tissue() -> None:
    for drawn in drawings(PhantomCt):
        means = [drawn.values[drawn.label == number].mean() for number in (1, 2, 3, 4)]
        assert 60 < means[0] < 200
        for mean, tissue in zip(
            means, (Tissue.LIVER, Tissue.RIGHT_KIDNEY, Tissue.LEFT_KIDNEY, Tissue.SPLEEN), strict=True
        ):
            assert mean == pytest.approx(LEVELS_OF[tissue][0], abs=30)
        assert drawn.values[:, 0].mean() == pytest.approx(-1000, abs=15)
        assert drawn.values.min() >= -1024


def test_domains_differ_in_shape_spacing_and_contrast() -> None:
    ct, mr = PhantomCt.style, PhantomMr.style
    assert all(a != b for a, b in zip(ct.shape + ct.spacing, mr.shape + mr.spacing, strict=True))
    for style, fat_is_brighter in ((ct, False), (mr, True)):
        drawn = draw_volume(style, 1)
        liver = drawn.values[drawn.label == 1].mean()
        body = drawn.values[:, style.shape[1] // 4 : -style.shape[1] // 4]
        subcutaneous = body[:, :, 4:12][body[:, :, 4:12] > (-200 if style is ct else 0.5 * liver)]
        assert (np.median(subcutaneous) > liver) == fat_is_brighter
    spleen = [draw_volume(style, 1) for style in (ct, mr)]
    order = [one.values[one.label == 4].mean() > one.values[one.label == 1].mean() for one in spleen]
    assert order == [True, False]


def test_units_of_mr_differ_between_subjects() -> None:
    livers = [drawn.values[drawn.label == 1].mean() for drawn in drawings(PhantomMr)]
    assert max(livers) > 2 * min(livers)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("reader", READERS)
def test_files_give_back_what_was_drawn(reader: type[PhantomVolume], temporary: Path) -> None:
    one = reader()
    for raw in one.images()[:2]:
        drawn, stack = draw_volume(one.style, int(raw.subject)), one.open(raw)
        again = read(stack)
        assert again.values.shape == stack.shape
        assert np.array_equal(again.values, drawn.values)
        assert np.array_equal(again.label, drawn.label)
        assert again.values.dtype == np.float32 and again.label.dtype == np.uint8


@pytest.mark.parametrize("reader", READERS)
def test_stack_states_what_its_files_say(reader: type[PhantomVolume], tmp_path: Path) -> None:
    raw = reader().images()[0]
    stated, found = reader().open(raw), reader().write(raw, tmp_path)
    assert stated.shape == found.shape
    assert found.spacing is not None and stated.spacing == pytest.approx(found.spacing)


@pytest.mark.parametrize("name", ["phantom_ct", "phantom_mr"])
def test_generated_domain_is_sound(name: str, temporary: Path) -> None:
    reader = open_reader(name)
    assert reader.problems(deep=True) == []
    assert reader.card.folder == ""
    splits = list(reader.splits().values())
    assert [splits.count(split) for split in ("train", "val", "test")] == [6, 2, 4]
    assert {raw.subject for raw in reader.images()} == set(reader.splits())


@pytest.mark.parametrize("reader", READERS)
def test_content_is_the_numbers_of_the_style(reader: type[PhantomVolume]) -> None:
    content = reader().content(lambda path: pytest.fail(f"{path} is no file of a generated domain"))
    assert content == asdict(reader.style)
    assert json.loads(json.dumps(content))["seed"] == reader.style.seed


@pytest.mark.parametrize("reader", READERS)
def test_no_files_stay_when_the_slices_were_read_or_left(reader: type[PhantomVolume], temporary: Path) -> None:
    stack = reader().open(reader().images()[0])
    assert list(temporary.iterdir()) == []
    planes = iter(stack.planes())
    next(planes)
    assert len(list(temporary.iterdir())) == 1
    planes.close()  # type: ignore[attr-defined]
    assert list(temporary.iterdir()) == []
    for _ in stack.planes():
        pass
    assert list(temporary.iterdir()) == []
    for _ in stack.planes():
        break
    assert list(temporary.iterdir()) == []


def test_ct_lies_on_disk_as_chaos_does(tmp_path: Path) -> None:
    raw = PhantomCt().images()[0]
    PhantomCt().write(raw, tmp_path)
    slices, masks = sorted(tmp_path.glob("DICOM_anon/*.dcm")), sorted(tmp_path.glob("Ground/*.png"))
    assert (slices[0].name, masks[0].name) == ("i0000,0000b.dcm", "liver_GT_000.png")
    assert len(slices) == len(masks) == PhantomCt.style.shape[0]
    heights = [pydicom.dcmread(path).ImagePositionPatient[2] for path in slices]
    assert np.allclose(np.diff(heights), -3.0)
    levels = set(np.unique(np.stack([np.asarray(Image.open(path)) for path in masks])))
    assert levels == {0, *LEVELS}


# ---------------------------------------------------------------- writers


def made_up() -> NDArray[np.int16]:
    return np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6) - 60


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "LAS", "RPI", "PIR", "SLA"])
def test_nifti_lies_along_the_axes_that_were_asked_for(axcodes: str, tmp_path: Path) -> None:
    image = nib.load(write_nifti(tmp_path / "sub" / "image.nii.gz", made_up(), SPACING, axcodes))
    assert nib.aff2axcodes(image.affine) == tuple(axcodes)
    assert image.get_data_dtype() == np.int16
    canonical = nib.as_closest_canonical(image)  # columns to the left, rows to the front, slices upwards
    assert canonical.header.get_zooms() == pytest.approx(SPACING[::-1])
    assert np.array_equal(np.asarray(canonical.dataobj)[::-1, ::-1].transpose(2, 1, 0), made_up())


@pytest.mark.parametrize("axcodes", ["LPS", "LPI", "RAS", "LAI", "PLS"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_every_voxel_of_a_series_lies_where_it_belongs(axcodes: str, modality: str, tmp_path: Path) -> None:
    values = made_up()
    paths = write_dicom_series(tmp_path, values, SPACING, modality=modality, axcodes=axcodes)
    found = {}
    for data in map(pydicom.dcmread, paths):
        corner = np.asarray(data.ImagePositionPatient, float)
        along, down = np.asarray(data.ImageOrientationPatient, float).reshape(2, 3)
        pixels = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
        for row, column in np.ndindex(*pixels.shape):  # equation C.7.6.2.1-1 of the DICOM standard, part 3
            place = corner + along * column * data.PixelSpacing[1] + down * row * data.PixelSpacing[0]
            found[int(pixels[row, column])] = place
    assert len(found) == values.size
    for index in np.ndindex(*values.shape):
        step = np.asarray(index) - (np.asarray(values.shape) - 1) / 2
        assert found[int(values[index])] == pytest.approx((step * SPACING)[::-1])  # left, posterior, head


def test_dicom_files_are_valid_and_always_the_same(tmp_path: Path) -> None:
    first = write_dicom_series(tmp_path / "a" / "series", made_up(), SPACING, patient="p1")
    again = write_dicom_series(tmp_path / "b" / "series", made_up(), SPACING, patient="p1")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    files = [pydicom.dcmread(path) for path in first]  # without force
    assert len({file.SOPInstanceUID for file in files}) == len(files)
    assert len({file.SeriesInstanceUID for file in files}) == 1
    assert [file.InstanceNumber for file in files] == [1, 2, 3, 4]
    assert all(file.file_meta.MediaStorageSOPInstanceUID == file.SOPInstanceUID for file in files)
    assert files[0].SliceThickness == 3.0 and files[0].PatientID == "p1"
    other = pydicom.dcmread(write_dicom_series(tmp_path / "c", made_up(), SPACING, patient="p2")[0])
    assert other.StudyInstanceUID != files[0].StudyInstanceUID


def test_series_takes_another_scale_places_and_tags(tmp_path: Path) -> None:
    options = {"intercept": 10, "slope": 0.5, "positions": [0, 3, 9, 5], "tags": {"Manufacturer": "M", "KVP": None}}
    paths = write_dicom_series(tmp_path, made_up(), SPACING, names="IMG-{:05d}.dcm", **options)  # type: ignore[arg-type]
    files = [pydicom.dcmread(path) for path in paths]
    assert paths[2].name == "IMG-00002.dcm"
    assert files[0].PixelRepresentation == 1  # there are values below the intercept
    pixels = np.stack([file.pixel_array for file in files])
    assert np.array_equal(pixels * 0.5 + 10, made_up())
    heights = np.asarray([float(file.ImagePositionPatient[2]) for file in files])
    assert heights - heights[0] == pytest.approx([0, 3, 9, 5])
    assert files[0].Manufacturer == "M" and "KVP" not in files[0]


def test_masks_are_turned_like_their_series(tmp_path: Path) -> None:
    label = np.zeros((2, 3, 4), np.uint8)
    label[0, 0, 1], label[1, 2, 3] = 1, 2
    paths = write_mask_pngs(tmp_path, label, (63, 252), "m{:d}.png", axcodes="RPI")
    masks = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert [path.name for path in paths] == ["m0.png", "m1.png"]
    assert np.array_equal(np.asarray([0, 63, 252])[label], masks[::-1, :, ::-1])


def test_writers_refuse_what_they_cannot_write(tmp_path: Path) -> None:
    for wrong in ("LP", "LLS", "XYZ", "lps", "LRS"):
        with pytest.raises(ValueError, match="axcodes"):
            turned(made_up(), SPACING, wrong)
    with pytest.raises(ValueError, match="grey level"):
        write_mask_pngs(tmp_path, np.full((1, 2, 2), 3, np.uint8), (63, 252))
    with pytest.raises(ValueError, match="16 bits"):
        write_dicom_series(tmp_path, made_up(), SPACING, slope=1e-4)
    with pytest.raises(ValueError, match="modality"):
        write_dicom_series(tmp_path, made_up(), SPACING, modality="US")
    with pytest.raises(OverflowError):
        write_dicom_series(tmp_path, np.full((1, 2, 2), np.nan), SPACING)

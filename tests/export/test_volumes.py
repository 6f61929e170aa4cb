"""Students of volumes, of several classes and of colour: exported, compared, and used on files."""

from __future__ import annotations

import csv
import gzip
import json
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from gkd_bench import cli
from gkd_bench.config.data import Prepare, Volumes
from gkd_bench.data.abdomen import draw_volume
from gkd_bench.data.catalogue import Catalogue, open_reader
from gkd_bench.data.nifti import nifti
from gkd_bench.data.readers.phantom_volumes import PhantomCt, PhantomMr, PhantomVolume
from gkd_bench.data.volumewriters import write_nifti
from gkd_bench.errors import GkdBenchError
from gkd_bench.export.bundle import modality_of
from gkd_bench.export.card import source_card
from gkd_bench.export.facts import from_text
from gkd_bench.export.inputs import Wanted
from gkd_bench.export.model_file import open_model
from gkd_bench.export.overlay import COLOURS, colour_of, draw_overlay
from gkd_bench.export.predict import predict_files
from gkd_bench.export.scale import ScaleChoice
from gkd_bench.stages.scoring import class_map, cleaned, native_probabilities

from .small import Small, make_small, with_facts

nib: Any = nibabel
SECRET = b"MUELLER^HANS"
AXES = ("LPS", "RAS", "LPI", "PSR", "SAL")


@pytest.fixture(scope="module")
def liver(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """CT, one class; a slice is one window."""
    pytest.importorskip("onnxscript")
    return make_small(
        tmp_path_factory.mktemp("liver"), "phantom_ct", Catalogue(volumes=Volumes(size=64), classes=("liver",))
    )


@pytest.fixture(scope="module")
def organs(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """MR, two classes, several windows over a slice, the largest components, millimetres per pixel."""
    pytest.importorskip("onnxscript")
    place = Catalogue(volumes=Volumes(spacing=3.5), classes=("liver", "spleen"))
    return make_small(tmp_path_factory.mktemp("organs"), "phantom_mr", place, largest_component=True)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Small:
    pytest.importorskip("onnxscript")
    prepare = Prepare.model_validate({"channel": "rgb", "scale": {"rule": "fov_width", "value": 100}})
    return make_small(tmp_path_factory.mktemp("colour"), "phantom_clear", Catalogue(prepare=prepare))


def quiet(line: str) -> None:
    """Says nothing."""


def values_of(reader: type[PhantomVolume], subject: str) -> NDArray[np.int16]:
    return draw_volume(reader.style, int(subject)).values


def scored(small: Small) -> tuple[str, NDArray[np.uint8], NDArray[np.bool_]]:
    """Subject of the first test volume, what the evaluate stage decides in it, and where that is no close call."""
    images, stage = small.domain.test_split().images, small.stage
    volume, count = images.volumes()[0], len(small.facts.class_names)
    found, clear = [], []
    for _, probability in native_probabilities(small.predict, images, volume.indices):
        every = np.concatenate([1 - probability.sum(0, keepdims=True), probability])
        first, second = -np.sort(-every, axis=0)[:2]
        clear.append(first - second > 1e-4 if count > 1 else np.abs(probability[0] - stage.threshold) > 1e-4)
        found.append(class_map(probability, stage.threshold))
    return volume.subject, cleaned(np.stack(found), count, stage.largest_component), np.stack(clear)


def in_own_order(path: Path) -> NDArray[np.uint8]:
    """A mask file, turned to the package's orientation."""
    slices = nifti(path)
    stored = list(slices.read(list(slices.turn.order(slices.shape[0]))))
    return np.stack([slices.turn.plane(one) for one in stored]).astype(np.uint8)


# ---------------------------------------------------------------- export


@pytest.mark.parametrize("name", ["liver", "organs", "colour"])
def test_both_files_compute_what_the_network_computes(name: str, request: pytest.FixtureRequest) -> None:
    small: Small = request.getfixturevalue(name)
    for form in ("onnx", "pt2"):
        (line,) = [line for line in small.lines if line.startswith(f"{form}: largest difference")]
        assert float(re.findall(r"model (\S+) over", line)[0]) < 1e-4
        model = open_model(small.folder / f"model.{form}")
        images = np.random.default_rng(0).random((3, model.facts.channels, 70, 45), np.float32)
        assert model.run(images).shape == (3, len(model.facts.class_names), 70, 45)
        assert model.facts == small.facts


def test_facts_say_how_volumes_are_fed_and_decided(liver: Small, organs: Small, colour: Small) -> None:
    one, two, three = liver.facts, organs.facts, colour.facts
    assert (one.modality, two.modality, three.modality) == ("ct", "mr", "photograph")
    assert (one.class_names, two.class_names, three.channels) == (("liver",), ("liver", "spleen"), 3)
    assert one.volumes == Volumes(size=64) and one.prepare is None and three.volumes is None
    assert (two.blend, two.largest_component, one.largest_component) == ("gaussian", True, False)
    assert "probabilities of liver, spleen" in two.output_form and "(batch, 3," in three.input_form
    with pytest.raises(GkdBenchError, match="model of volumes"):
        _ = one.photographs


def test_facts_of_the_previous_version_are_read(colour: Small) -> None:
    tree = json.loads(colour.facts.to_text()) | {"schema_version": 1}
    for name in ("blend", "largest_component", "classes", "channels", "modality", "volumes"):
        del tree[name]
    old = from_text(json.dumps(tree), "here")
    assert (old.blend, old.largest_component, old.channels, old.volumes) == ("uniform", False, 1, None)
    assert old.class_names == ("vessel",) and old.modality == "photograph"


def test_cards_have_the_words_of_volumes_and_classes(liver: Small, organs: Small, colour: Small) -> None:
    one, two, three = ((small.folder / "README.md").read_text() for small in (liver, organs, colour))
    assert "CT volumes in Hounsfield units as NIfTI" in one and "dcm2niix" in one and "patients (train)" in one
    assert "window.low: `-160.0`" in one and "clahe" not in one
    assert "1 is liver, 2 is spleen (the most probable class; of every class only the largest" in two
    assert "the most probable of background and classes is taken" in two
    assert "red, green and blue" in three and "gkd-bench predict model PHOTOS" in three


def test_source_of_ones_own_is_described_without_a_registered_card() -> None:
    described: Any = SimpleNamespace(of=lambda kind: pd.DataFrame({"domain": ["my_clinic"], "title": ["My clinic"]}))
    nothing: Any = SimpleNamespace(of=lambda kind: pd.DataFrame())
    card = source_card(described, "my_clinic")
    assert (card.title, card.vessel_width, card.terms) == ("My clinic", 0.0, "not stated by its sweep")
    assert source_card(nothing, "my_clinic").title == "my_clinic"


@pytest.mark.parametrize(
    ("windows", "modality"),
    [([(-160, 240)], "ct"), ([(0, 255)], "grey"), ([(3, 900), (5, 700)], "mr"), ([], "photograph")],
)
def test_modality_is_told_from_the_windows_of_the_source(windows: list[Any], modality: str) -> None:
    stacks = [SimpleNamespace(window=(float(low), float(high))) for low, high in windows]
    manifest: Any = SimpleNamespace(stacks=stacks, settings=Volumes().model_dump(mode="json"))
    assert modality_of(manifest) == modality


# ---------------------------------------------------------------- volumes


@pytest.mark.parametrize("name", ["liver", "organs"])
def test_masks_are_those_that_the_benchmark_scores_whatever_the_axes(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    small: Small = request.getfixturevalue(name)
    subject, right, clear = scored(small)
    reader = PhantomCt if name == "liver" else PhantomMr
    values, out = values_of(reader, subject), tmp_path / "out"
    for number, axes in enumerate(AXES):
        write_nifti(tmp_path / f"{axes}.nii{'.gz' if number % 2 else ''}", values, reader.style.spacing, axes)
    assert predict_files(small.model, [tmp_path], Wanted(out), quiet) == []
    assert np.mean(clear) > 0.99
    for axes in AXES:
        (given,) = tmp_path.glob(f"{axes}.nii*")
        mask, image = nib.load(out / f"{axes}_mask.nii.gz"), nib.load(given)
        assert mask.shape == image.shape and mask.get_data_dtype() == np.uint8
        assert np.array_equal(mask.affine, image.affine)
        found = in_own_order(out / f"{axes}_mask.nii.gz")
        assert np.array_equal(found[clear], right[clear])
        assert set(np.unique(found)) == set(range(len(small.facts.class_names) + 1))
        assert (out / f"{axes}_overlay.png").is_file()


def test_summary_has_millimetres_and_millilitres(organs: Small, tmp_path: Path) -> None:
    style = PhantomMr.style
    path = write_nifti(tmp_path / "a.nii.gz", values_of(PhantomMr, "1"), style.spacing, "RAS")
    predict_files(organs.model, [path], Wanted(tmp_path), quiet)
    (row,) = csv.DictReader((tmp_path / "predictions.csv").open())
    mask = in_own_order(tmp_path / "a_mask.nii.gz")
    assert (row["slices"], row["rows"], row["columns"]) == tuple(map(str, mask.shape))
    assert [float(one) for one in row["spacing_mm"].split("x")] == pytest.approx(style.spacing)
    for number, name in enumerate(("liver", "spleen"), 1):
        assert float(row[f"{name}_ml"]) == pytest.approx(
            (mask == number).sum() * np.prod(style.spacing) / 1e3, abs=0.01
        )


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_masks_lie_where_the_volume_lies_and_name_nobody(kind: Any, liver: Small, tmp_path: Path) -> None:
    values = np.moveaxis(values_of(PhantomCt, "1"), 0, 2)[..., :3]
    turn = nib.eulerangles.euler2mat(0.1, 0.2, -0.05)
    affine = nib.affines.from_matvec(turn @ np.diag([-0.7, 0.8, 2.3]), [11.1, -22.2, 33.3])
    image = kind(values, affine)
    image.set_qform(affine, 3)
    image.set_sform(affine @ np.diag([1.0, 1.0, 1.01, 1.0]), 4)
    image.header["descrip"], image.header["aux_file"] = SECRET, SECRET
    if kind is nib.Nifti1Image:
        image.header["db_name"] = SECRET
    image.header.set_xyzt_units("mm", "sec")
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRET))
    image.to_filename(tmp_path / "a.nii.gz")
    assert SECRET in gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    assert predict_files(liver.model, [tmp_path / "a.nii.gz"], Wanted(tmp_path), quiet) == []
    made = (tmp_path / "a_mask.nii.gz").read_bytes()
    assert SECRET not in gzip.decompress(made) and b"a_mask" not in made
    mask = nib.load(tmp_path / "a_mask.nii.gz")
    assert isinstance(mask, kind) and mask.shape == image.shape and len(mask.header.extensions) == 0
    read = nib.load(tmp_path / "a.nii.gz")
    for get in ("get_qform", "get_sform"):
        (found, code), (given, given_code) = getattr(mask, get)(coded=True), getattr(read, get)(coded=True)
        assert np.array_equal(found, given) and code == given_code
    assert np.array_equal(mask.affine, read.affine)
    assert mask.header.get_xyzt_units() == ("mm", "unknown")


def test_nothing_found_has_no_overlay(liver: Small, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "air.nii.gz", np.full((2, 40, 50), -1000, np.int16), (5.0, 1.0, 1.0))
    predict_files(liver.model, [path], Wanted(tmp_path / "out", threshold=0.9999), quiet)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["air_mask.nii.gz", "predictions.csv"]


def test_bad_files_are_named_and_the_others_done(
    liver: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_nifti(tmp_path / "good.nii.gz", values_of(PhantomCt, "1")[:2], PhantomCt.style.spacing)
    hole = np.zeros((2, 40, 40), np.float32)
    hole[1, 3, 3] = np.nan
    paths = [
        good,
        write_nifti(tmp_path / "hole.nii", hole, (1.0, 1.0, 1.0)),
        tmp_path / "torn.nii.gz",
        tmp_path / "1.dcm",
    ]
    paths[2].write_bytes(good.read_bytes()[:3000])
    paths[3].touch()
    words = ["predict", str(liver.folder), *map(str, paths), "--output", str(tmp_path / "out")]
    assert cli.main(words) == cli.EXIT_SOME_FAILED
    error = capsys.readouterr().err
    assert "3 could not be segmented" in error and "Traceback" not in error
    assert "dcm2niix" in error and "1 voxels are NaN" in error and "torn.nii.gz: damaged" in error
    assert (tmp_path / "out" / "good_mask.nii.gz").is_file()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"scale": ScaleChoice(vessel_width=3)}, "--vessel-width: for photographs only"),
        ({"scale": ScaleChoice(factor=2), "probability": True}, "--scale and --probability: for photographs only"),
        ({"threshold": 0.4}, "the most probable is taken"),
    ],
)
def test_flags_without_a_use_are_refused(wanted: dict[str, Any], message: str, organs: Small, tmp_path: Path) -> None:
    with pytest.raises(GkdBenchError, match=message):
        predict_files(organs.model, [tmp_path], Wanted(tmp_path / "out", **wanted), quiet)


def test_folder_of_dicom_says_what_to_do(liver: Small, tmp_path: Path) -> None:
    (tmp_path / "i0001.dcm").touch()
    with pytest.raises(GkdBenchError, match=r"no volumes in .*dcm2niix"):
        predict_files(liver.model, [tmp_path], Wanted(tmp_path / "out"), quiet)


@pytest.mark.parametrize("name", ["liver", "organs"])
def test_snippet_of_the_card_finds_what_the_command_finds(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: Small = request.getfixturevalue(name)
    reader = PhantomCt if name == "liver" else PhantomMr
    path = write_nifti(tmp_path / "volume.nii.gz", values_of(reader, "2"), reader.style.spacing, "LPI")
    shutil.copy(small.folder / "model.onnx", tmp_path)
    code = re.findall(r"```python\n(.*?)```", (small.folder / "README.md").read_text(), re.DOTALL)[0]
    (tmp_path / "snippet.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("snippet.py")
    whole = with_facts(small.model, largest_component=False, tile=max(96, small.facts.tile) if name == "organs" else 64)
    predict_files(whole, [path], Wanted(tmp_path / "out"), quiet)
    one, other = in_own_order(tmp_path / "mask.nii.gz"), in_own_order(tmp_path / "out" / "volume_mask.nii.gz")
    assert np.mean(one == other) > (0.999 if name == "liver" else 0.9)  # windows beyond the border are reflected


# ---------------------------------------------------------------- photographs


def test_colour_photographs_are_segmented_as_the_benchmark_scores_them(colour: Small, tmp_path: Path) -> None:
    reader, images = open_reader("phantom_clear"), colour.domain.test_split().images
    (raw,) = [raw for raw in reader.images() if raw.name == images.name(0)]
    pixels = reader.read(raw)  # type: ignore[attr-defined]
    Image.fromarray(pixels.rgb).save(tmp_path / "a.png")
    wanted = Wanted(tmp_path, scale=ScaleChoice(factor=colour.domain.manifest.factor))
    assert predict_files(colour.model, [tmp_path / "a.png"], wanted, quiet) == []
    ((_, probability),) = native_probabilities(colour.predict, images, [0])
    clear = (np.abs(probability[0] - colour.stage.threshold) > 1e-3) & pixels.fov
    mask = np.array(Image.open(tmp_path / "a_mask.png"))
    assert np.mean((mask[clear] > 0) == (probability[0][clear] >= colour.stage.threshold)) > 0.999
    assert set(np.unique(mask)) == {0, 255}


def test_masks_of_several_classes_hold_their_numbers(colour: Small, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(60, 255, (80, 90, 3), np.uint8)).save(tmp_path / "a.png")

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        left = np.zeros((len(images), 2, *images.shape[2:]), np.float32)
        left[:, 0], left[:, 1, : images.shape[2] // 2] = 0.4, 0.6  # class 2 above, background and class 1 below
        left[:, 0, -1] = 0.9
        return left

    model = with_facts(colour.model, classes=("disc", "cup"), tile=90, overlap=0.0)
    object.__setattr__(model, "run", run)
    wanted = Wanted(tmp_path, probability=True, scale=ScaleChoice(factor=1.0))
    assert predict_files(model, [tmp_path / "a.png"], wanted, quiet) == []
    assert set(np.unique(np.array(Image.open(tmp_path / "a_mask.png")))) <= {0, 1, 2}
    assert np.array(Image.open(tmp_path / "a_mask.png")).max() == 2
    assert {one.name for one in tmp_path.glob("*_probability.png")} == {
        "a_disc_probability.png",
        "a_cup_probability.png",
    }
    (row,) = csv.DictReader((tmp_path / "predictions.csv").open())
    assert float(row["cup_share"]) > 0.3 and "disc_share" in row


def test_every_class_has_a_colour_of_its_own() -> None:
    assert len({colour_of(number) for number in range(1, 33)}) == 32
    classes = np.asarray([[0, 1, 2, len(COLOURS) + 1]], np.uint8)
    drawn = draw_overlay(np.full((1, 4), 100, np.uint8), classes)
    assert drawn[0, 0].tolist() == [100, 100, 100] and len({tuple(one) for one in drawn[0].tolist()}) == 4

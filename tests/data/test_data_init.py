"""``gkd-bench data init``: what it writes about a folder loads as a sweep file and reads that folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gkd_bench.cli import main
from gkd_bench.config.load import LoadedSweep, load_sweep
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.domain import DomainReader
from gkd_bench.data.look import domain_name, look
from gkd_bench.data.look_patterns import guess_subject
from gkd_bench.data.look_text import block_text
from gkd_bench.data.volumewriters import write_dicom_series, write_mask_pngs, write_nifti
from gkd_bench.errors import ConfigError, DataError

from .conftest import made_up_pixels, save

NAMES = [f"p{number // 2:02d}_{'LR'[number % 2]}" for number in range(8)]


def vessels_in_folders(folder: Path) -> None:
    for number, name in enumerate(NAMES):
        rgb, label, fov = made_up_pixels(number)
        save(rgb, folder / "images" / f"{name}.jpg")
        save(label, folder / "manual1" / f"{name}.tif", one_bit=True)
        save(fov, folder / "mask" / f"{name}_mask.tif", one_bit=True)


def vessels_in_one_folder(folder: Path) -> None:
    for number, name in enumerate(NAMES):
        rgb, label, _ = made_up_pixels(number)
        save(rgb, folder / f"{name}.png")
        save(label, folder / f"{name}_manual.png")


def disc_and_cup(folder: Path) -> None:
    y, x = np.mgrid[:52, :60]
    radius = np.hypot(y - 26, x - 30)
    for number, name in enumerate(NAMES):
        save(made_up_pixels(number)[0], folder / "Images" / f"{name}.png")
        mask = np.where(radius < 6, 0, np.where(radius < 12, 128, 255)).astype(np.uint8)
        save(mask, folder / "Ground_truth" / f"{name}.bmp")


def box(number: int) -> tuple[Any, Any]:
    """(values, label) of a body with an organ in it: (4, 40, 48)."""
    label = np.zeros((4, 40, 48), np.uint8)
    label[1:, 8 : 20 + number, 30:44] = 1
    values = np.random.default_rng(number).integers(-60, 60, label.shape) + label.astype(int) * 100
    values[:, :4] = -1000
    return values.astype(np.int16), label


def ct_slices(folder: Path) -> None:
    for patient in range(3):
        values, label = box(patient)
        for number in (1, 2, 3):
            name = f"case{patient:03d}_slice{number:03d}.png"
            save(np.clip(values[number] + 60, 0, 255).astype(np.uint8), folder / "images" / name)
            save(label[number] * np.uint8(255), folder / "masks" / name, one_bit=True)


def nifti_volumes(folder: Path, high: int = 0) -> None:
    for number in range(3):
        values, label = box(number)
        write_nifti(folder / f"img{number}.nii.gz", np.maximum(values, high - 1000), (5, 1, 1))
        write_nifti(folder / f"label{number}.nii.gz", label, (5, 1, 1))


def mr_volumes(folder: Path) -> None:
    nifti_volumes(folder, high=1000)


def many_class_volumes(folder: Path) -> None:
    for number in range(3):
        values, label = box(number)
        label[2, 30:, :10] = 4
        write_nifti(folder / f"p{number}" / "scan.nii.gz", values, (5, 1, 1))
        write_nifti(folder / f"p{number}" / "seg.nii.gz", label, (5, 1, 1))


def dicom_folders(folder: Path, modality: str = "CT") -> None:
    for number in range(3):
        values, label = box(number)
        write_dicom_series(
            folder / modality / f"{number + 1}" / "DICOM_anon", values, (5, 1, 1), modality=modality, patient="Doe^Jane"
        )
        write_mask_pngs(folder / modality / f"{number + 1}" / "Ground", label, [255])


LAYOUTS: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "vessels": (
        vessels_in_folders,
        {"kind": "photograph", "masks": "manual1/{name}.*", "fov": "mask/{name}_mask.*", "levels": None, "subjects": 4},
    ),
    "vessels flat": (
        vessels_in_one_folder,
        {"kind": "photograph", "masks": "{name}_manual.*", "fov": None, "subjects": 4},
    ),
    "disc and cup": (
        disc_and_cup,
        {"kind": "photograph", "levels": {"background": (255,), "class_1": (0,), "class_2": (128,)}, "subjects": 4},
    ),
    "CT slices": (ct_slices, {"kind": "slice", "modality": "grey", "levels": None, "subjects": 3}),
    "CT volumes": (
        nifti_volumes,
        {"kind": "volume", "modality": "ct", "images": "img{name}.*", "levels": None, "subjects": 3},
    ),
    "MR volumes": (mr_volumes, {"kind": "volume", "modality": "mr", "subjects": 3}),
    "volumes of several classes": (
        many_class_volumes,
        {
            "kind": "volume",
            "images": "{name}/scan.nii.gz",
            "levels": {"background": (0,), "class_1": (1,), "class_2": (4,)},
        },
    ),
    "DICOM": (
        dicom_folders,
        {"kind": "volume", "modality": "ct", "images": "{name}/DICOM_anon", "masks": "{name}/Ground"},
    ),
}


def written(tmp_path: Path, layout: Callable[[Path], None], *options: str) -> tuple[LoadedSweep, DomainReader]:
    """The sweep file that the command writes about a layout, loaded, and the reader of its domain."""
    layout(tmp_path / "set")
    out = tmp_path / "out" / "mine.yaml"
    assert main(["data", "init", str(tmp_path / "set"), "--out", str(out), *options]) == 0
    loaded = load_sweep(out)
    data = loaded.sweep.data
    return loaded, Catalogue.of(data).open(data.domains[0])


@pytest.mark.parametrize("case", LAYOUTS)
def test_written_file_loads_and_reads_the_folder(tmp_path: Path, case: str) -> None:
    layout, wanted = LAYOUTS[case]
    loaded, reader = written(tmp_path, layout, "--name", "mine")
    assert reader.problems() == []
    block = loaded.sweep.data.folders["mine"]
    expected = {key: value for key, value in wanted.items() if key != "subjects"}
    assert {key: getattr(block, key) for key in expected} == expected
    assert len(set(reader.splits())) == wanted.get("subjects", 3)
    assert set(reader.splits().values()) == {"train", "val", "test"}
    assert load_sweep(loaded.path, "small").sweep.classes == reader.card.classes


@pytest.mark.parametrize("case", LAYOUTS)
def test_printed_block_is_the_one_of_the_file(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    loaded, _ = written(tmp_path, LAYOUTS[case][0])
    capsys.readouterr()
    assert main(["data", "init", str(tmp_path / "set")]) == 0
    printed = capsys.readouterr().out
    data = printed[printed.index("data:\n") :]
    assert data in loaded.text and "check this" in data
    assert max(map(len, data.splitlines())) < 130 + len(str(tmp_path))


def test_table_beside_the_images_is_used(tmp_path: Path) -> None:
    vessels_in_folders(tmp_path)
    lines = ["image,subject", *(f"{name},{number % 5}" for number, name in enumerate(NAMES))]
    (tmp_path / "patients.csv").write_text("\n".join(lines))
    guess = look(tmp_path)
    assert (guess.block.table, guess.block.subject, guess.subjects) == ("patients.csv", None, 5)


def test_headers_never_show_who_was_scanned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dicom_folders(tmp_path, "MR")
    assert main(["data", "init", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "the first header says MR" in shown.out
    for file in (tmp_path / "MR" / "1" / "DICOM_anon").iterdir():
        file.write_bytes(file.read_bytes()[:700])
    main(["data", "init", str(tmp_path)])
    shown_again = capsys.readouterr()
    assert not any("Doe" in text or "Jane" in text for text in (*shown, *shown_again))


def test_wrong_files_are_told_and_the_block_is_written_all_the_same(tmp_path: Path) -> None:
    vessels_in_folders(tmp_path)
    (tmp_path / "manual1" / "p00_L.tif").unlink()
    text = block_text(look(tmp_path))
    assert "# wrong:" in text and "p00_L.jpg: has no mask" in text and "must be mended first" in text


def test_unsure_things_are_marked(tmp_path: Path) -> None:
    for number in range(5):
        rgb, label, _ = made_up_pixels(number)
        save(rgb, tmp_path / "images" / f"{'abcde'[number]}.png")
        save(label, tmp_path / "masks" / f"{'abcde'[number]}.png")
    text = block_text(look(tmp_path))
    assert "check this: none: every image is taken for a patient of its own" in text
    assert "subject: null" in text and "the names are yours" in text.replace("choose the names", "the names are yours")


@pytest.mark.parametrize(
    ("names", "subjects"),
    [
        (["p01_L", "p01_R", "p02_L", "p03_R"], {"p01", "p02", "p03"}),
        (["Image_01L", "Image_01R", "Image_02L", "Image_03L"], {"Image_01", "Image_02", "Image_03"}),
        (["7_OD", "7_OS", "8_OD", "9_OS"], {"7", "8", "9"}),
        (
            ["patient12_slice003", "patient12_slice004", "patient3_slice1", "patient4_slice1"],
            {"patient12", "patient3", "patient4"},
        ),
        (["P13_T1_00028", "P13_T1_00030", "P1_T1_00038", "P2_T1_00038"], {"P13", "P1", "P2"}),
        (["01_dr", "01_g", "02_dr", "03_h"], {"01", "02", "03"}),
        (["im0001", "im0002", "im0003"], None),
        (["a_1", "a_2", "b_1"], None),
    ],
)
def test_patients_are_guessed_from_names(names: list[str], subjects: set[str] | None) -> None:
    import re

    pattern = guess_subject(names)
    found = None if pattern is None else {match["subject"] for name in names if (match := re.search(pattern, name))}
    assert found == subjects


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CHASEDB1", "chasedb1"),
        ("my data (2)", "my_data_2"),
        ("2024", "my_2024"),
        ("HRF", "my_hrf"),
        ("...", "my_data"),
    ],
)
def test_name_of_the_domain_comes_from_the_folder(text: str, name: str) -> None:
    assert domain_name(text) == name


def test_what_is_not_found_is_a_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="no such folder"):
        look(tmp_path / "nowhere")
    with pytest.raises(DataError, match="found no images with masks"):
        look(tmp_path)
    with pytest.raises(ConfigError, match="must be a letter"):
        look(tmp_path, "9 lives")
    for folder in ("one", "other"):
        for number in range(3):
            save(
                np.random.default_rng(number).integers(0, 255, (40, 40), np.uint8), tmp_path / folder / f"{number}.png"
            )
    with pytest.raises(DataError, match="not masks of few grey levels"):
        look(tmp_path)
    assert main(["data", "init", str(tmp_path)]) == 2
    assert "gkd-bench: domain" in capsys.readouterr().err


def test_existing_file_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vessels_in_folders(tmp_path)
    (tmp_path / "mine.yaml").write_text("precious")
    assert main(["data", "init", str(tmp_path), "--out", str(tmp_path / "mine.yaml")]) == 2
    assert "is there already" in capsys.readouterr().err and (tmp_path / "mine.yaml").read_text() == "precious"


def test_sixteen_bit_pictures_are_slices_scaled_by_percentiles(tmp_path: Path) -> None:
    for number in range(4):
        values, label = box(number % 3)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray((values[2] + 1000).astype(np.uint16)).save(tmp_path / "images" / f"s{number}.png")
        save(label[2], tmp_path / "masks" / f"s{number}.png")
    block = look(tmp_path).block
    assert (block.kind, block.modality, block.levels) == ("slice", "mr", {"background": (0,), "foreground": (1,)})


def test_folder_that_an_archive_had_everything_in_is_opened(tmp_path: Path) -> None:
    mr_volumes(tmp_path / "set" / "download")
    (tmp_path / "set" / ".hidden").write_text("")
    out = tmp_path / "mine.yaml"
    assert main(["data", "init", str(tmp_path / "set"), "--out", str(out)]) == 0
    (block,) = load_sweep(out).sweep.data.folders.values()
    assert block.path == str(tmp_path / "set" / "download")

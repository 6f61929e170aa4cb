"""Every registered domain keeps the readers' contract; made-up files in the official layouts stand in for downloads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gkd_bench.data.catalogue import open_reader
from gkd_bench.errors import DataError
from gkd_bench.registry import DOMAIN_CLASSES, DOMAINS

FILE_DOMAINS = ("chase_db1", "stare", "drive", "hrf")
COUNTS = {"chase_db1": 28, "stare": 20, "drive": 20, "hrf": 45}
Layout = Callable[..., Path]


PHOTOGRAPHS = tuple(name for name, classes in DOMAIN_CLASSES.items() if classes == ("vessel",))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_complete_data_set_has_no_problem_and_reads_in_canonical_form(name: str, layout: Layout) -> None:
    reader = open_reader(name, layout(name))
    assert reader.card.name == name
    assert reader.problems() == []
    images = reader.images()
    assert len(images) == COUNTS.get(name, 12)
    assert len({raw.name for raw in images}) == len(images)
    for raw in images[:3]:
        rgb, label, fov = reader.read(raw)
        assert rgb.dtype == np.uint8 and rgb.shape == (*label.shape, 3)
        assert label.dtype == fov.dtype == np.bool_ and label.shape == fov.shape
        assert 0 < label.sum() < fov.sum() <= fov.size
        dark, bright = rgb[..., 1][label & fov].mean(), rgb[..., 1][~label & fov].mean()
        assert dark < bright


@pytest.mark.parametrize("name", DOMAIN_CLASSES)
def test_classes_known_without_import_are_those_of_the_card(name: str, tmp_path: Path) -> None:
    assert open_reader(name, tmp_path).card.classes == DOMAIN_CLASSES[name]
    assert open_reader(name, tmp_path).card.name == name


def test_every_built_in_domain_says_its_classes() -> None:
    assert {name for name in DOMAINS if DOMAINS.is_built_in(name)} == set(DOMAIN_CLASSES)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_every_subject_is_in_one_split_and_every_split_has_images(name: str, layout: Layout) -> None:
    reader = open_reader(name, layout(name))
    splits = reader.splits()
    assert {splits[raw.subject] for raw in reader.images()} == {"train", "val", "test"}


@pytest.mark.parametrize("name", FILE_DOMAINS)
def test_every_missing_file_is_listed_with_source_and_terms(name: str, layout: Layout) -> None:
    root = layout(name)
    reader = open_reader(name, root)
    gone = [reader.images()[0].image, reader.images()[3].label]
    for path in gone:
        assert path is not None
        path.unlink()
    with pytest.raises(DataError) as error:
        reader.require()
    assert len(error.value.problems) == 2
    for path in gone:
        assert path is not None and any(
            path.stem.split(".")[0] in line and "missing" in line for line in error.value.problems
        )
    assert reader.card.source in str(error.value) and reader.card.terms in str(error.value)


@pytest.mark.parametrize("name", FILE_DOMAINS)
def test_torn_pictures_are_listed_all_at_once(name: str, layout: Layout) -> None:
    reader = open_reader(name, layout(name))
    torn = [raw.image for raw in reader.images()[:2]]
    for path in torn:
        assert path is not None
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    problems = reader.problems(deep=True)
    assert len(problems) == 2
    assert all(str(path) in line for path, line in zip(torn, problems, strict=True))


def test_picture_of_another_size_is_listed(layout: Layout) -> None:
    reader = open_reader("drive", layout("drive"))
    label = reader.images()[4].label
    assert label is not None
    Image.new("L", (10, 12), 255).save(label)
    (problem,) = reader.problems(deep=False)
    assert str(label) in problem and "10x12" in problem


def test_file_that_is_no_picture_is_listed(layout: Layout) -> None:
    reader = open_reader("stare", layout("stare"))
    image = reader.images()[0].image
    assert image is not None
    image.write_bytes(b"<html>404</html>")
    (problem,) = reader.problems()
    assert str(image) in problem and "unreadable" in problem


def test_empty_label_is_a_problem(layout: Layout) -> None:
    reader = open_reader("hrf", layout("hrf"))
    label = reader.images()[0].label
    assert label is not None
    Image.new("L", (60, 52), 0).save(label)
    assert any("no vessel pixel" in line for line in reader.problems())


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("name", FILE_DOMAINS)
def test_missing_files_do_not_hide_torn_ones(name: str, deep: bool, layout: Layout) -> None:
    reader = open_reader(name, layout(name))
    first, second, third = reader.images()[:3]
    assert first.image and first.label and second.label and third.image
    first.image.unlink()
    for path in (first.label, second.label):  # one beside the missing file, one of another image
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if deep else 4])
    third.image.write_bytes(b"")
    lines = reader.problems(deep)
    assert len(lines) == 4, lines
    assert lines[0].lower() == f"{first.image}: file is missing".lower()  # HRF's ending may be either
    for path, line in zip((first.label, second.label, third.image), lines[1:], strict=True):
        assert line.startswith(f"{path}: unreadable (")


def test_gzip_file_with_damaged_content_is_listed(layout: Layout) -> None:
    reader = open_reader("stare", layout("stare"))
    path = reader.images()[0].image
    assert path is not None and path.suffix == ".gz"
    content = bytearray(path.read_bytes())
    content[15:60] = b"\xff" * 45
    path.write_bytes(bytes(content))
    (line,) = reader.problems()
    assert str(path) in line and "unreadable" in line
    assert len(reader.problems(deep=False)) == 1


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("name", FILE_DOMAINS)
def test_missing_folder_lists_the_files_that_belong_there(name: str, deep: bool, tmp_path: Path) -> None:
    reader = open_reader(name, tmp_path)
    lines = reader.problems(deep)
    assert lines[0] == f"{tmp_path / reader.card.folder}: folder is missing"
    assert lines[1:] == [f"{path}: file is missing" for raw in reader.images() for path in raw.files()]
    assert len(lines) > COUNTS[name] * 2


def test_long_lists_of_problems_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_reader("hrf", tmp_path)
    images = reader.images()
    monkeypatch.setattr(reader, "images", lambda: images[:1] * 100)
    lines = reader.problems()
    assert len(lines) == 201
    assert lines[-1] == "and 146 more"


@pytest.mark.parametrize("name", FILE_DOMAINS)
def test_missing_root_is_one_line(name: str) -> None:
    (problem,) = open_reader(name, None).problems()
    assert "data root" in problem


def test_grey_mask_is_thresholded_at_half_not_above_zero(layout: Layout) -> None:
    reader = open_reader("hrf", layout("hrf"))
    raw = reader.images()[0]
    before = reader.read(raw).label
    assert raw.label is not None
    noisy = np.where(before, 200, 60).astype(np.uint8)
    Image.fromarray(noisy).save(raw.label)
    assert np.array_equal(reader.read(raw).label, before)


def test_grey_label_is_a_problem_that_tells_its_share(layout: Layout) -> None:
    reader = open_reader("hrf", layout("hrf"))
    raw = reader.images()[0]
    before = reader.read(raw).label
    assert raw.label is not None
    vessels = np.where(before, 255, 0).astype(np.uint8)
    vessels[:10] = 128  # 10 of 52 rows
    Image.fromarray(vessels).save(raw.label)
    (line,) = reader.problems()
    assert str(raw.label) in line
    assert "19.2% of the pixels are neither dark nor bright (at most 1% may be grey)" in line
    with pytest.raises(DataError, match="neither dark nor bright"):
        reader.read(raw)


def test_few_grey_pixels_in_a_label_are_allowed(layout: Layout) -> None:
    reader = open_reader("hrf", layout("hrf"))
    raw = reader.images()[0]
    assert raw.label is not None
    vessels = np.where(reader.read(raw).label, 255, 0).astype(np.uint8)
    vessels[0, :31] = 128  # of 3120 pixels
    Image.fromarray(vessels).save(raw.label)
    assert reader.problems() == []


def test_drive_test_images_join_when_their_labels_exist(layout: Layout) -> None:
    reader = open_reader("drive", layout("drive", test_labels=True))
    assert reader.problems() == []
    assert len(reader.images()) == 40
    assert all(reader.splits()[raw.subject] == "test" for raw in reader.images() if "test" in raw.name)


def test_both_eyes_of_a_child_are_one_subject(layout: Layout) -> None:
    images = open_reader("chase_db1", layout("chase_db1")).images()
    assert [raw.subject for raw in images[:4]] == ["01", "01", "02", "02"]


def test_unknown_domain_names_the_known_ones() -> None:
    with pytest.raises(DataError, match="chase_db1"):
        open_reader("chase")

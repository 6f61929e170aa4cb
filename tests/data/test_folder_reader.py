"""Data sets of one's own that the sweep file declares: photographs, slices and volumes made up in a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from gkd_bench.config.data import Folder, Split
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.domain import PhotographReader, RawImage, RawPixels, StackReader
from gkd_bench.data.readers.folder import FolderPhotographs, FolderStacks, open_folder
from gkd_bench.data.readers.folder_files import find, list_tree, stem
from gkd_bench.data.readers.folder_subjects import deal, read_table
from gkd_bench.data.volumewriters import write_dicom_series, write_mask_pngs, write_nifti
from gkd_bench.errors import DataError

from .conftest import made_up_pixels, save

Bytes = NDArray[np.uint8]
PATIENTS = r"^(?P<subject>p\d+)"
ALL_TEST = {"train": 0, "val": 0, "test": 1}


def write_pairs(folder: Path, count: int = 4, image_end: str = "png", mask_end: str = "png") -> None:
    """``images/p00_L`` and so on, two of each patient, with masks of 0 and 255."""
    for number in range(count):
        rgb, label, _ = made_up_pixels(number)
        name = f"p{number // 2:02d}_{'LR'[number % 2]}"
        save(rgb, folder / "images" / f"{name}.{image_end}")
        save(label, folder / "masks" / f"{name}.{mask_end}")


def photographs(folder: Path, classes: tuple[str, ...] | None = None, **block: Any) -> FolderPhotographs:
    reader = open_folder("mine", Folder.model_validate({"path": str(folder), "names": "kept", **block}), None, classes)
    assert isinstance(reader, FolderPhotographs)
    return reader


def stacks(folder: Path, classes: tuple[str, ...] | None = None, **block: Any) -> FolderStacks:
    reader = open_folder("mine", Folder.model_validate({"path": str(folder), "names": "kept", **block}), None, classes)
    assert isinstance(reader, FolderStacks)
    return reader


def first(reader: FolderPhotographs) -> RawPixels:
    return reader.read(reader.images()[0])


def only_problem(reader: FolderPhotographs | FolderStacks, deep: bool = True) -> str:
    lines = reader.problems(deep)
    assert len(lines) == 1, lines
    return lines[0]


# ---------------------------------------------------------------- photographs


@pytest.mark.parametrize(
    "ends", [("png", "png"), ("jpg", "png"), ("tif", "tiff"), ("bmp", "gif"), ("ppm.gz", "png"), ("JPG", "PNG")]
)
def test_photographs_of_every_format_are_read_with_their_masks(tmp_path: Path, ends: tuple[str, str]) -> None:
    write_pairs(tmp_path, 6, *(end.lower() for end in ends))
    for folder, end in zip(("images", "masks"), ends, strict=True):
        for file in list((tmp_path / folder).iterdir()):
            file.rename(file.with_name(f"{stem(file.name)}.{end}"))
    reader = photographs(tmp_path, ("vessel",), subject=PATIENTS)
    assert isinstance(reader, PhotographReader) and reader.problems() == []
    assert [raw.name for raw in reader.images()] == ["p00_L", "p00_R", "p01_L", "p01_R", "p02_L", "p02_R"]
    assert [raw.subject for raw in reader.images()] == ["p00", "p00", "p01", "p01", "p02", "p02"]
    rgb, label, fov = made_up_pixels(0)
    pixels = first(reader)
    assert np.array_equal(pixels.label > 0, label > 127)
    assert np.abs(pixels.rgb.astype(int) - rgb).mean() < (6 if ends[0].lower() == "jpg" else 0.1)
    assert (pixels.fov == (fov > 0)).mean() > 0.97
    assert reader.card.classes == ("vessel",) and reader.card.modality == "photograph"


def test_grey_photograph_is_repeated_in_three_channels_and_dark_field_is_everything(tmp_path: Path) -> None:
    write_pairs(tmp_path, 6)
    grey = np.full((52, 60), 20, np.uint8)
    save(grey, tmp_path / "images" / "p00_L.png")
    pixels = first(photographs(tmp_path))
    assert pixels.rgb.shape == (52, 60, 3) and (pixels.rgb == 20).all()
    assert pixels.fov.all()


def test_field_of_view_files_are_used_where_the_block_names_them(tmp_path: Path) -> None:
    write_pairs(tmp_path, 6)
    half = np.zeros((52, 60), np.uint8)
    half[:, :30] = 255
    for file in (tmp_path / "images").iterdir():
        save(half, tmp_path / "fov" / f"{file.stem}_fov.png")
    reader = photographs(tmp_path, fov="fov/{name}_fov.*")
    assert np.array_equal(first(reader).fov, half > 0)
    (tmp_path / "fov" / "p00_L_fov.png").unlink()
    assert "p00_L.png: has no field-of-view mask; looked for fov/p00_L_fov.*" in only_problem(
        photographs(tmp_path, fov="fov/{name}_fov.*")
    )


def disc_and_cup() -> Bytes:
    """REFUGE's levels: 255 outside, 128 on the disc's rim, 0 in the cup."""
    y, x = np.mgrid[:52, :60]
    radius = np.hypot(y - 26, x - 30)
    return np.where(radius < 6, 0, np.where(radius < 12, 128, 255)).astype(np.uint8)


LEVELS = {"background": [255], "disc": [128], "cup": [0]}


@pytest.mark.parametrize("colour", [False, True])
def test_levels_name_several_classes_numbered_in_the_sweeps_order(tmp_path: Path, colour: bool) -> None:
    write_pairs(tmp_path, 6)
    mask = disc_and_cup()
    for file in list((tmp_path / "masks").iterdir()):
        save(np.dstack([mask] * 3) if colour else mask, file)
    catalogue = Catalogue(
        classes=("cup", "disc"), folders={"mine": Folder.model_validate({"path": str(tmp_path), "levels": LEVELS})}
    )
    reader = catalogue.open("mine")
    assert isinstance(reader, FolderPhotographs) and reader.problems() == []
    assert reader.card.classes == ("cup", "disc") and catalogue.numbers(reader) == (0, 1, 2)
    assert np.array_equal(first(reader).label, np.select([mask == 0, mask == 128], [1, 2]))
    assert photographs(tmp_path, ("disc",), levels=LEVELS).card.classes == ("disc", "cup")
    with pytest.raises(DataError, match="has no class rim; its labels tell apart: disc, cup"):
        Catalogue(classes=("rim",), folders=catalogue.folders).open("mine")


def test_palette_masks_are_read_by_their_numbers(tmp_path: Path) -> None:
    write_pairs(tmp_path, 6)
    numbers = np.zeros((52, 60), np.uint8)
    numbers[10:20, 10:20], numbers[30:40, 10:20] = 1, 2
    for file in list((tmp_path / "masks").iterdir()):
        picture = Image.fromarray(numbers, "P")
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        picture.save(file)
    reader = photographs(tmp_path, levels={"background": [0], "a": [1], "b": [2]})
    assert np.array_equal(first(reader).label, numbers)


def paint(**change: Any) -> Callable[[Path], None]:
    """Replaces the mask or image of p00_L."""

    def run(folder: Path) -> None:
        for name, array in change.items():
            save(array, folder / name / "p00_L.png")

    return run


def jpeg_mask(folder: Path) -> None:
    (folder / "masks" / "p00_L.png").unlink()
    save(disc_and_cup(), folder / "masks" / "p00_L.jpg")


def sixteen_bits(folder: Path) -> None:
    Image.fromarray(np.full((52, 60), 3000, np.uint16)).save(folder / "images" / "p00_L.png")


def many_frames(folder: Path) -> None:
    (folder / "images" / "p00_L.png").unlink()
    frames = [Image.fromarray(made_up_pixels(0)[0]) for _ in range(2)]
    frames[0].save(folder / "images" / "p00_L.tif", save_all=True, append_images=frames[1:])


STRANGE = disc_and_cup()
STRANGE[0, :6] = 77
COLOURED = np.dstack([disc_and_cup(), disc_and_cup(), np.zeros((52, 60), np.uint8)])
GREY_MASK = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (52, 1))
WRONG_PIXELS: dict[str, tuple[Callable[[Path], None], dict[str, Any], str]] = {
    "unlisted level": (
        paint(masks=STRANGE),
        {"levels": LEVELS},
        r"p00_L.png: level 77, 0.19% of the mask, belongs to no class.*0, 128, 255",
    ),
    "colour mask": (
        paint(masks=COLOURED),
        {"levels": LEVELS},
        r"p00_L.png: in colour.*colours as classes are not supported",
    ),
    "jpeg mask": (jpeg_mask, {"levels": LEVELS}, r"p00_L.jpg: JPEG changes the levels.*PNG"),
    "grey mask": (paint(masks=GREY_MASK), {}, r"p00_L.png: .*neither dark nor bright"),
    "mask of 0 and 1": (
        paint(masks=(disc_and_cup() == 0).astype(np.uint8)),
        {},
        r"largest level is 1; without 'levels'",
    ),
    "16 bits": (sixteen_bits, {}, r"p00_L.png: more than 8 bits per channel"),
    "several pictures": (many_frames, {}, r"p00_L.tif: several pictures in one file"),
    "other size": (paint(masks=np.zeros((50, 60), np.uint8)), {}, r"p00_L.png: 60x50 pixels, but its image has 60x52"),
    "no picture": (
        lambda folder: (folder / "images" / "p00_L.png").write_bytes(b"text") and None,
        {},
        "damaged, or no picture",
    ),
}


@pytest.mark.parametrize("case", WRONG_PIXELS)
def test_wrong_pixels_are_one_line_that_names_the_file(tmp_path: Path, case: str) -> None:
    spoil, block, message = WRONG_PIXELS[case]
    write_pairs(tmp_path, 6)
    for file in list((tmp_path / "masks").iterdir()) if "levels" in block else ():
        save(disc_and_cup(), file)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        first(photographs(tmp_path, **block))
    only_problem(photographs(tmp_path, **block))


@pytest.mark.parametrize("factor", [0.5, 1.5], ids=["error", "warning"])
def test_decompression_bomb_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    write_pairs(tmp_path, 6)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(52 * 60 / 2 * factor))
    assert any("million pixels; reduce it" in line for line in photographs(tmp_path).problems(deep=True))
    assert any("million pixels; reduce it" in line for line in photographs(tmp_path).problems(deep=False))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    end=st.sampled_from(["png", "jpg", "tif", "bmp", "ppm.gz", "gif"]),
    role=st.sampled_from(["images", "masks"]),
)
def test_damaged_picture_either_reads_or_is_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, end: str, role: str
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    write_pairs(folder, 1, *(end if one == role else "png" for one in ("images", "masks")))
    file = next((folder / role).iterdir())
    content = bytearray(file.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    for block in ({}, {"levels": {"background": [0], "a": [255]}}):
        reader = photographs(folder, **block)
        problems: tuple[str, ...] = ()
        try:
            assert first(reader).label.shape[0] > 0
        except DataError as error:
            problems = error.problems
        assert all(str(folder) in line for line in problems)


# ---------------------------------------------------------------- which files belong together


def test_flat_folder_tells_masks_by_their_endings_and_the_longest_name_wins(tmp_path: Path) -> None:
    for name in ("a", "a_1", "b"):
        for tail in ("", "_x_mask"):
            (tmp_path / f"{name}{tail}.png").touch()
    found = find(tmp_path, "photograph", "*.png", "{name}_*mask.png", None)
    assert [(str(one.key), one.image, one.mask) for one in found.entries] == [
        ("a", "a.png", "a_x_mask.png"),
        ("a_1", "a_1.png", "a_1_x_mask.png"),
        ("b", "b.png", "b_x_mask.png"),
    ]
    assert found.problems == ()


@pytest.mark.parametrize(
    ("images", "masks", "kind", "files", "names"),
    [
        (
            "img{name}.nii.gz",
            "label{name}.nii.gz",
            "volume",
            ["img1.nii.gz", "label1.nii.gz", "img2.nii.gz", "label2.nii.gz"],
            ["1", "2"],
        ),
        (
            "{folder}/i/*",
            "{folder}/m/{name}.*",
            "slice",
            ["p1/i/s.png", "p1/m/s.png", "p2/i/s.png", "p2/m/s.png"],
            ["p1_s", "p2_s"],
        ),
        (
            "{name}/scan",
            "{name}/mask",
            "volume",
            ["p1/scan/1.dcm", "p1/mask/1.png", "p2/scan/1.dcm", "p2/mask/1.png"],
            ["p1", "p2"],
        ),
        ("images/*", "masks/{name}.*", "slice", ["images/1.2.84", "masks/1.2.84.png", "images/Thumbs.db"], ["1.2.84"]),
    ],
)
def test_patterns_fit_the_usual_layouts(
    tmp_path: Path, images: str, masks: str, kind: Any, files: list[str], names: list[str]
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = find(tmp_path, kind, images, masks, None)
    assert [str(one.key) for one in found.entries] == names
    assert found.problems == () and all(one.mask for one in found.entries)


WRONG_LISTS: dict[str, tuple[list[str], str]] = {
    "image without mask": (["images/new.png"], r"images/new.png: has no mask; looked for masks/new\.\*"),
    "mask without image": (["masks/new.png"], r"masks/new.png: mask without an image"),
    "two images of a name": (["images/p00_L.jpg"], r"images/p00_L.jpg, images/p00_L.png have the same name p00_L"),
    "two masks": (["masks/p00_L.tif"], r"p00_L has 2 masks, masks/p00_L.png, masks/p00_L.tif; narrow"),
}


@pytest.mark.parametrize("case", WRONG_LISTS)
def test_files_that_do_not_pair_up_are_named(tmp_path: Path, case: str) -> None:
    write_pairs(tmp_path, 6)
    extra, message = WRONG_LISTS[case]
    for file in extra:
        save(made_up_pixels(0)[1], tmp_path / file)
    reader = photographs(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        reader.require(deep=False)
    assert "data.folders.mine" in str(caught.value)
    only_problem(reader)


def test_image_without_a_mask_may_be_left_out_by_the_caller(tmp_path: Path) -> None:
    write_pairs(tmp_path, 6)
    save(made_up_pixels(0)[0], tmp_path / "images" / "new.png")
    reader = photographs(tmp_path)
    assert reader.list_problems() == []
    with pytest.raises(DataError, match="has no mask"):
        reader.read(next(raw for raw in reader.images() if raw.name == "new"))


def test_folder_without_images_says_what_there_is(tmp_path: Path) -> None:
    assert "folder is missing" in only_problem(photographs(tmp_path / "nowhere"))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    assert "no photograph fits images 'images/*', among 1 files such as pictures/a.png" in only_problem(
        photographs(tmp_path)
    )
    assert "all that do also fit '{name}.*'" in only_problem(
        photographs(tmp_path / "pictures", images="*", masks="{name}.*")
    )


def test_relative_path_starts_at_the_data_root(tmp_path: Path) -> None:
    write_pairs(tmp_path / "set", 6)
    block = Folder(path="set")
    assert open_folder("mine", block, tmp_path, None).problems() == []
    assert "is relative, and no data root is set" in open_folder("mine", block, None, None).problems()[0]


def test_links_that_lead_outside_are_refused(tmp_path: Path) -> None:
    folder, other = tmp_path / "set", tmp_path / "other"
    write_pairs(folder, 6)
    save(made_up_pixels(1)[0], other / "secret.png")
    (folder / "images" / "p00_L.png").unlink()
    (folder / "images" / "p00_L.png").symlink_to(other / "secret.png")
    assert "images/p00_L.png: link to a file outside" in only_problem(photographs(folder))
    (folder / "images" / "p00_L.png").unlink()
    (folder / "images" / "p00_L.png").symlink_to(folder / "images" / "p00_R.png")
    assert photographs(folder).problems() == []
    (folder / "images").rename(other / "images")
    (folder / "images").symlink_to(other / "images")
    assert any("images: link to a folder outside" in line for line in photographs(folder).problems())
    (tmp_path / "alias").symlink_to(other)
    write_pairs(other, 6)
    assert photographs(tmp_path / "alias").folder_problems() == []


def test_names_that_cannot_be_printed_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, 6)
    (tmp_path / "images" / "a\nb.png").touch()
    assert "'images/a\\nb.png' has a name that cannot be printed" in only_problem(photographs(tmp_path))


def test_thousands_of_files_are_listed_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(5000):
            (tmp_path / folder / f"c{number // 9:04d}_s{number:05d}.png").touch()
    scans: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scans.append(str(path)) or scandir(path))
    for masks in ("masks/{name}.*", "masks/{name}*.png"):
        scans.clear()
        reader = stacks(tmp_path, kind="slice", masks=masks, subject=r"^(?P<subject>c\d+)")
        assert len(reader.images()) == 556 and len(reader.found.entries) == 5000 and reader.found.problems == ()
        assert len(scans) == 3


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"images": "images/**/*.png"}, "every level of folders"),
        ({"images": "images/{nmae}.png"}, "may contain {name}"),
        ({"masks": "{name}/{name}.png"}, "each once"),
        ({"masks": "masks/*.png"}, "must contain {name}"),
        ({"masks": "../{name}.png"}, "must stay below"),
        ({"masks": "{folder}/{name}.png"}, "in images, masks and fov, or in none"),
        ({"subject": r"(?P<patient>\d+)"}, "needs a group"),
        ({"subject": "("}, "not a regular expression"),
        ({"table": "/etc/passwd"}, "must stay below"),
        ({"levels": {"disc": [1]}}, "at least 2"),
        ({"levels": {"disc": [1], "cup": [2]}}, "background"),
        ({"levels": {"background": [0], "disc": []}}, "no grey level to disc"),
        ({"levels": {"background": [0], "disc": [0]}}, "one grey level to two"),
        ({"flip": ["rows"]}, "a photograph takes no flip"),
        ({"kind": "volume", "fov": "f/{name}.png"}, "a volume takes no fov"),
        ({"kind": "slice", "spacing": [1, 1, 1]}, "a slice takes no spacing"),
        ({"split": {"train": 0.9}}, "add up to 1"),
    ],
)
def test_blocks_that_cannot_be_meant_are_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Folder.model_validate({"path": "set", **block})


def test_content_changes_with_files_and_with_what_they_mean(tmp_path: Path) -> None:
    write_pairs(tmp_path, 6)
    one = photographs(tmp_path).content(lambda path: path.name)
    assert len(one["files"]) == 12
    assert one == photographs(tmp_path, title="other", terms="CC0").content(lambda path: path.name)
    assert one != photographs(tmp_path, subject=PATIENTS).content(lambda path: path.name)
    assert one != photographs(tmp_path, levels={"background": [0], "a": [255]}).content(lambda path: path.name)
    assert one != photographs(tmp_path).content(lambda path: "changed")


# ---------------------------------------------------------------- subjects and splits


def test_subject_pattern_that_finds_nothing_names_the_images(tmp_path: Path) -> None:
    write_pairs(tmp_path, 20)
    line = only_problem(photographs(tmp_path, subject=r"^q(?P<subject>\d+)"))
    assert "finds nothing in the names of 20 images: p00_L, p00_R, p01_L, p01_R, p02_L and 15 more" in line


def test_too_few_subjects_are_explained(tmp_path: Path) -> None:
    write_pairs(tmp_path, 4)
    assert "2 subjects for the splits train, val, test" in only_problem(photographs(tmp_path, subject=PATIENTS))
    reader = photographs(tmp_path, subject=PATIENTS, split=ALL_TEST)
    assert reader.problems() == [] and set(reader.splits().values()) == {"test"}


@given(st.integers(3, 60), st.integers(0, 5), st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
def test_every_split_gets_its_share_of_subjects(count: int, seed: int, shares: tuple[int, int, int]) -> None:
    train, val, test = (share / sum(shares) for share in shares)
    wanted = Split(train=train, val=val, test=test, seed=seed)
    subjects = [f"s{number}" for number in range(count)]
    splits = deal(subjects, wanted)
    assert splits == deal(subjects[::-1] * 2, wanted) and set(splits) == set(subjects)
    for split, share in (("train", train), ("val", val), ("test", test)):
        got = sum(one == split for one in splits.values())
        assert got >= 1 and abs(got - share * count) < 2


IMAGES = {"a": "images/a.png", "b": "images/b.png", "c": "images/c.png"}
GOOD_TABLES = {
    "image,subject,split\na,1,train\nb,1,train\nc,2,test\n": ("train", "test"),
    "\ufeffimage;age;split;subject\r\na.png;3;train;1\r\nimages/b.png;4;train;1\r\n\r\nc;5;test;2\r\n": (
        "train",
        "test",
    ),
    "Subject,Image\n1,a\n1,b\n2,c\n": None,
}


@pytest.mark.parametrize("text", GOOD_TABLES)
def test_table_tells_subjects_and_splits(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    table = read_table(tmp_path, "t.csv", IMAGES)
    assert table.subjects == {"a": "1", "b": "1", "c": "2"}
    wanted = GOOD_TABLES[text]
    assert table.splits == (None if wanted is None else dict(zip("12", wanted, strict=True)))


WRONG_TABLES = {
    "image,split\na,train\n": "line 1: needs one column subject",
    "": "line 1: needs one column image and one column subject",
    "image,subject\na,1\nb,1\n": "image c is in no line",
    "image,subject\na,1\nb,1\nc,2\nd,3\n": "line 5: no image is named 'd'",
    "image,subject\na,1\na,1\nb,1\nc,2\n": "line 3: image a is in an earlier line",
    "image,subject\na,1\nb,\nc,2\n": "line 3: image b needs a subject",
    "image,subject\na,1\nb\nc,2\n": "line 3: 1 values, but there are 2 columns",
    "image,subject,split\na,1,train\nb,1,training\nc,2,test\n": "line 3: split must be train, val or test, found 'training'",
    "image,subject,split\na,1,train\nb,1,test\nc,2,test\n": "line 3: subject 1 is in train already",
    "image,subject\n../a,1\nb,1\nc,2\n": r"line 2: no image is named '\.\./a'",
    'image,subject\na,"1\n': "not valid CSV",
}


@pytest.mark.parametrize("text", WRONG_TABLES)
def test_wrong_line_of_a_table_is_named_by_its_number(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=WRONG_TABLES[text]) as caught:
        read_table(tmp_path, "t.csv", IMAGES)
    assert all("t.csv" in line for line in caught.value.problems)


def test_tables_that_are_missing_foreign_large_or_elsewhere_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    with pytest.raises(DataError, match=r"t.csv: the table cannot be read \(No such file"):
        read_table(folder, "t.csv", IMAGES)
    (folder / "t.csv").write_bytes(b"image,subject\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="byte 14 is not UTF-8"):
        read_table(folder, "t.csv", IMAGES)
    (tmp_path / "out.csv").write_text("image,subject\n")
    (folder / "link.csv").symlink_to(tmp_path / "out.csv")
    with pytest.raises(DataError, match="lies outside"):
        read_table(folder, "link.csv", IMAGES)
    monkeypatch.setattr("gkd_bench.data.readers.folder_subjects.MOST_BYTES", 10)
    with pytest.raises(DataError, match="larger than"):
        read_table(folder, "t.csv", IMAGES)


def test_table_wins_over_pattern_and_shares(tmp_path: Path) -> None:
    write_pairs(tmp_path, 4)
    lines = ["image,subject,split", "p00_L,1,train", "p00_R,1,train", "p01_L,2,val", "p01_R,3,test"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    reader = photographs(tmp_path, subject=PATIENTS, table="t.csv")
    assert reader.problems() == []
    assert [raw.subject for raw in reader.images()] == ["1", "1", "2", "3"]
    assert reader.splits() == {"1": "train", "2": "val", "3": "test"}
    (tmp_path / "t.csv").write_text("\n".join(lines[:-1]))
    assert "image p01_R is in no line" in only_problem(photographs(tmp_path, table="t.csv"))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.text("image,subjectplr;\n\"'ab1\t\r", max_size=120).map(str.encode)))
def test_any_bytes_are_a_table_or_a_data_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with suppress(DataError):
        assert set(read_table(tmp_path, "t.csv", IMAGES).subjects) == set(IMAGES)


# ---------------------------------------------------------------- slices and volumes


def organ(slices: int = 4, shift: int = 0) -> tuple[NDArray[np.int16], Bytes]:
    """(values, label) of a bright box: (slices, 40, 48)."""
    label = np.zeros((slices, 40, 48), np.uint8)
    label[1:, 8 : 20 + shift, 30:44] = 1
    values = np.random.default_rng(shift).integers(-60, 60, label.shape).astype(np.int16)
    return (values + label * 100).astype(np.int16), label


def planes(reader: FolderStacks, number: int = 0) -> tuple[NDArray[np.float32], Bytes]:
    raw = reader.images()[number]
    found = list(reader.planes(raw, reader.open(raw)))
    return np.stack([plane.values for plane in found]), np.stack([plane.label for plane in found])


def write_slices(folder: Path, dtype: type[np.generic] = np.uint8, patients: int = 3) -> None:
    for patient in range(patients):
        values, label = organ(shift=patient)
        for number in (9, 10):
            name = f"p{patient}_{number}.png"
            save((values[number % 4] + 100).astype(dtype), folder / "images" / name)
            save(label[number % 4] * np.uint8(255), folder / "masks" / name)


@pytest.mark.parametrize(("dtype", "modality"), [(np.uint8, "grey"), (np.uint16, "mr")])
def test_slices_of_a_subject_are_one_stack_in_the_order_of_their_numbers(
    tmp_path: Path, dtype: Any, modality: str
) -> None:
    write_slices(tmp_path, dtype)
    reader = stacks(tmp_path, ("liver",), kind="slice", modality=modality, subject=r"^(?P<subject>p\d)_")
    assert isinstance(reader, StackReader) and reader.problems() == []
    assert [raw.name for raw in reader.images()] == ["p0", "p1", "p2"]
    values, label = planes(reader)
    whole, marked = organ()
    assert np.array_equal(values, (whole[[1, 2]] + 100).astype(dtype)) and np.array_equal(label, marked[[1, 2]])
    assert reader.open(reader.images()[0]).spacing is None and reader.card.classes == ("liver",)
    turned = stacks(tmp_path, kind="slice", modality=modality, subject=r"^(?P<subject>p\d)_", flip=["rows", "columns"])
    assert all(np.array_equal(a, b[:, ::-1, ::-1]) for a, b in zip(planes(turned), (values, label), strict=True))


def test_values_beyond_8_bits_are_no_grey_levels(tmp_path: Path) -> None:
    for number in range(3):
        values, label = organ()
        write_nifti(tmp_path / "images" / f"{number}.nii.gz", values, (5, 1, 1))
        write_nifti(tmp_path / "masks" / f"{number}.nii.gz", label, (5, 1, 1))
    lines = stacks(tmp_path, kind="volume").problems()
    assert len(lines) == 3 and all("modality grey is for levels 0 ... 255; say modality: ct" in line for line in lines)
    assert stacks(tmp_path, kind="volume", modality="ct").problems() == []


def test_slices_of_two_sizes_cannot_be_one_subject(tmp_path: Path) -> None:
    write_slices(tmp_path)
    save(np.zeros((20, 20), np.uint8), tmp_path / "images" / "p0_9.png")
    line = only_problem(stacks(tmp_path, kind="slice", subject=r"^(?P<subject>p\d)_"))
    assert "48x40 pixels, but p0_9.png has 20x20" in line


def test_single_dicom_and_nifti_slices_are_read_in_their_own_scale(tmp_path: Path) -> None:
    for patient in range(3):
        values, label = organ(shift=patient)
        for number in (1, 2):
            write_dicom_series(tmp_path / "images", values[[number]], (5, 1, 1), names=f"p{patient}_{number}.dcm")
            save(label[number] * np.uint8(255), tmp_path / "masks" / f"p{patient}_{number}.png")
            write_nifti(tmp_path / "n" / f"p{patient}_{number}.nii", values[[number]], (5, 1, 1), "RAS")
            write_nifti(tmp_path / "nm" / f"p{patient}_{number}.nii", label[[number]], (5, 1, 1), "RAS")
    for images, masks in (("images/*", "masks/{name}.*"), ("n/*", "nm/{name}.*")):
        reader = stacks(
            tmp_path, kind="slice", modality="ct", images=images, masks=masks, subject=r"^(?P<subject>p\d)_"
        )
        assert reader.problems() == []
        values, label = planes(reader)
        assert np.array_equal(values, organ()[0][1:3]) and np.array_equal(label, organ()[1][1:3])


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "SPL"])
def test_nifti_volumes_come_out_in_the_one_orientation_with_several_classes(tmp_path: Path, axcodes: str) -> None:
    for number in range(3):
        values, label = organ(shift=number)
        label[2, :5, :5] = 2
        write_nifti(tmp_path / f"img{number}.nii.gz", values, (5, 1, 2), axcodes)
        write_nifti(tmp_path / f"label{number}.nii.gz", label * np.uint8(4), (5, 1, 2), axcodes)
    patterns = {"images": "img{name}.nii.gz", "masks": "label{name}.nii.gz", "kind": "volume", "modality": "ct"}
    reader = stacks(tmp_path, levels={"background": [0], "liver": [4], "spleen": [8]}, **patterns)
    assert reader.problems() == [] and reader.card.classes == ("liver", "spleen")
    values, label = planes(reader)
    assert np.array_equal(values, organ()[0]) and label.max() == 2 and label[2, :5, :5].min() == 2
    assert reader.open(reader.images()[0]).spacing == (5, 1, 2)
    merged = stacks(tmp_path, **patterns)
    assert np.array_equal(planes(merged)[1], (label > 0).astype(np.uint8))


def test_dicom_folders_with_png_masks_pair_by_number_and_lie_alike(tmp_path: Path) -> None:
    for number in range(3):
        values, label = organ(shift=number)
        write_dicom_series(tmp_path / f"c{number}" / "DICOM", values, (5, 1, 1), axcodes="LPI")
        write_mask_pngs(tmp_path / f"c{number}" / "Ground", label, [255], axcodes="LPI")
    block = {"kind": "volume", "modality": "ct", "images": "{name}/DICOM", "masks": "{name}/Ground"}
    reader = stacks(tmp_path, **block)
    assert reader.problems() == []
    values, label = planes(reader)
    assert np.array_equal(values, organ()[0]) and np.array_equal(label, organ()[1])
    assert len(reader.content(str)["files"]) == 3 * 2 * 4
    (tmp_path / "c0" / "Ground" / "liver_GT_003.png").unlink()
    assert "3 masks for 4 slices" in only_problem(stacks(tmp_path, **block))
    (tmp_path / "c0" / "DICOM" / "i0000,0000b.dcm").unlink()
    (tmp_path / "c0" / "DICOM" / "i0000,0000b.dcm").symlink_to(tmp_path.parent)
    assert any("outside of the data set" in line for line in stacks(tmp_path, **block).problems())


def test_volume_lacking_its_mask_is_named_and_may_be_left_out(tmp_path: Path) -> None:
    for number in range(3):
        values, label = organ(shift=number)
        write_nifti(tmp_path / "images" / f"{number}.nii.gz", values, (5, 1, 1))
        write_nifti(tmp_path / "masks" / f"{number}.nii.gz", label, (5, 1, 1))
    (tmp_path / "masks" / "1.nii.gz").unlink()
    reader = stacks(tmp_path, kind="volume", modality="mr")
    assert reader.list_problems() == []
    assert "images/1.nii.gz: has no mask; looked for masks/1.*" in only_problem(reader, deep=False)


def test_patients_named_in_headers_appear_in_no_error(tmp_path: Path) -> None:
    for number in range(3):
        values, label = organ(shift=number)
        write_dicom_series(tmp_path / f"c{number}" / "DICOM", values, (5, 1, 1), patient="Doe^Jane")
        write_mask_pngs(tmp_path / f"c{number}" / "Ground", label, [255])
    for number, file in enumerate(sorted((tmp_path / "c0" / "DICOM").iterdir())):
        file.write_bytes(file.read_bytes()[: (300, 900, 1200, 2000)[number]])
    lines = stacks(tmp_path, kind="volume", modality="ct", images="{name}/DICOM", masks="{name}/Ground").problems()
    assert lines and not any("Doe" in line or "Jane" in line for line in lines)


def test_listing_is_refused_for_absurdly_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gkd_bench.data.readers.folder_files.MOST_FILES", 3)
    for number in range(4):
        (tmp_path / str(number)).touch()
    with pytest.raises(DataError, match="more than 3 files"):
        list_tree(tmp_path, 1)


def test_names_of_raw_images_are_those_of_the_files(tmp_path: Path) -> None:
    write_pairs(tmp_path, 6)
    raw = photographs(tmp_path).images()[0]
    assert raw == RawImage("p00_L", "p00_L", tmp_path / "images/p00_L.png", tmp_path / "masks/p00_L.png")

"""Looks at a folder of somebody's own data and guesses the block of a sweep file that reads it, with what to check.

What is guessed was tried with the code that reads it later. Of DICOM headers nothing but the modality is looked at.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gkd_bench.config.data import MOST_CLASSES, Folder
from gkd_bench.data.domain import PhotographReader, RawImage, RawStack, Spacing, StackReader
from gkd_bench.data.imagefiles import fov_diameter
from gkd_bench.data.look_patterns import Layout, guess_subject, layouts
from gkd_bench.data.readers.folder import FolderDomain, open_folder
from gkd_bench.data.readers.folder_files import NIFTI, PICTURE, ending, list_tree
from gkd_bench.data.readers.folder_pixels import open_slices, read_picture, series_files, stored_levels
from gkd_bench.data.readers.folder_subjects import COLUMNS, subject_rule
from gkd_bench.data.volumefiles import guarded
from gkd_bench.errors import ConfigError, DataError
from gkd_bench.registry import DOMAINS

DEPTH = 5
SAMPLE = 12  # images whose masks are looked at
FEW = 3  # images looked at to tell images from masks
FOV_SHARE = 0.4  # of every picture that a field of view covers at least; structures to segment rarely do
AIR = -200  # Hounsfield units that only CT has
FULL = 255
MOST_LETTERS = 40
NAME = rf"[A-Za-z][A-Za-z0-9_]{{0,{MOST_LETTERS - 1}}}"
Modality = Literal["ct", "mr", "grey"]
Measures = tuple[tuple[int, int], int, Spacing | None]
"""(height, width), width of the field of view in pixels, millimetres between slices, rows and columns."""


class Looks(NamedTuple):
    """What the files of a folder look like.

    Attributes:
        folder: the data set.
        layout: images and masks.
        fov: pattern of field-of-view masks, if there are any.
        others: further patterns that would fit as masks.
    """

    folder: Path
    layout: Layout
    fov: str | None
    others: tuple[str, ...]

    def samples(self, most: int) -> list[tuple[str, str]]:
        """(image, mask) of evenly spaced images."""
        return _samples(self.layout, most)


@dataclass(frozen=True)
class Guess:
    """What a folder seems to hold.

    Attributes:
        name: name of the domain.
        block: its block.
        classes: foreground classes.
        images: how many images or volumes.
        subjects: how many.
        size: (height, width) of one image.
        field: width of a photograph's field of view in pixels; 0 = not a photograph.
        spacing: millimetres between slices, rows and columns of a volume.
        checks: setting -> what only the user can know of it.
        problems: what is wrong with the files, as the reader says it.
    """

    name: str
    block: Folder
    classes: tuple[str, ...]
    images: int
    subjects: int
    size: tuple[int, int]
    field: int
    spacing: Spacing | None
    checks: dict[str, str]
    problems: tuple[str, ...]


def look(folder: Path, name: str | None = None) -> Guess:
    """Guess the block that reads a folder.

    Args:
        folder: the data set.
        name: name of the domain; none = from the folder's name.

    Raises:
        DataError: no folder, no images, or no masks that belong to them.
        ConfigError: not a name for a domain.
    """
    folder = folder.expanduser().absolute()
    name = name or domain_name(folder.name)
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            [f"--name: {name!r} must be a letter, then letters, digits and _, 40 at most"], "the command line"
        )
    if not folder.is_dir():
        raise DataError([f"{folder}: no such folder"], name)
    folder = _inner(folder)
    looks = _choose(folder, name)
    checks = {"masks": f"there is also {', '.join(looks.others)}"} if looks.others else {}
    levels = _levels(looks, name, checks)
    settings = {**_kind(looks, checks), **_subject(looks, checks), "levels": levels}
    layout = looks.layout
    block = Folder.model_validate(
        {"path": str(folder), "images": layout.images, "masks": layout.masks, "fov": looks.fov, **settings}
    )
    classes = tuple(one for one in levels if one != "background") if levels else ("foreground",)
    return _tried(name, block, classes, checks)


def _inner(folder: Path) -> Path:
    """The folder that an archive had everything in, where there is nothing beside it; else the folder itself."""
    inside = _visible(folder)
    alone = len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink()
    return inside[0] if alone and len(_visible(inside[0])) > 1 else folder


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def domain_name(text: str) -> str:
    """A name that a sweep file may use, made of a folder's name."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_").lower()
    if not words[:1].isalpha() or words in DOMAINS:
        words = f"my_{words or 'data'}"
    return words[:MOST_LETTERS]


# ---------------------------------------------------------------- which files


def _choose(folder: Path, name: str) -> Looks:
    """The layout whose images look like images and whose masks look like masks; fields of view are told from those."""
    found = layouts(folder, list_tree(folder, DEPTH))
    if not found:
        advice = "Put images into images/ and masks of the same names into masks/, or write the block by hand."
        raise DataError([f"{folder}: found no images with masks that go with them by name"], name, advice)
    best = next((layout for layout in found if _looks_right(folder, layout)), None)
    if best is None:
        lines = [
            f"{folder}: {one.masks} goes with {one.images} by name, but they are not masks of few grey levels"
            for one in found[:3]
        ]
        raise DataError(lines, name, "A mask has one grey level for each class, stored as PNG, TIFF, NIfTI or DICOM.")
    rivals = [one for one in found if (one.images, one.kind) == (best.images, best.kind) and _looks_right(folder, one)]
    fields = [one for one in rivals if _covers(folder, one)]
    masks = [one for one in rivals if one not in fields] or fields
    fov = next((one.masks for one in fields if masks != fields and one.paired == best.paired), None)
    return Looks(folder, masks[0], fov, tuple(one.masks for one in masks[1:4] if one.paired >= masks[0].paired))


def _looks_right(folder: Path, layout: Layout) -> bool:
    """Few levels in the masks, more in the images, and a volume where one was looked for."""
    try:
        if (layout.kind == "volume") != _is_volume(folder, layout):
            return False
        planes = [
            (_plane(folder, layout, image), _plane(folder, layout, mask)) for image, mask in _samples(layout, FEW)
        ]
    except DataError:
        return False
    few = all(len(np.unique(mask)) <= MOST_CLASSES + 1 or _near_binary(mask) for _, mask in planes)
    return few and all(
        len(np.unique(image)) > len(np.unique(mask)) or (_near_binary(mask) and not _near_binary(image))
        for image, mask in planes
    )


def _near_binary(mask: NDArray[Any]) -> bool:
    """JPEG leaves noise round both ends."""
    return mask.dtype == np.uint8 and float(np.mean((mask > 32) & (mask < 224))) < 0.02


def _is_volume(folder: Path, layout: Layout) -> bool:
    path = folder / layout.found.entries[0].image
    return path.is_dir() or (ending(path.name) in NIFTI and open_slices([path]).shape[0] > 1)


def _is_flat(layout: Layout) -> bool:
    return ending(layout.found.entries[0].image) in PICTURE


def _covers(folder: Path, layout: Layout) -> bool:
    """Whether the masks may be fields of view: much of every picture, in one level."""
    masks = [_plane(folder, layout, mask) for _, mask in _samples(layout, FEW)] if _is_flat(layout) else []
    return bool(masks) and all(float(np.mean(mask > mask.max() / 2)) > FOV_SHARE for mask in masks)


def _samples(layout: Layout, most: int) -> list[tuple[str, str]]:
    pairs = [(entry.image, entry.mask) for entry in layout.found.entries if entry.mask is not None]
    rows = np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int)
    return [pairs[row] for row in rows]


def _plane(folder: Path, layout: Layout, path: str) -> NDArray[Any]:
    """(rows, columns) of a picture, or of the slice in the middle; of a colour picture its brightness."""
    return next(_planes(folder, layout, path, middle=True))


def _planes(folder: Path, layout: Layout, path: str, middle: bool = False) -> Iterator[NDArray[Any]]:
    if ending(path) in PICTURE:
        try:
            yield stored_levels(folder / path)
        except DataError:
            yield read_picture(folder / path, "L")
        return
    names = layout.found.tree.folders.get(path)
    slices = open_slices([folder / path] if names is None else series_files(folder / path, names))
    yield from slices.read([slices.shape[0] // 2] if middle else range(slices.shape[0]))


# ---------------------------------------------------------------- what they are


def _kind(looks: Looks, checks: dict[str, str]) -> dict[str, Any]:
    if not _is_flat(looks.layout):
        checks["modality"] = "ct = Hounsfield units, mr = any other scale, grey = levels 0 to 255"
        return {"kind": looks.layout.kind, "modality": _modality(looks, checks)}
    images = [looks.folder / image for image, _ in looks.samples(FEW)]
    wide = any(stored.dtype != np.uint8 for stored in map(_levels_or_colour, images))
    colour = any(np.ptp(read_picture(path, "RGB"), axis=2).max() > 0 for path in images) if not wide else False
    if colour or (looks.fov and not wide):
        return {"kind": "photograph"}
    checks["kind"] = "grey pictures are taken for slices of a scan; of photographs say photograph"
    checks["modality"] = "mr = scaled for each subject by percentiles" if wide else "levels 0 to 255, used as they are"
    return {"kind": "slice", "modality": "mr" if wide else "grey"}


def _levels_or_colour(path: Path) -> NDArray[Any]:
    try:
        return stored_levels(path)
    except DataError:
        return read_picture(path, "RGB")


def _modality(looks: Looks, checks: dict[str, str]) -> Modality:
    images = [image for image, _ in looks.samples(FEW)]
    names = looks.layout.found.tree.folders.get(images[0])
    file = looks.folder / images[0] if names is None else series_files(looks.folder / images[0], names)[0]
    if ending(file.name) not in (*NIFTI, *PICTURE):
        stated = _stated_modality(file)
        checks["modality"] = f"the first header says {stated or 'nothing'}"
        return "ct" if stated == "CT" else "mr"
    planes = [_plane(looks.folder, looks.layout, image) for image in images]
    return "ct" if min(float(plane.min()) for plane in planes) < AIR else "mr"


def _stated_modality(file: Path) -> str:
    import pydicom

    with guarded(file, "DICOM file"):
        stated = str(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality") or "")
    return stated if re.fullmatch(r"[A-Z]{2,3}", stated) else ""


def _levels(looks: Looks, name: str, checks: dict[str, str]) -> dict[str, tuple[int, ...]] | None:
    """Levels of each class; none where the rule for one class does."""
    counts: Counter[int] = Counter()
    for _, mask in looks.samples(SAMPLE):
        for plane in _planes(looks.folder, looks.layout, mask):
            values, times = np.unique(plane, return_counts=True)
            counts.update(dict(zip((int(value) for value in values), (int(n) for n in times), strict=True)))
    mask = looks.samples(1)[0][1]
    pictures = ending(looks.layout.found.tree.folders.get(mask, (mask,))[0]) in PICTURE
    if set(counts) <= {0, FULL if pictures else 1} or len(counts) > MOST_CLASSES + 1:
        return None
    background = 0 if 0 in counts and counts[0] * 2 > counts.total() else counts.most_common(1)[0][0]
    others = sorted(set(counts) - {background})
    checks["levels"] = (
        f"{background} is the most frequent level; in {min(SAMPLE, looks.layout.paired)} masks there are no others"
    )
    names = ["foreground"] if len(others) == 1 else [f"class_{number}" for number in range(1, len(others) + 1)]
    return {"background": (background,), **{one: (level,) for one, level in zip(names, others, strict=True)}}


def _subject(looks: Looks, checks: dict[str, str]) -> dict[str, Any]:
    names = [str(entry.key) for entry in looks.layout.found.entries]
    if table := _table(looks.folder):
        return {"table": table}
    pattern = guess_subject(names)
    if pattern:
        rule = subject_rule(pattern)
        alike = Counter(map(rule, names)).most_common(1)[0][0]
        shown = [one for one in names if rule(one) == alike]
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        checks["subject"] = f"{', '.join(shown[:3])}{more} are taken to be of one patient, {alike}"
    else:
        checks["subject"] = (
            "none: every image is taken for a patient of its own. If a patient has several, training leaks into testing"
        )
    return {"subject": pattern}


def _table(folder: Path) -> str | None:
    """A CSV file beside the images that has the columns of a table."""
    for path in sorted(folder.glob("*.csv")):
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                header = next(csv.reader([file.readline(10_000).replace(";", ",")]), [])
        except (OSError, ValueError, csv.Error):
            continue
        if set(COLUMNS) <= {word.strip().lower() for word in header}:
            return path.name
    return None


# ---------------------------------------------------------------- tried


def _tried(name: str, block: Folder, classes: tuple[str, ...], checks: dict[str, str]) -> Guess:
    """The guess with what the reader says to it."""
    reader = open_folder(name, block, None, classes)
    assert isinstance(reader, FolderDomain)
    problems = [*dict.fromkeys(reader.problems(deep=False))]
    subjects: set[str] = set()
    measures: Measures = ((0, 0), 0, None)
    try:
        subjects = set(reader.subjects.values())
        measures = next(filter(None, (_measured(reader, raw) for raw in reader.images())), measures)
    except DataError as error:
        problems += [line for line in error.problems if line not in problems]
    if problems:
        checks["path"] = "the lines marked 'wrong' above must be mended first"
    return Guess(name, block, classes, len(reader.found.entries), len(subjects), *measures, checks, tuple(problems))


def _measured(reader: FolderDomain, raw: RawImage | RawStack) -> Measures | None:
    """What one image measures; none if it is broken."""
    try:
        if isinstance(reader, PhotographReader) and isinstance(raw, RawImage):
            fov = reader.read(raw).fov
            return (fov.shape[0], fov.shape[1]), fov_diameter(fov), None
        assert isinstance(reader, StackReader) and isinstance(raw, RawStack)
        stack = reader.open(raw)
    except DataError:
        return None
    return (stack.shape[1], stack.shape[2]), 0, stack.spacing

"""Slices from files of any format, turned to the one orientation, paired with their masks and read one at a time.

The formats themselves are :mod:`gkd_bench.data.nifti` and :mod:`gkd_bench.data.dicom`; pictures are read here. Whatever is
wrong with a file is a DataError with one line that starts with its path. Texts of the libraries below are never passed on:
they quote headers, and headers name patients.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gkd_bench.data.domain import Plane, Spacing, Stack
from gkd_bench.data.imagefiles import GREY_LIMIT, MASK_THRESHOLD, grey_share, read_grey
from gkd_bench.errors import DataError

MOST_VOXELS = 2**31
MOST_SIDE = 4096
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF")
_TALKATIVE = ("pydicom", "nibabel", "nibabel.global", "PIL.Image", "PIL.PngImagePlugin", "PIL.TiffImagePlugin")
_reading = ContextVar("reading", default=False)  # per thread: others may go on to log

Meaning = Callable[[NDArray[Any]], NDArray[np.uint8]]
"""Makes (rows, columns) uint8 class numbers of a mask as stored; raises ValueError with the reason in our own words."""


@dataclass(frozen=True)
class Turn:
    """What brings stored slices to the one orientation, in this order.

    Attributes:
        reverse: the last slice becomes the first.
        transpose: rows become columns.
        flip_rows: top becomes bottom.
        flip_columns: left becomes right.
    """

    reverse: bool = False
    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def plane(self, stored: NDArray[Any]) -> NDArray[Any]:
        """One slice, turned: a view of (rows, columns), or of (columns, rows) stored."""
        turned = stored.T if self.transpose else stored
        return turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def sizes(self, stored: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Three things by axis (slices, rows, columns), such as a shape, as they are after turning."""
        slices, rows, columns = stored
        return (slices, columns, rows) if self.transpose else (slices, rows, columns)

    def order(self, count: int) -> range:
        """Numbers of the stored slices in the order in which they come out."""
        return range(count - 1, -1, -1) if self.reverse else range(count)


@dataclass(frozen=True)
class Slices:
    """Images or masks of one examination as they are stored; nothing but headers has been read.

    Attributes:
        files: one file with all slices, or one for each.
        shape: (slices, rows, columns) as stored.
        read: gives the slices of these numbers, in this order, as stored. Raises DataError.
        spacing: millimetres between slices, rows and columns as stored; none where unknown.
        turn: what brings them to the one orientation.
        box: (2, 3) corners in the scanner's millimetres with the smallest and the largest coordinates; none where unknown.
        remark: what the header did not say.
    """

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    read: Callable[[Sequence[int]], Iterator[NDArray[Any]]]
    spacing: Spacing | None = None
    turn: Turn = Turn()
    box: NDArray[np.float64] | None = None
    remark: str = ""

    def file(self, number: int) -> Path:
        """The file that holds a stored slice."""
        return self.files[number if len(self.files) > 1 else 0]


# ---------------------------------------------------------------- errors


@contextmanager
def guarded(path: Path, what: str) -> Iterator[None]:
    """Turn whatever is raised while a file is read into a DataError of one line, in our own words.

    Libraries' warnings and log lines are held back as well: their texts may quote the header.
    """
    try:
        with _silence():
            yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError([f"{path}: file is missing"]) from None
    except Exception as error:
        raise DataError([f"{path}: damaged, or no {what} ({type(error).__name__}); get the file again"]) from None


@contextmanager
def _silence() -> Iterator[None]:
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_unless_reading)  # adds it once only
    before = _reading.set(True)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        _reading.reset(before)


def _unless_reading(record: logging.LogRecord) -> bool:
    return not _reading.get()


def check_size(path: Path, shape: Sequence[int]) -> None:
    """Refuse (slices, rows, columns) that nobody scans before anything of that size is allocated. Raises DataError."""
    found = " x ".join(str(size) for size in shape)
    if min(shape) < 1:
        raise DataError([f"{path}: empty, its header says {found} voxels"])
    if max(shape[1:]) > MOST_SIDE or int(np.prod([int(size) for size in shape], dtype=object)) > MOST_VOXELS:
        raise DataError([f"{path}: its header says {found} voxels, more than any scan has; get the file again"])


def inside(folder: Path, path: Path) -> bool:
    """Whether a file lies below a folder even when every symbolic link is followed."""
    return path.resolve().is_relative_to(folder.resolve())


def in_order(files: Sequence[Path]) -> tuple[Path, ...]:
    """Files by name, numbers in names by value: ``image_9`` before ``image_10``."""
    return tuple(sorted(files, key=_name_key))


def _name_key(path: Path) -> tuple[list[int], str]:
    return [int(digits) for digits in re.findall(r"[0-9]{1,18}", path.name)], path.name


def listed(folder: Path, pattern: str = "*") -> tuple[Path, ...]:
    """Files of a folder by name, hidden ones left out; where there are none, the pattern itself, a file that is missing."""
    found = [path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith(".")]
    return in_order(found) or (folder / pattern,)


# ---------------------------------------------------------------- pictures


def pictures(files: Sequence[Path]) -> Slices:
    """8-bit pictures of one size, one slice each: grey levels as stored, in the order given. Raises DataError."""
    sizes = {path: _picture_shape(path) for path in files}
    shape = (len(files), *sizes[files[0]])
    lines = [
        f"{path}: {size[1]}x{size[0]} pixels, but {files[0].name} has {shape[2]}x{shape[1]}"
        for path, size in sizes.items()
        if size != shape[1:]
    ]
    if lines:
        raise DataError(lines)

    def read(numbers: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        for number in numbers:
            with guarded(files[number], "picture"):
                plane = read_grey(files[number])
            yield plane

    return Slices(tuple(files), shape, read)


def _picture_shape(path: Path) -> tuple[int, int]:
    with guarded(path, "picture"), Image.open(path, formats=_FORMATS) as picture:
        (width, height), mode, frames = picture.size, picture.mode, getattr(picture, "n_frames", 1)
    check_size(path, (1, height, width))
    if mode.startswith(("I", "F")) or frames != 1:
        raise DataError([f"{path}: {frames} pictures of mode {mode}, where one of 8 bits is needed"])
    return height, width


# ---------------------------------------------------------------- masks


def black_and_white(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """Class 1 above level 127, as in masks of grey formats. Raises ValueError when a threshold would decide what is what."""
    share = grey_share(levels)
    if share > GREY_LIMIT:
        raise ValueError(
            f"{share:.1%} of a mask's pixels are neither dark nor bright (at most {GREY_LIMIT:.0%} may be grey)"
        )
    return (levels > MASK_THRESHOLD).astype(np.uint8)


def bands(*known: tuple[int, int, int]) -> Meaning:
    """Class numbers from whole levels: each (lowest, highest, number). Any other level is an error."""
    return partial(_banded, known)


def _banded(known: Sequence[tuple[int, int, int]], levels: NDArray[Any]) -> NDArray[np.uint8]:
    found = np.zeros(levels.shape, np.uint8)
    strange = np.ones(levels.shape, np.bool_)
    whole = np.rint(levels)
    for low, high, number in known:
        here = (whole >= low) & (whole <= high) & (np.abs(levels - whole) < 1e-3)
        found[here] = number
        strange &= ~here
    if strange.any():
        examples = ", ".join(f"{level:g}" for level in np.unique(levels[strange])[:5])
        ranges = ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high, _ in known)
        raise ValueError(f"{int(strange.sum())} pixels of a mask have levels such as {examples}; known are {ranges}")
    return found


# ---------------------------------------------------------------- stacks


def pair(image: Slices, mask: Slices, meaning: Meaning, by_number: bool = False) -> Stack:
    """Slices and their masks as one stack in the one orientation.

    Args:
        by_number: stored slice k belongs to stored mask k and lies like it, whatever the mask's own header says.

    Raises:
        DataError: different numbers of slices, sizes or places; later, from ``planes``, what cannot be decoded.
    """
    mask = replace(mask, turn=image.turn) if by_number else mask
    shape = image.turn.sizes(image.shape)
    if problem := _misfit(image, mask, by_number):
        raise DataError([f"{mask.files[0]}: {problem}"])

    def planes() -> Iterator[Plane]:
        return read_planes(image, mask, meaning, range(shape[0]))

    return Stack(shape, image.turn.sizes(image.spacing) if image.spacing else None, planes, image.remark)


def read_planes(image: Slices, mask: Slices, meaning: Meaning, numbers: Sequence[int]) -> Iterator[Plane]:
    """Planes of these numbers, counted in the order in which they come out. Raises DataError for what does not decode."""
    order, order_of_masks = (one.turn.order(one.shape[0]) for one in (image, mask))
    values = image.read([order[number] for number in numbers])
    levels = mask.read([order_of_masks[number] for number in numbers])
    for number, value, level in zip(numbers, values, levels, strict=True):
        file = mask.file(order_of_masks[number])
        try:
            with np.errstate(invalid="ignore"):
                label = meaning(level)
        except ValueError as error:
            raise DataError([f"{file}: {error}"]) from None
        yield Plane(
            np.ascontiguousarray(image.turn.plane(value), np.float32), np.ascontiguousarray(mask.turn.plane(label))
        )


def _misfit(image: Slices, mask: Slices, by_number: bool) -> str:
    (slices, *size), (masks, *mask_size) = image.turn.sizes(image.shape), mask.turn.sizes(mask.shape)
    if masks != slices:
        return f"{masks} masks for {slices} slices of {image.files[0]}"
    if mask_size != size:
        return f"{mask_size[1]}x{mask_size[0]} pixels, but {image.files[0]} has {size[1]}x{size[0]}"
    if by_number or image.box is None or mask.box is None:
        return ""
    # A mask may have lost its header; one that claims another place is of another scan, or of a part of it.
    reach = max((image.box[1] - image.box[0]) / max(1, min(slices, *size) - 1))
    away = float(np.abs(image.box - mask.box).max())
    return f"its header says that it lies {away:.0f} mm away from {image.files[0]}" if away > max(1.0, reach) else ""

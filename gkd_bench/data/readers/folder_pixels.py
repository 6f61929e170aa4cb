"""Pixels of data sets of one's own: pictures, DICOM and NIfTI files, and what the levels of their masks mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gkd_bench.config.data import Folder
from gkd_bench.data.domain import RawStack, Stack
from gkd_bench.data.imagefiles import NotGrey, TooLarge, opened, read_levels
from gkd_bench.data.readers.folder_files import NIFTI, PICTURE, ending, is_dicom
from gkd_bench.data.volumefiles import Meaning, Slices, black_and_white, check_size, guarded, in_order, pair
from gkd_bench.errors import DataError

# ---------------------------------------------------------------- what levels mean


def meaning_of(levels: Mapping[str, Sequence[int]] | None, classes: tuple[str, ...]) -> Callable[[Path], Meaning]:
    """From a mask's file to what makes class numbers of its levels.

    Args:
        levels: class -> levels, ``background`` included; none = one class, by the rule for the file's format.
        classes: the classes, number 1 first.
    """
    if levels is None:
        return lambda path: _bright if is_picture(path) else _positive
    numbers = {"background": 0} | {name: number for number, name in enumerate(classes, start=1)}
    known = {level: numbers[name] for name, values in levels.items() for level in values}
    return lambda path: lambda stored: _listed(stored, known)


def _listed(stored: NDArray[Any], known: Mapping[int, int]) -> NDArray[np.uint8]:
    label = np.zeros(stored.shape, np.uint8)
    strange = np.ones(stored.shape, np.bool_)
    for level, number in known.items():
        here = stored == level
        label[here] = number
        strange &= ~here
    if strange.any():
        values, counts = np.unique(stored[strange], return_counts=True)
        raise ValueError(
            f"level {values[counts.argmax()]:g}, {counts.max() / stored.size:.2%} of the mask, belongs to no class; of "
            f"{len(values)} such levels it is the most frequent; 'levels' names {', '.join(map(str, sorted(known)))}"
        )
    return label


def _bright(stored: NDArray[Any]) -> NDArray[np.uint8]:
    label = black_and_white(stored)
    if not label.any() and stored.any():
        raise ValueError(f"its largest level is {stored.max()}; without 'levels' only those above 127 are foreground")
    return label


def _positive(stored: NDArray[Any]) -> NDArray[np.uint8]:
    if not np.array_equal(stored, np.rint(stored)):
        raise ValueError("has fractions, so it is no mask of class numbers")
    return (stored > 0).astype(np.uint8)


# ---------------------------------------------------------------- pictures


def is_picture(path: Path) -> bool:
    """Whether the file is a picture by its name, not DICOM or NIfTI."""
    return ending(path.name) in PICTURE


def read_picture(path: Path, mode: str) -> NDArray[np.uint8]:
    """(height, width, 3) for mode RGB, (height, width) for mode L: uint8. Raises DataError; 16-bit pictures are refused."""
    with _sound(path) as picture:
        if picture.mode.startswith(("I", "F")) or ";16" in repr(getattr(picture, "tile", "")):
            raise DataError(
                [f"{path}: more than 8 bits per channel; convert it to 8 bits, with a window of your choice"]
            )
        return np.array(picture.convert(mode), dtype=np.uint8)


def levels_of(path: Path) -> NDArray[Any]:
    """(height, width) levels of a mask whose block names levels. Raises DataError, also for JPEG, which changes levels."""
    with _sound(path) as picture:
        if picture.format in ("JPEG", "MPO"):
            raise DataError([f"{path}: JPEG changes the levels of a mask; store it as PNG to tell classes by 'levels'"])
    return stored_levels(path)


@contextmanager
def _sound(path: Path) -> Iterator[Image.Image]:
    """A picture of one frame and of sane size. Raises DataError, also for what goes wrong while it is unpacked."""
    with _told(path), opened(path) as picture:
        if picture.format in ("TIFF", "GIF") and getattr(picture, "n_frames", 1) != 1:
            raise DataError([f"{path}: several pictures in one file; store one in each"])
        yield picture


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of reading a picture as a DataError; the two that need other words than "damaged" keep their own."""
    with guarded(path, "picture that can be read"):
        try:
            yield
        except TooLarge as error:
            raise DataError([f"{path}: {error}"]) from None
        except NotGrey as error:
            raise DataError(
                [f"{path}: {error}; colours as classes are not supported, store one grey level for each"]
            ) from None


def stored_levels(path: Path) -> NDArray[Any]:
    """(height, width) levels of a grey picture, of 8 or 16 bits, as stored. Raises DataError."""
    with _told(path):
        return read_levels(path)


# ---------------------------------------------------------------- slices and volumes


def series_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The pictures of a folder, or else its DICOM files, in the order of the numbers in their names."""
    pictures = [name for name in names if is_picture(Path(name))]
    found = pictures or [name for name in names if is_dicom(name) and name.upper() != "DICOMDIR"]
    return list(in_order([folder / name for name in found]))


def open_folder_stack(raw: RawStack, block: Folder, meaning: Callable[[Path], Meaning]) -> Stack:
    """One volume, or the loose slices of one subject, with the masks. Raises DataError."""
    single = block.kind == "slice"
    pictures = is_picture(raw.labels[0])
    opener = _loose if single else open_slices
    # A mask in PNG has no header: it belongs to the slice of its number, and lies like that.
    image = _flipped(opener(raw.images, by_position=not pictures), block.flip)
    mask = _flipped(opener(raw.labels, by_position=True), block.flip)
    stack = pair(image, mask, meaning(raw.labels[0]), by_number=pictures)
    return replace(stack, spacing=None if single else stack.spacing or block.spacing)


def open_slices(files: Sequence[Path], by_position: bool = True) -> Slices:
    """A NIfTI file, a series of DICOM files or of pictures; nothing but headers is read. Raises DataError."""
    if len(files) > 1 and any(ending(file.name) in NIFTI for file in files):
        raise DataError([f"{files[0].parent}: several NIfTI files for one volume"])
    if ending(files[0].name) in NIFTI:
        from gkd_bench.data.nifti import nifti

        return nifti(files[0])
    if is_picture(files[0]):
        return _loose(files)
    from gkd_bench.data.dicom import dicom

    return dicom(files, by_position)


def _loose(files: Sequence[Path], by_position: bool = False) -> Slices:
    """Single slices of one size as one stack, in the order given."""
    singles = [_picture_slice(path) if is_picture(path) else _scanner_slice(path) for path in files]
    first = singles[0]
    lines = [
        f"{one.files[0]}: {_size(one)} pixels, but {files[0].name} has {_size(first)}; a subject's slices share a size"
        for one in singles
        if one.shape != first.shape
    ]
    lines += [f"{one.files[0]}: lies otherwise than {files[0].name}" for one in singles if one.turn != first.turn]
    if lines:
        raise DataError(lines)

    def read(numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        for number in numbers:
            yield from singles[number].read([0])

    return Slices(tuple(files), (len(files), *first.shape[1:]), read, None, first.turn, None, first.remark)


def _picture_slice(path: Path) -> Slices:
    """A grey picture of 8 or 16 bits, its levels as stored; only its header is read."""
    with _sound(path) as picture:
        shape = (1, picture.height, picture.width)
        check_size(path, shape)

    def read(numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
        return (stored_levels(path) for _ in numbers)

    return Slices((path,), shape, read)


def _scanner_slice(path: Path) -> Slices:
    one = open_slices([path], by_position=True)
    if one.shape[0] != 1:
        raise DataError([f"{path}: holds {one.shape[0]} slices; say kind: volume"])
    return replace(one, turn=replace(one.turn, reverse=False))


def _flipped(slices: Slices, axes: Sequence[str]) -> Slices:
    turn = slices.turn
    turn = replace(
        turn,
        flip_rows=turn.flip_rows != ("rows" in axes),
        flip_columns=turn.flip_columns != ("columns" in axes),
    )
    return replace(slices, turn=turn)


def _size(slices: Slices) -> str:
    return f"{slices.shape[2]}x{slices.shape[1]}"

"""DICOM series, one file for each slice; only the tags that are needed are read, none of which can name a patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from gkd_bench.data.domain import Spacing
from gkd_bench.data.volumefiles import Slices, Turn, check_size, guarded
from gkd_bench.errors import DataError

MOST_BESIDE = 2**24  # bytes that a file may have beside its pixels
_TAGS = (
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
)
_AS_IT_LIES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class _Header(NamedTuple):
    path: Path
    size: tuple[int, int]
    slope: float
    intercept: float
    pixel_spacing: tuple[float, ...]
    between: float  # 0 = unknown
    position: tuple[float, ...]
    orientation: tuple[float, ...]


def dicom(files: Sequence[Path], by_position: bool = False, rescale: bool = True) -> Slices:
    """A series of single slices; nothing but headers is read.

    Args:
        files: in the order that pairs them with masks.
        by_position: sort them by their place in the body instead. Wrong for data sets whose masks go by file name.
        rescale: whether stored values become Hounsfield units, value x slope + intercept of each slice.

    Raises:
        DataError: missing, foreign, of several frames, compressed with Deflate, different in size or direction, not axial;
            later, from ``read``, torn or compressed in a way that cannot be decoded here.
    """
    headers = [_header(path) for path in files]
    if by_position and all(header.position for header in headers):
        headers.sort(key=lambda header: header.position[2])
    _check_alike(headers)
    first = headers[0]
    turn = _turn(first, _direction(headers))
    shape = (len(headers), *first.size)
    check_size(first.path, shape)
    remark = "" if first.orientation else "its headers do not state an orientation"

    def read(numbers: Sequence[int]) -> Iterator[NDArray[np.float32]]:
        return (_pixels(headers[number], rescale) for number in numbers)

    return Slices(tuple(header.path for header in headers), shape, read, _spacing(headers), turn, None, remark)


# ---------------------------------------------------------------- headers


def _header(path: Path) -> _Header:
    with guarded(path, "DICOM file"):
        _refuse_deflated(path)
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_TAGS])
        if problem := _problem(data):
            raise DataError([f"{path}: {problem}"])
        found = _Header(
            path,
            (int(data.Rows), int(data.Columns)),
            _number(data, "RescaleSlope", 1.0),
            _number(data, "RescaleIntercept", 0.0),
            _numbers(data, "PixelSpacing", 2),
            _number(data, "SpacingBetweenSlices", 0.0) or _number(data, "SliceThickness", 0.0),
            _numbers(data, "ImagePositionPatient", 3),
            _numbers(data, "ImageOrientationPatient", 6),
        )
    check_size(path, (1, *found.size))
    if not np.isfinite(found[2:4]).all() or not found.slope:
        raise DataError([f"{path}: its header gives no usable scale"])
    # Run-length coding can unpack 64-fold: the file's own size is what bounds the memory that decoding takes.
    if path.stat().st_size > found.size[0] * found.size[1] * 8 + MOST_BESIDE:
        raise DataError(
            [f"{path}: far larger than a slice of {found.size[1]}x{found.size[0]} pixels; get the file again"]
        )
    return found


def _refuse_deflated(path: Path) -> None:
    # Parsing would unpack all of it at once, however much that is.
    if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise DataError(
            [f"{path}: compressed with Deflate, which is not read here; convert it to Explicit VR Little Endian"]
        )


def _problem(data: pydicom.Dataset) -> str:
    if "Rows" not in data or "Columns" not in data:
        return "a DICOM file without a picture"
    if int(data.get("NumberOfFrames") or 1) != 1:
        return "more than one frame in a file; export the series as one file for each slice"
    if int(data.get("SamplesPerPixel") or 1) != 1 or data.get("PhotometricInterpretation") != "MONOCHROME2":
        return "not a plain grey picture (MONOCHROME2)"
    return "its scale is a lookup table, which is not read here" if "ModalityLUTSequence" in data else ""


def _number(data: pydicom.Dataset, tag: str, default: float) -> float:
    value = data.get(tag)
    return default if value is None or value == "" else float(value)


def _numbers(data: pydicom.Dataset, tag: str, count: int) -> tuple[float, ...]:
    """All or nothing: headers are often blank, or blanked by whoever removed the names."""
    value = data.get(tag)
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != count:
        return ()
    found = tuple(float(one) for one in value)
    return found if np.isfinite(found).all() else ()


def _check_alike(headers: Sequence[_Header]) -> None:
    first = headers[0]
    lines = [
        f"{one.path}: {one.size[1]}x{one.size[0]} pixels, but {first.path.name} has {first.size[1]}x{first.size[0]}"
        for one in headers
        if one.size != first.size
    ]
    lines += [
        f"{one.path}: lies otherwise, or has other pixels, than {first.path.name}; a folder must hold one series"
        for one in headers
        if not _close(one.orientation, first.orientation) or not _close(one.pixel_spacing, first.pixel_spacing)
    ]
    if lines:
        raise DataError(lines)


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=1e-3, atol=1e-3))


# ---------------------------------------------------------------- place


def _turn(header: _Header, direction: int) -> Turn:
    """DICOM counts millimetres to the left, to the back and up; the six numbers say where columns and rows run."""
    columns, rows = np.array(header.orientation or _AS_IT_LIES).reshape(2, 3)
    if np.argmax(np.abs(np.cross(columns, rows))) != 2 or not np.cross(columns, rows).any():
        raise DataError([f"{header.path}: not an axial slice; reformat the series to axial slices"])
    transpose = bool(abs(columns[0]) < abs(columns[1]))
    leftwards, backwards = (rows, columns) if transpose else (columns, rows)
    return Turn(direction < 0, transpose, bool(backwards[1] < 0), bool(leftwards[0] < 0))


def _heights(headers: Sequence[_Header]) -> NDArray[np.float64]:
    """Places along the body in millimetres, upwards; empty where a header does not tell."""
    return np.array(
        [one.position[2] for one in headers if one.position] if all(one.position for one in headers) else []
    )


def _direction(headers: Sequence[_Header]) -> int:
    """1 for files from the feet to the head, -1 for the reverse, 0 where that is not known."""
    steps = np.diff(_heights(headers))
    return (1 if (steps > 0).all() else -1 if (steps < 0).all() else 0) if steps.size else 0


def _spacing(headers: Sequence[_Header]) -> Spacing | None:
    first = headers[0]
    steps = np.diff(np.sort(_heights(headers)))
    between = float(np.median(steps)) if steps.size and np.median(steps) > 0 else first.between
    known = (between, *first.pixel_spacing)
    return (known[0], known[1], known[2]) if len(known) == 3 and min(known) > 0 and np.isfinite(known).all() else None


# ---------------------------------------------------------------- pixels


def _pixels(header: _Header, rescale: bool) -> NDArray[np.float32]:
    """(rows, columns) float32 of one file."""
    path = header.path
    with guarded(path, "DICOM file that can be decoded here"):
        data = pydicom.dcmread(path, specific_tags=[*_TAGS, "PixelData"])
        if not data.get("PixelData"):
            raise DataError([f"{path}: no pixel data"])
        stored: NDArray[Any] = data.pixel_array
        if stored.shape != header.size:
            raise DataError([f"{path}: its pixels are not those that its header announces; get the file again"])
        slope, intercept = (header.slope, header.intercept) if rescale else (1.0, 0.0)
        return (stored * slope + intercept).astype(np.float32)

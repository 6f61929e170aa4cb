"""NIfTI volumes slice by slice: a header, then planes of the file's own type, never the volume as 32-bit numbers."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import nibabel
import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.volumefiles import Slices, Turn, check_size, guarded
from gkd_bench.errors import DataError

MOST_LOADED = 2**28  # voxels of a gzipped file that must be unpacked as a whole: 512 MB of 16-bit numbers
MOST_AHEAD = 2**24  # bytes of extensions before the voxels; nibabel would read gigabytes of them
MOST_BEHIND = 2**20
_UNHEARD = logging.Logger("unheard", logging.CRITICAL + 1)  # what is wrong with a header quotes it
_GZIP = b"\x1f\x8b"
nib: Any = nibabel  # half of its functions have no types
_HEADERS = {348: (nib.Nifti1Header, b"n+1"), 540: (nib.Nifti2Header, b"n+2")}
_AXES = nib.orientations.axcodes2ornt("SPL")  # slices towards the head, rows towards the back, columns to the left


class NiftiHeader(NamedTuple):
    """What is needed of a header, and nothing that could name a patient.

    Attributes:
        path: the file.
        gzipped: whether it must be unpacked.
        offset: byte of the first voxel.
        shape: voxels along each axis as stored, the first axis changing fastest.
        dtype: type of a stored voxel.
        slope: factor of stored voxels.
        intercept: what is added to them then.
        affine: (4, 4), from indices to the scanner's millimetres, to the right, to the front and up.
        stated: whether the header says what the affine means.
    """

    path: Path
    gzipped: bool
    offset: int
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    stated: bool


def nifti(path: Path, affine: NDArray[np.float64] | None = None) -> Slices:
    """A NIfTI-1 or NIfTI-2 file (.nii, .nii.gz) with three axes; nothing but its header is read.

    Args:
        affine: where it lies, instead of what its own header says.

    Raises:
        DataError: missing, foreign or absurd; later, from ``read``, torn.
    """
    header = read_header(path)
    placed = header.affine if affine is None else affine
    order, turn = _turn(path, placed)
    sizes = nib.affines.voxel_sizes(placed)
    slices, first, second = order
    return Slices(
        (path,),
        (header.shape[slices], header.shape[first], header.shape[second]),
        lambda numbers: _planes(header, slices, numbers),
        (float(sizes[slices]), float(sizes[first]), float(sizes[second])),
        turn,
        _box(placed, header.shape) if header.stated else None,
        "" if header.stated else "its header does not state an orientation",
    )


def read_header(path: Path) -> NiftiHeader:
    """The header of a NIfTI file. Raises DataError for what is missing, foreign or absurd."""
    with guarded(path, "NIfTI file"):
        header, gzipped = raw_header(path)
        slope, intercept = header.get_slope_inter()
        found = NiftiHeader(
            path,
            gzipped,
            max(int(header["vox_offset"]), int(header["sizeof_hdr"])),
            _shape(path, header.get_data_shape()),
            header.get_data_dtype(),
            1.0 if slope is None else float(slope),
            0.0 if intercept is None else float(intercept),
            np.asarray(header.get_best_affine(), np.float64),
            bool(int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0),
        )
    if problem := _problem(found):
        raise DataError([f"{path}: {problem}"])
    return found


def raw_header(path: Path) -> tuple[Any, bool]:
    """The header as nibabel has it, which holds more than may be passed on, and whether the file must be unpacked.

    Raises:
        ValueError, OSError: no NIfTI file; to be called under ``guarded``.
    """
    with path.open("rb") as file:
        gzipped = file.read(2) == _GZIP
    with _open(path, gzipped) as stream:
        start = stream.read(4)
        length = next((n for n in _HEADERS if start in (n.to_bytes(4, "little"), n.to_bytes(4, "big"))), 0)
        if not length:
            raise ValueError("no NIfTI header")
        block = start + stream.read(length - 4)
    kind, magic = _HEADERS[length]
    header = kind(block, check=False)
    header.check_fix(logger=_UNHEARD)
    if not bytes(header["magic"]).startswith(magic):
        raise ValueError("header of another format, or of a pair of files")
    return header, gzipped


def _shape(path: Path, stored: Sequence[Any]) -> tuple[int, int, int]:
    sizes = [int(size) for size in stored]
    if len(sizes) < 3 or any(size != 1 for size in sizes[3:]):
        raise DataError([f"{path}: has {len(sizes)} axes ({' x '.join(map(str, sizes))}), where a volume has 3"])
    # Any axis may be the one along the body, which is the only one that may be long.
    check_size(path, (max(sizes[:3]), *sorted(sizes[:3])[:2]))
    return sizes[0], sizes[1], sizes[2]


def _problem(header: NiftiHeader) -> str:
    if header.offset > MOST_AHEAD:
        return "its header puts the voxels behind more bytes than any header has; get the file again"
    if header.dtype.kind not in "iuf" or header.dtype.itemsize > 8:
        return "its voxels are no plain numbers (colour or complex)"
    if not np.isfinite([header.slope, header.intercept]).all() or not header.slope:
        return "its header gives no usable scale"
    square = header.affine[:3, :3]
    if not np.isfinite(header.affine).all() or not abs(np.linalg.det(square)) > 1e-9:
        return "its header gives no usable orientation"
    return ""


def _turn(path: Path, affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], Turn]:
    """The stored axes that are slices and, in their own order, the plane's; and what turns those."""
    with guarded(path, "NIfTI file"):
        change = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), _AXES)
    to, flips = change[:, 0].astype(int).tolist(), (change[:, 1] < 0).tolist()
    slices, rows, columns = to.index(0), to.index(1), to.index(2)
    first, second = sorted((rows, columns))
    return (slices, first, second), Turn(flips[slices], rows > columns, flips[rows], flips[columns])


def _box(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    corners = [[i, j, k, 1] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)]
    places = (np.array(corners, np.float64) @ affine.T)[:, :3]
    return np.stack([places.min(0), places.max(0)])


# ---------------------------------------------------------------- voxels


def _planes(header: NiftiHeader, axis: int, numbers: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """(first, second) float32 of each of these slices, scaled."""
    forwards = all(a < b for a, b in pairwise(numbers))
    along = axis == 2 and (forwards or not header.gzipped)
    source = _mapped if not along else _streamed if header.gzipped else _sought
    stored = source(header, axis, numbers)
    while True:
        with guarded(header.path, "whole NIfTI file"):
            plane = next(stored, None)
            if plane is None:
                return
            scaled = (plane * header.slope + header.intercept).astype(np.float32)
        yield scaled


def _streamed(header: NiftiHeader, axis: int, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Slices of a gzipped file in storage order; its checksum is at its end, so that all of it is read."""
    wanted = set(numbers)
    rows, columns, count = header.shape
    size = rows * columns * header.dtype.itemsize
    with _open(header.path, True) as stream:
        _exactly(stream, header.offset)
        for number in range(count):
            block = _exactly(stream, size)
            if number in wanted:
                yield np.frombuffer(block, header.dtype).reshape((rows, columns), order="F")
        _finish(stream)


def _sought(header: NiftiHeader, axis: int, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Slices of a plain file, read one by one: a mapped file that is cut short meanwhile ends the process."""
    rows, columns, _ = header.shape
    size = rows * columns * header.dtype.itemsize
    with _open(header.path, False) as stream:
        for number in numbers:
            stream.seek(header.offset + number * size)
            yield np.frombuffer(_exactly(stream, size), header.dtype).reshape((rows, columns), order="F")


def _mapped(header: NiftiHeader, axis: int, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
    voxels = _load(header) if header.gzipped else _map(header)
    for number in numbers:
        yield voxels[(slice(None),) * axis + (number,)]


def _map(header: NiftiHeader) -> NDArray[Any]:
    return np.memmap(header.path, header.dtype, "r", header.offset, header.shape, "F")


def _load(header: NiftiHeader) -> NDArray[Any]:
    count = int(np.prod(header.shape, dtype=np.int64))
    if count > MOST_LOADED:
        raise DataError(
            [
                f"{header.path}: {count} voxels, gzipped, with their slices not in order from the feet; unpack it (gunzip)"
            ]
        )
    with _open(header.path, True) as stream:
        _exactly(stream, header.offset)
        voxels = np.empty(header.shape, header.dtype, order="F")
        for number in range(header.shape[2]):
            block = _exactly(stream, voxels[..., number].nbytes)
            voxels[..., number] = np.frombuffer(block, header.dtype).reshape(header.shape[:2], order="F")
        _finish(stream)
    return voxels


def _open(path: Path, gzipped: bool) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path) if gzipped else path.open("rb"))


def _exactly(stream: IO[bytes], count: int) -> bytes:
    block = stream.read(count)
    if len(block) != count:
        raise EOFError("file ends early")
    return block


def _finish(stream: IO[bytes]) -> None:
    if len(stream.read(MOST_BEHIND)) == MOST_BEHIND:
        raise ValueError("more data than the header says")

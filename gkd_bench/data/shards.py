"""Arrays of several files that are read as one: row k of all is a row of one of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gkd_bench.errors import StoreError

Bytes = NDArray[np.uint8]


class Shards:
    """Memory-mapped parts, each opened when it is first read.

    Args:
        files: one array file per part, (rows, height, width) uint8.
        rows: rows of each part.
        load: opens a part.
    """

    def __init__(self, files: Sequence[Path], rows: Sequence[int], load: Callable[[Path], Bytes]) -> None:
        self.files, self.ends = list(files), list(accumulate(rows))
        self._load = load
        self._open: dict[int, Bytes] = {}

    def __getitem__(self, index: tuple[int, slice, slice]) -> Bytes:
        """A part of one row. Raises IndexError for a row that is not there."""
        row, down, across = index
        if not 0 <= row < (self.ends[-1] if self.ends else 0):
            raise IndexError(row)
        part = bisect_right(self.ends, row)
        return self._part(part)[row - (self.ends[part - 1] if part else 0), down, across]

    def _part(self, part: int) -> Bytes:
        if part not in self._open:
            self._open[part] = self._load(self.files[part])
        return self._open[part]


class CompressedShards(Shards):
    """Compressed parts, of which the last few that were read are kept; for labels in native pixels, which are read in order."""

    def __init__(self, files: Sequence[Path], rows: Sequence[int]) -> None:
        super().__init__(files, rows, lru_cache(maxsize=2)(load_compressed))

    def _part(self, part: int) -> Bytes:
        return self._load(self.files[part])


def save_compressed(path: Path, array: Bytes) -> None:
    """Write one array; labels shrink to a hundredth."""
    np.savez_compressed(path, array=array)


def load_compressed(path: Path) -> Bytes:
    """Read what :func:`save_compressed` wrote. Raises StoreError for a torn file."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: Bytes = archive["array"]
    except Exception as error:  # zipfile, zlib and numpy each have errors of their own
        raise StoreError(
            f"{path}: torn array ({type(error).__name__}); remove its folder and run the sweep again"
        ) from error
    return array

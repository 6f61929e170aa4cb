"""What the readers of fundus photographs share: one photograph, one vessel mask, perhaps one field-of-view mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.domain import FileDomain, RawImage, RawPixels, unreadable
from gkd_bench.data.imagefiles import (
    GREY_LIMIT,
    MASK_THRESHOLD,
    UNREADABLE,
    compute_fov,
    grey_share,
    mismatches,
    read_grey,
    read_rgb,
)


class Photographs(FileDomain):
    """Reads the three files of each image; a field of view without a file is computed from the red channel."""

    def read(self, raw: RawImage) -> RawPixels:
        """Pixels of one image. Raises DataError naming every file that is missing, torn, of another size or no mask."""
        assert raw.image is not None
        assert raw.label is not None
        files, problems = self._decode(raw)
        if problems:
            raise self.error(problems)
        rgb, levels = files[raw.image], files[raw.label]
        fov = files[raw.fov] > MASK_THRESHOLD if raw.fov else compute_fov(rgb)
        pixels = RawPixels(rgb, levels > MASK_THRESHOLD, fov)
        problems = mismatches({path: (array.shape[1], array.shape[0]) for path, array in files.items()}, raw.image)
        problems += _label_problems(raw.label, levels)
        problems += [f"{raw.fov or raw.image}: empty field of view"] * (not fov.any())
        if problems:
            raise self.error(problems)
        return pixels

    def _decode(self, raw: RawImage) -> tuple[dict[Path, NDArray[np.uint8]], list[str]]:
        """Arrays by file, and one line per file that cannot be decoded."""
        files: dict[Path, NDArray[np.uint8]] = {}
        problems: list[str] = []
        for path in raw.files():
            decode: Callable[[Path], NDArray[np.uint8]] = read_rgb if path == raw.image else read_grey
            try:
                files[path] = decode(path)
            except UNREADABLE as error:
                problems.append(unreadable(path, error))
        return files, problems


def _label_problems(path: Path, levels: NDArray[Any]) -> list[str]:
    """A label must be black and white, with some white."""
    share = grey_share(levels)
    if share > GREY_LIMIT:
        return [
            f"{path}: {share:.1%} of the pixels are neither dark nor bright (at most {GREY_LIMIT:.0%} may be grey); "
            "a label must be 0 on background and 255 on vessels"
        ]
    return [] if (levels > MASK_THRESHOLD).any() else [f"{path}: no vessel pixel (its largest level is {levels.max()})"]

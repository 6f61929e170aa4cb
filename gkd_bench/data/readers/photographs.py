"""What the readers of fundus photographs share: one photograph, one vessel mask, perhaps one field-of-view mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.domain import FileDomain, PhotographReader, RawImage, RawPixels, unreadable
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
from gkd_bench.errors import DataError


class Photographs(FileDomain, PhotographReader):
    """Reads the three files of each image; a field of view without a file is computed from the red channel."""

    def read(self, raw: RawImage) -> RawPixels:
        """Pixels of one image. Raises DataError naming every file that is missing, torn, of another size or no mask."""
        assert raw.image is not None
        assert raw.label is not None
        files, problems = self._decode(raw)
        if problems:
            raise self.error(problems)
        rgb, levels = files[raw.image], files[raw.label]
        fov = files[raw.fov] > MASK_THRESHOLD if raw.fov else self.field_of_view(rgb)
        label, problems = self.label_of(raw.label, levels)
        problems = (
            mismatches({path: (array.shape[1], array.shape[0]) for path, array in files.items()}, raw.image) + problems
        )
        problems += [f"{raw.fov or raw.image}: empty field of view"] * (not fov.any())
        if problems:
            raise self.error(problems)
        return RawPixels(rgb, label, fov)

    def decode(self, raw: RawImage, path: Path) -> NDArray[Any]:
        """The array of one of the image's files. Raises one of UNREADABLE, or DataError."""
        return read_rgb(path) if path == raw.image else read_grey(path)

    def field_of_view(self, rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Field of view of a photograph without a file of it."""
        return compute_fov(rgb)

    def label_of(self, path: Path, levels: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
        """The label from a mask's levels, and one line per problem of the mask."""
        return levels > MASK_THRESHOLD, _label_problems(path, levels)

    def _decode(self, raw: RawImage) -> tuple[dict[Path, NDArray[Any]], list[str]]:
        """Arrays by file, and one line per file that cannot be decoded."""
        files: dict[Path, NDArray[Any]] = {}
        problems: list[str] = []
        for path in raw.files():
            try:
                files[path] = self.decode(raw, path)
            except UNREADABLE as error:
                problems.append(unreadable(path, error))
            except DataError as error:
                problems += error.problems
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

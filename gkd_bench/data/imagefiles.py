"""Reading picture files of every format the data sets use, with Pillow: it refuses torn files that others pad."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

FOV_THRESHOLD = 34  # red level; about 0.13 of full scale separates retina from the dark surround


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header. Raises FileNotFoundError, or OSError for what is not a picture."""
    with _open(path) as stream, Image.open(stream) as picture:
        return picture.size


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """(height, width, 3) uint8. Raises OSError for a torn or unreadable file."""
    return _read(path, "RGB")


def read_mask(path: Path) -> NDArray[np.bool_]:
    """(height, width) bool: grey level above 127, never above 0, since GIF and JPEG masks carry small grey noise."""
    return _read(path, "L") > 127


def locate(folder: Path, *names: str) -> Path:
    """The first of ``names`` that ``folder`` holds, letter case ignored; the first name as given when none exists."""
    present = {path.name.lower(): path for path in folder.iterdir()} if folder.is_dir() else {}
    return next((present[name.lower()] for name in names if name.lower() in present), folder / names[0])


def compute_fov(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Field of view of a photograph without a mask file: (height, width, 3) uint8 -> (height, width) bool.

    The red channel is thresholded, cleaned by an opening and a closing of 1 % of the image size, reduced to its
    largest component and filled.
    """
    red = cv2.medianBlur(np.ascontiguousarray(rgb[..., 0]), 5)
    side = max(3, max(red.shape) // 100 | 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    bright = (red > FOV_THRESHOLD).astype(np.uint8)
    bright = cv2.morphologyEx(cv2.morphologyEx(bright, cv2.MORPH_OPEN, disc), cv2.MORPH_CLOSE, disc).astype(np.uint8)
    count, components, stats, _ = cv2.connectedComponentsWithStats(bright)
    if count < 2:
        return np.zeros(red.shape, dtype=np.bool_)
    largest = components == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return np.asarray(ndimage.binary_fill_holes(largest), dtype=np.bool_)


def fov_diameter(fov: NDArray[np.bool_]) -> int:
    """Largest extent of the field of view along an axis, in pixels; cameras often clip its top and bottom."""
    extents = [np.flatnonzero(fov.any(axis=axis)) for axis in (0, 1)]
    return max(int(np.ptp(extent)) + 1 if extent.size else 0 for extent in extents)


def mismatches(paths: Sequence[Path | None], shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """One line per picture whose (height, width) differs from that of the first."""
    first = shapes[0][:2]
    return [
        f"{p}: size {s[:2]} differs from its image's {first}"
        for p, s in zip(paths, shapes, strict=True)
        if s[:2] != first
    ]


def _read(path: Path, mode: str) -> NDArray[np.uint8]:
    with _open(path) as stream, Image.open(stream) as picture:
        return np.array(picture.convert(mode), dtype=np.uint8)


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")

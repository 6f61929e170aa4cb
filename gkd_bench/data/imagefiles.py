"""Reading picture files of every format the data sets use, with Pillow: it refuses torn files that others pad."""

from __future__ import annotations

import gzip
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, zlib.error, struct.error, Image.DecompressionBombError)
"""What Pillow and gzip raise for files that are torn, foreign or absurdly large."""

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "PPM")
"""What is opened at all: Pillow knows formats that run other programs."""

MASK_THRESHOLD = 127
GREY = range(64, 192)  # neither dark nor bright in a mask
GREY_LIMIT = 0.01  # JPEG at quality 30 leaves 0.5 % of a vessel mask grey, interpolation to half size 3 % and more
LEAST_FOV = 0.05  # of the picture; below it, what was found is a reflex and not the retina
FOV_THRESHOLD = 34  # red level; about 0.13 of full scale separates retina from the dark surround


class TooLarge(OSError):
    """A picture of more pixels than Pillow thinks safe to unpack."""


class NotGrey(ValueError):
    """A picture in colour where grey levels are needed."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture whose header was read. Raises FileNotFoundError, TooLarge, or OSError for what is not a picture."""
    with warnings.catch_warnings(), _open(path) as stream:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            picture = Image.open(stream, formats=FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            limit = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            raise TooLarge(f"more than {limit:.0f} million pixels; reduce it") from None
        with picture:
            yield picture


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header. Raises FileNotFoundError, or OSError for what is not a picture."""
    with opened(path) as picture:
        return picture.size


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """(height, width, 3) uint8. Raises OSError for a torn or unreadable file."""
    return _read(path, "RGB")


def read_mask(path: Path) -> NDArray[np.bool_]:
    """(height, width) bool: grey level above 127, never above 0, since GIF and JPEG masks carry small grey noise."""
    return read_grey(path) > MASK_THRESHOLD


def read_grey(path: Path) -> NDArray[np.uint8]:
    """(height, width) uint8. Raises OSError for a torn or unreadable file."""
    return _read(path, "L")


def read_levels(path: Path) -> NDArray[Any]:
    """(height, width) of uint8 or wider: grey levels as stored, 16-bit ones too; of a colour palette its numbers.

    Raises NotGrey, or OSError for a torn or unreadable file.
    """
    with opened(path) as picture:
        if picture.mode == "P" and not _is_grey(np.array(picture.convert("RGB"))):
            return np.array(picture)
        if picture.mode.startswith(("I", "F")):
            return np.array(picture)
        if picture.mode in ("1", "L", "LA", "P"):
            return np.array(picture.convert("L"))
        rgb = np.array(picture.convert("RGB"))
    if not _is_grey(rgb):
        raise NotGrey("in colour, where grey levels are needed")
    return np.ascontiguousarray(rgb[..., 0])


def _is_grey(rgb: NDArray[np.uint8]) -> bool:
    return bool((rgb[..., :1] == rgb[..., 1:]).all())


def grey_share(levels: NDArray[np.uint8]) -> float:
    """Share of a mask's pixels, 0 to 1, that are far from both ends, so that a threshold would decide what they mean."""
    return float(np.mean((levels >= GREY.start) & (levels < GREY.stop)))


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


def computed_fov_or_all(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The computed field of view, or the whole picture where there is no dark surround to tell it by."""
    found = compute_fov(rgb)
    return found if found.mean() >= LEAST_FOV else np.ones_like(found)


def fov_diameter(fov: NDArray[np.bool_]) -> int:
    """Largest extent of the field of view along an axis, in pixels; cameras often clip its top and bottom."""
    extents = [np.flatnonzero(fov.any(axis=axis)) for axis in (0, 1)]
    return max(int(np.ptp(extent)) + 1 if extent.size else 0 for extent in extents)


def mismatches(sizes: Mapping[Path, tuple[int, int]], image: Path | None) -> list[str]:
    """One line per picture whose (width, height) differs from that of the image it belongs to."""
    expected = sizes.get(image) if image else None
    return [
        f"{path}: {size[0]}x{size[1]} pixels, but its image has {expected[0]}x{expected[1]}"
        for path, size in sizes.items()
        if expected and size != expected
    ]


def _read(path: Path, mode: str) -> NDArray[np.uint8]:
    with opened(path) as picture:
        return np.array(picture.convert(mode), dtype=np.uint8)


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix == ".gz" else path.open("rb")

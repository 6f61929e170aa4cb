"""Contact sheets: small pictures of every image with its label and field of view drawn over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.domain import RawPixels
from gkd_bench.metrics.pictures import encode_png, text_strip

PANEL_HEIGHT = 200
COLUMNS = 4
LABEL_COLOURS = ((255, 60, 60), (90, 160, 255), (255, 200, 60), (170, 90, 255), (60, 220, 160), (255, 120, 200))
FOV_COLOUR = (80, 255, 80)
Bytes = NDArray[np.uint8]


def panel(pixels: RawPixels, image: Bytes, label: Bytes, title: str) -> Bytes:
    """The photograph with its field of view outlined, beside the prepared image with vessels coloured.

    Args:
        pixels: raw image.
        image: (height, width) or (height, width, 3) prepared levels.
        label: (height, width) prepared class numbers.
        title: written above.

    Returns:
        (PANEL_HEIGHT + strip, width, 3) uint8 RGB.
    """
    photograph = pixels.rgb.copy()
    outlines, _ = cv2.findContours(pixels.fov.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(photograph, outlines, -1, FOV_COLOUR, max(1, photograph.shape[0] // 200))
    body = np.hstack([_fit(photograph), _fit(coloured(image, label))])
    return np.vstack([text_strip(title, body.shape[1]), body])


def slice_panel(image: Bytes, label: Bytes, title: str) -> Bytes:
    """A prepared slice beside itself with its classes coloured.

    Args:
        image: (height, width) prepared grey levels.
        label: (height, width) class numbers.
        title: written above.

    Returns:
        (PANEL_HEIGHT + strip, width, 3) uint8 RGB.
    """
    body = np.hstack([_fit(np.repeat(image[..., None], 3, axis=2)), _fit(coloured(image, label))])
    return np.vstack([text_strip(title, body.shape[1]), body])


def coloured(image: Bytes, label: Bytes) -> Bytes:
    """(height, width, 3) uint8 RGB: the image, every class in a colour of its own."""
    picture = image.copy() if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    for number in range(1, int(label.max(initial=0)) + 1):
        picture[label == number] = LABEL_COLOURS[(number - 1) % len(LABEL_COLOURS)]
    return picture


def contact_sheet(panels: Sequence[Bytes], path: Path) -> None:
    """Write panels in rows of four as one PNG."""
    height, width = (max(p.shape[axis] for p in panels) for axis in (0, 1))
    rows = -(-len(panels) // COLUMNS)
    sheet = np.zeros((rows * height, min(COLUMNS, len(panels)) * width, 3), np.uint8)
    for i, picture in enumerate(panels):
        y, x = i // COLUMNS * height, i % COLUMNS * width
        sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    path.write_bytes(encode_png(sheet))


def _fit(picture: Bytes) -> Bytes:
    width = round(picture.shape[1] * PANEL_HEIGHT / picture.shape[0])
    return np.asarray(cv2.resize(picture, (width, PANEL_HEIGHT), interpolation=cv2.INTER_AREA), dtype=np.uint8)

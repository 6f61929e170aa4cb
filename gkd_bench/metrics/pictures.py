"""Pictures of segmentations: where a prediction is right and where it is wrong, in colours everybody can tell apart.

All pictures are RGB, uint8, (height, width, 3). The colours are from Okabe and Ito, "Color Universal Design" (2008).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Mask = NDArray[Any]
Colour = tuple[int, int, int]

TRUE_POSITIVE: Colour = (240, 228, 66)
FALSE_POSITIVE: Colour = (213, 94, 0)
FALSE_NEGATIVE: Colour = (86, 180, 233)
LEGEND: tuple[tuple[str, Colour], ...] = (
    ("true positive", TRUE_POSITIVE),
    ("false positive", FALSE_POSITIVE),
    ("false negative", FALSE_NEGATIVE),
)

_TEXT: Colour = (255, 255, 255)
_BACKGROUND = 24
_STRIP = 22
_GAP = 4
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SCALE = 0.45


def overlay(image: Picture, label: Mask, prediction: Mask) -> Picture:
    """Colour the true positives, false positives and false negatives of a prediction over its darkened image.

    Args:
        image: (height, width) uint8.
        label: (height, width), non-zero = foreground.
        prediction: (height, width), non-zero = foreground.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: the three shapes differ, or the image is not uint8.
    """
    _check(image, label, prediction)
    picture = np.repeat((image // 2)[..., None], 3, axis=2)
    truth, found = label.astype(bool), prediction.astype(bool)
    picture[truth & found] = TRUE_POSITIVE
    picture[~truth & found] = FALSE_POSITIVE
    picture[truth & ~found] = FALSE_NEGATIVE
    return picture


def panel(
    image: Picture, label: Mask, prediction: Mask, text: str = "", height: int | None = None, legend: bool = True
) -> Picture:
    """Image, label and overlay side by side, a strip of text above and the meaning of the colours below.

    Args:
        image: (height, width) uint8.
        label: (height, width), non-zero = foreground.
        prediction: (height, width), non-zero = foreground.
        text: what is shown; characters outside ASCII become ``?``, and what does not fit is cut off.
        height: height of the three pictures in pixels; none keeps the image's own.
        legend: whether the legend stands below; it needs some 320 pixels of width and is cut off below.

    Returns:
        (height + one or two strips, 3 * width + gaps, 3) uint8 RGB.

    Raises:
        ValueError: the three shapes differ, or the image is not uint8.
    """
    marked = overlay(image, label, prediction)
    mask = np.where(label.astype(bool), 255, 0).astype(np.uint8)
    parts = [_resized(part, height) for part in (_grey(image), _grey(mask), marked)]
    gap = _filled(parts[0].shape[0], _GAP)
    row = np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)
    below = [legend_strip(row.shape[1])] if legend else []
    return np.concatenate([text_strip(text, row.shape[1]), row, *below], axis=0)


def text_strip(text: str, width: int) -> Picture:
    """One line of white text on a dark strip; (22, width, 3) uint8 RGB."""
    strip = _filled(_STRIP, width)
    _write(strip, text, 6)
    return strip


def legend_strip(width: int) -> Picture:
    """The meaning of the overlay's colours as a strip; (22, width, 3) uint8 RGB."""
    strip = _filled(_STRIP, width)
    left = 6
    for name, colour in LEGEND:
        strip[6 : _STRIP - 6, left : left + 12] = colour
        _write(strip, name, left + 17)
        left += 17 + _text_width(name) + 14
    return strip


def encode_png(picture: Picture | NDArray[np.uint16]) -> bytes:
    """A (height, width) grey or (height, width, 3) RGB picture of 8 or 16 bits as PNG; equal pictures give equal bytes."""
    pixels = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, buffer = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError(f"a picture of shape {picture.shape} and type {picture.dtype} cannot be written as PNG")
    return bytes(buffer)


def _check(image: Picture, label: Mask, prediction: Mask) -> None:
    if image.dtype != np.uint8 or image.ndim != 2:
        raise ValueError(f"the image must be (height, width) uint8, not {image.shape} {image.dtype}")
    if not image.shape == label.shape == prediction.shape:
        raise ValueError(f"image {image.shape}, label {label.shape} and prediction {prediction.shape} differ in shape")


def _grey(image: Picture) -> Picture:
    return np.repeat(image[..., None], 3, axis=2)


def _filled(height: int, width: int) -> Picture:
    return np.full((height, width, 3), _BACKGROUND, np.uint8)


def _resized(picture: Picture, height: int | None) -> Picture:
    if height is None or height == picture.shape[0]:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    shrinks = height < picture.shape[0]
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)
    return np.asarray(resized, np.uint8)


def _text_width(text: str) -> int:
    return int(cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)[0][0])


def _write(strip: Picture, text: str, left: int) -> None:
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(strip, plain, (left, _STRIP - 7), _FONT, _FONT_SCALE, _TEXT, 1, cv2.LINE_AA)

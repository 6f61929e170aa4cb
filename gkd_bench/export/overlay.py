"""What was found, over the picture it was found in: one colour per class."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.metrics.pictures import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE, Colour

COLOURS: tuple[Colour, ...] = (
    FALSE_NEGATIVE,  # sky blue
    (230, 159, 0),
    (0, 158, 115),
    TRUE_POSITIVE,  # yellow
    (204, 121, 167),
    FALSE_POSITIVE,  # vermilion
    (0, 114, 178),
)
"""Okabe and Ito's colours, class 1 first; further classes have them again, darker."""
_TINT = 0.65
_DARKER = 0.7


def colour_of(number: int) -> Colour:
    """The colour of a class, RGB; numbers start at 1."""
    again, place = divmod(number - 1, len(COLOURS))
    red, green, blue = (round(value * _DARKER**again) for value in COLOURS[place])
    return red, green, blue


def draw_overlay(picture: NDArray[np.uint8], classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture, grey, with what was found in the colours of its classes.

    Args:
        picture: (height, width) or (height, width, 3) uint8.
        classes: (height, width) uint8 class numbers, 0 = background.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    grey = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.ndim == 3 else picture).astype(np.float32)
    drawn = np.repeat(grey[..., None], 3, axis=2)
    for number in range(1, int(classes.max(initial=0)) + 1):
        where = classes == number
        drawn[where] = (1 - _TINT) * drawn[where] + _TINT * np.asarray(colour_of(number), np.float32)
    return np.asarray(np.rint(drawn), np.uint8)

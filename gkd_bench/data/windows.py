"""Whole images through a network that sees tiles: overlapping windows whose probabilities are averaged. Needs numpy only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
TileProbability = Callable[[Floats], Floats]
"""(n, 1, tile, tile) float32 in [0, 1] -> (n, tile, tile) probability of the foreground; torch, onnxruntime or anything."""


def window_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Starts of windows of ``tile`` that cover ``length`` >= tile, evenly spaced, overlapping at least ``overlap``."""
    if length <= tile:
        return [0]
    step = max(1, round(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def slide(
    image: NDArray[np.uint8], tile: int, probability: TileProbability, overlap: float = 0.5, batch: int = 32
) -> Floats:
    """Probability of the foreground, (height, width) float32, averaged over overlapping tiles of a reflected image.

    Args:
        image: (height, width) uint8, prepared.
        tile: side of the window in pixels.
        probability: what to do with a batch of tiles.
        overlap: smallest share of a window that its neighbour covers as well, in [0, 1).
        batch: windows per call of ``probability``.
    """
    height, width = image.shape
    padded = _at_least(image, tile).astype(np.float32) / np.float32(255.0)
    rows, columns = (window_starts(length, tile, overlap) for length in padded.shape)
    corners = [(y, x) for y in rows for x in columns]
    total, count = np.zeros(padded.shape, np.float32), np.zeros(padded.shape, np.float32)
    for first in range(0, len(corners), batch):
        chosen = corners[first : first + batch]
        windows = np.stack([padded[None, y : y + tile, x : x + tile] for y, x in chosen])
        for (y, x), values in zip(chosen, probability(windows), strict=True):
            total[y : y + tile, x : x + tile] += values
            count[y : y + tile, x : x + tile] += 1
    return (total / count)[:height, :width]


def _at_least(image: NDArray[Any], tile: int) -> NDArray[Any]:
    """The image reflected at its lower and right border until both sides are at least ``tile``."""
    missing = [(0, max(tile - length, 0)) for length in image.shape]
    return np.pad(image, missing, mode="reflect") if any(after for _, after in missing) else image

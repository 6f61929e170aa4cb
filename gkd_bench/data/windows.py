"""Whole images through a network that sees tiles: overlapping windows whose probabilities are averaged. Needs numpy only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
TileProbability = Callable[[Floats], Floats]
"""(n, channels, tile, tile) float32 in [0, 1] -> (n, tile, tile) probability of the one foreground class, or
(n, classes, tile, tile) of every one; torch, onnxruntime or anything."""

Blend = Literal["uniform", "gaussian"]
"""How the windows over a pixel share it: alike, or each the more the nearer the pixel is to its centre."""

_SIGMA = 0.125  # of the tile
_LEAST_WEIGHT = 1e-3


def window_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Starts of windows of ``tile`` that cover ``length`` >= tile, evenly spaced, overlapping at least ``overlap``."""
    if length <= tile:
        return [0]
    step = max(1, round(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def window_corners(size: tuple[int, int], tile: int, overlap: float) -> list[tuple[int, int]]:
    """Upper left corners (y, x), row by row, of the windows that cover (height, width), both at least ``tile``."""
    rows, columns = (window_starts(length, tile, overlap) for length in size)
    return [(y, x) for y in rows for x in columns]


def blend_weights(tile: int, blend: Blend) -> Floats:
    """Weight of each pixel of a window, (tile, tile) float32 in (0, 1].

    ``uniform``: ones. ``gaussian``: exp(-(y^2 + x^2) / (2 sigma^2)) of the distance from the window's centre with sigma =
    tile / 8, at least 1e-3, as in nnU-Net (Isensee et al., Nature Methods 2021) and MONAI 1.6 (``compute_importance_map``).

    Raises:
        ValueError: ``blend`` is neither.
    """
    if blend == "uniform":
        return np.ones((tile, tile), np.float32)
    if blend != "gaussian":
        raise ValueError(f"blend is 'uniform' or 'gaussian', found {blend!r}")
    distance = np.arange(tile) - (tile - 1) / 2
    profile = np.exp(distance**2 / (-2 * (_SIGMA * tile) ** 2))
    return np.maximum(np.outer(profile, profile), _LEAST_WEIGHT).astype(np.float32)


def slide(
    image: NDArray[np.uint8],
    tile: int,
    probability: TileProbability,
    overlap: float = 0.5,
    batch: int = 32,
    blend: Blend = "uniform",
) -> Floats:
    """Probability of the foreground, averaged over overlapping tiles of a reflected image.

    Args:
        image: (height, width) or (height, width, channels) uint8, prepared.
        tile: side of the window in pixels.
        probability: what to do with a batch of tiles.
        overlap: smallest share of a window that its neighbour covers as well, in [0, 1).
        batch: windows per call of ``probability``.
        blend: how overlapping windows are averaged.

    Returns:
        (height, width) float32, or (classes, height, width) where ``probability`` gives classes.
    """
    height, width = image.shape[:2]
    planes = np.atleast_3d(image).transpose(2, 0, 1)
    padded = reflected(planes, tile).astype(np.float32) / np.float32(255.0)
    corners, weights = window_corners(padded.shape[1:], tile, overlap), blend_weights(tile, blend)
    total: Floats | None = None
    for first in range(0, len(corners), batch):
        chosen = corners[first : first + batch]
        found = probability(np.stack([padded[:, y : y + tile, x : x + tile] for y, x in chosen]))
        if total is None:
            total = np.zeros((*found.shape[1:-2], *padded.shape[1:]), np.float32)
        for (y, x), values in zip(chosen, found, strict=True):
            total[..., y : y + tile, x : x + tile] += values * weights
    assert total is not None
    blended: Floats = total / weight_sum(padded.shape[1:], corners, weights)
    return blended[..., :height, :width]


def weight_sum(size: tuple[int, int], corners: list[tuple[int, int]], weights: Floats) -> Floats:
    """(height, width) float32: the weights of all windows over each pixel, what weighted sums are divided by."""
    total, tile = np.zeros(size, np.float32), len(weights)
    for y, x in corners:
        total[y : y + tile, x : x + tile] += weights
    return total


def reflected(images: NDArray[Any], tile: int) -> NDArray[Any]:
    """(..., height, width) reflected at the lower and right border until both sides are at least ``tile``."""
    missing = [(0, 0)] * (images.ndim - 2) + [(0, max(tile - length, 0)) for length in images.shape[-2:]]
    return np.pad(images, missing, mode="reflect") if any(after for _, after in missing) else images

"""Sliding-window prediction of whole images, and validation Dice on the source's validation subjects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.data.cache import SourceImages, require_source
from gkd_bench.metrics.overlap import score_image
from gkd_bench.networks.base import SegmentationNetwork, foreground_probability
from gkd_bench.stages.collective import gather
from gkd_bench.stages.context import StageContext


def window_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Starts of windows of ``tile`` that cover ``length`` >= tile, evenly spaced, overlapping at least ``overlap``."""
    if length <= tile:
        return [0]
    step = max(1, round(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


@torch.no_grad()
def predict(
    network: SegmentationNetwork,
    image: NDArray[np.uint8],
    tile: int,
    device: torch.device,
    overlap: float = 0.5,
    batch: int = 32,
) -> NDArray[np.float32]:
    """Probability of the foreground, (height, width) float32, averaged over overlapping tiles of a reflected image.

    Args:
        network: in eval mode, on ``device``.
        image: (height, width) uint8, prepared.
        tile: side of the window in pixels.
        device: where the network is.
        overlap: smallest share of a window that its neighbour covers as well, in [0, 1).
        batch: windows per forward pass.
    """
    height, width = image.shape
    padded = _at_least(torch.from_numpy(np.ascontiguousarray(image)).to(device).float()[None, None] / 255.0, tile)
    rows, columns = (window_starts(length, tile, overlap) for length in padded.shape[-2:])
    corners = [(y, x) for y in rows for x in columns]
    total = torch.zeros(padded.shape[-2:], device=device)
    count = torch.zeros_like(total)
    for first in range(0, len(corners), batch):
        _add_windows(network, padded[0], corners[first : first + batch], tile, total, count)
    result: NDArray[np.float32] = (total / count)[:height, :width].cpu().numpy()
    return result


def _at_least(images: Tensor, tile: int) -> Tensor:
    """Images reflected at the lower and right border until both sides are at least ``tile``."""
    while min(images.shape[-2:]) < tile:
        height, width = images.shape[-2:]
        pad = (0, min(max(tile - width, 0), width - 1), 0, min(max(tile - height, 0), height - 1))
        images = F.pad(images, pad, mode="reflect")
    return images


def _add_windows(
    network: SegmentationNetwork,
    image: Tensor,
    corners: Sequence[tuple[int, int]],
    tile: int,
    total: Tensor,
    count: Tensor,
) -> None:
    windows = torch.stack([image[:, y : y + tile, x : x + tile] for y, x in corners])
    probabilities = foreground_probability(network(windows))
    for (y, x), probability in zip(corners, probabilities, strict=True):
        total[y : y + tile, x : x + tile] += probability
        count[y : y + tile, x : x + tile] += 1


def validation_dice(
    network: SegmentationNetwork, images: SourceImages, context: StageContext, overlap: float = 0.25, batch: int = 32
) -> dict[str, float]:
    """``val/dice``: mean over the source's validation images of the Dice inside the field of view, at threshold 0.5.

    The images are shared out over the ranks of the stage. Raises LeakError for images of a test split.
    """
    require_source(images)
    place, tile = context.place, int(context.setting("tile"))
    scores = []
    for index in range(place.rank, len(images), place.workers):
        probability = predict(network, images.image(index), tile, context.device, overlap, batch)
        score = score_image(probability, images.label(index), images.fov(index), 0.5)
        scores.append(float(score.metrics()["dice"] or 0.0))
    everyone = gather(scores)
    return {"val/dice": float(np.mean(sorted(everyone)))}

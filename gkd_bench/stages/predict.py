"""Sliding-window prediction of whole images, and validation Dice on the source's validation subjects."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gkd_bench.data.cache import SourceImages, require_source
from gkd_bench.data.windows import slide
from gkd_bench.metrics.overlap import score_image
from gkd_bench.networks.base import SegmentationNetwork, foreground_probability
from gkd_bench.stages.collective import gather
from gkd_bench.stages.context import StageContext


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

    def probability(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = foreground_probability(network(torch.from_numpy(tiles).to(device))).cpu().numpy()
        return found

    return slide(image, tile, probability, overlap, batch)


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

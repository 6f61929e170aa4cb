"""How a stage asks a network for probabilities, and validation Dice on the source's validation subjects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gkd_bench.config.schema import EvaluateStage
from gkd_bench.data.cache import SourceImages, require_source
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.stages.collective import gather
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.predict import predict_slices
from gkd_bench.stages.scoring import Predict, working_dice

VALIDATION_OVERLAP = 0.25


def predictor(
    network: SegmentationNetwork,
    context: StageContext,
    stage: EvaluateStage | None = None,
    overlap: float = VALIDATION_OVERLAP,
) -> Predict:
    """What the network finds in images of one size, by sliding windows as ``stage`` asks for, else plainly.

    Args:
        network: in eval mode, on the context's device.
        context: tile and device.
        stage: overlap, batch and blending of windows.
        overlap: of windows, without a stage.
    """
    settings = stage or EvaluateStage(overlap=overlap)
    tile, device = int(context.setting("tile")), context.device

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict_slices(network, images, tile, device, settings.overlap, settings.batch, settings.blend)

    return predict


def validation_dice(network: SegmentationNetwork, images: SourceImages, context: StageContext) -> dict[str, float]:
    """``val/dice``: mean over the source's validation photographs of the Dice inside the field of view, or over its stacks
    of the Dice of all their slices; at threshold 0.5 and the working scale, mean over classes.

    The photographs or stacks are shared out over the ranks of the stage. Raises LeakError for images of a test split.
    """
    require_source(images)
    place, predict = context.place, predictor(network, context)
    mine = images.volumes()[place.rank :: place.workers]
    scores = gather([working_dice(predict, images, volume, context.classes) for volume in mine])
    return {"val/dice": float(np.mean(sorted(scores)))}

"""Stage ``evaluate``: one model on one target domain's test subjects. The only stage that may open a test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.config.schema import EvaluateStage
from gkd_bench.data.cache import TestImages
from gkd_bench.metrics.overlap import ImageScore, score_image
from gkd_bench.metrics.pictures import encode_png, panel
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.stages.collective import any_rank
from gkd_bench.stages.context import StageContext, StageStopped
from gkd_bench.stages.distance import fsd_records
from gkd_bench.stages.models import input_network
from gkd_bench.stages.predict import predict
from gkd_bench.stages.results import cost_record
from gkd_bench.store.artefacts import Draft

OVERLAY_HEIGHT = 384


@dataclass(frozen=True)
class Scored:
    """Scores of one image at its native size, over the whole image and inside the field of view."""

    index: int
    name: str
    subject: str
    whole: ImageScore
    inside: ImageScore

    def metrics(self) -> dict[str, float | None]:
        """Flat names; ``_fov`` = inside the field of view."""
        return both_metrics(self.whole, self.inside)


def both_metrics(whole: ImageScore, inside: ImageScore) -> dict[str, float | None]:
    """Metrics of the whole image, and with the suffix ``_fov`` those inside the field of view."""
    return whole.metrics() | {f"{name}_fov": value for name, value in inside.metrics().items()}


def run_evaluate(context: StageContext) -> Draft:
    """Score every test image of the target, pool the scores, measure Frechet distances, draw overlays."""
    stage = context.settings("evaluate", EvaluateStage)
    network = input_network(context, "model")
    images = context.domain("target").test_split().images
    scored = []
    for index in range(len(images)):
        if any_rank(context.is_main and context.monitor.should_stop()):
            raise StageStopped
        scored.append(score(network, images, index, stage, context))
        if context.is_main:
            context.monitor.step(index + 1, len(images))
    records = [
        *(image_record(one) for one in scored),
        pooled_record(scored),
        *fsd_records(context, network, stage),
        cost_record(context, 0, len(images), context.elapsed()),
    ]
    dice = [float(one.inside.metrics()["dice"] or 0.0) for one in scored]
    return Draft(
        files=overlays(network, images, scored, stage, context),
        records=records,
        summary={"test/dice_fov": float(np.mean(dice)), "images": len(scored), "seconds": context.elapsed()},
    )


def native_probability(
    network: SegmentationNetwork, images: TestImages, index: int, stage: EvaluateStage, context: StageContext
) -> NDArray[np.float32]:
    """Foreground probability of one image at its native size: predicted at the working scale, resized bilinearly."""
    tile = int(context.setting("tile"))
    probability = predict(network, images.image(index), tile, context.device, stage.overlap, stage.batch)
    height, width = images.native_label(index).shape
    resized = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(resized, 0.0, 1.0), dtype=np.float32)


def score(
    network: SegmentationNetwork, images: TestImages, index: int, stage: EvaluateStage, context: StageContext
) -> Scored:
    """Score one image against the native-size label."""
    probability = native_probability(network, images, index, stage, context)
    label, fov = images.native_label(index) > 0, images.native_fov(index) > 0
    whole = score_image(probability, label, None, stage.threshold)
    inside = score_image(probability, label, fov, stage.threshold)
    return Scored(index, images.name(index), images.subject(index), whole, inside)


def image_record(scored: Scored) -> dict[str, Any]:
    """One ``image`` record."""
    return {
        "record": "image",
        "split": "test",
        "image": scored.name,
        "subject": scored.subject,
        **scored.metrics(),
    }


def pooled_record(scored: list[Scored]) -> dict[str, Any]:
    """One ``pooled`` record: confusion matrices and histograms summed over all images (the authors' protocol)."""
    whole = sum((one.whole for one in scored), ImageScore())
    inside = sum((one.inside for one in scored), ImageScore())
    subjects = len({one.subject for one in scored})
    return {
        "record": "pooled",
        "split": "test",
        "images": len(scored),
        "subjects": subjects,
        **both_metrics(whole, inside),
    }


def spread_ranks(count: int, wanted: int) -> list[int]:
    """``wanted`` ranks from the worst (0) to the best (count - 1), evenly spaced, without repeats."""
    if wanted <= 1:
        return [count // 2][:wanted]
    return sorted({round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})


def overlays(
    network: SegmentationNetwork,
    images: TestImages,
    scored: list[Scored],
    stage: EvaluateStage,
    context: StageContext,
) -> dict[str, bytes]:
    """Pictures of images from worst to best Dice: image, label, and hits and misses of the prediction in colour."""
    by_dice = sorted(scored, key=lambda one: (one.inside.metrics()["dice"] or 0.0, one.name))
    files = {}
    for rank in spread_ranks(len(by_dice), stage.overlays):
        one = by_dice[rank]
        found = native_probability(network, images, one.index, stage, context) >= stage.threshold
        found &= images.native_fov(one.index) > 0
        label = images.native_label(one.index) > 0
        size = (label.shape[1], label.shape[0])
        picture = cv2.resize(images.image(one.index), size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
        text = f"{context.node}  {one.name}  Dice {one.inside.metrics()['dice'] or 0.0:.3f}"
        files[f"overlays/{rank:03d}_{one.name}.png"] = encode_png(panel(picture, label, found, text, OVERLAY_HEIGHT))
    return files

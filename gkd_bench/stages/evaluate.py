"""Stage ``evaluate``: one model on one target domain's test subjects. The only stage that may open a test split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.config.schema import EvaluateStage
from gkd_bench.data.cache import TestImages
from gkd_bench.metrics.overlap import ImageScore, score_image
from gkd_bench.metrics.pictures import encode_png, overlay
from gkd_bench.metrics.surface import surface_metrics
from gkd_bench.metrics.topology import topology_metrics
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.stages.adapt import as_deployed
from gkd_bench.stages.collective import any_rank
from gkd_bench.stages.context import StageContext, StageStopped
from gkd_bench.stages.distance import fsd_draft
from gkd_bench.stages.models import kept_networks
from gkd_bench.stages.predict import predict
from gkd_bench.stages.results import cost_record
from gkd_bench.store.artefacts import Draft

PICTURE_HEIGHT = 384
Values = dict[str, float | None]


@dataclass(frozen=True)
class Scored:
    """Scores of one image at its native size.

    Attributes:
        index, name, subject: the image.
        whole: overlap, AUC and calibration over the whole image.
        inside: the same inside the field of view.
        shape: surface and topology metrics inside the field of view, in native pixels.
    """

    index: int
    name: str
    subject: str
    whole: ImageScore
    inside: ImageScore
    shape: Values

    def metrics(self) -> Values:
        """Flat names; ``_fov`` = inside the field of view."""
        return both_metrics(self.whole, self.inside) | {f"{name}_fov": value for name, value in self.shape.items()}

    @property
    def dice(self) -> float:
        """The headline: Dice inside the field of view."""
        return self.inside.metrics()["dice"] or 0.0


def both_metrics(whole: ImageScore, inside: ImageScore) -> Values:
    """Metrics of the whole image, and with the suffix ``_fov`` those inside the field of view."""
    return whole.metrics() | {f"{name}_fov": value for name, value in inside.metrics().items()}


def run_evaluate(context: StageContext) -> Draft:
    """Score every test image of the target with every kept epoch of the model."""
    stage = context.settings("evaluate", EvaluateStage)
    networks = kept_networks(context.input("model"), context.device)
    images = context.domain("target").test_split().images
    draft = Draft(summary={"images": len(images)})
    for place, (variant, trained) in enumerate(networks.items()):
        network = as_deployed(context, trained, images)
        scored = score_all(network, images, stage, context, place, len(networks))
        part = fsd_draft(context, network, stage)
        drawn = pictures(network, images, scored, stage, context, variant)
        records = [*map(image_record, scored), pooled_record(scored), *part.records, *drawn.records]
        draft.records.extend({**record, "variant": variant} for record in records)
        draft.files.update(drawn.files)
        draft.tensors.update({f"{name}-{variant}": tensors for name, tensors in part.tensors.items()})
        draft.summary[f"{variant}/test/dice_fov"] = float(np.mean([one.dice for one in scored]))
    draft.records.append(cost_record(context, 0, len(images) * len(networks), context.elapsed()))
    draft.summary["seconds"] = context.elapsed()
    return draft


def score_all(
    network: SegmentationNetwork,
    images: TestImages,
    stage: EvaluateStage,
    context: StageContext,
    place: int = 0,
    passes: int = 1,
) -> list[Scored]:
    """Score every image; this is pass ``place`` of ``passes`` over them. Raises StageStopped when asked to stop."""
    scored = []
    for index in range(len(images)):
        if any_rank(context.is_main and context.monitor.should_stop()):
            raise StageStopped
        scored.append(score(network, images, index, stage, context))
        if context.is_main:
            context.monitor.step(place * len(images) + index + 1, passes * len(images))
    return scored


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
    found, truth = (probability >= stage.threshold) & fov, label & fov
    shape: Values = {**surface_metrics(found, truth, tolerance=stage.tolerance), **topology_metrics(found, truth)}
    return Scored(index, images.name(index), images.subject(index), whole, inside, shape)


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


# ---------------------------------------------------------------- pictures


def spread_ranks(count: int, wanted: int) -> list[int]:
    """``wanted`` ranks from the worst (0) to the best (count - 1), evenly spaced, without repeats."""
    if wanted <= 1:
        return [count // 2][:wanted]
    return sorted({round(i * (count - 1) / (wanted - 1)) for i in range(wanted)})


def picture_roles(scored: list[Scored], stage: EvaluateStage) -> dict[int, list[str]]:
    """Image number -> what its picture is for: ``worst``, ``median``, ``best`` of this model, ``fixed`` for all models."""
    by_dice = sorted(scored, key=lambda one: (one.dice, one.name))
    roles: dict[int, list[str]] = {}
    for rank in spread_ranks(len(by_dice), stage.overlays):
        role = "worst" if rank == 0 else "best" if rank == len(by_dice) - 1 else "median"
        roles.setdefault(by_dice[rank].index, []).append(role)
    wanted = min(stage.fixed_pictures, len(scored))
    for place in range(wanted):
        roles.setdefault(int((place + 0.5) * len(scored) / wanted), []).append("fixed")
    return roles


def pictures(
    network: SegmentationNetwork,
    images: TestImages,
    scored: list[Scored],
    stage: EvaluateStage,
    context: StageContext,
    variant: str,
) -> Draft:
    """Three PNG files per chosen image (photo, label, hits and misses in colour) and a ``picture`` record that names them."""
    draft = Draft()
    for index, roles in sorted(picture_roles(scored, stage).items()):
        one, folder = scored[index], f"pictures/{variant}/{images.name(index)}"
        found = native_probability(network, images, index, stage, context) >= stage.threshold
        for part, content in _picture_parts(images, index, found):
            draft.files[f"{folder}/{part}.png"] = content
        record = {"record": "picture", "split": "test", "image": one.name, "subject": one.subject, "folder": folder}
        draft.records.append({**record, "score": one.dice, "roles": ",".join(roles)})
    return draft


def _picture_parts(images: TestImages, index: int, found: NDArray[np.bool_]) -> Iterator[tuple[str, bytes]]:
    label, fov = images.native_label(index) > 0, images.native_fov(index) > 0
    size = (label.shape[1], label.shape[0])
    photo = cv2.resize(images.image(index), size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    parts = {"photo": photo, "label": label.astype(np.uint8) * 255, "found": overlay(photo, label, found & fov)}
    scale = min(1.0, PICTURE_HEIGHT / size[1])
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    for name, part in parts.items():
        picture = cv2.resize(part, small, interpolation=cv2.INTER_AREA).astype(np.uint8)
        yield name, encode_png(picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2))

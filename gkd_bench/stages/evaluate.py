"""Stage ``evaluate``: one model on one target domain's test subjects. The only stage that may open a test split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.config.schema import EvaluateStage
from gkd_bench.data.cache import TestImages, Volume
from gkd_bench.metrics.overlap import ImageScore
from gkd_bench.metrics.pictures import encode_png, overlay
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.stages.adapt import as_deployed
from gkd_bench.stages.collective import any_rank
from gkd_bench.stages.context import StageContext, StageStopped
from gkd_bench.stages.distance import fsd_draft
from gkd_bench.stages.models import kept_networks
from gkd_bench.stages.results import cost_record
from gkd_bench.stages.scoring import (
    ClassMap,
    ClassScore,
    Scored,
    class_map,
    native_probabilities,
    over_classes,
    score_volume,
)
from gkd_bench.stages.validation import predictor
from gkd_bench.store.artefacts import Draft

PICTURE_HEIGHT = 384


def run_evaluate(context: StageContext) -> Draft:
    """Score every photograph or stack of the target's test split with every kept epoch of the model."""
    stage = context.settings("evaluate", EvaluateStage)
    networks = kept_networks(context.input("model"), context.device)
    images = context.scored_images()
    draft = Draft(summary={"images": len(images.volumes())})
    for place, (variant, trained) in enumerate(networks.items()):
        network = as_deployed(context, trained, images)
        scored = score_all(network, images, stage, context, place, len(networks))
        part = fsd_draft(context, network, stage)
        drawn = pictures(network, images, scored, stage, context, variant)
        records = [*map(image_record, scored), pooled_record(scored), *part.records, *drawn.records]
        draft.records.extend({**record, "variant": variant} for record in records)
        draft.files.update(drawn.files)
        draft.tensors.update({f"{name}-{variant}": tensors for name, tensors in part.tensors.items()})
        draft.summary[f"{variant}/test/dice"] = float(np.mean([one.dice for one in scored]))
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
    """Score every photograph or stack; this is pass ``place`` of ``passes``. Raises StageStopped when asked to stop."""
    scored = []
    predict, volumes = predictor(network, context, stage), images.volumes()
    for number, volume in enumerate(volumes):
        if any_rank(context.is_main and context.monitor.should_stop()):
            raise StageStopped
        scored.append(score_volume(predict, images, number, volume, stage, context.class_names))
        if context.is_main:
            context.monitor.step(place * len(volumes) + number + 1, passes * len(volumes))
    return scored


def image_record(scored: Scored) -> dict[str, Any]:
    """One ``image`` record: a photograph, or a stack with the number of its slices."""
    who = {"record": "image", "split": "test", "image": scored.name, "subject": scored.subject}
    return who | ({} if scored.slices is None else {"slices": scored.slices}) | scored.metrics()


def pooled_record(scored: list[Scored]) -> dict[str, Any]:
    """One ``pooled`` record: confusion matrices and histograms summed over everything (the authors' protocol)."""
    first = scored[0]
    metrics = [_pooled(number, scored).metrics() for number in range(len(first.classes))]
    counts = {"images": len(scored), "subjects": len({one.subject for one in scored})}
    if first.slices is not None:
        counts["slices"] = sum(one.slices or 0 for one in scored)
    return {"record": "pooled", "split": "test", **counts, **over_classes(metrics, first.names)}


def _pooled(number: int, scored: Sequence[Scored]) -> ClassScore:
    """One class over everything."""
    parts = [one.classes[number] for one in scored]
    inside = [part.inside for part in parts if part.inside is not None]
    whole = sum((part.whole for part in parts), ImageScore())
    return ClassScore(whole, sum(inside, ImageScore()) if inside else None)


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
    """Three PNG files per chosen photograph or stack (photo, label, hits and misses in colour) and a ``picture`` record that
    names them; of a stack, the slice with most foreground."""
    draft = Draft()
    predict, volumes = predictor(network, context, stage), images.volumes()
    for number, roles in sorted(picture_roles(scored, stage).items()):
        one, index = scored[number], _shown(images, volumes[number])
        folder = f"pictures/{variant}/{one.name}"
        ((_, probability),) = native_probabilities(predict, images, [index])
        for part, content in _picture_parts(images, index, class_map(probability, stage.threshold)):
            draft.files[f"{folder}/{part}.png"] = content
        record = {"record": "picture", "split": "test", "image": one.name, "subject": one.subject, "folder": folder}
        draft.records.append({**record, "score": one.dice, "roles": ",".join(roles)})
    return draft


def _shown(images: TestImages, volume: Volume) -> int:
    """The image that stands for a volume: of a stack the slice with most foreground."""
    if not volume.stacked:
        return volume.indices[0]
    return max(volume.indices, key=lambda index: int(np.count_nonzero(images.label(index))))


def _picture_parts(images: TestImages, index: int, found: ClassMap) -> Iterator[tuple[str, bytes]]:
    label, fov = images.native_label(index), images.native_fov(index) > 0
    size = (label.shape[1], label.shape[0])
    photo = cv2.resize(images.image(index), size, interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    wrong = (found > 0) & (label > 0) & (found != label)  # the wrong class is no hit
    marked = overlay(_grey(photo), (label > 0) & ~wrong, (found > 0) & fov)
    grey_label = (label.astype(np.uint16) * 255 // max(int(label.max()), 1)).astype(np.uint8)
    scale = min(1.0, PICTURE_HEIGHT / size[1])
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    for name, part in {"photo": photo, "label": grey_label, "found": marked}.items():
        picture = cv2.resize(part, small, interpolation=cv2.INTER_AREA).astype(np.uint8)
        yield name, encode_png(picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2))


def _grey(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return photo if photo.ndim == 2 else np.asarray(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), np.uint8)

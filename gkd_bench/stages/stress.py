"""Stage ``stress``: a trained network on its source's validation subjects, clean and under scanner-like corruptions.

What it measures is all that a selection rule may read: nothing here can open a target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from gkd_bench.config.schema import StressStage
from gkd_bench.data.cache import SourceImages, require_source
from gkd_bench.data.stress import Condition, StressBank
from gkd_bench.metrics.efficiency import count_macs
from gkd_bench.metrics.frechet import frechet_distance
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.stages.adapt import as_deployed
from gkd_bench.stages.collective import any_rank
from gkd_bench.stages.context import StageContext, StageStopped
from gkd_bench.stages.distance import Ruler, by_first, make_ruler
from gkd_bench.stages.models import kept_networks
from gkd_bench.stages.results import cost_record
from gkd_bench.stages.scoring import working_dice
from gkd_bench.stages.tiling import domain_tiles
from gkd_bench.stages.validation import predictor
from gkd_bench.store.artefacts import Artefact, Draft

CLEAN = "none"
OVERLAP = 0.25
STRESSED_SPACE = "aligned_own"
SPACES = {STRESSED_SPACE: "aligned", "bottleneck": "bottleneck"}
Record = dict[str, Any]
Deployed = Mapping[Condition, SegmentationNetwork]
"""Condition -> the network that meets it: one and the same, unless batch statistics are adapted to every condition."""


def run_stress(context: StageContext) -> Draft:
    """Score every kept epoch of the model on every condition of the source's stress bank."""
    stage, bank, model = context.settings("stress", StressStage), context.stress_bank(), context.input("model")
    draft = Draft()
    for variant, network in kept_networks(model, context.device).items():
        deployed = {condition: as_deployed(context, network, bank.images(condition)) for condition in bank.conditions}
        records = [*dice_records(context, deployed, bank), *distance_records(context, deployed, bank, stage)]
        candidate = candidate_record(context, variant, network, model, records)
        draft.records.extend({**record, "variant": variant, "split": "val"} for record in [*records, candidate])
        draft.summary.update({f"{variant}/{name}": candidate[name] for name in CANDIDATE_FIELDS})
    draft.records.append(cost_record(context, 0, len(bank.conditions), context.elapsed()))
    draft.summary["seconds"] = context.elapsed()
    return draft


def dice_records(context: StageContext, deployed: Deployed, bank: StressBank) -> list[Record]:
    """``stress`` records: Dice inside the field of view at the working scale, per condition and image."""
    records = []
    for condition, network in deployed.items():
        if any_rank(context.is_main and context.monitor.should_stop()):
            raise StageStopped
        images = bank.images(condition)
        for index in range(len(images)):
            who = {"subject": images.subject(index), "image": images.name(index)}
            dice = image_dice(context, network, images, index)
            records.append(_place("stress", condition) | who | {"dice": dice})
    return records


def image_dice(context: StageContext, network: SegmentationNetwork, images: SourceImages, index: int) -> float:
    """Dice of one image inside the field of view at threshold 0.5, as in validation."""
    require_source(images)
    one = images.subset([index])
    return working_dice(predictor(network, context, overlap=OVERLAP), one, one.volumes()[0], context.classes)


def distance_records(context: StageContext, deployed: Deployed, bank: StressBank, stage: StressStage) -> list[Record]:
    """``stress_fsd`` records: source training tiles against validation tiles under every condition, in every space.

    Both through the network of the condition, as ``evaluate`` measures a target.
    """
    train = domain_tiles(context.domain().source_splits().train, context, stage.fsd_tiles).images
    ruler: Ruler | None = None
    records = []
    for condition, network in deployed.items():
        if ruler is None or ruler.network is not network:
            ruler = make_ruler(context, network)
            first = ruler.vectors(train)
        second = ruler.vectors(domain_tiles(bank.images(condition), context, stage.fsd_tiles).images)
        records += [_place("stress_fsd", condition) | row for row in _distances(first, second, ruler)]
    return records


def _distances(first: Mapping[str, Tensor], second: Mapping[str, Tensor], ruler: Ruler) -> list[Record]:
    rows = []
    for space, name in SPACES.items():
        if name in first:
            near, far = by_first(first[name].double().cpu().numpy(), second[name].double().cpu().numpy())
            sizes = {"n_a": len(near), "n_b": len(far), "dim": near.shape[1]}
            rows.append({"space": space, "value": frechet_distance(near, far), **sizes})
    return rows


def _place(record: str, condition: tuple[str, int]) -> Record:
    return {"record": record, "corruption": condition[0], "strength": condition[1]}


CANDIDATE_FIELDS = ("epoch", "val_dice", "val_dice_stressed", "stress_fsd", "macs")


def candidate_record(
    context: StageContext, variant: str, network: SegmentationNetwork, model: Artefact, records: list[Record]
) -> Record:
    """One ``candidate`` record: validation Dice of the epoch, its means under stress, and what the network costs."""
    prefix, tile = "last/" if variant == "last" else "", int(context.setting("tile"))
    stressed = [row for row in records if row["corruption"] != CLEAN]
    dice = _condition_means([row for row in stressed if row["record"] == "stress"], "dice")
    distances = [row["value"] for row in stressed if row.get("space") == STRESSED_SPACE]
    return {
        "record": "candidate",
        "epoch": model.summary[f"{prefix}epoch"],
        "val_dice": model.summary[f"{prefix}val/dice"],
        "val_dice_stressed": float(np.mean(dice)),
        "stress_fsd": float(np.mean(distances)) if distances else None,
        "macs": count_macs(network, (1, network.in_channels, tile, tile)),
    }


def _condition_means(rows: list[Record], field: str) -> list[float]:
    """Mean over images per condition, so that every condition counts the same."""
    groups: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        groups.setdefault((row["corruption"], row["strength"]), []).append(row[field])
    return [float(np.mean(values)) for values in groups.values()]

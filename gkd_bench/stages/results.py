"""Drafts and records that several stages write alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gkd_bench.networks.base import count_parameters
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.loop import Trained
from gkd_bench.store.artefacts import Draft
from gkd_bench.store.packing import package_versions


def epoch_records(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One ``epoch`` record per row of a loop's history."""
    return [{"record": "epoch", "split": "val", **row} for row in history]


def cost_record(context: StageContext, parameters: int, steps: int, seconds: float) -> dict[str, Any]:
    """What the stage took: seconds of training over all resumed parts, steps, device, threads, trained parameters."""
    place = context.place
    return {
        "record": "cost",
        "seconds": round(seconds, 3),
        "steps": steps,
        "device": place.device,
        "threads": place.threads,
        "workers": place.workers,
        "parameters": parameters,
        "versions": json.dumps(package_versions(), sort_keys=True),
    }


def health(check: str, value: float, reference: float | None = None, **more: Any) -> dict[str, Any]:
    """One health check: ``ok`` none means informative; a ``warning`` says in plain words what is wrong."""
    record = {"record": "health", "check": check, "value": value, "reference": reference, "ok": None, "warning": None}
    return record | {"host": None} | more


def network_draft(
    context: StageContext,
    network: nn.Module,
    trained: Trained,
    extra: Sequence[Mapping[str, Any]] = (),
    keep_last: bool = False,
) -> Draft:
    """Weights, epoch and cost records and the summary of a stage that trained a segmentation network.

    ``keep_last``: the last epoch's weights are kept as ``last``, where another epoch was chosen.
    """
    parameters = count_parameters(network)
    records = [
        *epoch_records(trained.history),
        cost_record(context, parameters, trained.steps, trained.seconds),
        *(dict(record) for record in extra),
    ]
    summary = {"val/dice": trained.score, "epoch": trained.epoch, "parameters": parameters, "seconds": trained.seconds}
    tensors = {"network": network.state_dict()}
    if keep_last and trained.last is not None:
        tensors["last"] = trained.last
        summary |= {"last/val/dice": trained.history[-1]["val/dice"], "last/epoch": trained.history[-1]["epoch"]}
    return Draft(tensors=tensors, records=records, summary=summary)

"""Stage ``efficiency``: what a network costs where it will run: one tile at a time, alone, without any training part."""

from __future__ import annotations

from typing import Any

from gkd_bench.config.schema import EfficiencyStage
from gkd_bench.metrics.efficiency import measure
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.models import new_network
from gkd_bench.stages.results import cost_record
from gkd_bench.store.artefacts import Draft


def run_efficiency(context: StageContext) -> Draft:
    """Measure a network with untrained weights, which cost the same; one record."""
    stage, tile = context.settings("efficiency", EfficiencyStage), int(context.setting("tile"))
    network = new_network(context.setting("network"), context.node.seed, context.device)
    shape = (1, network.in_channels, tile, tile)
    found = measure(network, shape, context.device, context.place.threads, stage.repeats, stage.warmup)
    record: dict[str, Any] = {
        "record": "efficiency",
        "split": "none",
        "role": context.setting("role"),
        "input": "x".join(map(str, shape)),
        "device": context.place.device,
        "threads": context.place.threads,
        "parameters": found.parameters,
        "macs": found.macs,
        "latency_p50_ms": found.latency_p50_ms,
        "latency_p95_ms": found.latency_p95_ms,
        "peak_memory_mb": found.peak_memory_mb,
    }
    cost = cost_record(context, 0, stage.repeats, context.elapsed())
    return Draft(records=[record, cost], summary={"seconds": context.elapsed()})

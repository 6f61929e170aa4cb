"""``--plan``: the stage graph with what is cached and an estimate of what will run. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from gkd_bench.cluster.progress import duration
from gkd_bench.conduct import Conductor, final_graphs, trial_scores
from gkd_bench.store.artefacts import Store
from gkd_bench.store.node import StageNode

Shape = tuple[Any, ...]


@dataclass(frozen=True)
class Row:
    """One kind of stage.

    Attributes:
        kind: stage kind, or the search.
        total: stages the sweep asks for.
        cached: of these in the store.
        steps: optimiser steps still to do.
        seconds: estimate of their worker time from finished stages of the same shape; none without any.
    """

    kind: str
    total: int
    cached: int
    steps: int
    seconds: float | None


def preview(conductor: Conductor) -> list[Row]:
    """A row per kind of stage of the final trainings (searched methods at the best values so far), and one per search."""
    studies = conductor.results()
    models, scores = final_graphs(conductor.sweep, conductor.planner, studies)
    rates = measured_rates(conductor.store)
    wanted = models + scores + trial_scores(studies)
    rows = [_row(kind, nodes, conductor.store, rates) for kind, nodes in wanted.by_kind().items()]
    for (source, method), study in conductor.searches.items():
        planner, seed = conductor.planner, conductor.sweep.seeds[0]
        student = [*planner.student(method, source, seed), planner.candidate(method, source, seed, planner)[-1]]
        steps = study.remaining * sum(steps_of(node) for node in student)
        seconds = _total([_seconds(node, rates) for node in student] * study.remaining)
        done = study.size - study.remaining
        rows.append(Row(f"search {source} {method} (up to)", study.size, done, steps, seconds))
    return rows


def _row(kind: str, nodes: Iterable[StageNode], store: Store, rates: Mapping[Shape, float]) -> Row:
    nodes = list(nodes)
    missing = [node for node in nodes if not store.has(node.key)]
    seconds = _total([_seconds(node, rates) for node in missing])
    return Row(kind, len(nodes), len(nodes) - len(missing), sum(map(steps_of, missing)), seconds)


def _total(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def steps_of(node: StageNode) -> int:
    """Optimiser steps of a stage; 0 for scoring."""
    blocks = {
        "teacher": ["training"],
        "baseline": ["training"],
        "alignment": ["alignment"],
        "distill": ["distill"],
    }
    if node.kind == "semantic":
        return sum(_steps(node.settings["semantic"][part]) for part in ("autoencoder", "vector"))
    return sum(_steps(node.settings[block]) for block in blocks.get(node.kind, []))


def _steps(training: Mapping[str, Any]) -> int:
    return int(training["epochs"]) * int(training["epoch_steps"])


def shape_of(node: StageNode) -> Shape:
    """What a stage's speed depends on: kind, networks, tile, method, numerics."""
    settings = node.settings
    network = settings.get("network") or {"name": settings.get("host"), "width": settings.get("width")}
    numerics = tuple(sorted(settings["numerics"].items()))
    images = node.data.get("target") or node.data.get("stress", "")
    return (node.kind, network["name"], network["width"], settings["tile"], settings.get("method"), images, numerics)


def measured_rates(store: Store) -> dict[Shape, float]:
    """Seconds per step (per stage, for scoring) of finished stages, by shape; the largest where several were measured."""
    rates: dict[Shape, float] = {}
    for artefact in (store.get(key, verify=False) for key in store.keys()):  # noqa: SIM118 - a store is no dict
        seconds = artefact.summary.get("seconds")
        if seconds is not None:
            rate = float(seconds) / max(steps_of(artefact.node), 1)
            shape = shape_of(artefact.node)
            rates[shape] = max(rate, rates.get(shape, 0.0))
    return rates


def _seconds(node: StageNode, rates: Mapping[Shape, float]) -> float | None:
    rate = rates.get(shape_of(node))
    return None if rate is None else rate * max(steps_of(node), 1)


def plan_table(rows: Iterable[Row]) -> Table:
    """The plan as a terminal table."""
    table = Table("stage", "total", "cached", "to run", "steps", "worker time (estimate)", title="What would run")
    for row in rows:
        left = row.total - row.cached
        time = "-" if not left else "not measured yet" if row.seconds is None else duration(row.seconds)
        table.add_row(row.kind, str(row.total), str(row.cached), str(left), f"{row.steps:,}", time)
    return table

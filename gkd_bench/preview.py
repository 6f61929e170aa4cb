"""``--plan``: the stage graph with what is cached and an estimate of what will run; and why what is not cached is not.

Runs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from gkd_bench.cluster.progress import duration
from gkd_bench.conduct import Conductor, final_graphs, trial_scores
from gkd_bench.plan import Graph, graph
from gkd_bench.store.artefacts import Store
from gkd_bench.store.describe import MOST_READ, stored_nodes
from gkd_bench.store.explain import why_missing
from gkd_bench.store.listing import published, read_facts
from gkd_bench.store.needed import known_nodes, read_needs
from gkd_bench.store.node import StageNode

Shape = tuple[Any, ...]
MEASURED = 20
"""Artefacts of a shape that are opened for an estimate."""


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
    wanted = models + scores + trial_scores(studies)
    students = {place: _trial(conductor, *place) for place in conductor.searches}
    there = set(published(conductor.store))
    missing = [node for node in wanted.nodes if node.key not in there]
    shapes = {shape_of(node) for node in [*missing, *(node for one in students.values() for node in one)]}
    rates = measured_rates(conductor.store, there, shapes)
    rows = [_row(kind, nodes, there, rates) for kind, nodes in wanted.by_kind().items()]
    for (source, method), study in conductor.searches.items():
        student = students[source, method]
        steps = study.remaining * sum(steps_of(node) for node in student)
        seconds = _total([_seconds(node, rates) for node in student] * study.remaining)
        done = study.size - study.remaining
        rows.append(Row(f"search {source} {method} (up to)", study.size, done, steps, seconds))
    return rows


def _trial(conductor: Conductor, source: str, method: str) -> list[StageNode]:
    """What a trial runs, at the sweep's own values."""
    planner, seed = conductor.planner, conductor.sweep.seeds[0]
    return [*planner.student(method, source, seed), planner.candidate(method, source, seed, planner)[-1]]


def planned(conductor: Conductor) -> Graph:
    """All stages that the sweep asks for, as far as they are known: final trainings, scores, stages of complete trials."""
    studies = conductor.results()
    models, scores = final_graphs(conductor.sweep, conductor.planner, studies)
    trials = [
        node
        for study in studies
        for trial in study.trials
        if trial.state == "complete"
        for node in study.stages[trial.number].nodes
    ]
    return models + scores + trial_scores(studies) + graph(trials)


def explain_plan(conductor: Conductor, kind: str | None = None) -> list[str]:
    """Why stages of the plan are not in the store: the fields that differ from the nearest artefact, one line per reason.

    Args:
        conductor: of the sweep.
        kind: only stages of this kind.
    """
    store, nodes = conductor.store, planned(conductor).nodes
    asked = {node.key: node for node in nodes if kind in (None, node.kind)}
    there = set(published(store))
    missing = {key: node for key, node in asked.items() if key not in there}
    if not missing:
        return [f"all {len(asked):,} stages are in the store"]
    stored, remarks = stored_nodes(store, read_needs(store))
    lines = [f"{len(missing):,} of {len(asked):,} stages are not in the store:"]
    for one in why_missing(missing, stored):
        near = f", nearest artefact {one.near}" if one.near else ""
        lines.append(f"  {one}: {'such as' if one.stages > 1 else 'key'} {one.key}{near}")
    return [*lines, *remarks]


def _row(kind: str, nodes: Iterable[StageNode], there: Collection[str], rates: Mapping[Shape, float]) -> Row:
    nodes = list(nodes)
    missing = [node for node in nodes if node.key not in there]
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


def measured_rates(store: Store, there: Collection[str], shapes: Collection[Shape]) -> dict[Shape, float]:
    """Seconds per step (per stage, for scoring) of finished stages of the given shapes; the largest of those looked at.

    Args:
        store: the store.
        there: keys of its artefacts.
        shapes: those that are asked about. ``MEASURED`` artefacts of each are opened, and of artefacts that no sweep lists
            up to ``MOST_READ``.
    """
    known = known_nodes(read_needs(store))
    examples: dict[Shape, list[str]] = {shape: [] for shape in shapes}
    for key in sorted(there & known.keys()):
        found = examples.get(shape_of(known[key]))
        if found is not None and len(found) < MEASURED:
            found.append(key)
    others = sorted(set(there) - known.keys())[:MOST_READ] if not all(examples.values()) else []
    rates: dict[Shape, float] = {}
    for facts in read_facts(store, [*(key for keys in examples.values() for key in keys), *others]):
        if facts.node and facts.seconds is not None and (shape := shape_of(facts.node)) in examples:
            rates[shape] = max(facts.seconds / max(steps_of(facts.node), 1), rates.get(shape, 0.0))
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

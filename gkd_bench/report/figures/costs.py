"""Accuracy on foreign domains against what a network costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gkd_bench.metrics.pareto import pareto_front
from gkd_bench.report.captions import chosen_by
from gkd_bench.report.cells import Cell
from gkd_bench.report.extras import Extras
from gkd_bench.report.figures.axes import OTHERS, Looks, few_ticks, legend, plain, round_log
from gkd_bench.report.figures.base import PAGE, Figure, finish, panels, style
from gkd_bench.report.figures.scores import Scores, named_methods, number, others_words
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import TEACHER, listed, method_title
from gkd_bench.report.palette import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEP, _WIDEST = 0.02, 0.35
"""Decades between networks of one cost, and that all of them take at most."""
_COSTS = {
    "macs": "multiply-accumulates per tile",
    "parameters": "parameters",
    "latency_p50_ms": "median latency per tile, ms",
}


@dataclass(frozen=True)
class Point:
    """One method: what it reaches on foreign domains and what its network costs."""

    method: str
    dice: Cell
    costs: Mapping[str, float]


def accuracy_and_cost(records: SweepRecords, extras: Extras) -> Figure | None:
    """Mean foreign Dice of every method against operations, parameters and latency, with the Pareto front."""
    scores = Scores(records)
    points = _points(scores)
    shown = [name for name in _COSTS if sum(name in point.costs for point in points) > 1]
    if not shown:
        return None
    fronts = {name: _front(points, name) for name in shown}
    with style():
        looks, methods = Looks.of(records), [point.method for point in points]
        named = named_methods(records, methods)
        drawing, axes = panels(1, len(shown), max(3.5, PAGE * len(shown) / 3), 2.35, share_y=True)
        for one, name in zip(axes, shown, strict=True):
            _panel(one, points, name, fronts[name], named, looks)
        axes[0].set_ylabel("Dice, mean over foreign pairs")
        few_ticks(axes[0], None, 6)
        legend(drawing, looks.handles(methods, named, line=False))
        title = "Accuracy on foreign domains against cost"
        caption = f"{_caption(records, scores)} {others_words(methods, named)}"
        return finish(drawing, "accuracy_and_cost", "efficiency", title, caption, _alt(points, fronts))


def _points(scores: Scores) -> list[Point]:
    found = {method: scores.foreign_mean(method) for method in scores.methods}
    costs = {method: _costs(scores.records, method) for method in scores.methods}
    return [Point(method, cell, costs[method]) for method, cell in found.items() if cell and costs[method]]


def _costs(records: SweepRecords, method: str) -> dict[str, float]:
    """Mean costs of the networks that a method's models have; by role where networks are not named in the measurements."""
    frame = records.of("efficiency")
    scores = records.seed_scores
    networks = set(scores.loc[scores["method"] == method, "network"])
    mine = frame[frame["network"].isin(networks)]
    if mine.empty:
        mine = frame[frame["role"] == (TEACHER if method == TEACHER else "student")]
    means = {name: float(mine[name].astype(float).mean()) for name in _COSTS if len(mine)}
    return {name: value for name, value in means.items() if math.isfinite(value) and value > 0}


def _front(points: Sequence[Point], cost: str) -> list[Point]:
    """Points that no other one beats in both, cheapest first."""
    known = [point for point in points if cost in point.costs]
    values = [{"dice": number(point.dice), cost: point.costs[cost]} for point in known]
    front = [known[at] for at in pareto_front(values, {"dice": "up", cost: "down"})]
    return sorted(front, key=lambda point: point.costs[cost])


def _panel(
    axes: Axes, points: Sequence[Point], cost: str, front: Sequence[Point], named: Sequence[str], looks: Looks
) -> None:
    axes.set_xscale("log")
    axes.grid(axis="y")
    steps = [(point.costs[cost], number(point.dice)) for point in front]
    if len(steps) > 1:
        dashes = (0, (3, 2))
        axes.plot(
            *zip(*steps, strict=True), color=MUTED, linewidth=0.8, linestyle=dashes, zorder=1, drawstyle="steps-post"
        )
    for point, x in _side_by_side([point for point in points if cost in point.costs], cost):
        _mark(axes, point, x, looks if point.method in named else None)
    values = [point.costs[cost] for point in points if cost in point.costs]
    axes.set_xlim(min(values) / 1.8, max(values) * 1.8)
    round_log(axes, "x")
    axes.set_xlabel(_COSTS[cost])


def _side_by_side(points: Sequence[Point], cost: str) -> list[tuple[Point, float]]:
    """Points with their place: networks of one cost stand side by side around it, since they would hide each other."""
    groups: dict[float, list[Point]] = {}
    for point in points:
        groups.setdefault(point.costs[cost], []).append(point)
    step = min(_STEP, _WIDEST / max(map(len, groups.values()), default=1))
    return [
        (point, x * 10 ** (step * (at - (len(group) - 1) / 2)))
        for x, group in groups.items()
        for at, point in enumerate(group)
    ]


def _mark(axes: Axes, point: Point, x: float, looks: Looks | None) -> None:
    """A point in its looks, or in grey without any."""
    low, high = point.dice.low, point.dice.high
    if looks is None:
        if low is not None and high is not None:
            axes.plot([x, x], [low, high], color=OTHERS, linewidth=0.8, zorder=1)
        axes.plot(x, number(point.dice), "o", color=OTHERS, markersize=3, linestyle="none", zorder=2)
        return
    colour = looks.colour(point.method)
    if low is not None and high is not None:
        axes.plot([x, x], [low, high], color=colour, linewidth=1.2, solid_capstyle="butt", zorder=2)
    axes.plot(
        x, number(point.dice), marker=looks.marker(point.method), color=colour, markersize=5, markeredgecolor=INK,
        linestyle="none", zorder=3,
    )  # fmt: skip


def _caption(records: SweepRecords, scores: Scores) -> str:
    frame = records.of("efficiency")
    inputs, places = sorted(set(frame["input"].dropna())), sorted(set(frame["device"].dropna()))
    threads = sorted({int(count) for count in frame["threads"].dropna()})
    return (
        f"{scores.title}, mean over the foreign pairs that every method has, higher is better; {scores.basis()}. Lines: 95 % "
        f"bootstrap interval over seeds and {scores.people}. Costs of one tile of {listed(inputs)} on {listed(places)}, "
        f"{listed(map(str, threads))} thread(s), lower is better, logarithmic scale. "
        f"Networks of one cost stand side by side around it. Dashed: Pareto front, the best Dice at a cost or less. {chosen_by(scores.evidence)}"
    )


def _alt(points: Sequence[Point], fronts: Mapping[str, Sequence[Point]]) -> str:
    cost = next(iter(fronts))
    texts = [
        f"{method_title(point.method)} {plain(number(point.dice))} at {point.costs[cost]:.3g}"
        for point in points
        if cost in point.costs
    ]
    front = listed(method_title(point.method) for point in fronts[cost])
    return f"Scatter of mean foreign Dice against {_COSTS[cost]}: {listed(texts)}. Not beaten in both: {front}."

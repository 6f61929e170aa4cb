"""Which of two values or points is better, in the directions that the configuration gives its objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gkd_bench.config.schema import OBJECTIVES
from gkd_bench.metrics.pareto import pareto_front


def sign(objective: str) -> int:
    """1 where larger values of the objective are better, else -1. Raises KeyError for an unknown objective."""
    return 1 if OBJECTIVES[objective] == "up" else -1


def best_of(objective: str, values: Iterable[float | None]) -> float | None:
    """The best of some values of an objective, or none when there is none among them."""
    return max(
        (value for value in values if value is not None), key=lambda value: sign(objective) * value, default=None
    )


def undominated(points: Sequence[Mapping[str, float]]) -> list[int]:
    """Positions of the points that no other point dominates, in their order; equal points all stay.

    One point dominates another when it is at least as good in every objective and better in one. With one objective
    these are the best points.

    Args:
        points: objective -> finite value; all of the same objectives.
    """
    return pareto_front(points, {name: OBJECTIVES[name] for name in points[0]}) if points else []

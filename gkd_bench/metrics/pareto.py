"""Pareto fronts: the points that no other point beats in everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name", bound=str)


def pareto_front(points: Sequence[Mapping[str, float]], directions: Mapping[Name, str]) -> list[int]:
    """Places of the points that no other one dominates: as good everywhere and better somewhere. Equal points stay together.

    Args:
        points: name -> finite value; each has all names of ``directions``.
        directions: name -> ``up`` where larger is better, ``down`` where smaller is.
    """
    signs = {name: 1.0 if way == "up" else -1.0 for name, way in directions.items()}
    gains = [[sign * point[name] for name, sign in signs.items()] for point in points]
    return [place for place, gain in enumerate(gains) if not any(_dominates(other, gain) for other in gains)]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))

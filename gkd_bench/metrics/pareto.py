"""Pareto fronts: the points that no other point beats in everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

Name = TypeVar("Name", bound=str)


def pareto_front(points: Sequence[Mapping[str, float]], directions: Mapping[Name, str]) -> list[int]:
    """Places of the points that no other one dominates: as good everywhere and better somewhere. Equal points stay together.

    Args:
        points: name -> finite value; each has all names of ``directions``.
        directions: name -> ``up`` where larger is better, ``down`` where smaller is.
    """
    signs = {name: 1.0 if way == "up" else -1.0 for name, way in directions.items()}
    gains = np.array([[sign * point[name] for name, sign in signs.items()] for point in points]).reshape(
        len(points), len(signs)
    )
    at_least = (gains[:, None, :] >= gains[None, :, :]).all(axis=2)
    better = (gains[:, None, :] > gains[None, :, :]).any(axis=2)
    return [int(place) for place in np.flatnonzero(~(at_least & better).any(axis=0))]

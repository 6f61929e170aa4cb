"""Successive halving (ASHA, Li et al., MLSys 2020): which trials are stopped at which epochs. Pure functions.

A trial that reaches a rung is compared with the scores that other trials had there: it goes on when it is among the best
``1 / reduction`` of them, or when there are none yet. Which others count is the study's business; see ``Study``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def rungs(grace: int, reduction: int, epochs: int) -> list[int]:
    """Epochs at which a trial may be stopped, rising: ``grace * reduction ** k``, all below ``epochs``."""
    found, epoch = [], grace
    while epoch < epochs:
        found.append(epoch)
        epoch *= reduction
    return found


def falls_behind(value: float, others: Iterable[float], reduction: int) -> bool:
    """Whether a score is below the ``1 - 1 / reduction`` quantile of the others (linearly interpolated)."""
    ranked = sorted(others)
    if not ranked:
        return False
    place = (1 - 1 / reduction) * (len(ranked) - 1)
    below = int(place)
    above = min(below + 1, len(ranked) - 1)
    return value < ranked[below] + (place - below) * (ranked[above] - ranked[below])


def stopped_at(
    epochs: Mapping[int, float], others: Iterable[Mapping[int, float]], steps: Iterable[int], reduction: int
) -> int | None:
    """The first rung at which a trial falls behind, or none.

    Args:
        epochs: the trial's epoch -> score, larger is better.
        others: those of the trials it is compared with.
        steps: see :func:`rungs`.
        reduction: the best ``1 / reduction`` go on.
    """
    rivals = list(others)
    for rung in steps:
        if rung in epochs and falls_behind(epochs[rung], (o[rung] for o in rivals if rung in o), reduction):
            return rung
    return None

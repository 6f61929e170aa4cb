"""Selection rules: pure functions over source-validation facts, chosen in the sweep and computed after the fact.

A rule is handed :class:`Candidate` objects, which hold nothing of any target and cannot be made from a test record. The
oracle, which reads target labels, is a function of its own with a type of its own; it is printed and never used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NewType

from gkd_bench.config.schema import Objective
from gkd_bench.errors import LeakError

ORACLE = "oracle"
BEST, LAST = "best", "last"


@dataclass(frozen=True)
class Candidate:
    """One trained student at one epoch, as its source's validation subjects see it.

    Attributes:
        model: content key of its training.
        variant: ``best`` (epoch of best validation Dice) or ``last``, where that is another epoch.
        source: source domain.
        method: method or variant of a method.
        seed: seed of the training.
        trial: number in its search; none for a final training.
        epoch: the epoch.
        val_dice: mean validation Dice, in [0, 1].
        val_dice_stressed: the same under the stress bank, averaged over its conditions.
        stress_fsd: mean Fréchet distance of stressed validation tiles from training tiles; none without alignment.
        macs: multiply-accumulates of the student for one tile.
    """

    model: str
    variant: str
    source: str
    method: str
    seed: int
    trial: int | None
    epoch: int
    val_dice: float
    val_dice_stressed: float
    stress_fsd: float | None = None
    macs: float = math.nan

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Candidate:
        """The candidate of a ``candidate`` record. Raises LeakError for a record that is not of a validation split."""
        target = record.get("target")
        if record.get("split") != "val" or not (is_nothing(target) or target == record.get("source")):
            raise LeakError(
                f"a record of {record.get('source')} -> {target}, split {record.get('split')!r}, cannot be "
                f"selected by: selection reads the source's validation subjects only"
            )
        trial, fsd = record.get("trial"), record.get("stress_fsd")
        return cls(
            str(record["model"]),
            str(record["variant"]),
            str(record["source"]),
            str(record["method"]),
            int(record["seed"]),
            None if is_nothing(trial) else int(float(str(trial))),
            int(record["epoch"]),
            float(record["val_dice"]),
            float(record["val_dice_stressed"]),
            None if is_nothing(fsd) else float(str(fsd)),
            float(record["macs"]),
        )

    @property
    def objectives(self) -> dict[str, float | None]:
        """Name of a search objective -> value."""
        return {
            "source_val": self.val_dice,
            "source_val_stressed": self.val_dice_stressed,
            "stress_fsd": self.stress_fsd,
            "student_macs": self.macs,
        }


@dataclass(frozen=True)
class Rule:
    """One selection rule.

    Attributes:
        name: its name in sweep files.
        title: one phrase for readers.
        field: attribute of the candidates that the rule wants large.
        last_only: only the last epoch of every training is looked at.
    """

    name: str
    title: str
    field: str
    last_only: bool = False

    def score(self, candidate: Candidate) -> float:
        """What the rule wants large."""
        return float(getattr(candidate, self.field))


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("source_val", "best validation Dice of the source", "val_dice"),
        Rule("source_val_stressed", "best validation Dice of the source under the stress bank", "val_dice_stressed"),
        Rule("last", "last epoch, validation Dice of the source among trials", "val_dice", last_only=True),
    )
}

TargetScores = NewType("TargetScores", Mapping[tuple[str, str], float])
"""(model, variant) -> test score on one target. Only :func:`oracle` takes it."""


def choose(rule: Rule, candidates: Iterable[Candidate]) -> Candidate:
    """The candidate that a rule takes; equal ones: the earliest trial, ``best`` before ``last``.

    Raises:
        ValueError: there is no candidate.
    """
    pool = _last_epochs(candidates) if rule.last_only else list(candidates)
    return max(sorted(pool, key=_order), key=rule.score)


def oracle(candidates: Iterable[Candidate], scores: TargetScores) -> Candidate:
    """The candidate that is best on the target's own test subjects: a bound that nobody can reach honestly.

    Raises:
        ValueError: none of the candidates was scored on the target.
    """
    scored = [one for one in sorted(candidates, key=_order) if (one.model, one.variant) in scores]
    return max(scored, key=lambda one: scores[one.model, one.variant])


def closest_to_ideal(points: Sequence[Mapping[str, float]], directions: Mapping[Objective, str]) -> int:
    """Place of the point with the smallest Euclidean distance to the best value of every objective.

    Every objective is scaled to [0, 1] over the points given, which should be a Pareto front; one that is the same
    everywhere does not count. Equal distances: the first.

    Args:
        points: objective -> finite value, each with all objectives.
        directions: objective -> ``up`` or ``down``.
    """
    distances = [0.0] * len(points)
    for name, way in directions.items():
        costs = [_cost(point[name], way) for point in points]
        low, span = min(costs), max(costs) - min(costs)
        for place, cost in enumerate(costs):
            distances[place] += ((cost - low) / span) ** 2 if span else 0.0
    return distances.index(min(distances))


def _last_epochs(candidates: Iterable[Candidate]) -> list[Candidate]:
    """One candidate per training: its last epoch, which is ``best`` where no ``last`` was kept beside it."""
    latest: dict[str, Candidate] = {}
    for one in candidates:
        if one.variant == LAST or one.model not in latest:
            latest[one.model] = one
    return list(latest.values())


def _order(candidate: Candidate) -> tuple[int, bool, str]:
    trial = -1 if candidate.trial is None else candidate.trial
    return trial, candidate.variant == LAST, candidate.model


def _cost(value: float, way: str) -> float:
    return -value if way == "up" else value


def is_nothing(value: object) -> bool:
    """Whether a record has no value here: None, or NaN where pandas has made that of it."""
    return value is None or value != value

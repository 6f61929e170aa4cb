"""Numbers behind the figures, the same as those of the tables: means over seeds with both kinds of doubt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from gkd_bench.report.blocks import shared_values
from gkd_bench.report.cells import Cell, mean_cell
from gkd_bench.report.evidence import Evidence, Pair
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import ALONE, counted, metric_direction, metric_tie, span
from gkd_bench.report.overall import overall_cell
from gkd_bench.report.rows import alone_of, headliners
from gkd_bench.report.statistics import Array


class Scores:
    """Headline Dice of all final trainings of a sweep.

    Args:
        records: records of the sweep.
    """

    def __init__(self, records: SweepRecords) -> None:
        self.records = records
        self.evidence = Evidence.of(records)
        self.metric = self.evidence.headline

    @property
    def title(self) -> str:
        """The metric and the region it is measured in."""
        return self.evidence.title(self.metric)

    @property
    def people(self) -> str:
        """Whom the scores are averaged over: subjects or patients."""
        return self.evidence.words.subjects

    @property
    def tie(self) -> float:
        """Size of a difference below which it is a tie."""
        return metric_tie(self.metric)

    @cached_property
    def methods(self) -> list[str]:
        """Methods with test scores, in table order."""
        found = {key[2] for key in self._cells}
        return [method for method in self.records.methods if method in found]

    @cached_property
    def pairs(self) -> list[Pair]:
        """(source, target) pairs with scores, in table order."""
        found = {key[:2] for key in self._cells}
        return [pair for pair in self.evidence.pairs if pair in found]

    @cached_property
    def foreign(self) -> list[Pair]:
        """Pairs whose target is not the source."""
        return [pair for pair in self.pairs if pair[0] != pair[1]]

    def cell(self, source: str, target: str, method: str) -> Cell | None:
        """Score of a method on a pair; none without results."""
        return self._cells.get((source, target, method))

    def gain(self, source: str, target: str, method: str) -> Cell | None:
        """Score of a method minus that of the student alone, paired by seed and subject; none without shared results."""
        if ALONE not in self.methods:
            return None
        return self.evidence.gain_cells(self.metric).get((source, target, method))

    def overall_gain(self, method: str) -> Cell | None:
        """The same over the foreign pairs that every method was scored on."""
        found = overall_cell(self.evidence.several(self.metric, method, reference=ALONE))
        return None if found.value is None else found

    def foreign_mean(self, method: str) -> Cell | None:
        """Mean over the foreign pairs that every method was scored on; none without any."""
        found = overall_cell(self.evidence.several(self.metric, method))
        return None if found.value is None else found

    def drop(self, source: str, target: str, method: str) -> Cell | None:
        """Score on a target minus the same models' score on their own source; none on the source itself."""
        blocks = self.evidence.blocks(self.metric)
        there, home = blocks.get((source, target, method)), blocks.get((source, source, method))
        if there is None or home is None or source == target:
            return None
        seeds = sorted(there.seed_means.keys() & home.seed_means.keys())
        found = mean_cell(there.seed_means[seed] - home.seed_means[seed] for seed in seeds)
        return None if found.value is None else found

    def subjects(self, source: str, target: str, method: str) -> tuple[Array, Array]:
        """(subjects,) means over shared seeds of the student alone, and of a method; empty without shared results."""
        blocks = self.evidence.blocks(self.metric)
        both = [blocks.get((source, target, name)) for name in (alone_of(self.records, method) or "", method)]
        if None in both:
            return np.empty(0), np.empty(0)
        before, after = shared_values([block for block in both if block is not None])
        return (before.mean(axis=0), after.mean(axis=0)) if before.size else (np.empty(0), np.empty(0))

    def basis(self) -> str:
        """How many seeds and subjects the numbers rest on, in words."""
        cells = self._cells.values()
        seeds, subjects = span(cell.n for cell in cells), span(cell.subjects for cell in cells)
        return f"n = {counted(seeds, 'seed')}, {counted(subjects, f'test {self.evidence.words.subject}')} per target"

    @cached_property
    def _cells(self) -> dict[tuple[str, str, str], Cell]:
        return self.evidence.cells(self.metric) if self.metric in self.evidence.metrics else {}


def named_methods(records: SweepRecords, methods: Iterable[str], most: int = 8) -> list[str]:
    """Those of the methods that a figure names, in table order: all of a few, else references and the best on foreign domains."""
    scores, found = Scores(records), list(methods)
    means = {name: scores.foreign_mean(name) if scores.pairs else None for name in found}
    way = 1 if metric_direction(scores.metric) == "down" else -1
    key = {name: (cell is None, way * number(cell) if cell else 0.0) for name, cell in means.items()}
    return headliners(records, sorted(found, key=lambda name: key[name]), most)


def others_words(methods: Sequence[str], named: Sequence[str]) -> str:
    """What a caption says of methods that are not named."""
    if len(named) == len(methods):
        return ""
    return "In colour: what all are compared with, GKD, KD, and the best on foreign domains; grey: the others, see the tables."


def number(cell: Cell | None) -> float:
    """The number of a cell that has one."""
    if cell is None or not isinstance(cell.value, int | float):
        raise TypeError(f"not a number: {cell}")
    return float(cell.value)


def doubtless(cell: Cell) -> bool:
    """Whether the bootstrap interval of a difference leaves out zero."""
    return cell.low is not None and cell.high is not None and (cell.low > 0 or cell.high < 0)

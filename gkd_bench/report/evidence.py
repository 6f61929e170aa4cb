"""What seeds and test subjects say about every cell: means, intervals and tests, each computed once per report.

Means are taken over the subjects of a seed, then over seeds. Intervals and tests need every seed to have every subject:
they rest on the subjects whose score is defined for all seeds of the cell, and their count says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from gkd_bench.metrics.catalogue import METRICS
from gkd_bench.report.blocks import Block, Place, by_shape, places_of, shared_values
from gkd_bench.report.blocks import Key as Key
from gkd_bench.report.cells import Cell, Flag, Table, mark_ranks, t_half
from gkd_bench.report.frame import SLICES, SweepRecords, metric_names
from gkd_bench.report.names import (
    ALONE,
    HEADLINE,
    KD,
    REGION,
    TEACHER,
    bare,
    class_of,
    metric_decimals,
    metric_direction,
    metric_tie,
    metric_title,
    of_class,
)
from gkd_bench.report.overall import Several, gather
from gkd_bench.report.rows import MANY, alone_of, counterpart, kind_of
from gkd_bench.report.significance import PairedTest, holm, paired_tests
from gkd_bench.report.statistics import Array, Bounds, GapClosed, HierarchicalBootstrap, gap_closed
from gkd_bench.report.wording import Wording, wording_of

SIGNIFICANT = 0.05
NO_GAP = "teacher not better"
Pair = tuple[str, str]


@dataclass(frozen=True)
class Verdict:
    """The test of one cell's difference within the family it was corrected in.

    Attributes:
        test: over test subjects.
        p_wilcoxon, p_permutation: adjusted by Holm over the family.
        family: how many comparisons the family has.
    """

    test: PairedTest
    p_wilcoxon: float | None
    p_permutation: float | None
    family: int

    @property
    def significant(self) -> bool:
        """Whether the adjusted permutation p is below 0.05."""
        return self.p_permutation is not None and self.p_permutation < SIGNIFICANT


@dataclass(frozen=True)
class Gap:
    """Gap closed by one cell, and how many seeds and subjects say so."""

    closed: GapClosed
    seeds: int
    subjects: int

    @property
    def cell(self) -> Cell:
        """The share with its interval; where it is undefined, why."""
        return gap_cell(self.closed, self.seeds, self.subjects)


@dataclass(frozen=True)
class Sizes:
    """What the scores of a method on a target rest on, one number per source and seed; no slices where photographs are scored."""

    subjects: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    slices: list[int] = field(default_factory=list)


class Evidence:
    """Scores, intervals and tests of one sweep's final trainings; computed when first asked for, then kept."""

    def __init__(self, records: SweepRecords) -> None:
        self.records = records
        self.page: tuple[Table, ...] | None = None  # the tables of the page, once they are made
        self._blocks: dict[str, dict[Key, Block]] = {}
        self._cells: dict[str, dict[Key, Cell]] = {}
        self._ranked: dict[tuple[str, Pair], dict[str, Cell]] = {}
        self._gains: dict[tuple[str, str], dict[Key, Block]] = {}
        self._gain_cells: dict[tuple[str, str], dict[Key, Cell]] = {}
        self._verdicts: dict[tuple[str, str], dict[Key, Verdict]] = {}
        self._gaps: dict[str, dict[Key, Gap]] = {}
        self._several: dict[tuple[str, str, bool, str | None, str | None], Several | None] = {}
        self._final: dict[tuple[str, str | None], pd.DataFrame] = {}
        self._bootstraps: dict[tuple[int, ...], HierarchicalBootstrap] = {}

    @classmethod
    def of(cls, records: SweepRecords) -> Evidence:
        """The evidence of these records, kept with them: tables, figures and page ask for the same numbers."""
        kept: Evidence | None = vars(records).get("_evidence")
        if kept is None:
            kept = vars(records)["_evidence"] = cls(records)
        return kept

    # ---------------------------------------------------------------------------------------------- what there is

    def final(self, kind: str, split: str | None = None) -> pd.DataFrame:
        """Records of final trainings, of the epoch that the selection rule takes; sorted out once for all tables."""
        name = (kind, split)
        if name not in self._final:
            self._final[name] = self.records.final(kind, split)
        return self._final[name]

    @cached_property
    def metrics(self) -> list[str]:
        """Metrics of the image records: inside the field of view first, in the order of the catalogue, then others.

        Of several classes, those that are means over them; the others are found by :meth:`of_class`.
        """
        if self.final("image", "test").empty:
            return []
        cards = list(METRICS)
        found = [name for name in metric_names(self.records.subject_scores) if not class_of(name)]
        place = {name: cards.index(bare(name)) if bare(name) in cards else len(cards) for name in found}
        return sorted(found, key=lambda name: (not name.endswith(REGION), place[name], name))

    @cached_property
    def headline(self) -> str:
        """Dice inside the field of view; of the whole image in tasks that have none."""
        return "dice" if HEADLINE not in self.metrics and "dice" in self.metrics else HEADLINE

    @cached_property
    def classes(self) -> list[str]:
        """Foreground classes with a Dice of their own, by name; none where there is one only."""
        if self.final("image", "test").empty:
            return []
        names = metric_names(self.records.subject_scores)
        found = sorted({class_of(name) for name in names if bare(name) == bare(self.headline)} - {""})
        return found if len(found) > 1 else []

    def of_class(self, metric: str, name: str) -> str | None:
        """The column of a metric of one class; none where the records do not have it."""
        column = of_class(metric, name)
        return column if self.metrics and column in self.records.subject_scores else None

    def title(self, metric: str) -> str:
        """What readers see for a metric; of the whole image only beside its twin inside the field of view."""
        return metric_title(metric, whole=f"{metric}{REGION}" in self.metrics)

    @cached_property
    def words(self) -> Wording:
        """What subjects, images and their region are called."""
        return wording_of(self.records)

    def unmeasured(self, metric: str) -> list[str]:
        """Targets with scores of which none has this metric: millimetres need a known spacing."""
        having = {key[1] for key in self.blocks(metric)}
        scored = {key[1] for key in self.blocks(self.headline)} if self.headline in self.metrics else having
        return [target for target in self.records.targets if target in scored - having]

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every source -> target that was asked for, in table order."""
        asked = set(self.records.origin.pairs)
        every = [(source, target) for source in self.records.sources for target in self.records.targets]
        return [pair for pair in every if not asked or pair in asked]

    @cached_property
    def students(self) -> list[str]:
        """Every method with test scores but the teacher."""
        return [method for method in self.records.methods if method != TEACHER]

    @cached_property
    def compared(self) -> list[str]:
        """Rows that are compared with the student alone: methods, variants and controls, but no reference."""
        return [method for method in self.records.methods if kind_of(self.records, method) != "reference"]

    @cached_property
    def is_wide(self) -> bool:
        """Whether there are so many rows that tables by pair have a row instead of a column for each."""
        return len(self.records.methods) > MANY

    @cached_property
    def sizes(self) -> dict[tuple[str, str], Sizes]:
        """(method, target) -> how many subjects, images and slices its scores rest on."""
        scores = self.records.seed_scores
        found: dict[tuple[str, str], Sizes] = {}
        names = [scores[name].tolist() for name in ("method", "target", "subjects", "images")]
        slices = scores[SLICES].tolist() if SLICES in scores else [np.nan] * len(scores)
        for method, target, subjects, images, count in zip(*names, slices, strict=True):
            sizes = found.setdefault((method, target), Sizes())
            sizes.subjects.append(int(subjects))
            sizes.images.append(int(images))
            sizes.slices.extend([int(count)] if np.isfinite(count) else [])
        return found

    @cached_property
    def several_objectives(self) -> bool:
        """Whether a search of the sweep had more than one objective."""
        texts = self.records.of("trial")["objectives"].dropna()
        return any(len(json.loads(str(text))) > 1 for text in texts.unique())

    # ------------------------------------------------------------------------------------------------- each cell

    def blocks(self, metric: str) -> dict[Key, Block]:
        """Scores of every cell with a defined score. Raises KeyError when no image record has the metric."""
        if metric not in self._blocks:
            scores = self._column(metric)
            found = {place.key: place.block(scores) for place in self._places} if len(scores) else {}
            self._blocks[metric] = {key: block for key, block in found.items() if block.defined.any()}
        return self._blocks[metric]

    def cells(self, metric: str) -> dict[Key, Cell]:
        """Mean over seeds with both intervals, and how many seeds and subjects it rests on, of every scored cell."""
        if metric not in self._cells:
            self._cells[metric] = self._summaries(self.blocks(metric))
        return self._cells[metric]

    def ranked(self, metric: str, pair: Pair) -> dict[str, Cell]:
        """Student -> score of a pair, the best and the second flagged."""
        if (metric, pair) not in self._ranked:
            cells = self.cells(metric)
            found = {method: cells[*pair, method] for method in self.students if (*pair, method) in cells}
            marked = mark_ranks([*found.values()], metric_direction(metric), metric_decimals(metric))
            self._ranked[metric, pair] = dict(zip(found, marked, strict=True))
        return self._ranked[metric, pair]

    def gains(self, metric: str, reference: str = ALONE) -> dict[Key, Block]:
        """Differences from a reference method, on shared seeds and subjects; cells without any are left out.

        A row with another student is compared with the reference of the same student, see :func:`rows.counterpart`.
        """
        name = (metric, reference)
        if name not in self._gains:
            blocks = self.blocks(metric)
            others = {method: counterpart(self.records, reference, method) for method in self.records.methods}
            ends = {key: blocks.get((*key[:2], others[key[2]] or "")) for key in blocks if key[2] != others[key[2]]}
            found = {key: blocks[key].minus(end) for key, end in ends.items() if end is not None}
            self._gains[name] = {key: block for key, block in found.items() if block.defined.any()}
        return self._gains[name]

    def gain_cells(self, metric: str, reference: str = ALONE) -> dict[Key, Cell]:
        """Mean difference from a reference with its intervals, adjusted p, and what it is worth as flags."""
        name = (metric, reference)
        if name not in self._gain_cells:
            found, verdicts = self._summaries(self.gains(metric, reference)), self.verdicts(metric, reference)
            self._gain_cells[name] = {
                key: judged(cell, verdicts.get(key), metric, reference) for key, cell in found.items()
            }
        return self._gain_cells[name]

    def verdicts(self, metric: str, reference: str = ALONE) -> dict[Key, Verdict]:
        """Paired tests of every compared cell against a reference; one Holm family over all pairs and rows."""
        name = (metric, reference)
        if name not in self._verdicts:
            methods = set(self.compared) - {reference}
            family = {key: block for key, block in self.gains(metric, reference).items() if key[2] in methods}
            self._verdicts[name] = _verdicts(family)
        return self._verdicts[name]

    def gaps(self, metric: str) -> dict[Key, Gap]:
        """Gap closed by every compared cell whose teacher and student alone share seeds and subjects with it."""
        if metric not in self._gaps:
            found = self._triples(metric)
            closed = by_shape(found, lambda one: one[0].shape, lambda group: self._closed(metric, group))
            self._gaps[metric] = {key: Gap(gap, *found[key][0].shape) for key, gap in closed.items()}
        return self._gaps[metric]

    def powerless(self, metric: str, reference: str = ALONE) -> bool:
        """Whether there are so few subjects that no comparison of a family could be significant."""
        verdicts = self.verdicts(metric, reference).values()
        smallest = min((one.test.smallest_p for one in verdicts if one.test.smallest_p is not None), default=1.0)
        return smallest * max((one.family for one in verdicts), default=1) >= SIGNIFICANT

    # --------------------------------------------------------------------------------------------- several cells

    def common(self, metric: str, *, foreign: bool = True) -> tuple[list[Pair], list[int]]:
        """Foreign (or in-domain) pairs that every method was scored on, and the seeds that all these cells have."""
        blocks = self.blocks(metric)
        chosen = [
            pair
            for pair in self.pairs
            if (pair[0] != pair[1]) is foreign and all((*pair, method) in blocks for method in self.records.methods)
        ]
        seeds = [set(blocks[*pair, method].seed_means) for pair in chosen for method in self.records.methods]
        return chosen, sorted(set.intersection(*seeds)) if seeds else []

    def several(
        self, metric: str, method: str, *, foreign: bool = True, reference: str | None = None, of: str | None = None
    ) -> Several | None:
        """One method's scores, or its differences from a reference, on the pairs and seeds that every method has.

        Args:
            metric: the metric averaged.
            method: the method.
            foreign: foreign pairs, else in-domain ones.
            reference: take differences from it.
            of: metric that says which pairs and seeds every method has; the same one by default.
        """
        name = (metric, method, foreign, reference, of)
        if name not in self._several:
            pairs, seeds = self.common(of or metric, foreign=foreign)
            blocks = self.blocks(metric) if reference is None else self.gains(metric, reference)
            self._several[name] = gather(blocks, [(*pair, method) for pair in pairs], seeds)
        return self._several[name]

    # --------------------------------------------------------------------------------------------------- helpers

    @cached_property
    def _places(self) -> list[Place]:
        return list(places_of(self.records.subject_scores))

    def _column(self, metric: str) -> Array:
        if not self.metrics:
            return np.empty(0)
        return self.records.subject_scores[metric].to_numpy(np.float64)

    def _bootstrap(self, shape: tuple[int, ...]) -> HierarchicalBootstrap:
        return self._bootstraps.setdefault(shape, HierarchicalBootstrap(*shape))

    def _summaries(self, blocks: Mapping[Key, Block]) -> dict[Key, Cell]:
        whole = {key: block.complete.values for key, block in blocks.items() if block.complete.values.size}
        bounds = by_shape(
            whole,
            lambda values: values.shape,
            lambda group: self._bootstrap(group[0].shape).intervals(np.stack(group)),
        )
        return {key: _summary(block, bounds.get(key)) for key, block in blocks.items()}

    def _closed(self, metric: str, group: Sequence[Sequence[Array]]) -> list[GapClosed]:
        teacher, alone, distilled = (np.stack([one[place] for one in group]) for place in range(3))
        higher = metric_direction(metric) != "down"
        return gap_closed(teacher, alone, distilled, self._bootstrap(alone.shape[1:]), higher_is_better=higher)

    def _triples(self, metric: str) -> dict[Key, list[Array]]:
        """Teacher, student alone and distilled scores on the seeds and subjects that all three have."""
        blocks = self.blocks(metric)
        alone = {method: alone_of(self.records, method) or "" for method in self.compared}
        keys = [(source, target, method) for source, target in self.pairs for method in self.compared]
        ends = {key: [blocks.get((*key[:2], name)) for name in (TEACHER, alone[key[2]], key[2])] for key in keys}
        shared = {
            key: shared_values([block for block in found if block is not None])
            for key, found in ends.items()
            if None not in found
        }
        return {key: arrays for key, arrays in shared.items() if arrays[0].size}


def is_missing(records: SweepRecords, names: Iterable[str]) -> bool:
    """Whether one of the domains was left out."""
    return any(name in records.missing for name in names)


def judged(cell: Cell, verdict: Verdict | None, metric: str, reference: str) -> Cell:
    """A difference with its p and what it is worth; only differences from the student alone and from KD have marks."""
    value = float(cell.value or 0.0)
    cell = cell.marked("tie", abs(value) < metric_tie(metric))
    if verdict is None:
        return cell
    gained = value * (-1 if metric_direction(metric) == "down" else 1) > 0
    flags: dict[str, tuple[Flag, Flag]] = {ALONE: ("better", "worse"), KD: ("better_kd", "worse_kd")}
    cell = replace(cell, p=verdict.p_permutation)
    if reference not in flags or not verdict.significant:
        return cell
    return cell.marked(flags[reference][0 if gained else 1])


def gap_cell(closed: GapClosed | None, seeds: int, subjects: int) -> Cell:
    """Gap closed as a cell; ``teacher not better`` where there is no gap to close."""
    if closed is None:
        return Cell()
    if closed.value is None:
        return Cell(NO_GAP, n=seeds, subjects=subjects)
    return Cell(closed.value, None, closed.low, closed.high, seeds, subjects)


def _summary(block: Block, bounds: Bounds | None) -> Cell:
    means = np.array(list(block.seed_means.values()))
    low, high = (None, None) if bounds is None else (bounds.low, bounds.high)
    return Cell(float(means.mean()), t_half(means), low, high, len(means), len(block.complete.subjects))


def _verdicts(blocks: Mapping[Key, Block]) -> dict[Key, Verdict]:
    """Tests over complete subjects, averaged over seeds before: seeds of one patient are no further patients."""
    tests = paired_tests([block.complete.values.mean(axis=0) for block in blocks.values()])
    ranked, flipped = holm([test.p_wilcoxon for test in tests]), holm([test.p_permutation for test in tests])
    family = sum(p is not None for p in flipped)
    rows = zip(blocks, tests, ranked, flipped, strict=True)
    return {key: Verdict(test, wilcoxon, permutation, family) for key, test, wilcoxon, permutation in rows}

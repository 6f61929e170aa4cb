"""Scores by source and target of many methods: a row for every source and method, a column for every target.

A column for every method, as few methods have it, would run out of every page with ten of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gkd_bench.report.blocks import Key
from gkd_bench.report.captions import (
    basis,
    chosen_by,
    interval,
    marks,
    paired,
    ranks,
    sentences,
    tested_on,
    tie_words,
    unmeasured,
)  # fmt: skip
from gkd_bench.report.cells import Cell, Column, Section, Table
from gkd_bench.report.evidence import Evidence, is_missing
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import (
    MARKS_NOTE,
    TEACHER,
    bare,
    metric_column,
)  # fmt: skip
from gkd_bench.report.rows import lacking, method_cell, method_notes

_TESTED = frozenset({"better", "worse", "tie"})


def scores_by_target(records: SweepRecords, metric: str | None = None) -> Table:
    """Scores of every row on every pair, with their rank and the test against the student alone.

    The headline's table is ``triple``, as the table with a column per method is; another metric's is ``by_target_<metric>``.
    """
    evidence = Evidence.of(records)
    first = metric is None or metric == evidence.headline
    metric = metric or evidence.headline
    cells = {key: scored(evidence, metric, key) for key in _keys(evidence, records.methods)}
    caption = sentences(
        basis(evidence, cells.values()),
        f"{marks(evidence, metric)}; {tie_words(metric)} to it".removesuffix(";  to it"),
        ranks("its source and target"),
        f"Tested on: {tested_on(evidence, records.methods)}",
        chosen_by(evidence),
        unmeasured(evidence, metric),
        MARKS_NOTE,
    )
    name = "triple" if first else f"by_target_{bare(metric)}"
    title = f"{evidence.title(metric)} of every row on every target"
    columns = [metric_column(target, target, metric) for target in records.targets]
    return _table(records, (name, title, caption, "answer" if first else "matrix"), columns, records.methods, cells)


def gains_by_target(records: SweepRecords, metric: str | None = None) -> Table:
    """Differences of every row from the student alone, paired by seed and subject."""
    evidence = Evidence.of(records)
    metric = metric or evidence.headline
    cells = evidence.gain_cells(metric)
    columns = [metric_column(target, target, metric, signed=True, interval=True) for target in records.targets]
    caption = sentences(
        f"{paired(evidence)}; {tie_words(metric)}".removesuffix("; "),
        basis(evidence, cells.values()),
        interval(evidence),
        marks(evidence, metric),
        lacking(records, evidence.compared),
        MARKS_NOTE,
    )
    title = f"{evidence.title(metric)}: difference to the student alone"
    return _table(records, ("gains", title, caption, "answer"), columns, evidence.compared, cells)


def gaps_by_target(records: SweepRecords, metric: str, words: str) -> Table:
    """Share of the gap between student alone and teacher that every row closes; ``words`` explain it."""
    evidence = Evidence.of(records)
    cells = {key: gap.cell for key, gap in evidence.gaps(metric).items()}
    columns = [Column(target, target, "up", True, 2, False, True) for target in records.targets]
    title = f"Gap closed between student alone and teacher, {evidence.title(metric)}"
    caption = sentences(words, basis(evidence, cells.values()), MARKS_NOTE)
    return _table(records, ("gap", title, caption, "answer"), columns, evidence.compared, cells)


def scored(evidence: Evidence, metric: str, key: Key) -> Cell:
    """A score, its rank among the students of the pair, and the test against the student alone."""
    cell = evidence.ranked(metric, key[:2]).get(key[2], evidence.cells(metric).get(key, Cell()))
    gain = evidence.gain_cells(metric).get(key) if key[2] != TEACHER else None
    return cell if gain is None else replace(cell, p=gain.p, flags=cell.flags | (gain.flags & _TESTED))


def _keys(evidence: Evidence, methods: Sequence[str]) -> list[Key]:
    return [(*pair, method) for pair in evidence.pairs for method in methods]


def _table(
    records: SweepRecords,
    words: tuple[str, str, str, Section],
    columns: Sequence[Column],
    methods: Sequence[str],
    cells: Mapping[Key, Cell],
) -> Table:
    """A table of name, title, caption and section, its cells by source, target and method."""
    asked = {pair[0] for pair in Evidence.of(records).pairs}
    rows = [
        (
            Cell(source),
            method_cell(records, method),
            *(
                _placed(records, cells.get((source, target, method), Cell()), source, target)
                for target in records.targets
            ),
        )
        for source in records.sources
        if source in asked
        for method in methods
    ]
    name, title, caption, section = words
    heads = (Column("source", "trained on"), Column("method", "method"), *columns)
    return Table(name, title, caption, heads, tuple(rows), section, method_notes(records, methods))


def _placed(records: SweepRecords, cell: Cell, source: str, target: str) -> Cell:
    return cell.marked("in_domain", source == target).marked("missing", is_missing(records, (source, target)))

"""The tables of scores: pure functions from records to tables. Nothing in them is a number of the paper.

The headline Dice is ``dice_fov``: computed per test image inside the field of view, averaged over the images of a
subject, then over subjects; a cell is the mean of that over seeds. In tasks without a field of view it is ``dice``, of stacks
of slices per volume.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from gkd_bench.report.blocks import Key
from gkd_bench.report.by_target import gaps_by_target, scores_by_target
from gkd_bench.report.captions import (
    basis,
    chosen_by,
    interval,
    marks,
    paired,
    ranks,
    seeds_of,
    sentences,
    tested_on,
    tie_words,
    unmeasured,
)  # fmt: skip
from gkd_bench.report.cells import Cell, Column, Table, Value
from gkd_bench.report.evidence import NO_GAP, Evidence, Pair, is_missing
from gkd_bench.report.frame import CELL, SLICES, SweepRecords, metric_names
from gkd_bench.report.names import (
    ALONE,
    MARKS_NOTE,
    REGION,
    TEACHER,
    bare,
    method_title,
    metric_column,
    metric_decimals,
    metric_direction,
)  # fmt: skip
from gkd_bench.report.rows import lacking, method_heading, method_notes

_GAP_WORDS = (
    "Gap closed: (method - student alone) / (teacher - student alone) of the means; 0 nothing, 1 all of it. "
    f"{NO_GAP}: there is no gap to close. No interval: the teacher is not better in 2.5 % of the resamples or more."
)
_JUDGED = frozenset({"better", "worse", "better_kd", "worse_kd"})
_CAUSE_LENGTH = 500
_STAGE_AGAIN = re.compile(r"(?:StageError: )?[^:]*? ?\(key [0-9a-f]{24}\)(?: failed)?: ")
_TRACEBACK = re.compile(r" \(traceback: [^)]*\)")
_MACHINE_PATH = re.compile(r"(?<![\w./:-])(?:/[^\s/'\":,;()]+)+/([^\s/'\":,;()]+)")


@dataclass(frozen=True)
class Failure:
    """Something that a sweep asked for and has not got.

    Attributes:
        kind: whether a stage or a trial of a search failed.
        name: which, in words.
        cause: one line, without paths of the machine.
        key: content key of a stage; empty of a trial.
    """

    kind: Literal["stage", "trial"]
    name: str
    cause: str
    key: str = ""


def heat_table(records: SweepRecords, metric: str | None = None, method: str = "gkd") -> Table:
    """Source x target matrix of one metric of one method, see :func:`matrix`; the headline by default."""
    return matrix(records, metric, method)


def matrix(records: SweepRecords, metric: str | None = None, method: str = "gkd") -> Table:
    """Source x target matrix of one metric of one method: means over seeds with both intervals, n, subjects and p.

    A cell is flagged as best or second among the students of its pair, and as better or worse than the student alone.

    Args:
        records: records of the sweep.
        metric: column of the image records; ``_fov`` = inside the field of view, plain = whole image or volume. The headline by default.
        method: ``teacher``, ``baseline``, ``scratch``, a distillation method or a variant of one.

    Raises:
        KeyError: no image record has the metric.
    """
    evidence = Evidence.of(records)
    metric = metric or evidence.headline
    keys = [(*pair, method) for pair in evidence.pairs]
    cells = {key: _scored(evidence, metric, key) for key in keys}
    columns = [Column("source", "trained on")]
    columns += [metric_column(target, target, metric, interval=True) for target in records.targets]
    rows = [
        (Cell(source), *(cells[source, target, method] for target in records.targets)) for source in records.sources
    ]
    region = "_whole" if f"{metric}{REGION}" in evidence.metrics else ""
    title = f"{evidence.title(metric)} of {method_title(method)}, source x target"
    caption = sentences(
        basis(evidence, cells.values(), seeds_of(evidence, metric, keys)),
        interval(evidence),
        f"Rows: trained on; columns: tested on ({tested_on(evidence, [method])})",
        ranks("its pair among all students") if method != TEACHER else "",
        marks(evidence, metric) if method in evidence.compared else "",
        chosen_by(evidence) if method != TEACHER else "",
        unmeasured(evidence, metric),
        MARKS_NOTE,
    )
    return Table(f"matrix_{bare(metric)}{region}_{method}", title, caption, tuple(columns), tuple(rows), "matrix")


def triple(records: SweepRecords, metric: str | None = None) -> Table:
    """Teacher, student alone and every method for each source -> target, with the difference to the student alone.

    Differences are paired: taken seed by seed and subject by subject, then averaged; only what both have counts. The best
    and the second student of a row are flagged; the teacher is no contestant. With many methods, a row for each of them.
    """
    evidence = Evidence.of(records)
    if evidence.is_wide:
        return scores_by_target(records, metric)
    metric = metric or evidence.headline
    methods = records.in_order({TEACHER, ALONE, *records.methods})
    columns = [Column("source", "source"), Column("target", "target")]
    columns += [metric_column(method, method_heading(records, method), metric) for method in methods]
    columns += [
        metric_column(f"{method}-{ALONE}", f"{method_title(method)} - student alone", metric, signed=True)
        for method in evidence.compared
    ]
    rows = tuple(_triple_row(evidence, metric, pair, methods) for pair in evidence.pairs)
    caption = sentences(
        basis(evidence, (cell for row in rows for cell in row)),
        f"{paired(evidence)}; {tie_words(metric)}".removesuffix("; "),
        marks(evidence, metric),
        ranks("the row"),
        lacking(records, evidence.compared),
        f"Tested on: {tested_on(evidence, methods)}",
        chosen_by(evidence),
        MARKS_NOTE,
    )
    title = f"{evidence.title(metric)}: teacher, student alone and distilled student"
    return Table("triple", title, caption, tuple(columns), rows, "answer", method_notes(records, methods))


def gap_table(records: SweepRecords, metric: str | None = None) -> Table:
    """Share of the gap between student alone and teacher that every method closes, with its interval, for each pair."""
    evidence = Evidence.of(records)
    metric = metric or evidence.headline
    if evidence.is_wide:
        return gaps_by_target(records, metric, f"{_GAP_WORDS} {interval(evidence)}")
    gaps, gains = evidence.gaps(metric), evidence.gain_cells(metric)
    columns = [Column("source", "source"), Column("target", "target")]
    columns.append(metric_column("gap", "teacher - student alone", metric, signed=True, interval=True))
    columns += [
        Column(name, f"gap closed by {method_title(name)}", "up", True, 2, False, True) for name in evidence.compared
    ]
    rows = []
    for pair in evidence.pairs:
        missing = is_missing(records, pair)
        closed = [gaps.get((*pair, name)) for name in evidence.compared]
        cells = [replace(gains.get((*pair, TEACHER), Cell()), flags=frozenset())]
        cells += [Cell() if gap is None else gap.cell for gap in closed]
        rows.append((*name_cells(pair), *(cell.marked("missing", missing) for cell in cells)))
    caption = sentences(
        f"{_GAP_WORDS} {interval(evidence)}",
        basis(evidence, (cell for row in rows for cell in row)),
        MARKS_NOTE,
    )
    title = f"Gap closed between student alone and teacher, {evidence.title(metric)}"
    shown = tuple(rows) if evidence.compared else ()
    return Table("gap", title, caption, tuple(columns), shown, "answer")


def scores(records: SweepRecords) -> Table:
    """Every metric of every final network on every target, one row per seed; the raw material of the matrices.

    Plain columns are means over subjects, ``pooled/`` columns count all pixels of the target together.
    """
    evidence = Evidence.of(records)
    pooled = records.pooled_scores.set_index(CELL).add_prefix("pooled/")
    frame = records.seed_scores.join(pooled, on=CELL)
    metrics = [*metric_names(records.seed_scores), *map(str, pooled.columns)]
    counts = ["subjects", "images", *([SLICES] if SLICES in frame else [])]
    columns = [Column(name, name) for name in (*CELL, "network", *counts)]
    columns += [
        Column(name, name, metric_direction(name), decimals=metric_decimals(name))
        for name in metrics
        if name not in counts
    ]
    who, subject, subjects = evidence.words.images, evidence.words.subject, evidence.words.subjects
    caption = sentences(
        f"Test {subjects}. Plain: mean over {who} per {subject}, then over {subjects}; pooled/: all pixels together",
        "_fov: inside the field of view, else the whole image" if evidence.words.has_region else "",
        "/ and a class: of that class alone, else the mean over classes" if evidence.classes else "",
        "_mm: of volumes of known spacing, in millimetres" if any(bare(one).endswith("_mm") for one in metrics) else "",
    )
    return Table("scores", "All scores", caption, tuple(columns), frame_rows(columns, frame), "matrix")


def failures_of(records: SweepRecords) -> list[Failure]:
    """Stages, then trials that failed, by name. A stage that another run of the sweep finished has not failed."""
    frame = records.of("failure")
    frame = (
        frame[~frame["key"].isin(set(records.of("cost")["key"]))].drop_duplicates("key").sort_values(["stage", "key"])
    )
    trials = records.of("trial")
    failed = trials[trials["state"] == "failed"].sort_values(["study", "number"], kind="stable")
    return [
        *(Failure("stage", str(row["stage"]), plain_cause(row["cause"]), str(row["key"]))
          for row in frame.to_dict("records")),
        *(Failure("trial", f"{row['study']}, trial {row['number']}", plain_cause(row["cause"]))
          for row in failed.to_dict("records")),
    ]  # fmt: skip


def failures_table(records: SweepRecords) -> Table:
    """One row for each stage and each trial that failed, with its cause; without rows where none did."""
    columns = (Column("what", "what"), Column("name", "name"), Column("cause", "cause"))
    rows = tuple(plain_texts((one.kind, one.name, one.cause)) for one in failures_of(records))
    caption = sentences(
        "What is missing from the other tables, and why",
        "The same command tries failed stages again; a failed trial has cost its search one point",
    )
    return Table("failures", "Failures", caption, columns, rows, "health")


def plain_cause(text: object) -> str:
    """A cause fit for a table: one line, without the stage's own name and key, the traceback's file, or folders of a machine."""
    if not isinstance(text, str):
        return ""
    line = _STAGE_AGAIN.sub("", _TRACEBACK.sub("", " ".join(text.split())))
    return _MACHINE_PATH.sub(r"\1", line)[:_CAUSE_LENGTH]


def value_cell(value: object) -> Cell:
    """A cell for one plain value; a missing one (None, NaN) becomes an empty cell, numpy's numbers plain ones."""
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None or plain != plain:
        return Cell()
    return Cell(plain if isinstance(plain, str | int | float) else str(plain))


def frame_rows(columns: Sequence[Column], frame: pd.DataFrame) -> tuple[tuple[Cell, ...], ...]:
    """The rows of a frame as cells, one per column of the table, found by the column's key."""
    lists = [[value_cell(value) for value in frame[column.key].tolist()] for column in columns]
    return tuple(zip(*lists, strict=True))


def name_cells(pair: Pair) -> tuple[Cell, Cell]:
    """Source and target as cells."""
    return Cell(pair[0]), Cell(pair[1]).marked("in_domain", pair[0] == pair[1])


def _scored(evidence: Evidence, metric: str, key: Key) -> Cell:
    """A matrix cell: the score, its rank among the students of the pair, and the test against the student alone."""
    cell = evidence.ranked(metric, key[:2]).get(key[2], evidence.cells(metric).get(key, Cell()))
    gain = evidence.gain_cells(metric).get(key)
    if gain is not None:
        cell = replace(cell, p=gain.p, flags=cell.flags | (gain.flags & _JUDGED))
    cell = cell.marked("in_domain", key[0] == key[1])
    return cell.marked("missing", is_missing(evidence.records, key[:2]))


def _triple_row(evidence: Evidence, metric: str, pair: Pair, methods: Sequence[str]) -> tuple[Cell, ...]:
    cells, gains = evidence.cells(metric), evidence.gain_cells(metric)
    scored = {TEACHER: cells.get((*pair, TEACHER), Cell()), **evidence.ranked(metric, pair)}
    values = [scored.get(method, Cell()).marked("in_domain", pair[0] == pair[1]) for method in methods]
    values += [gains.get((*pair, method), Cell()) for method in evidence.compared]
    missing = is_missing(evidence.records, pair)
    return (*name_cells(pair), *(cell.marked("missing", missing) for cell in values))


def plain_texts(values: Sequence[Value]) -> tuple[Cell, ...]:
    """Plain values as cells; an empty text is no result."""
    return tuple(Cell(None if value == "" else value) for value in values)

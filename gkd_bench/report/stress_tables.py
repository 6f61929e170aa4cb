"""Tables of the stress bank: Dice of the source's validation subjects under scanner-like corruptions."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from gkd_bench.report.captions import ranks, sentences
from gkd_bench.report.cells import Cell, Column, Table, mark_ranks, mean_cell
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import TEACHER, counted, listed, method_title, span, words
from gkd_bench.report.rows import MANY, method_cell, method_notes

CLEAN = "none"
MODEL = ["method", "source", "seed"]
_TITLE = "Dice under stress"
_CONDITION = ["corruption", "strength"]


def stress_scores(records: SweepRecords) -> pd.DataFrame:
    """Stressed Dice of every final training: mean over images per subject, then over subjects.

    One row per method, source, seed, corruption and strength, the score in ``dice``.
    """
    frame = Evidence.of(records).final("stress", "val")
    names = [*MODEL, *_CONDITION]
    if frame.empty:
        return pd.DataFrame(columns=[*names, "dice"])
    by_subject = frame.groupby([*names, "subject"], sort=True)["dice"].mean()
    return by_subject.groupby(level=names, sort=True).mean().reset_index()


def stress_table(records: SweepRecords) -> Table:
    """Dice by corruption and strength, one column per method: mean over sources, then over seeds.

    With many methods a row for each of them, and a column for every corruption, which is the mean over its strengths.
    """
    scores = stress_scores(records)
    methods = records.in_order(set(scores["method"]))
    if len(methods) > MANY:
        return _by_method(records, scores, methods)
    columns = [Column("corruption", "corruption"), Column("strength", "strength", decimals=0)]
    columns += [Column(method, method_title(method), "up", True) for method in methods]
    cells = _cells(scores)
    conditions = sorted({key[:2] for key in cells}, key=lambda key: (key[0] != CLEAN, key))
    rows = tuple(_row(cells, corruption, strength, methods) for corruption, strength in conditions)
    return Table("stress", _TITLE, _caption(records, rows, "the row"), tuple(columns), rows, "stress")


def stress_values(records: SweepRecords) -> Table:
    """Every stressed Dice, one row per method, source, seed and condition."""
    columns = [Column(name, name) for name in (*MODEL, *_CONDITION)] + [Column("dice", "Dice", "up")]
    frame = stress_scores(records)
    lists = [frame[column.key].tolist() for column in columns]
    rows = tuple(tuple(map(Cell, row)) for row in zip(*lists, strict=True))
    words = Evidence.of(records).words
    text = f"Mean over {words.picture}s per {words.subject}, then over the source's validation {words.subjects}."
    return Table("stress_values", "All Dice under stress", text, tuple(columns), rows, "stress")


def _by_method(records: SweepRecords, scores: pd.DataFrame, methods: list[str]) -> Table:
    """A row per method; the strengths of a corruption are one."""
    bare = scores.assign(strength=(scores["strength"] > 0).astype(int))
    means = bare.groupby([*MODEL, *_CONDITION], sort=True)["dice"].mean().reset_index()
    cells = _cells(means)
    conditions = sorted({key[:2] for key in cells}, key=lambda key: (key[0] != CLEAN, key))
    ranked = {key: _row(cells, *key, methods)[2:] for key in conditions}
    rows = tuple(
        (method_cell(records, method), *(ranked[key][at] for key in conditions)) for at, method in enumerate(methods)
    )
    columns = [Column("method", "method")]
    columns += [Column(name, "clean" if name == CLEAN else words(name), "up", True) for name, _ in conditions]
    strengths = sorted({int(value) for value in scores["strength"] if value > 0})
    caption = sentences(
        f"Every corruption: mean over its strengths {listed(map(str, strengths)) if strengths else ''}",
        _caption(records, rows, "the column"),
    )
    return Table("stress", _TITLE, caption, tuple(columns), rows, "stress", method_notes(records, methods))


def _caption(records: SweepRecords, rows: Sequence[Sequence[Cell]], ranked: str) -> str:
    evidence = Evidence.of(records)
    subjects = evidence.final("stress", "val").groupby("source")["subject"].nunique()
    return sentences(
        f"Dice on the source's validation {evidence.words.subjects}, corrupted as scanners might; no target is read",
        "Mean over sources, then mean ± half width of the 95 % t interval over "
        f"n = {counted(span(cell.n for row in rows for cell in row if cell.n), 'seed')}",
        f"{counted(len(subjects), 'source')} with {counted(span(subjects), f'validation {evidence.words.subject}')}",
        ranks(ranked),
    )


def _cells(scores: pd.DataFrame) -> dict[tuple[str, int, str], Cell]:
    """(corruption, strength, method) -> mean; only seeds that all sources of the method have count."""
    names = [*_CONDITION, "method"]
    means = scores.groupby([*names, "seed"], sort=True)["dice"].agg(["mean", "size"]).reset_index()
    values: dict[tuple[str, int, str], list[float]] = {}
    most = means.groupby(names)["size"].transform("max") if len(means) else means["size"]
    kept = means[means["size"] == most]
    for corruption, strength, method, _, mean, _ in kept.itertuples(index=False, name=None):
        values.setdefault((str(corruption), int(strength), str(method)), []).append(float(mean))
    return {key: mean_cell(found) for key, found in values.items()}


def _row(
    cells: dict[tuple[str, int, str], Cell], corruption: str, strength: int, methods: list[str]
) -> tuple[Cell, ...]:
    found = {method: cells.get((corruption, strength, method), Cell()) for method in methods}
    students = [method for method in methods if method != TEACHER]
    found |= dict(zip(students, mark_ranks([found[method] for method in students], "up"), strict=True))
    name = "clean" if corruption == CLEAN else words(corruption)
    return (Cell(name), Cell(strength), *(found[method] for method in methods))

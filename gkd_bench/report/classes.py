"""Scores of every class by itself, beside the mean over the classes that all other tables show."""

from __future__ import annotations

from collections.abc import Sequence

from gkd_bench.report.by_target import scored
from gkd_bench.report.captions import basis, interval, ranks, sentences, tested_on, unmeasured
from gkd_bench.report.cells import Column, Table
from gkd_bench.report.comparison import fewer_pairs, mean_pairs, over_words, ranked_columns
from gkd_bench.report.evidence import Evidence, is_missing
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import REGION, bare, listed, metric_column, of_class, short_title, words
from gkd_bench.report.overall import overall_cell
from gkd_bench.report.rows import method_cell, method_notes
from gkd_bench.report.tables import name_cells

_DISTANCES = ("hd95_mm", f"hd95{REGION}", "hd95")
"""Of which the first one that was measured stands beside Dice."""


def classes_table(records: SweepRecords) -> Table:
    """One row per method: means over the foreign pairs of Dice, and of HD95, of all classes and of each; no row for one class."""
    evidence = Evidence.of(records)
    metrics, columns = _columns_of(evidence)
    methods = records.methods if evidence.classes else []
    rows = [
        (
            method_cell(records, method),
            *(overall_cell(evidence.several(name, method, of=mean_pairs(evidence, name))) for name in metrics),
        )
        for method in methods
    ]
    ranked = ranked_columns(rows, columns, methods, [column.key for column in columns])
    caption = sentences(
        f"Means over foreign source -> target pairs{evidence.words.inside}; {_classes_words(evidence)}",
        *dict.fromkeys(fewer_pairs(evidence, name) for name in metrics if "/" not in name),
        over_words(evidence, rows),
        ranks("the column"),
    )
    notes = method_notes(records, records.methods)
    return Table("classes", "Each class on foreign domains", caption, columns, tuple(ranked), "comparison", notes)


def classes_by_pair(records: SweepRecords) -> Table:
    """The same for every source, target and method; a file, since it is long."""
    evidence = Evidence.of(records)
    metrics, columns = _columns_of(evidence)
    keys = [(*pair, method) for pair in evidence.pairs for method in (records.methods if evidence.classes else ())]
    rows = []
    for source, target, method in keys:
        missing = is_missing(records, (source, target))
        cells = [scored(evidence, name, (source, target, method)) for name in metrics]
        names = (*name_cells((source, target)), method_cell(records, method))
        rows.append((*names, *(cell.marked("missing", missing) for cell in cells)))
    caption = sentences(
        basis(evidence, (cell for row in rows for cell in row)),
        interval(evidence),
        _classes_words(evidence),
        *dict.fromkeys(unmeasured(evidence, name) for name in metrics if "/" not in name),
        f"Tested on: {tested_on(evidence, records.methods)}",
    )
    heads = (Column("source", "source"), Column("target", "target"))
    return Table(
        "classes_by_pair", "Each class on every target", caption, (*heads, *columns), tuple(rows), "comparison"
    )


def _columns_of(evidence: Evidence) -> tuple[list[str], tuple[Column, ...]]:
    """Metrics of the mean over classes and of each class, and the columns of a table that begins with methods."""
    if not evidence.classes:
        return [], (Column("method", "method"),)
    whole = [evidence.headline, *[name for name in _DISTANCES if name in evidence.metrics][:1]]
    metrics = [column for name in whole for column in (name, *_each(evidence, name))]
    return metrics, (Column("method", "method"), *map(_column, metrics))


def _each(evidence: Evidence, metric: str) -> list[str]:
    found = (evidence.of_class(metric, name) for name in evidence.classes)
    return [column for column in found if column is not None]


def _column(metric: str) -> Column:
    """Keys as in records without the region: ``dice``, ``dice/disc``."""
    title = short_title(metric if "/" in metric else of_class(metric, "mean"))
    return metric_column(metric.removesuffix(REGION), title, metric)


def _classes_words(evidence: Evidence) -> str:
    names: Sequence[str] = [words(name) for name in evidence.classes]
    first = short_title(evidence.headline) if names else bare(evidence.headline)
    return f"{first}, mean: over the classes {listed(names)} of every {evidence.words.image}" if names else ""

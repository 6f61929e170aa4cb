"""What a report contains: the answer in words, the tables of the page, and those that become files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gkd_bench.report import comparison, diagnostics, distances, searching, tables
from gkd_bench.report.answering import answer as answer
from gkd_bench.report.by_target import gains_by_target, scores_by_target
from gkd_bench.report.cells import Table
from gkd_bench.report.classes import classes_by_pair, classes_table
from gkd_bench.report.domains import domains_table
from gkd_bench.report.efficiency import efficiency_table
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.forecasting import forecast_table
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.method_tables import methods_table, terms_table
from gkd_bench.report.names import ALONE, KD, REGION, bare
from gkd_bench.report.paired import significance
from gkd_bench.report.selecting import selection_table
from gkd_bench.report.stress_tables import stress_table, stress_values
from gkd_bench.report.students_table import students_table

PAGE_METRICS = ("hd95_mm", "hd95", "nsd_mm", "nsd", "cldice", "ece")


def page_tables(records: SweepRecords) -> tuple[Table, ...]:
    """The tables of the page, the answer first; tables without rows are left out. Made once for the same records."""
    evidence = Evidence.of(records)
    if evidence.page is None:
        found = [*_score_tables(evidence), *_selection_tables(evidence), *_distance_tables(records)]
        found += [tables.failures_table(records), diagnostics.health_table(records), diagnostics.cost_table(records)]
        evidence.page = tuple(table for table in found if table.rows)
    return evidence.page


def file_tables(records: SweepRecords) -> dict[str, Table]:
    """File name without ending -> table, for the CSV files: those of the page, every matrix, and the long ones."""
    metrics = _inside(Evidence.of(records).metrics)
    matrices = (tables.matrix(records, metric, method) for metric in metrics for method in records.methods)
    long = [
        *(_fsd_matrices(records) if Evidence.of(records).is_wide else ()),
        tables.scores(records),
        classes_by_pair(records),
        distances.fsd_values(records),
        searching.trials_table(records),
        stress_values(records),
    ]
    return {table.name: table for table in (*page_tables(records), *matrices, *long) if table.rows}


def terminal_tables(records: SweepRecords) -> tuple[Table, ...]:
    """The few tables that a finished sweep shows on the terminal; those without rows are left out.

    With many methods the means over pairs must do: a row for every source and method would run off the screen.
    """
    few = () if Evidence.of(records).is_wide else (tables.triple(records),)
    shown = (*few, comparison.comparison(records), selection_table(records), searching.search_summary(records))
    return tuple(table for table in shown if table.rows)


def _score_tables(evidence: Evidence) -> Iterator[Table]:
    records = evidence.records
    if evidence.metrics or records.missing:
        yield tables.triple(records)
        yield from [gains_by_target(records)] if evidence.is_wide and evidence.metrics else []
        yield tables.gap_table(records)
    yield domains_table(records)
    if not evidence.metrics:
        return
    yield from _matrices(evidence)
    yield comparison.comparison(records)
    yield comparison.further_comparison(records)
    yield classes_table(records)
    yield methods_table(records)
    yield terms_table(records)
    yield significance(records, ALONE)
    if KD in records.methods:
        yield significance(records, KD)
    yield comparison.ablation(records)


def _matrices(evidence: Evidence) -> Iterator[Table]:
    """A matrix for every method and metric; with many methods one table for every metric."""
    records, further = evidence.records, _further(evidence)
    if evidence.is_wide:
        yield from (scores_by_target(records, metric) for metric in further)
    else:
        yield from (
            tables.matrix(records, metric, name) for metric in (evidence.headline, *further) for name in records.methods
        )


def _selection_tables(evidence: Evidence) -> Iterator[Table]:
    records = evidence.records
    yield selection_table(records)
    yield forecast_table(records)
    yield efficiency_table(records)
    yield students_table(records)
    yield stress_table(records)
    yield searching.search_summary(records)
    yield searching.importance_table(records)
    yield searching.pareto_table(records)


def _distance_tables(records: SweepRecords) -> Iterator[Table]:
    fsd = Evidence.of(records).final("fsd", "test")
    if not Evidence.of(records).is_wide:
        yield from _fsd_matrices(records)
    yield from (distances.fsd_comparison(records, use) for use in distances.USES if use in set(fsd["use"].unique()))


def _fsd_matrices(records: SweepRecords) -> Iterator[Table]:
    fsd = Evidence.of(records).final("fsd", "test")
    measured = set(fsd[(fsd["use"] == "domain") & (fsd["space"] == "aligned")]["method"].unique())
    yield from (distances.fsd_matrix(records, method=method) for method in records.in_order(measured))


def _further(evidence: Evidence) -> list[str]:
    """One metric each of distance, surface, topology and calibration, inside the field of view where there is one."""
    found = {bare(name): name for name in reversed(evidence.metrics)}
    return [found[name] for name in PAGE_METRICS if name in found]


def _inside(metrics: Sequence[str]) -> list[str]:
    """Metrics inside the field of view, of the whole image only where there is no such twin; ``scores`` has them all."""
    return [name for name in metrics if name.endswith(REGION) or f"{name}{REGION}" not in metrics]

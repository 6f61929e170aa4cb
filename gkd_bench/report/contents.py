"""What a report contains: the answer in words, the tables of the page, and those that become files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gkd_bench.report import comparison, diagnostics, distances, searching, tables
from gkd_bench.report.cells import Cell, Table
from gkd_bench.report.efficiency import efficiency_table
from gkd_bench.report.evidence import SIGNIFICANT, Evidence
from gkd_bench.report.forecasting import forecast_table
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import (
    ALONE,
    KD,
    bare,
    counted,
    listed,
    method_title,
    metric_decimals,
    metric_tie,
    metric_title,
)  # fmt: skip
from gkd_bench.report.overall import overall_cell
from gkd_bench.report.paired import significance
from gkd_bench.report.selecting import selection_table
from gkd_bench.report.stress_tables import stress_table, stress_values

PAGE_METRICS = ("hd95", "nsd", "cldice", "ece")
_TESTED = f"paired tests over subjects, Holm, p < {SIGNIFICANT:g}"


def page_tables(records: SweepRecords) -> tuple[Table, ...]:
    """The tables of the page, the answer first; tables without rows are left out. Made once for the same records."""
    evidence = Evidence.of(records)
    if evidence.page is None:
        found = [*_score_tables(evidence), *_selection_tables(evidence), *_distance_tables(records)]
        found += [diagnostics.health_table(records), diagnostics.cost_table(records)]
        evidence.page = tuple(table for table in found if table.rows)
    return evidence.page


def file_tables(records: SweepRecords) -> dict[str, Table]:
    """File name without ending -> table, for the CSV files: those of the page, every matrix, and the long ones."""
    metrics = _inside(Evidence.of(records).metrics)
    matrices = (tables.matrix(records, metric, method) for metric in metrics for method in records.methods)
    long = [
        tables.scores(records),
        distances.fsd_values(records),
        searching.trials_table(records),
        stress_values(records),
    ]
    return {table.name: table for table in (*page_tables(records), *matrices, *long) if table.rows}


def terminal_tables(records: SweepRecords) -> tuple[Table, ...]:
    """The few tables that a finished sweep shows on the terminal; those without rows are left out."""
    shown = (
        tables.triple(records),
        comparison.comparison(records),
        selection_table(records),
        searching.search_summary(records),
    )
    return tuple(table for table in shown if table.rows)


def answer(records: SweepRecords) -> str:
    """The sweep in one or two sentences: foreign mean of every method, and whether any of them really beats student alone."""
    evidence = Evidence.of(records)
    metric = evidence.headline
    foreign = [pair for pair in evidence.pairs if pair[0] != pair[1]]
    scored = evidence.blocks(metric).keys()
    if not any(key[0] != key[1] for key in scored):
        return "No network was scored on a foreign domain."
    pairs, seeds = evidence.common(metric)
    if not seeds:
        return "No foreign pair of domains was scored with every method on one seed."
    means = [(method, overall_cell(evidence.several(metric, method))) for method in records.methods]
    values = [f"{method_title(method)} {_number(metric, cell)}" for method, cell in means]
    of = f" of {len(foreign)}" if len(foreign) > len(pairs) else ""
    over = f"{len(pairs)}{of} foreign source → target {'pair' if not of and len(pairs) == 1 else 'pairs'}"
    first = f"Mean {metric_title(metric)} over {over}, n = {counted(len(seeds), 'seed')}: {', '.join(values)}."
    return " ".join([first, *_judgement(evidence, metric)])


def _judgement(evidence: Evidence, metric: str) -> Iterator[str]:
    """Whether a method beats the student alone by more than a tie: on foreign pairs by the tests, else by size, and on their mean."""
    found = {name: comparison.significant(evidence, metric, name, beyond_ties=True) for name in evidence.distilled}
    tested = {name: counts for name, counts in found.items() if counts[2]}
    if not tested:
        return
    better = [f"{method_title(name)} on {counts[0]} of {counts[2]}" for name, counts in tested.items() if counts[0]]
    worse = [f"{method_title(name)} on {counts[1]} of {counts[2]}" for name, counts in tested.items() if counts[1]]
    if better:
        yield f"Better than the student alone by more than a tie and significantly ({_TESTED}): {listed(better)} foreign pairs{_on_average(evidence, metric)}."
    else:
        yield f"{_without_significance(evidence, metric, tested)}{_on_average(evidence, metric)}."
    if worse:
        yield f"Worse in the same way: {listed(worse)}."


def _without_significance(evidence: Evidence, metric: str, methods: Iterable[str]) -> str:
    counts = {name: comparison.wins(evidence, metric, name) for name in methods}
    named = [
        f"{method_title(name)} ahead on {won}, behind on {lost} of {won + tied + lost}"
        for name, (won, tied, lost) in counts.items()
        if won or lost
    ]
    tie = f"by more than a tie ({metric_tie(metric):g})"
    if not any(won for won, _, _ in counts.values()):
        behind = f"; {listed(named)} pairs" if named else ""
        return f"No method beats the student alone on a foreign domain {tie}{behind}"
    too_few = ", with so few test subjects none could be" if evidence.powerless(metric) else ""
    return (
        f"No method beats the student alone {tie} and significantly ({_TESTED}) on any foreign pair{too_few}; "
        f"by more than a tie: {listed(named)} pairs"
    )


def _on_average(evidence: Evidence, metric: str) -> str:
    """Methods whose mean difference over all foreign pairs is significant; empty without any."""
    gains = comparison.overall_gains(evidence, metric, ALONE, evidence.distilled)
    named = [
        f"{method_title(name)} {float(gain.value or 0):+.{metric_decimals(metric)}f} (p = {gain.p:.2g}"
        f"{', smaller than a tie' if 'tie' in gain.flags else ''})"
        for name, gain in gains.items()
        if gain.flags & {"better", "worse"} and gain.p is not None
    ]
    if not named:
        return ""
    subjects = max(gain.subjects for gain in gains.values())
    return f"; on the mean over foreign pairs, n = {subjects} subjects: {listed(named)}"


def _score_tables(evidence: Evidence) -> Iterator[Table]:
    records, headline = evidence.records, evidence.headline
    if evidence.metrics or records.missing:
        yield tables.triple(records)
        yield tables.gap_table(records)
    if not evidence.metrics:
        return
    yield from (tables.matrix(records, headline, method) for method in records.methods)
    yield from (tables.matrix(records, metric, name) for metric in _further(evidence) for name in records.methods)
    yield comparison.comparison(records)
    yield comparison.further_comparison(records)
    yield significance(records, ALONE)
    if KD in records.methods:
        yield significance(records, KD)
    yield comparison.ablation(records)


def _selection_tables(evidence: Evidence) -> Iterator[Table]:
    records = evidence.records
    yield selection_table(records)
    yield forecast_table(records)
    yield efficiency_table(records)
    yield stress_table(records)
    yield searching.search_summary(records)
    yield searching.importance_table(records)
    yield searching.pareto_table(records)


def _distance_tables(records: SweepRecords) -> Iterator[Table]:
    fsd = Evidence.of(records).final("fsd", "test")
    measured = set(fsd[(fsd["use"] == "domain") & (fsd["space"] == "aligned")]["method"].unique())
    yield from (distances.fsd_matrix(records, method=method) for method in records.in_order(measured))
    yield from (distances.fsd_comparison(records, use) for use in distances.USES if use in set(fsd["use"].unique()))


def _further(evidence: Evidence) -> list[str]:
    """One metric each of distance, surface, topology and calibration, inside the field of view where there is one."""
    found = {bare(name): name for name in reversed(evidence.metrics)}
    return [found[name] for name in PAGE_METRICS if name in found]


def _inside(metrics: Sequence[str]) -> list[str]:
    """Metrics inside the field of view, of the whole image only where there is no such twin; ``scores`` has them all."""
    return [name for name in metrics if name.endswith("_fov") or f"{name}_fov" not in metrics]


def _number(metric: str, cell: Cell) -> str:
    return f"{cell.value:.{metric_decimals(metric)}f}" if isinstance(cell.value, float) else "-"

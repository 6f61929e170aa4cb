"""Students side by side: what a smaller network costs, what it reaches alone, and what a method adds to it."""

from __future__ import annotations

from collections.abc import Iterator

from gkd_bench.report.captions import interval, paired, sentences, tie_words
from gkd_bench.report.cells import Cell, Column, Table, mean_cell
from gkd_bench.report.comparison import overall_gains
from gkd_bench.report.evidence import Evidence, gap_cell
from gkd_bench.report.frame import SweepRecords, is_other_student
from gkd_bench.report.names import ALONE, TEACHER, metric_column, metric_direction, short_title
from gkd_bench.report.overall import overall_cell, overall_gap
from gkd_bench.report.rows import alone_of, base_of, kind_of, method_cell, method_notes, student_of

_COSTS = ("parameters", "macs", "latency_p50_ms")


def students_table(records: SweepRecords) -> Table:
    """One row per student and method: cost, foreign headline alone and with the method, gain, gap closed.

    Every student is compared with the student alone of the same network. Without rows for a sweep of one student.
    """
    evidence = Evidence.of(records)
    metric = evidence.headline
    title = short_title(metric)
    columns = (
        Column("student", "student"),
        Column("method", "method"),
        Column("parameters", "parameters", "down", decimals=0),
        Column("macs", "MACs (millions)", "down", decimals=1),
        Column("latency_p50_ms", "latency p50, ms", "down", decimals=2),
        metric_column("alone", f"foreign {title} alone", metric),
        metric_column("foreign", f"foreign {title}", metric, interval=True),
        metric_column("gain", "difference", metric, signed=True, interval=True),
        Column("p", "p (Holm)", decimals=4),
        Column("gap", "gap closed", "up", True, 2, False, True),
    )
    shown = _shown(evidence)
    gains = overall_gains(evidence, metric, ALONE, evidence.compared)
    rows = tuple(_row(evidence, metric, method, gains.get(method, Cell())) for method in shown)
    caption = sentences(
        f"{evidence.title(metric)}, means over the foreign pairs that every row has. Alone: the same network, continued without a teacher",
        f"{paired(evidence)}, and tested against the student alone of the same network, never another's",
        interval(evidence),
        "Costs: one tile at batch 1, see the table of costs",
        tie_words(metric),
    )
    text = "Students: what each costs, and what distillation adds to it"
    return Table("students", text, caption, columns, rows, "efficiency", method_notes(records, shown))


def _shown(evidence: Evidence) -> list[str]:
    """Rows with other students, and the rows of the sweep's own student that they are versions of; none without other students."""
    records = evidence.records
    others = [name for name in records.methods if student_of(records, name) is not None]
    bases = {base_of(records, name) for name in others} | {ALONE}
    own = [name for name in records.methods if name in bases]
    return (
        [*own, *sorted(others, key=lambda name: (str(records.networks.get(name)), others.index(name)))]
        if others
        else []
    )


def _row(evidence: Evidence, metric: str, method: str, gain: Cell) -> tuple[Cell, ...]:
    records, alone = evidence.records, alone_of(evidence.records, method)
    before, after = (None if name is None else evidence.several(metric, name) for name in (alone, method))
    reference = kind_of(records, method) == "reference"
    gap = overall_gap(
        evidence.several(metric, TEACHER), before, after, higher_is_better=metric_direction(metric) != "down"
    )
    seeds, subjects = (0, 0) if after is None else (len(after.values), after.subjects)
    return (
        Cell(records.networks.get(method)),
        method_cell(
            records, base_of(records, method) if is_other_student(records.origin.variants.get(method, {})) else method
        ),
        *_costs(records, method),
        overall_cell(before),
        overall_cell(after),
        gain,
        Cell(gain.p),
        Cell() if reference else gap_cell(gap, seeds, subjects),
    )


def _costs(records: SweepRecords, method: str) -> Iterator[Cell]:
    frame = records.of("efficiency")
    mine = frame[frame["network"] == records.networks.get(method)]
    for name in _COSTS:
        value = mean_cell(mine[name].astype(float)).value
        if not isinstance(value, float):
            yield Cell()
        else:
            yield Cell(round(value) if name == "parameters" else value / 1e6 if name == "macs" else value)

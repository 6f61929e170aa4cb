"""What networks cost where they will run, beside what they reach on foreign domains."""

from __future__ import annotations

import pandas as pd

from gkd_bench.report.captions import interval, sentences
from gkd_bench.report.cells import Cell, Column, Table, mean_cell
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.frame import SweepRecords, grouped
from gkd_bench.report.names import TEACHER, metric_column, short_title
from gkd_bench.report.overall import overall_cell
from gkd_bench.report.rows import method_cell

_PLACE = ["role", "network", "input", "device", "threads"]
_COSTS = ("parameters", "macs", "latency_p50_ms", "latency_p95_ms", "peak_memory_mb")


def efficiency_table(records: SweepRecords) -> Table:
    """Foreign headline of every method beside parameters, operations, latency and memory of its network."""
    evidence = Evidence.of(records)
    metric = evidence.headline
    columns = (
        Column("method", "method"),
        Column("network", "network"),
        metric_column("foreign", f"foreign {short_title(metric)}", metric, interval=True),
        Column("parameters", "parameters", "down", decimals=0),
        Column("macs", "MACs (millions)", "down", decimals=1),
        Column("latency_p50_ms", "latency p50, ms", "down", decimals=2),
        Column("latency_p95_ms", "latency p95, ms", "down", decimals=2),
        Column("peak_memory_mb", "peak memory, MB", "down", decimals=1),
        Column("input", "input"),
        Column("device", "device"),
        Column("threads", "threads"),
    )
    places = grouped(records.of("efficiency"), _PLACE)
    rows = tuple(
        (method_cell(records, method), *_row(evidence, metric, method, names, part))
        for names, part in places
        for method in _methods(records, names[0], names[1])
    )
    caption = sentences(
        f"{evidence.title(metric)} over the foreign pairs that every method has. Methods of one network cost the same",
        interval(evidence),
        "One tile at batch 1 after warm-up: multiply-accumulates, latency (median and 95th percentile), and the peak memory of one pass",
        "Timings are of the machine that the report names",
    )
    ordered = tuple(sorted(rows, key=lambda row: (str(row[9].value), str(row[10].value), row[0].value != TEACHER)))
    return Table("efficiency", "What the networks cost", caption, columns, ordered, "efficiency")


def _methods(records: SweepRecords, role: str, network: str) -> list[str]:
    """Methods whose final trainings have the network; the role itself when nothing was scored."""
    scores = records.seed_scores
    having = set(scores[scores["network"] == network]["method"]) if len(scores) else set()
    named = [method for method in records.methods if (method == TEACHER) is (role == TEACHER) and method in having]
    return named or ([] if records.methods else [role])


def _row(evidence: Evidence, metric: str, method: str, names: tuple[str, ...], part: pd.DataFrame) -> tuple[Cell, ...]:
    _, network, size, device, threads = names
    means = {name: mean_cell(part[name].astype(float)).value for name in _COSTS}
    macs = means["macs"]
    return (
        Cell(network),
        overall_cell(evidence.several(metric, method)),
        Cell(None if means["parameters"] is None else round(float(means["parameters"]))),
        Cell(None if macs is None else float(macs) / 1e6),
        *(Cell(means[name]) for name in _COSTS[2:]),
        Cell(size),
        Cell(device),
        Cell(str(int(float(threads))) if threads.replace(".", "", 1).isdigit() else threads),
    )

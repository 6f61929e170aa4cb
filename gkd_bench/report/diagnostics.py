"""Tables beside the scores: health checks and cost. Pure functions from records to tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from gkd_bench.report.cells import Cell, Column, Table, mean_cell
from gkd_bench.report.frame import SweepRecords, grouped
from gkd_bench.report.names import method_title
from gkd_bench.report.searching import named_values
from gkd_bench.report.tables import value_cell


def health_table(records: SweepRecords) -> Table:
    """Every health check: mean and interval over seeds and trials, its reference, how often it failed, and its warning."""
    columns = (
        Column("stage", "stage"),
        Column("source", "source"),
        Column("method", "method"),
        Column("host", "host"),
        Column("check", "check"),
        Column("value", "value", spread=True),
        Column("reference", "reference", spread=True),
        Column("failed", "failed"),
        Column("warning", "warning"),
    )
    frame = records.of("health").fillna({"source": "", "method": "", "host": ""})
    groups = grouped(frame, ["kind", "source", "method", "host", "check"])
    rows = tuple(_health_row(names, group) for names, group in groups)
    caption = "Mean ± half width of the 95 % t interval over seeds and trials; ! a failed check. Checks warn, they do not stop a sweep."
    return Table("health", "Health checks", caption, columns, rows, "health")


def health_warnings(records: SweepRecords) -> list[str]:
    """The warnings of failed checks in plain words, one for each check and place, with how often it was seen."""
    frame = records.of("health")
    warned = frame[frame["warning"].notna()].fillna({"source": "", "host": "", "method": ""})
    names = ["kind", "source", "host", "method", "check"]
    found = [
        f"{' '.join(filter(None, (kind, host or method_title(method), source)))}: "
        f"{part['warning'].iloc[0]} ({_times(len(part))})"
        for (kind, source, host, method, _), part in grouped(warned, names)
    ]
    return [*_unchosen(records), *found]


def _times(count: int) -> str:
    return f"in {count} runs, the first of them shown" if count > 1 else "in 1 run"


def _unchosen(records: SweepRecords) -> list[str]:
    """A line when final trainings have nothing that the selection rule could read."""
    finals = records.final("image", "test")
    models = set(finals["model"].unique()) - set(records.chosen_variants)
    if not models or records.origin.rule == "source_val":
        return []
    return [
        f"the rule {records.origin.rule} could not be applied to {len(models)} trainings, whose validation under stress is not "
        "there: their epoch of best validation Dice stands in"
    ]


def cost_table(records: SweepRecords) -> Table:
    """What each kind of stage cost: runs, seconds, steps, parameters and where it ran."""
    columns = (
        Column("stage", "stage"),
        Column("method", "method"),
        Column("network", "network"),
        Column("runs", "runs", decimals=0),
        Column("seconds", "seconds per run", "down", spread=True, decimals=1),
        Column("total_seconds", "seconds in all", "down", decimals=1),
        Column("steps", "steps per run", decimals=0),
        Column("parameters", "parameters", "down", decimals=0),
        Column("device", "device"),
        Column("threads", "threads"),
    )
    frame = records.of("cost").drop_duplicates("key").fillna({"method": "", "network": ""})
    groups = grouped(frame, ["kind", "method", "network"])
    rows = tuple(_cost_row(names, group) for names, group in groups)
    caption = "Every stage once, however many trials it served; mean ± half width of the 95 % t interval; n = runs."
    return Table("cost", "What the sweep cost", caption, columns, rows, "cost")


def software_versions(records: SweepRecords) -> list[str]:
    """The different sets of package versions the stages ran with, each as one line."""
    texts = {str(text) for text in records.of("cost")["versions"].dropna()}
    return sorted(named_values(text) for text in texts)


def _health_row(names: Sequence[str], group: pd.DataFrame) -> tuple[Cell, ...]:
    kind, source, method, host, check = names
    judged = group["ok"].dropna()
    failed = sum(not ok for ok in judged)
    texts = (kind, source, method_title(method), host, check)
    return (
        *(Cell(text or None) for text in texts),
        mean_cell(group["value"]).marked("warning", failed > 0),
        mean_cell(group["reference"]),
        Cell(f"{failed} of {len(judged)}" if len(judged) else None),
        Cell(" ".join(sorted({str(text) for text in group["warning"].dropna()})) or None),
    )


def _cost_row(names: Sequence[str], group: pd.DataFrame) -> tuple[Cell, ...]:
    kind, method, network = names
    texts = (kind, method_title(method), network)
    return (
        *(Cell(text or None) for text in texts),
        Cell(len(group)),
        mean_cell(group["seconds"]),
        value_cell(float(group["seconds"].sum())),
        value_cell(float(group["steps"].mean())),
        Cell(_different(group["parameters"])),
        Cell(_different(group["device"])),
        Cell(_different(group["threads"])),
    )


def _different(values: pd.Series) -> str | None:
    found = sorted(values.dropna().unique())
    texts = [str(int(value)) if isinstance(value, float) else str(value) for value in found]
    return ", ".join(texts) or None

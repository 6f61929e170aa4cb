"""Tables beside the scores: search, health checks and cost. Pure functions from records to tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pandas as pd

from gkd_bench.report.cells import Cell, Column, Table, mean_cell
from gkd_bench.report.frame import SweepRecords, grouped
from gkd_bench.report.tables import frame_rows, method_title, value_cell

_FINISHED = "complete"
_STATES = ((_FINISHED, "complete"), ("pruned", "stopped early"), ("failed", "failed"))


def search_summary(records: SweepRecords) -> Table:
    """Best trial of every study and its trials by state; the objective is on the source's validation subjects only."""
    columns = [Column("study", "study"), Column("trials", "trials", decimals=0)]
    columns += [Column(state, title, decimals=0) for state, title in _STATES]
    columns += [Column("other", "other", decimals=0), Column("best_trial", "best trial", decimals=0)]
    columns += [Column("best_value", "best value", "up"), Column("best_params", "best parameters")]
    studies = grouped(records.of("trial"), ["study"])
    rows = tuple((Cell(study), *_study_cells(trials)) for (study,), trials in studies)
    caption = "Best: highest objective (validation Dice of the source) among complete trials, earliest of equals."
    return Table("search", "Search", caption, tuple(columns), rows)


def trials_table(records: SweepRecords) -> Table:
    """Every trial of every study, one row each; a failed one with its cause."""
    columns = tuple(Column(name, name) for name in ("study", "number", "state", "value", "params", "cause", "key"))
    frame = records.of("trial").sort_values(["study", "number"], kind="stable")
    return Table("trials", "All trials", "Value: validation Dice of the source.", columns, frame_rows(columns, frame))


def health_table(records: SweepRecords) -> Table:
    """Every health check: mean and spread over seeds and trials, its reference, how often it failed, and its warning."""
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
    caption = (
        "Mean ± standard deviation over seeds and trials; ! a failed check. Checks warn, they do not stop a sweep."
    )
    return Table("health", "Health checks", caption, columns, rows)


def health_warnings(records: SweepRecords) -> list[str]:
    """The warnings of failed checks in plain words, each once, with where it was seen and how often."""
    frame = records.of("health")
    warned = frame[frame["warning"].notna()].fillna({"source": "", "host": ""})
    groups = grouped(warned, ["kind", "source", "host", "warning"])
    return [
        f"{' '.join(filter(None, (kind, host, source)))}: {warning} (in {len(part)} run{'s' if len(part) > 1 else ''})"
        for (kind, source, host, warning), part in groups
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
    return Table("cost", "Cost", "Every stage once, however many trials it served; n = runs.", columns, rows)


def software_versions(records: SweepRecords) -> list[str]:
    """The different sets of package versions the stages ran with, each as one line."""
    texts = {str(text) for text in records.of("cost")["versions"].dropna()}
    return sorted(_named_values(text) for text in texts)


def _study_cells(trials: pd.DataFrame) -> Iterable[Cell]:
    states = trials["state"]
    counts = [int((states == state).sum()) for state, _ in _STATES]
    yield from map(Cell, [len(trials), *counts, len(trials) - sum(counts)])
    finished = trials[(states == _FINISHED) & trials["value"].notna()].sort_values("number", kind="stable")
    if finished.empty:
        yield from (Cell(), Cell(), Cell())
        return
    best = finished.iloc[int(finished["value"].to_numpy(float).argmax())]
    yield from (Cell(int(best["number"])), Cell(float(best["value"])), Cell(_named_values(best["params"])))


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


def _named_values(text: str) -> str:
    """A JSON object as ``name = value`` pairs in the order of the names; other JSON as it is."""
    values = json.loads(text)
    if not isinstance(values, dict):
        return text
    return ", ".join(f"{name} = {_plain(value)}" for name, value in sorted(values.items()))


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""The last step of the main job: records to tables in the terminal, files in the results folder, runs in MLflow."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from gkd_bench.collect import collect, pictures
from gkd_bench.conduct import SweepResult
from gkd_bench.config.schema import Sweep
from gkd_bench.report.diagnostics import health_warnings, search_summary
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.render import to_rich
from gkd_bench.report.tables import answer, fsd_comparison, matrix, triple
from gkd_bench.report.tracking import Provenance, resolve_backend, ui_command, write_tracking
from gkd_bench.report.writer import write_report
from gkd_bench.store.artefacts import Store

SHOWN_WARNINGS = 3


def publish(
    sweep: Sweep,
    store: Store,
    result: SweepResult,
    references: Mapping[str, str],
    missing: Mapping[str, str],
    command: str,
    console: Console,
) -> None:
    """Write and show everything a sweep has to say. Trains nothing; can be repeated at any time.

    Args:
        sweep: the sweep.
        store: artefacts.
        result: stages, searches and failures.
        references: domain -> ``domain@fingerprint`` of its prepared data.
        missing: domain -> why it was left out.
        command: the command that does the same again.
        console: where the tables are shown.
    """
    found = collect(sweep, store, result, missing)
    if not any(record["record"] == "cost" for record in found):
        console.print("No stage has finished: there is nothing to report.")
        return
    records = SweepRecords.from_dicts(found, sweep.sources(), sweep.targets())
    text = yaml.safe_dump(shown(sweep), sort_keys=False, allow_unicode=True)
    drawn = pictures(store, result)
    files = write_report(records, Path(sweep.storage.results) / sweep.name, drawn, text, command, machine())
    _show(records, console)
    console.print(f"All tables and pictures: {os.path.relpath(files.report)}", highlight=False, soft_wrap=True)
    if sweep.tracking.enabled:
        fingerprints = {name: reference.partition("@")[2] for name, reference in references.items()}
        _track(sweep, result, records, drawn, Provenance(text, command, machine(), fingerprints), console)


def _show(records: SweepRecords, console: Console) -> None:
    """The answer and the tables that support it; the rest is in the report."""
    methods = [name for name in records.methods if name != "teacher"]
    chosen = [triple(records), matrix(records, method=methods[-1])] if methods else [triple(records)]
    for table in (*chosen, fsd_comparison(records), search_summary(records)):
        if table.rows:
            console.print(to_rich(table), "\n")
    warnings = health_warnings(records)
    if warnings:
        console.print(f"[yellow]{len(warnings)} health warnings[/yellow], the first of them:", highlight=False)
        console.print(*(f"  {line}" for line in warnings[:SHOWN_WARNINGS]), sep="\n", highlight=False, soft_wrap=True)
    console.print(answer(records), style="bold", highlight=False, soft_wrap=True)


def _track(
    sweep: Sweep,
    result: SweepResult,
    records: SweepRecords,
    drawn: Mapping[str, bytes],
    provenance: Provenance,
    console: Console,
) -> None:
    """Bring MLflow up to date and say how to open it."""
    backend = resolve_backend(sweep.tracking.uri, Path(sweep.storage.results))
    settings = {node.key: node.settings for node in result.models.nodes}
    tracked = write_tracking(records, backend, sweep.tracking.experiment, provenance, drawn, settings)
    if tracked.warning:
        console.print(f"[yellow]{tracked.warning}[/yellow]")
        return
    dashboard = ui_command(backend, tracked.experiment_id, tracked.run_id)
    console.print(f"MLflow: {tracked.written} runs written. Browse the comparison:", highlight=False)
    for line in (dashboard.command, dashboard.link, dashboard.run_link):
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def shown(sweep: Sweep) -> dict[str, Any]:
    """The sweep as it can be run elsewhere: folders relative to the working directory, data below ``GKD_DATA_ROOT``."""
    tree = sweep.dump()
    tree["storage"] = {key: os.path.relpath(path) for key, path in tree["storage"].items()}
    tree["data"]["root"] = tree["data"]["root"] and "${GKD_DATA_ROOT}"
    return tree


def machine() -> str:
    """Cores and platform, in one line."""
    return f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"

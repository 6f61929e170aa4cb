"""The last step of the main job, and all of ``gkd-bench report``: records to tables, figures, page, files and MLflow."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from gkd_bench.collect import collect, extras, model_of
from gkd_bench.config.methods import CONTROLS
from gkd_bench.report.archive import SavedSweep, load_sweep_records, merged, save_sweep
from gkd_bench.report.backend import without_password
from gkd_bench.report.contents import answer, page_tables, terminal_tables
from gkd_bench.report.diagnostics import health_warnings
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import Origin, SweepRecords
from gkd_bench.report.render import to_rich
from gkd_bench.report.writer import ReportFiles, write_report
from gkd_bench.store.artefacts import Store, is_remote

if TYPE_CHECKING:
    from gkd_bench.conduct import SweepResult
    from gkd_bench.config.schema import Sweep, Tracking

SHOWN_WARNINGS = 3


@dataclass(frozen=True)
class Wanted:
    """What of a report is to be made.

    Attributes:
        results: folder for results; the report goes into a folder of the sweep's name.
        tracking: MLflow.
        figures: draw figures, and show pictures, vectors and students from the store.
    """

    results: Path
    tracking: Tracking
    figures: bool = True


def publish(
    sweep: Sweep,
    store: Store,
    result: SweepResult,
    origin: Origin,
    missing: Mapping[str, str],
    console: Console,
    statements: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Keep a sweep's records, and write and show everything they say. Trains nothing; can be repeated at any time.

    Args:
        sweep: the sweep.
        store: artefacts.
        result: stages, searches and failures.
        origin: where it comes from.
        missing: domain -> why it was left out.
        console: where the tables are shown.
        statements: records of the domains themselves.
    """
    found = collect(sweep, store, result, missing, statements)
    if not any(record["record"] == "cost" for record in found):
        console.print("No stage has finished: there is nothing to report.")
        return
    kinds = ("teacher", "baseline", "distill", "evaluate")
    stages = tuple(node for node in (result.models + result.scores).nodes if node.kind in kinds)
    saved = SavedSweep(sweep.name, tuple(found), origin, stages)
    save_sweep(saved, store)
    report(saved, store, Wanted(Path(sweep.storage.results), sweep.tracking), console)


def report_again(names: Sequence[str], store: Store, wanted: Wanted, console: Console) -> None:
    """Make the report of one sweep, or of several as one, from their records. Raises GkdBenchError for unknown names."""
    report(merged([load_sweep_records(name, store) for name in dict.fromkeys(names)]), store, wanted, console)


def report(saved: SavedSweep, store: Store, wanted: Wanted, console: Console) -> None:
    """Everything that a sweep's records say: the terminal, the results folder, MLflow."""
    from gkd_bench.report.figures import draw_figures

    records = SweepRecords.from_dicts(saved.records, saved.origin)
    beside = extras(store, saved.stages, records) if wanted.figures else Extras()
    figures = draw_figures(records, beside) if wanted.figures else ()
    files = write_report(records, beside, wanted.results / saved.name, figures)
    show(records, console)
    for path in (files.page, files.report):
        console.print(f"{path.name}: {os.path.relpath(path)}", highlight=False, soft_wrap=True)
    if wanted.tracking.enabled:
        _track(records, beside, files, wanted, console)


def show(records: SweepRecords, console: Console) -> None:
    """The answer and the tables that support it; the rest is in the report."""
    for table in terminal_tables(records):
        console.print(to_rich(table), "\n")
    warnings = health_warnings(records)
    if warnings:
        console.print(f"[yellow]{len(warnings)} health warnings[/yellow], the first of them:", highlight=False)
        console.print(*(f"  {line}" for line in warnings[:SHOWN_WARNINGS]), sep="\n", highlight=False, soft_wrap=True)
    console.print(answer(records), style="bold", highlight=False, soft_wrap=True)


def _track(records: SweepRecords, beside: Extras, files: ReportFiles, wanted: Wanted, console: Console) -> None:
    """Bring MLflow up to date and say how to open it."""
    from gkd_bench.report.backend import resolve_backend
    from gkd_bench.report.dashboard import ui_command
    from gkd_bench.report.parent import Shown
    from gkd_bench.report.tracking import write_tracking

    folder = wanted.results / records.sweep
    later = tuple(f"_seed{seed}_" for seed in records.seeds[1:])  # their pictures stay in the results folder
    kept = [path for path in files.all() if not any(mark in path.name for mark in later)]
    paths = {path.relative_to(folder).as_posix(): path for path in kept}
    shown = Shown(answer(records), page_tables(records), {name: path.read_bytes() for name, path in paths.items()})
    backend = resolve_backend(wanted.tracking.uri, wanted.results)
    tracked = write_tracking(records, backend, wanted.tracking.experiment, shown, beside)
    if tracked.warning:
        console.print(tracked.warning, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if not tracked.run_id:
        return
    dashboard = ui_command(backend, tracked)
    console.print(f"MLflow: {tracked.written} runs written. Browse the comparison:", highlight=False)
    for line in (dashboard.command, dashboard.link, dashboard.run_link, *dashboard.model_links):
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def origin_of(
    sweep: Sweep,
    references: Mapping[str, str],
    factors: Mapping[str, float],
    trained: SweepResult,
    command: str,
    stacked: bool = False,
) -> Origin:
    """Where a sweep's records come from.

    Args:
        sweep: the sweep.
        references: domain -> ``domain@fingerprint`` of its prepared data.
        factors: domain -> working pixels per native pixel.
        trained: its final trainings.
        command: the command that does the same again.
        stacked: whether its images are slices, not photographs.
    """
    prepare = sweep.data.volumes if stacked else sweep.data.prepare
    return Origin(
        sources=sweep.sources(),
        targets=sweep.targets(),
        rule=sweep.selection.rule,
        pick=sweep.selection.pick,
        variants=rows_beside(sweep),
        sweep_yaml=yaml.safe_dump(shown(sweep), sort_keys=False, allow_unicode=True),
        command=command,
        machine=machine(),
        fingerprints={name: reference.partition("@")[2] for name, reference in references.items()},
        settings=settings_of(trained),
        prepare=prepare.model_dump(mode="json"),
        factors=dict(factors),
    )


def rows_beside(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """Controls and variants, what each changes of which method; ``same_as`` where it changes nothing in this sweep."""
    found = {}
    for name, row in sweep.methods.rows().items():
        entry = row.model_dump(mode="json", exclude_defaults=True) | {"set": row.set}
        if name in CONTROLS:
            entry["control"] = True
            if sweep.augment.photometric == "strong":
                entry["same_as"] = row.of
        found[name] = entry
    if "bn_views" in sweep.methods.controls:
        found["bn_views"] = {"of": "bn_views", "set": {}, "control": True}
    return found


def settings_of(trained: SweepResult) -> dict[str, dict[str, Any]]:
    """Settings of everything trained, and of networks that were adapted at test time, by their name in the records."""
    plain = {node.key: dict(node.settings) for node in trained.models.nodes}
    adapted = {
        model_of(node): plain[node.inputs["model"]] | {"adapt": node.settings["adapt"]}
        for node in trained.scores.nodes
        if "adapt" in node.settings and node.inputs["model"] in plain
    }
    return plain | adapted


def shown(sweep: Sweep) -> dict[str, Any]:
    """The sweep as it can be run elsewhere: folders relative to the working directory, data below ``GKD_DATA_ROOT``, no password."""
    tree = sweep.dump()
    tree["storage"] = {key: _portable(path) for key, path in tree["storage"].items()}
    tree["data"]["root"] = tree["data"]["root"] and "${GKD_DATA_ROOT}"
    tree["tracking"]["uri"] = tree["tracking"]["uri"] and without_password(tree["tracking"]["uri"])
    return tree


def _portable(path: str | None) -> str | None:
    return path if path is None or is_remote(path) else os.path.relpath(path)


def machine() -> str:
    """Cores and platform, in one line."""
    return f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"

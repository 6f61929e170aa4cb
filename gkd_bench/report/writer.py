"""Writes the report of a sweep: Markdown, CSV files, pictures and the sweep file. Equal input gives equal bytes."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gkd_bench.errors import GkdBenchError
from gkd_bench.report import diagnostics, tables
from gkd_bench.report.cells import Table
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.render import escape_markdown, to_csv, to_markdown

PICTURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
DISCLAIMER = (
    "Losses and FSD are a reconstruction from the published abstract and figures; none of these numbers is the paper's."
)


@dataclass(frozen=True)
class ReportFiles:
    """The files of one report.

    Attributes:
        report: the Markdown page.
        tables: table name -> CSV file.
        pictures: picture name -> PNG file.
        sweep: the sweep file, defaults included.
    """

    report: Path
    tables: Mapping[str, Path]
    pictures: Mapping[str, Path]
    sweep: Path


def write_report(
    records: SweepRecords,
    out: Path,
    pictures: Mapping[str, bytes],
    sweep_yaml: str,
    command: str,
    machine: str = "",
) -> ReportFiles:
    """Write every file of the report into a folder; each is replaced as a whole or not at all.

    Args:
        records: records of the sweep.
        out: folder of this sweep's results, made if it is not there; other files in it stay.
        pictures: name (letters, digits, ``_ . -``, with or without ``.png``) -> PNG bytes.
        sweep_yaml: the sweep as YAML text.
        command: the command that makes this report again.
        machine: one line about where it ran.

    Raises:
        GkdBenchError: a picture's name could leave the folder. Every such name is listed.
    """
    names = picture_names(pictures)
    (out / "overlays").mkdir(parents=True, exist_ok=True)
    preamble = origin_lines(records, command, machine)
    csv_paths = {
        name: _write(out / f"{name}.csv", to_csv(table, preamble).encode())
        for name, table in file_tables(records).items()
    }
    drawn = {name: _write(out / "overlays" / names[name], content) for name, content in sorted(pictures.items())}
    sweep = _write(out / "sweep.yaml", sweep_yaml.encode())
    page = report_page(records, list(drawn.values()), sweep_yaml, preamble)
    return ReportFiles(_write(out / "report.md", page.encode()), csv_paths, drawn, sweep)


def file_tables(records: SweepRecords) -> dict[str, Table]:
    """File name without ending -> table, for the CSV files: every table of the page, and the long ones."""
    return {
        **{table.name: table for table in page_tables(records)},
        "dice": tables.scores(records),
        "fsd": tables.fsd_values(records),
        "triple": tables.triple(records),
        "health": diagnostics.health_table(records),
        "trials": diagnostics.trials_table(records),
        "cost": diagnostics.cost_table(records),
    }


def page_tables(records: SweepRecords) -> list[Table]:
    """The tables of the page, the answer first; tables without rows are left out."""
    fsd = records.of("fsd", "test")
    uses = [use for use in ("domain", "semantic", "teacher_student") if use in set(fsd["use"])]
    measured = set(fsd[(fsd["use"] == "domain") & (fsd["space"] == "aligned")]["method"])
    chosen = [
        tables.triple(records),
        *(tables.matrix(records, method=method) for method in records.methods),
        *(tables.fsd_matrix(records, method=method) for method in records.methods if method in measured),
        *(tables.fsd_comparison(records, use) for use in uses),
        diagnostics.health_table(records),
        diagnostics.search_summary(records),
        diagnostics.cost_table(records),
    ]
    return [table for table in chosen if table.rows]


def origin_lines(records: SweepRecords, command: str, machine: str) -> list[str]:
    """Where the numbers of a file come from: sweep, command, seeds, machine, versions, and what they are not."""
    lines = [
        f"sweep: {records.sweep}",
        f"command: {command}",
        f"seeds: {', '.join(map(str, records.seeds)) or 'none'} (n = {len(records.seeds)})",
        *([f"machine: {machine}"] if machine else []),
        *(f"versions: {line}" for line in diagnostics.software_versions(records)),
        *(f"domain {domain} left out: {reason}" for domain, reason in sorted(records.missing.items())),
    ]
    return [*(" ".join(line.split()) for line in lines), DISCLAIMER]


def report_page(records: SweepRecords, pictures: Sequence[Path], sweep_yaml: str, origin: Sequence[str]) -> str:
    """The Markdown page: origin, warnings, tables, pictures, and the sweep file."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", sweep_yaml))])
    parts = [
        f"# {escape_markdown(records.sweep)}\n\n{escape_markdown(tables.answer(records))}\n",
        "".join(f"* {escape_markdown(line)}\n" for line in origin),
        _warnings_section(records),
        *(to_markdown(table, 2) for table in page_tables(records)),
        _pictures_section(pictures),
        f"## Sweep file\n\n{fence}yaml\n{sweep_yaml.rstrip()}\n{fence}\n",
    ]
    return "\n".join(part for part in parts if part)


def picture_names(pictures: Mapping[str, bytes]) -> dict[str, str]:
    """Name of a picture -> its file name. Raises GkdBenchError that lists every name that is not a plain file name."""
    wrong = sorted(name for name in pictures if not PICTURE_NAME.fullmatch(name))
    if wrong:
        raise GkdBenchError(f"pictures need plain names (letters, digits, _ . -), not {', '.join(map(repr, wrong))}")
    return {name: name if name.endswith(".png") else f"{name}.png" for name in pictures}


def _warnings_section(records: SweepRecords) -> str:
    lines = diagnostics.health_warnings(records)
    return "## Warnings\n\n" + "".join(f"* {escape_markdown(line)}\n" for line in lines) if lines else ""


def _pictures_section(paths: Sequence[Path]) -> str:
    if not paths:
        return ""
    note = "Yellow: true positive, vermilion: false positive, sky blue: false negative.\n\n"
    links = "".join(f"![{path.stem}](overlays/{path.name})\n\n" for path in paths)
    return f"## Pictures\n\n{note}{links}"


def _write(path: Path, content: bytes) -> Path:
    """Write aside and rename, so that a reader never sees half a file."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        aside.write_bytes(content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path

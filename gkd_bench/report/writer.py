"""Writes the report of a sweep: pages, tables, figures, pictures and the sweep file. Equal input gives equal bytes.

The names and digests of all files are kept in a list of files, so that a later report can take away what it no longer
makes. A file that this module did not write, or that was changed since, is never taken away.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from gkd_bench.errors import GkdBenchError
from gkd_bench.report import latex
from gkd_bench.report.cells import Table
from gkd_bench.report.contents import file_tables, page_tables
from gkd_bench.report.extras import Extras, Picture
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.origin import DISCLAIMER, origin_lines
from gkd_bench.report.page import html_page
from gkd_bench.report.page.markdown import markdown_page
from gkd_bench.report.page.panels import picture_panel
from gkd_bench.report.render import to_csv
from gkd_bench.store.files import replace_file

if TYPE_CHECKING:
    from gkd_bench.report.figures.base import Figure

__all__ = ["DISCLAIMER", "FILE_LIST", "ReportFiles", "origin_lines", "write_report"]

FILE_LIST = ".report_files.json"
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
FORMS = ("svg", "pdf", "png")


@dataclass(frozen=True)
class ReportFiles:
    """The files of one report.

    Attributes:
        page: the page for browsers, ``index.html``.
        report: the Markdown page.
        tables: table name -> CSV file.
        latex: table name -> LaTeX file; ``tables`` -> the document that has them all.
        figures: ``NAME.svg``, ``NAME.pdf``, ``NAME.png`` -> file.
        pictures: picture name -> PNG file.
        sweep: the sweep file, defaults included.
    """

    page: Path
    report: Path
    tables: Mapping[str, Path]
    latex: Mapping[str, Path]
    figures: Mapping[str, Path]
    pictures: Mapping[str, Path]
    sweep: Path

    def all(self) -> list[Path]:
        """Every file."""
        groups = (self.tables, self.latex, self.figures, self.pictures)
        return [self.page, self.report, self.sweep, *(path for group in groups for path in group.values())]


def write_report(
    records: SweepRecords, extras: Extras, out: Path, figures: Sequence[Figure] | None = None
) -> ReportFiles:
    """Write every file of the report into a folder; each is replaced as a whole or not at all.

    Args:
        records: records of the sweep.
        extras: pictures, which become panels in ``overlays/`` and small pictures in the page.
        out: folder of this sweep's results, made if it is not there; files that are not a report's stay.
        figures: drawn figures, if any.

    Raises:
        GkdBenchError: a table, figure or picture has a name that could leave the folder, or that another one has. Every
            such name is listed, and nothing is written.
    """
    drawn = tuple(figures or ())
    shown, stored = page_tables(records), file_tables(records)
    _check_names([*stored], "tables")
    _check_names([figure.name for figure in drawn], "figures")
    _check_names([picture.name for picture in extras.pictures], "pictures")
    texts = {
        "index.html": html_page(records, shown, drawn, extras),
        "report.md": markdown_page(records, shown, drawn, extras.pictures),
        "sweep.yaml": records.origin.sweep_yaml,
        **{table.csv: to_csv(table, origin_lines(records)) for table in stored.values()},
        **{f"tables/{table.name}.tex": latex.to_latex(table) for table in shown},
        "tables.tex": latex.latex_document(shown, "tables"),
    }
    _replace_files(out, _contents(texts, drawn, extras.pictures))
    return _files(out, stored, [table.name for table in shown], drawn, extras.pictures)


def _contents(
    texts: Mapping[str, str], figures: Sequence[Figure], pictures: Sequence[Picture]
) -> Iterator[tuple[str, bytes]]:
    """Path in the folder and content of every file; panels are made one by one, as there can be hundreds."""
    for name, text in texts.items():
        yield name, text.encode()
    for figure in figures:
        for form in FORMS:
            yield f"figures/{figure.name}.{form}", getattr(figure, form)
    for picture in pictures:
        yield f"overlays/{picture.name}.png", picture_panel(picture)


def _files(
    out: Path, stored: Mapping[str, Table], shown: Sequence[str], figures: Sequence[Figure], pictures: Sequence[Picture]
) -> ReportFiles:
    return ReportFiles(
        page=out / "index.html",
        report=out / "report.md",
        tables={name: out / table.csv for name, table in stored.items()},
        latex={**{name: out / "tables" / f"{name}.tex" for name in shown}, "tables": out / "tables.tex"},
        figures={f"{one.name}.{form}": out / "figures" / f"{one.name}.{form}" for one in figures for form in FORMS},
        pictures={one.name: out / "overlays" / f"{one.name}.png" for one in pictures},
        sweep=out / "sweep.yaml",
    )


def _check_names(names: Sequence[str], what: str) -> None:
    wrong = sorted({name for name in names if not PLAIN_NAME.fullmatch(name)})
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if wrong:
        raise GkdBenchError(f"{what} need plain names (letters, digits, _ . -), not {', '.join(map(repr, wrong))}")
    if twice:
        raise GkdBenchError(f"{what} need names of their own; several are called {', '.join(map(repr, twice))}")


# ---------------------------------------------------------------- files


def _replace_files(out: Path, contents: Iterator[tuple[str, bytes]]) -> None:
    """Write all files, then take away those of the last report that this one does not have."""
    out.mkdir(parents=True, exist_ok=True)
    before, now = _read_list(out), dict[str, str]()
    for name, content in contents:
        replace_file(out / name, content)
        now[name] = hashlib.sha256(content).hexdigest()
    for name in sorted(before.keys() - now.keys()):
        _take_away(out / name, before[name])
    replace_file(out / FILE_LIST, json.dumps(now, indent=1, sort_keys=True).encode())


def _read_list(out: Path) -> dict[str, str]:
    """Path in the folder -> digest, of the files of the last report; nothing where the list cannot be trusted."""
    try:
        found = json.loads((out / FILE_LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    listed = found if isinstance(found, dict) else {}
    return {str(name): str(digest) for name, digest in listed.items() if _is_inside(str(name))}


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _take_away(path: Path, digest: str) -> None:
    """Remove a file that still is what was written, and its folder if that leaves it empty."""
    if path.is_symlink() or not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        return
    path.unlink()
    if not any(path.parent.iterdir()):
        path.parent.rmdir()

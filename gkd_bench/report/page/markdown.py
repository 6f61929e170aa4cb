"""The report as Markdown: the answer, warnings, tables, links to figures and pictures, and the sweep file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gkd_bench.report.cells import Table
from gkd_bench.report.contents import answer
from gkd_bench.report.diagnostics import health_warnings
from gkd_bench.report.domains import left_out_lines
from gkd_bench.report.extras import Picture
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.origin import origin_lines
from gkd_bench.report.page.album import first_seeds
from gkd_bench.report.render import escape_markdown, to_markdown

if TYPE_CHECKING:
    from gkd_bench.report.figures.base import Figure

COLOURS = "Yellow: hits, vermilion: false positives, sky blue: misses."


def markdown_page(
    records: SweepRecords, tables: Sequence[Table], figures: Sequence[Figure], pictures: Sequence[Picture]
) -> str:
    """The Markdown page; figures and pictures are linked relatively, as ``figures/NAME.png`` and ``overlays/NAME.png``."""
    parts = [
        f"# {escape_markdown(records.sweep)}\n\n{escape_markdown(answer(records))}\n",
        "The same with pictures, sortable tables and an interactive heat-map: [index.html](index.html).\n",
        "".join(f"* {escape_markdown(line)}\n" for line in origin_lines(records)),
        _warnings_section(records),
        *(to_markdown(table, 2) for table in tables),
        *(_figure_section(figure) for figure in figures),
        _pictures_section(pictures),
        _sweep_section(records.origin.sweep_yaml),
    ]
    return "\n".join(part for part in parts if part)


def _warnings_section(records: SweepRecords) -> str:
    lines = [*left_out_lines(records), *health_warnings(records)]
    return "## Warnings\n\n" + "".join(f"* {escape_markdown(line)}\n" for line in lines) if lines else ""


def _figure_section(figure: Figure) -> str:
    title, caption, alt = (escape_markdown(text) for text in (figure.title, figure.caption, figure.alt))
    path = f"figures/{figure.name}"
    return f"## {title}\n\n![{alt}]({path}.png)\n\n{caption} [SVG]({path}.svg), [PDF]({path}.pdf).\n"


def _pictures_section(pictures: Sequence[Picture]) -> str:
    """One picture per cell opens the section, the fixed one where there is one; the others are files and in the page."""
    if not pictures:
        return ""
    shown: dict[tuple[str, str, str], Picture] = {}
    for one in sorted(first_seeds(pictures), key=lambda one: "fixed" not in one.roles):
        shown.setdefault((one.source, one.target, one.method), one)
    links = "".join(f"![{escape_markdown(one.name)}](overlays/{one.name}.png)\n\n" for one in shown.values())
    return f"## Pictures\n\n{COLOURS} One image of every cell; all {len(pictures)} are in `overlays/`.\n\n{links}"


def _sweep_section(text: str) -> str:
    """The sweep file in a fence that nothing in it can close."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`+", text))])
    return f"## Sweep file\n\n{fence}yaml\n{text.rstrip()}\n{fence}\n"

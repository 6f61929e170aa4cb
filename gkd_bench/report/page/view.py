"""What a page shows of tables, figures and pictures: plain values for the template, nothing of HTML."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING
from urllib.parse import quote

from gkd_bench.report.cells import Cell, Column, Flag, Section, Table
from gkd_bench.report.page.album import ROLES, Album
from gkd_bench.report.page.heat import Json
from gkd_bench.report.render import cell_text, heading, is_number_column

if TYPE_CHECKING:
    from gkd_bench.report.extras import Picture
    from gkd_bench.report.figures.base import Figure

SECTIONS: dict[Section, str] = {
    "answer": "The answer",
    "domains": "The domains",
    "matrix": "Generalisation matrices",
    "comparison": "Methods compared",
    "significance": "Significance",
    "selection": "Selection rules",
    "forecast": "Forecasting the drop without labels",
    "ablation": "Ablation",
    "efficiency": "Cost of the deployed network",
    "stress": "Under scanner-like corruptions",
    "search": "Search",
    "distance": "Distances between domains",
    "health": "Health checks",
    "cost": "Cost of the sweep",
}
LEGEND: dict[Flag, tuple[str, str]] = {
    "best": ("bold", "best"),
    "second": ("underlined", "second best"),
    "better": ("*", "better than the student alone, p < 0.05 after Holm's correction"),
    "worse": ("▾", "worse than the student alone, p < 0.05 after Holm's correction"),
    "better_kd": ("†", "better than KD, p < 0.05 after Holm's correction"),
    "worse_kd": ("‡", "worse than KD, p < 0.05 after Holm's correction"),
    "tie": ("≈", "a tie"),
    "in_domain": ("◦", "in-domain: the target is the source"),
    "missing": ("n/a", "the domain was left out"),
    "warning": ("!", "a health check failed"),
    "control": ("◇", "a control: no new method, without which a gain can be an illusion"),
    "port": ("¶", "published for another setting, or a reconstruction; see the note"),
    "adapted": ("§", "uses unlabelled target images"),
    "oracle": ("grey", "read the target's labels; shown as a bound, never used"),
}
LONG_TABLE = 32
DENSE_TABLE = 8
"""Columns from which a table is set smaller, so that it needs no scrolling on a common screen."""
_SHORT_TEXT = 36
_SPOKEN: dict[Flag, str] = {"best": "best", "second": "second best", "oracle": "oracle, never used"}
_LARGE_SVG, _MANY_SVGS = 400_000, 4_000_000
_POINTS_TO_PIXELS = 1.7
_WIDTH = re.compile(rb'<svg[^>]*?\swidth="([0-9.]+)pt"')
_KEY = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class CellView:
    """One cell: text, CSS classes, the number to sort by (empty: none), and what only screen readers are told."""

    text: str
    classes: str
    number: str
    spoken: str


@dataclass(frozen=True)
class TableView:
    """One table.

    Attributes:
        key: its anchor, unique among tables.
        name: its name in files.
        csv: its CSV file, beside the page.
        title, caption: for readers.
        headings: (text, CSS class of the column, which way is better).
        rows: cells row by row.
        is_long: folded away until asked for, where scripts run.
        notes: footnotes.
        is_dense: set smaller, as it has many columns.
    """

    key: str
    name: str
    csv: str
    title: str
    caption: str
    headings: tuple[tuple[str, str, str], ...]
    rows: tuple[tuple[CellView, ...], ...]
    is_long: bool
    notes: tuple[str, ...] = ()
    is_dense: bool = False


@dataclass(frozen=True)
class FigureView:
    """One figure: its picture as a ``data:`` address, its width in pixels, and its files."""

    key: str
    title: str
    caption: str
    alt: str
    address: str
    width: int
    files: tuple[tuple[str, str], ...]


def table_view(table: Table) -> TableView:
    """A table as it is shown; headings carry arrows that point to better."""
    rows = tuple(tuple(_cell_view(table, *pair) for pair in zip(table.columns, row, strict=True)) for row in table.rows)
    kinds = [_kind(table, rows, at) for at in range(len(table.columns))]
    pairs = zip(table.columns, kinds, strict=True)
    headings = tuple((_unbroken(heading(column)), kind, column.direction) for column, kind in pairs)
    return TableView(
        anchor(table.name), table.name, table.csv, table.title, table.caption, headings, rows, len(rows) > LONG_TABLE,
        table.notes, len(table.columns) >= DENSE_TABLE,
    )  # fmt: skip


def table_sections(tables: Sequence[Table]) -> list[tuple[str, str, list[TableView]]]:
    """(anchor, title, tables) of every section that has tables, the sections in the order of :data:`SECTIONS`."""
    order = list(SECTIONS)
    ordered = sorted(tables, key=lambda table: order.index(table.section))
    parts = groupby(ordered, key=lambda table: table.section)
    return [(section, SECTIONS[section], list(map(table_view, part))) for section, part in parts]


def figure_sections(figures: Sequence[Figure]) -> list[tuple[str, str, list[FigureView]]]:
    """(anchor, title, figures) of every section that has figures, in the same order as tables."""
    order = list(SECTIONS)
    ordered = sorted(figures, key=lambda figure: order.index(figure.section))
    parts = groupby(ordered, key=lambda figure: figure.section)
    largest = _LARGE_SVG if sum(len(figure.svg) for figure in figures) <= _MANY_SVGS else _LARGE_SVG // 4
    return [(section, SECTIONS[section], [figure_view(one, largest) for one in part]) for section, part in parts]


def figure_view(figure: Figure, largest: int = _LARGE_SVG) -> FigureView:
    """A figure as an image of its own: its styles and ids cannot meet those of the page, and no script in it runs.

    Above the ``largest`` size in bytes, pixels take the place of the vector form, which is beside the page in any case.
    """
    files = tuple((form, f"figures/{quote(figure.name)}.{form}") for form in ("svg", "pdf", "png"))
    found = _WIDTH.search(figure.svg[:2000])
    width = round(float(found[1]) * _POINTS_TO_PIXELS) if found else 860
    address = _figure_address(figure, largest)
    return FigureView(anchor(figure.name), figure.title, figure.caption, figure.alt, address, width, files)


def legend(tables: Iterable[Table]) -> list[tuple[str, str]]:
    """(mark, meaning) of every mark that the tables really have."""
    used = {flag for table in tables for row in table.rows for cell in row for flag in cell.flags}
    return [words for flag, words in LEGEND.items() if flag in used]


def anchor(name: str) -> str:
    """A name that can be part of an address."""
    return _KEY.sub("-", name)


def album_data(album: Album, titles: dict[str, str]) -> dict[str, Json]:
    """Pictures for the viewer: ``cells`` has ``source|target`` -> role -> pictures, ``files`` has their addresses.

    Args:
        album: small pictures.
        titles: method -> its title; also the order of the methods.
    """
    cells: dict[str, dict[str, list[Json]]] = {}
    order = list(titles)
    place = {method: at for at, method in enumerate(order)}
    ordered = sorted(album.pictures, key=lambda one: (place.get(one.method, len(order)), one.method, one.image))
    for one in ordered:
        roles = cells.setdefault(f"{one.source}|{one.target}", {})
        for role in one.roles:
            roles.setdefault(role, []).append(_picture(one, album, titles))
    sorted_roles: dict[str, Json] = {
        pair: {role: roles[role] for role in ROLES if role in roles} for pair, roles in cells.items()
    }
    return {"files": dict(album.files), "cells": sorted_roles}


def _picture(one: Picture, album: Album, titles: dict[str, str]) -> dict[str, Json]:
    return {
        "method": one.method,
        "title": titles.get(one.method, one.method),
        "image": one.image,
        "subject": one.subject,
        "seed": one.seed,
        "score": round(one.score, 6),
        "photo": album.name(one.photo),
        "label": album.name(one.label),
        "found": album.name(one.found),
        "full": f"overlays/{quote(one.name)}.png",
    }


def _figure_address(figure: Figure, largest: int) -> str:
    """The vector form, or, where dense drawings make it heavy, the pixels as WebP."""
    if len(figure.svg) <= largest:
        return f"data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}"
    from gkd_bench.report.page.album import shrunk

    return f"data:image/webp;base64,{base64.b64encode(shrunk(figure.png, 2400, 80)).decode()}"


def _cell_view(table: Table, column: Column, cell: Cell) -> CellView:
    spoken = ", ".join(words for flag, words in _SPOKEN.items() if flag in cell.flags)
    number = f"{cell.value:.10g}" if isinstance(cell.value, int | float) else ""
    return CellView(cell_text(table, column, cell), " ".join(sorted(cell.flags)), number, spoken)


def _unbroken(text: str) -> str:
    """The arrow of a heading stays with its last word."""
    return re.sub(r" (?=[↑↓]$)", "\u00a0", text)


def _kind(table: Table, rows: Sequence[Sequence[CellView]], at: int) -> str:
    """CSS class of a column: numbers stand right, short words do not break, long ones do."""
    if is_number_column(table, at):
        return "number"
    return "text short" if max((len(row[at].text) for row in rows), default=0) <= _SHORT_TEXT else "text long"

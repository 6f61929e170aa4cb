"""Tables as terminal text, Markdown and CSV; equal tables give equal bytes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gkd_bench.report.cells import Cell, Column, Flag, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

MARKS: tuple[tuple[Flag, str], ...] = (("tie", "≈"), ("in_domain", "◦"), ("warning", "!"))
NOTHING = "-"
MISSING = "n/a"
_ARROWS = {"up": " ↑", "down": " ↓", "none": ""}
_FORMULA_START = ("=", "+", "-", "@", "\t", "\r", "\n")
_MARKDOWN_SPECIAL = re.compile(r"([\\`*\[\]|<>])")


def to_markdown(table: Table, level: int = 3) -> str:
    """A heading, the caption and a Markdown table; the best cell of a row is bold."""
    lines = [f"{'#' * level} {escape_markdown(table.title)}", "", escape_markdown(_caption(table)), ""]
    lines.append(_markdown_row([escape_markdown(heading(column)) for column in table.columns]))
    lines.append(_markdown_row(["---:" if _is_number(table, at) else ":---" for at in range(len(table.columns))]))
    lines += [_markdown_row(_markdown_cells(table, row)) for row in table.rows]
    return "\n".join(lines) + "\n"


def to_csv(table: Table, preamble: Sequence[str] = ()) -> str:
    """CSV with ``#`` comment lines first: title, caption and the given lines. Text cells cannot start a formula.

    A column with a spread becomes three: value, ``_sd`` (standard deviation) and ``_n``. A result that does not exist is
    an empty cell, one of a domain that was left out ``n/a``.
    """
    buffer = io.StringIO()
    for line in (table.title, _caption(table), *preamble):
        buffer.write("".join(f"# {part}\n" for part in line.splitlines()))
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_safe(name) for column in table.columns for name in _csv_names(column)])
    writer.writerows(_csv_row(table.columns, row) for row in table.rows)
    return buffer.getvalue()


def to_rich(table: Table) -> RichTable:
    """The table for a terminal; texts are taken literally, never as markup."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        title=Text(table.title), caption=Text(_caption(table)), title_justify="left", caption_justify="left"
    )
    for at, column in enumerate(table.columns):
        shown.add_column(Text(heading(column)), justify="right" if _is_number(table, at) else "left")
    for row in table.rows:
        pairs = zip(table.columns, row, strict=True)
        shown.add_row(*(Text(cell_text(table, column, cell), style=_style(cell)) for column, cell in pairs))
    return shown


def readable_rows(table: Table) -> list[list[str]]:
    """Headings, then rows, as readers see them."""
    rows = [[cell_text(table, *pair) for pair in zip(table.columns, row, strict=True)] for row in table.rows]
    return [[heading(column) for column in table.columns], *rows]


def cell_text(table: Table, column: Column, cell: Cell) -> str:
    """What readers see in a cell: ``0.743 ± 0.012``, with ``(n = 2)`` where n is not the same in the whole table."""
    if "missing" in cell.flags:
        return MISSING
    if cell.value is None:
        return NOTHING
    text = _number(column, cell.value)
    if cell.spread is not None:
        text += f" ± {cell.spread:.{column.decimals}f}"
    if column.spread and len(table.seed_counts) > 1:
        text += f" (n = {cell.n})"
    return text + "".join(f" {mark}" for flag, mark in MARKS if flag in cell.flags)


def heading(column: Column) -> str:
    """A column's title with an arrow that points to better."""
    return column.title + (_ARROWS[column.direction])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _caption(table: Table) -> str:
    counts = table.seed_counts
    return f"{table.caption} n = {counts[0]}." if len(counts) == 1 and "n =" not in table.caption else table.caption


def _number(column: Column, value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return f"{value:{'+' if column.signed else ''}.{column.decimals}f}"


def _is_number(table: Table, at: int) -> bool:
    values = [row[at].value for row in table.rows]
    return table.columns[at].spread or any(isinstance(value, int | float) for value in values)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cells(table: Table, row: Sequence[Cell]) -> list[str]:
    texts = [escape_markdown(cell_text(table, column, cell)) for column, cell in zip(table.columns, row, strict=True)]
    return [f"**{text}**" if "best" in cell.flags else text for text, cell in zip(texts, row, strict=True)]


def _style(cell: Cell) -> str:
    if "missing" in cell.flags or cell.value is None:
        return "dim"
    return "bold" if "best" in cell.flags else "yellow" if "warning" in cell.flags else ""


def _csv_names(column: Column) -> list[str]:
    return [column.key, f"{column.key}_sd", f"{column.key}_n"] if column.spread else [column.key]


def _csv_row(columns: Sequence[Column], row: Sequence[Cell]) -> list[str]:
    values: list[str] = []
    for column, cell in zip(columns, row, strict=True):
        values.append(MISSING if "missing" in cell.flags else _csv_value(cell.value))
        if column.spread:
            values += [_csv_value(cell.spread), str(cell.n)]
    return values


def _csv_value(value: str | int | float | None) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return "" if value is None else _safe(str(value)) if isinstance(value, str) else str(value)


def _safe(text: str) -> str:
    """Spreadsheets run a cell that starts like a formula; a leading apostrophe makes it text."""
    return f"'{text}" if text.startswith(_FORMULA_START) else text

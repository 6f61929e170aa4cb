"""Tables as terminal text, Markdown and CSV; equal tables give equal bytes. LaTeX has a module of its own."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gkd_bench.report.cells import Cell, Column, Flag, Table, Value

if TYPE_CHECKING:
    from rich.table import Table as RichTable

MARKS: tuple[tuple[Flag, str], ...] = (
    ("better", "*"),
    ("worse", "▾"),
    ("better_kd", "†"),
    ("worse_kd", "‡"),
    ("tie", "≈"),
    ("in_domain", "◦"),
    ("warning", "!"),
    ("control", "◇"),
    ("port", "¶"),
    ("adapted", "§"),
)
NOTHING = "-"
MISSING = "n/a"
_ARROWS = {"up": " ↑", "down": " ↓", "none": ""}
CSV_PARTS = ("half", "low", "high", "n", "subjects", "p")
_MARKDOWN_STYLES: tuple[tuple[Flag, str, str], ...] = (
    ("best", "**", "**"),
    ("second", "<ins>", "</ins>"),
    ("oracle", "*", "*"),
)
_TERMINAL_STYLES: tuple[tuple[Flag, str], ...] = (
    ("best", "bold"),
    ("second", "underline"),
    ("warning", "yellow"),
    ("oracle", "bright_black italic"),
)
_LINE_BREAKS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
_SIGNS = r"=+@\uff1d\uff0b\uff20"  # also the wide forms, which some spreadsheets take for the plain ones
_FORMULA_START = re.compile(rf"[\s\u200b\ufeff]*[{_SIGNS}\t\-\uff0d]")
_NUMBER = r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_PLAIN_NUMBER = re.compile(_NUMBER)
_FORMULA_INSIDE = re.compile(  # after a space, a dash is one of a sentence
    rf"([,;\t|])(?=\s*[{_SIGNS}]|[\t\-\uff0d])(?!\s*{_NUMBER}\.?(?:[,;|\s\])}}]|$))"
)
_MARKDOWN_SPECIAL = re.compile(r"([\\`*\[\]|<>])")


def to_markdown(table: Table, level: int = 3) -> str:
    """A heading, the caption, a Markdown table and its notes: best bold, second underlined (``<ins>``, which GitHub and MLflow show)."""
    lines = [f"{'#' * level} {escape_markdown(table.title)}", "", escape_markdown(_caption(table)), ""]
    lines.append(_markdown_row([escape_markdown(heading(column)) for column in table.columns]))
    lines.append(_markdown_row(["---:" if is_number_column(table, at) else ":---" for at in range(len(table.columns))]))
    lines += [_markdown_row(_markdown_cells(table, row)) for row in table.rows]
    lines += ["", *(f"* {escape_markdown(note)}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def to_csv(table: Table, preamble: Sequence[str] = ()) -> str:
    """CSV with ``#`` comment lines first: title, caption, notes and the given lines. Text cells cannot start a formula.

    A column of means becomes seven: value, ``_half`` (half width of the 95 % t interval over seeds), ``_low`` and ``_high``
    (95 % bootstrap interval over seeds and subjects), ``_n`` (seeds), ``_subjects`` and ``_p`` (Holm-adjusted, against the
    student alone unless the table names another reference). A result that does not exist is an empty cell, one of a domain
    that was left out ``n/a``.
    """
    buffer = io.StringIO()
    for line in (table.title, _caption(table), *table.notes, *preamble):
        buffer.write("".join(f"# {_safe_comment(part)}\n" for part in line.splitlines()))
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([safe_cell(name) for column in table.columns for name in _csv_names(column)])
    writer.writerows(_csv_row(table.columns, row) for row in table.rows)
    return buffer.getvalue()


def to_rich(table: Table) -> RichTable:
    """The table for a terminal; texts are taken literally, never as markup."""
    from rich.table import Table as RichTable
    from rich.text import Text

    words = "\n".join([_caption(table), *table.notes])
    shown = RichTable(title=Text(table.title), caption=Text(words), title_justify="left", caption_justify="left")
    for at, column in enumerate(table.columns):
        shown.add_column(Text(heading(column)), justify="right" if is_number_column(table, at) else "left")
    for row in table.rows:
        pairs = zip(table.columns, row, strict=True)
        shown.add_row(*(Text(cell_text(table, column, cell), style=_style(cell)) for column, cell in pairs))
    return shown


def readable_rows(table: Table) -> list[list[str]]:
    """Headings, then rows, as readers see them."""
    rows = [[cell_text(table, *pair) for pair in zip(table.columns, row, strict=True)] for row in table.rows]
    return [[heading(column) for column in table.columns], *rows]


def cell_text(table: Table, column: Column, cell: Cell) -> str:
    """What readers see in a cell: ``0.743 ± 0.012 [0.71, 0.77]``, with ``(n = 2)`` where n differs within the table."""
    if "missing" in cell.flags:
        return MISSING
    if cell.value is None:
        return NOTHING
    return _text(column, cell, column.spread and len(table.seed_counts) > 1)


def heading(column: Column) -> str:
    """A column's title with an arrow that points to better."""
    return column.title + (_ARROWS[column.direction])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: object) -> str:
    """Text as Markdown code, on one line, that nothing in it can end."""
    line = " ".join(str(text).split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def _caption(table: Table) -> str:
    counts = table.seed_counts
    return f"{table.caption} n = {counts[0]}." if len(counts) == 1 and "n =" not in table.caption else table.caption


def _text(column: Column, cell: Cell, counted: bool) -> str:
    text = _number(column, cell)
    if isinstance(cell.value, int | float):
        text += "" if cell.half is None else f" ± {cell.half:.{column.decimals}f}"
        text += _interval(column, cell) if column.interval else ""
        text += f" (n = {cell.n})" if counted and cell.n else ""
    return text + "".join(f" {mark}" for flag, mark in MARKS if flag in cell.flags)


def _interval(column: Column, cell: Cell) -> str:
    """The bootstrap interval, with one decimal less than the mean where it is wide and its signs cannot get lost."""
    if cell.low is None or cell.high is None:
        return ""
    wide = column.decimals > 2 and not column.signed and cell.high - cell.low >= 0.4 * 10 ** (2 - column.decimals)
    form = f"{'+' if column.signed else ''}.{column.decimals - wide}f"
    return f" [{cell.low:{form}}, {cell.high:{form}}]"


def _number(column: Column, cell: Cell) -> str:
    value = cell.value
    if isinstance(value, float):
        alone = cell.half is None and cell.low is None  # no interval says how little is not nothing
        hidden = alone and 0 < abs(value) < 0.5 * 10**-column.decimals and not column.signed
        return f"{value:.1e}" if hidden else f"{value:{'+' if column.signed else ''}.{column.decimals}f}"
    return str(value)


def is_number_column(table: Table, at: int) -> bool:
    """Whether a column holds numbers, which are set to the right."""
    values = [row[at].value for row in table.rows]
    return table.columns[at].spread or any(isinstance(value, int | float) for value in values)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cells(table: Table, row: Sequence[Cell]) -> list[str]:
    return [_markdown_cell(table, *pair) for pair in zip(table.columns, row, strict=True)]


def _markdown_cell(table: Table, column: Column, cell: Cell) -> str:
    text = escape_markdown(cell_text(table, column, cell))
    for flag, before, after in _MARKDOWN_STYLES:
        if flag in cell.flags:
            return f"{before}{text}{after}"
    return text


def _style(cell: Cell) -> str:
    if "missing" in cell.flags or cell.value is None:
        return "dim"
    return next((style for flag, style in _TERMINAL_STYLES if flag in cell.flags), "")


def _csv_names(column: Column) -> list[str]:
    return [column.key, *(f"{column.key}_{part}" for part in CSV_PARTS)] if column.spread else [column.key]


def _csv_row(columns: Sequence[Column], row: Sequence[Cell]) -> list[str]:
    values: list[str] = []
    for column, cell in zip(columns, row, strict=True):
        values.append(MISSING if "missing" in cell.flags else _csv_value(cell.value))
        if column.spread:
            values += [_csv_value(value) for value in (cell.half, cell.low, cell.high, cell.n, cell.subjects, cell.p)]
    return values


def _csv_value(value: Value) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return "" if value is None else safe_cell(value) if isinstance(value, str) else str(value)


def safe_cell(text: str) -> str:
    """Text for a cell of a CSV file: spreadsheets run one that starts like a formula, a leading apostrophe makes it text.

    Line breaks, which are not always told from the end of a row, become spaces. Numbers stay numbers, negative ones too.
    """
    line = _LINE_BREAKS.sub(" ", text)
    return f"'{line}" if _FORMULA_START.match(line) and not _PLAIN_NUMBER.fullmatch(line) else line


def _safe_comment(line: str) -> str:
    """A line that a spreadsheet, which knows no comments, splits into cells."""
    return _FORMULA_INSIDE.sub(r"\1'", line)

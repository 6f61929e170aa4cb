"""Tables as LaTeX with booktabs: fragments for ``\\input``, and a document that compiles with any common engine.

A fragment needs the packages ``amssymb``, ``array``, ``booktabs``, ``graphicx``, ``textcomp`` and ``xcolor``, and T1 fonts. A table that is too
wide for a page goes on below itself with its row names repeated, one that is too long on the next page.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from gkd_bench.report.cells import Cell, Column, Flag, Table
from gkd_bench.report.render import cell_text, heading, is_number_column

WIDEST = 205  # characters side by side that are still readable on a landscape page
LONGEST = 30  # rows of one part
WRAPPED = 34  # characters from which a column of text gets lines
_BODY_LINES = 42  # lines of all parts on one page, headings included
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "-": "{-}", "[": "{[}", "]": "{]}", "*": "{*}",
    "±": r"$\pm$", "≈": r"$\approx$", "→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "\u00d7": r"$\times$",
    "◦": r"$\circ$", "▾": r"$\blacktriangledown$", "†": r"\dag{}", "‡": r"\ddag{}", "◇": r"$\diamond$",
    "¶": r"\P{}", "§": r"\S{}", "✓": r"$\checkmark$", "≥": r"$\geq$",
    "≤": r"$\leq$", "\u2212": "$-$", "\u2013": "{--}", "\u2014": "{---}", "\u201c": "``", "\u201d": "''", "\u2019": "'", "\u2026": r"\ldots{}",
    "°": r"$^\circ$", "µ": r"$\mu$", "μ": r"$\mu$", "·": r"$\cdot$", "²": "$^2$", "³": "$^3$",
}  # fmt: skip
_LATIN = re.compile(r"[A-Za-z0-9 .,:;!?()=+/@\u00c0-\u00ff\u0100-\u0107\u0118-\u011b\u0141-\u0144\u0152-\u0153\u015a-\u015b\u0160-\u0161\u0178-\u017e]")  # fmt: skip
_STYLES: tuple[tuple[Flag, str], ...] = (
    ("best", r"\textbf{%s}"),
    ("second", r"\underline{%s}"),
    ("oracle", r"\textcolor{gray}{\textit{%s}}"),
)
_PREAMBLE = r"""\documentclass[10pt,a4paper,landscape]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage{lmodern}
\usepackage{textcomp}
\usepackage{amssymb}
\usepackage{array}
\usepackage{booktabs}
\usepackage{graphicx}
\usepackage{xcolor}
\usepackage[margin=15mm]{geometry}
"""


def to_latex(table: Table) -> str:
    """A table as a fragment: one ``table`` environment per page it needs, its notes below it."""
    pages = list(_pages(table))
    return "\n".join(_page(table, parts, place, len(pages)) for place, parts in enumerate(pages))


def latex_document(tables: Sequence[Table], folder: str | None = None) -> str:
    """A document of all tables that compiles on its own.

    Args:
        tables: what it shows, in order.
        folder: where the fragments ``<name>.tex`` are, to ``\\input`` them; none to have them in the document itself.
    """
    lines: list[str] = []
    for before, table in zip([None, *tables], tables, strict=False):
        if before is not None and before.section != table.section:
            lines.append(r"\clearpage")
        lines.append(to_latex(table) if folder is None else f"\\input{{{folder}/{table.name}}}")
    body = "\n".join(lines) or "No tables."
    return f"{_PREAMBLE}\\begin{{document}}\n{body}\n\\end{{document}}\n"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is; letters that its fonts lack are printed as their code point."""
    return "".join(_character(character) for character in " ".join(text.split()))


def _character(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if _LATIN.fullmatch(character):
        return character
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(_SPECIAL.get(one, one) for one in plain) or f"{{[}}U+{ord(character):04X}{{]}}"


def _page(table: Table, parts: Sequence[str], place: int, pages: int) -> str:
    going_on = f" (part {place + 1} of {pages})" if pages > 1 else ""
    label = f"\\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', table.name)}}}" if place == 0 else ""
    lines = [r"\begin{table}[htbp]", r"\centering", r"\footnotesize"]
    lines += [f"\\caption{{{escape_latex(table.title + going_on)}}}{label}", *parts]
    if place == pages - 1:
        words = r" \par ".join(map(escape_latex, (table.caption, *table.notes)))
        lines += [r"\par\smallskip", f"\\parbox{{\\linewidth}}{{\\scriptsize {words}}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _pages(table: Table) -> Iterator[list[str]]:
    """Parts that fit on one page each: blocks of rows, each with all its groups of columns."""
    groups = _column_groups(table)
    size = max(4, min(LONGEST, _BODY_LINES // len(groups) - 3))
    starts = range(0, max(len(table.rows), 1), size)
    page: list[str] = []
    lines = 0
    for rows in (table.rows[start : start + size] for start in starts):
        parts = [_tabular(table, group, rows) for group in groups]
        needed = len(groups) * (len(rows) + 3)
        if page and lines + needed > _BODY_LINES:
            yield page
            page, lines = [], 0
        page += parts
        lines += needed
    yield page


def _column_groups(table: Table) -> list[list[int]]:
    """Places of the columns of every part; the names of the rows, their first columns of text, are in each."""
    widths = [_width(table, at) for at in range(len(table.columns))]
    names = _name_columns(table)
    fixed = sum(widths[at] for at in names)
    groups: list[list[int]] = [[]]
    used = fixed
    for at in range(len(names), len(table.columns)):
        if groups[-1] and used + widths[at] > WIDEST:
            groups.append([])
            used = fixed
        groups[-1].append(at)
        used += widths[at]
    return [[*names, *group] for group in groups]


def _name_columns(table: Table) -> list[int]:
    """The first columns as far as they are short text, at most three."""
    names: list[int] = []
    for at in range(min(3, len(table.columns) - 1)):
        if is_number_column(table, at) or _width(table, at) > WRAPPED:
            break
        names.append(at)
    return names


def _width(table: Table, at: int) -> int:
    column = table.columns[at]
    longest = max((len(cell_text(table, column, row[at])) for row in table.rows), default=0)
    return max(min(longest, WRAPPED), min(len(heading(column)), max(longest, 16))) + 2


def _tabular(table: Table, places: Sequence[int], rows: Sequence[Sequence[Cell]]) -> str:
    columns = [table.columns[at] for at in places]
    layout = "".join(_layout(table, at) for at in places)
    head = " & ".join(_heading(table, at) for at in places)
    body = [
        " & ".join(_cell(table, column, row[at]) for column, at in zip(columns, places, strict=True)) for row in rows
    ]
    lines = [f"\\begin{{tabular}}{{@{{}}{layout}@{{}}}}", r"\toprule", f"{head} \\\\", r"\midrule"]
    lines += [f"{line} \\\\" for line in body] + [r"\bottomrule", r"\end{tabular}"]
    return _fitted("\n".join(lines))


def _fitted(tabular: str) -> str:
    """The tabular, made smaller where it is still wider than the text."""
    return f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{tabular}}}\\par\\medskip"


def _layout(table: Table, at: int) -> str:
    if is_number_column(table, at):
        return "r"
    longest = max((len(cell_text(table, table.columns[at], row[at])) for row in table.rows), default=0)
    return r">{\raggedright\arraybackslash}p{60mm}" if longest > WRAPPED else "l"


def _heading(table: Table, at: int) -> str:
    """A heading; long ones over narrow columns are broken into lines of about the column's width."""
    text, side = heading(table.columns[at]), "r" if is_number_column(table, at) else "l"
    lines = _broken(text, max(16, _width(table, at) - 2))
    if len(lines) == 1:
        return escape_latex(text)
    broken = r" \\ ".join(map(escape_latex, lines))
    return f"\\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{broken}\\end{{tabular}}"


def _broken(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if lines[-1] and len(joined) > width and word not in "↑↓":
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def _cell(table: Table, column: Column, cell: Cell) -> str:
    text = escape_latex(cell_text(table, column, cell))
    return next((style % text for flag, style in _STYLES if flag in cell.flags), text)

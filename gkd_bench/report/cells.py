"""What a table is: frozen columns and cells, independent of how they are printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from gkd_bench.report.statistics import Array, t_half_width

Direction = Literal["up", "down", "none"]
Flag = Literal[
    "best", "second", "in_domain", "missing", "tie", "warning", "better", "worse", "better_kd", "worse_kd", "oracle",
    "control", "port", "adapted",
]  # fmt: skip
Section = Literal[
    "answer", "domains", "matrix", "comparison", "significance", "selection", "forecast", "ablation", "efficiency", "stress",
    "search", "distance", "health", "cost",
]  # fmt: skip
Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: its name in files; letters, digits and ``_ / -``.
        title: its name for readers.
        direction: whether higher (``up``) or lower (``down``) is better.
        spread: its cells are means over seeds with intervals and counts, which become columns of their own in CSV.
        decimals: decimals that readers see; CSV keeps six significant digits.
        signed: readers see a plus sign before positive numbers.
        interval: readers see the bootstrap interval in brackets.
    """

    key: str
    title: str
    direction: Direction = "none"
    spread: bool = False
    decimals: int = 3
    signed: bool = False
    interval: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        value: text, number, or none for a result that does not exist.
        half: half width of the 95 % t interval over ``n`` seeds; none below two.
        low, high: 95 % hierarchical bootstrap interval over seeds and test subjects, where it was computed.
        n: how many values (seeds) the number is a mean of; 0 where it is no mean.
        subjects: how many test subjects it rests on; 0 where that has no meaning.
        p: Holm-adjusted p of the paired permutation test over subjects against the student alone, in [0, 1].
        flags: ``best`` and ``second`` of its row or column, ``in_domain`` (target = source), ``missing`` (domain left
            out), ``tie`` (difference too small to count), ``warning`` (a health check failed), ``better``, ``worse``
            (than the student alone, p < 0.05 after Holm), ``better_kd``, ``worse_kd`` (than KD), ``oracle`` (read target
            labels; shown, never used); of the name of a method: ``control`` (without which a gain can be an illusion),
            ``port`` (published for another setting), ``adapted`` (uses unlabelled target images).
    """

    value: Value = None
    half: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    subjects: int = 0
    p: float | None = None
    flags: frozenset[Flag] = frozenset()

    def marked(self, flag: Flag, when: bool = True) -> Cell:
        """The same cell with one flag more, if ``when``."""
        return replace(self, flags=self.flags | {flag}) if when else self


@dataclass(frozen=True)
class Table:
    """A table: every row has one cell per column.

    Attributes:
        name: its name in files.
        title: one line for readers.
        caption: what is measured, over what, with which n, and what the marks mean.
        columns: columns from left to right.
        rows: cells row by row.
        section: the part of a report it belongs to.
        notes: footnotes, one sentence or two each.
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    section: Section
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError when a row is not as wide as the table."""
        widths = {len(row) for row in self.rows}
        if widths - {len(self.columns)}:
            raise ValueError(f"table {self.name}: {len(self.columns)} columns but rows of {sorted(widths)} cells")

    @property
    def csv(self) -> str:
        """Where its CSV file is in the report's folder; the many matrices have a folder of their own."""
        return f"matrices/{self.name}.csv" if self.name.startswith("matrix_") else f"{self.name}.csv"

    @cached_property
    def seed_counts(self) -> tuple[int, ...]:
        """The different ``n`` of its cells, smallest first; one number means that n is the same everywhere."""
        return tuple(sorted({cell.n for row in self.rows for cell in row if cell.n}))


def mean_cell(values: Iterable[float | None]) -> Cell:
    """Mean of the finite values and half width of its 95 % t interval; an empty cell when there is none."""
    finite = np.array([value for value in values if value is not None and math.isfinite(value)], np.float64)
    if not finite.size:
        return Cell()
    return Cell(float(finite.mean()), t_half(finite), n=int(finite.size))


def t_half(values: Array) -> float | None:
    """Half width of the 95 % t interval of the mean of finite values, (n,); none below two of them."""
    return float(t_half_width(values.std(ddof=1), values.size)) if values.size > 1 else None


def mark_ranks(cells: Sequence[Cell], direction: Direction, decimals: int = 3) -> list[Cell]:
    """The cells with the best number flagged ``best`` and the next one ``second``.

    Numbers that look equal at ``decimals`` are equal. Nothing is flagged below two numbers, or where all are equal; cells
    of the oracle are no contestants.
    """
    shown = [_shown(cell, decimals) for cell in cells]
    ranks = sorted({number for number in shown if number is not None}, reverse=direction == "up")
    if len(ranks) < 2 or direction == "none":
        return list(cells)
    places: dict[float, Flag] = {ranks[0]: "best"}
    if len([number for number in shown if number is not None]) > 2:
        places[ranks[1]] = "second"
    return [
        cell.marked(places[number]) if number is not None and number in places else cell
        for cell, number in zip(cells, shown, strict=True)
    ]


def _shown(cell: Cell, decimals: int) -> float | None:
    is_number = isinstance(cell.value, int | float) and math.isfinite(cell.value)
    return round(float(cell.value or 0), decimals) if is_number and "oracle" not in cell.flags else None

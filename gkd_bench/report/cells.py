"""What a table is: frozen columns and cells, independent of how they are printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Direction = Literal["up", "down", "none"]
Flag = Literal["best", "in_domain", "missing", "tie", "warning"]
Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: its name in files; letters, digits and ``_ / -``.
        title: its name for readers.
        direction: whether higher (``up``) or lower (``down``) is better.
        spread: its cells have a spread and a count, which become columns of their own in CSV.
        decimals: decimals that readers see; CSV keeps six significant digits.
        signed: readers see a plus sign before positive numbers.
    """

    key: str
    title: str
    direction: Direction = "none"
    spread: bool = False
    decimals: int = 3
    signed: bool = False


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        value: text, number, or none for a result that does not exist.
        spread: standard deviation over ``n`` values (n - 1 in the denominator), or none below two values.
        n: how many values (seeds) the number is a mean of; 0 where it is no mean.
        flags: ``best`` of its row, ``in_domain`` (target = source), ``missing`` (domain left out), ``tie`` (difference
            too small to count), ``warning`` (a health check failed).
    """

    value: Value = None
    spread: float | None = None
    n: int = 0
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
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        """Raise ValueError when a row is not as wide as the table."""
        widths = {len(row) for row in self.rows}
        if widths - {len(self.columns)}:
            raise ValueError(f"table {self.name}: {len(self.columns)} columns but rows of {sorted(widths)} cells")

    @property
    def seed_counts(self) -> tuple[int, ...]:
        """The different ``n`` of its cells, smallest first; one number means that n is the same everywhere."""
        return tuple(sorted({cell.n for row in self.rows for cell in row if cell.n}))


def mean_cell(values: Iterable[float]) -> Cell:
    """Mean and standard deviation (n - 1) of the finite values; an empty cell when there is none."""
    finite = np.array([value for value in values if value is not None and math.isfinite(value)], np.float64)
    if not finite.size:
        return Cell()
    spread = float(finite.std(ddof=1)) if finite.size > 1 else None
    return Cell(float(finite.mean()), spread, int(finite.size))


def mark_best(cells: Sequence[Cell], direction: Direction) -> list[Cell]:
    """The cells of a row with the best number flagged, equal ones alike; nothing to flag below two numbers."""
    numbers = [cell.value for cell in cells if isinstance(cell.value, int | float)]
    if len(numbers) < 2 or direction == "none":
        return list(cells)
    best = max(numbers) if direction == "up" else min(numbers)
    return [cell.marked("best", cell.value == best) for cell in cells]

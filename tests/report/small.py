"""Small sweeps with given scores, and cells by their column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gkd_bench.report.cells import Cell, Table
from gkd_bench.report.frame import Origin, SweepRecords

from .made_up import Record, base, metrics

Scores = Sequence[float] | Sequence[Sequence[float]]
"""per seed: one score, or one per test subject"""


def image_rows(
    levels: Mapping[str, Scores], source: str = "hrf", target: str = "stare", metric: str = "dice_fov"
) -> list[Record]:
    """One image per method, seed and subject; every other metric goes with the level."""
    rows = []
    for method, seeds in levels.items():
        for seed, scores in enumerate(seeds):
            labels = base("evaluate", method, source, target, seed) | {"record": "image", "variant": "best"}
            for number, score in enumerate([scores] if isinstance(scores, int | float) else scores):
                who = {"subject": f"s{number}", "image": f"i{number}"}
                rows.append({**labels, **who, **metrics(0.5), metric: score})
    return rows


def scored(
    levels: Mapping[str, Scores],
    source: str = "hrf",
    target: str = "stare",
    metric: str = "dice_fov",
    **origin: Any,
) -> SweepRecords:
    """A sweep of one pair of domains."""
    return SweepRecords.from_dicts(image_rows(levels, source, target, metric), Origin(**origin))


def cells_of(table: Table, row: int = 0) -> dict[str, Cell]:
    """Column key -> cell of one row."""
    return dict(zip((column.key for column in table.columns), table.rows[row], strict=True))


def row_of(table: Table, *names: str) -> dict[str, Cell]:
    """The row that starts with these texts."""
    return next(
        cells_of(table, at) for at, row in enumerate(table.rows) if [c.value for c in row[: len(names)]] == [*names]
    )

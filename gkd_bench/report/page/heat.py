"""The numbers behind the interactive heat-map: every metric of every method on every pair of domains, as plain JSON.

Every cell says the value, the difference to the student alone and the change from the source's own domain. Differences are
paired by seed and subject. A change compares other subjects, so it is paired by seed only and has a t interval only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gkd_bench.report.blocks import Key
from gkd_bench.report.cells import Cell, Flag, mean_cell
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import (
    ALONE,
    REGION,
    TEACHER,
    method_title,
    metric_decimals,
    metric_direction,
    metric_tie,
    short_title,
)
from gkd_bench.report.palette import SEQUENTIAL, shade, text_colour

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
FIRST = "gkd"
_DIGITS = 5
_MARKS: tuple[Flag, ...] = ("better", "worse", "tie")


@dataclass(frozen=True)
class StaticCell:
    """One cell of the heat-map as it stands without scripts."""

    value: str
    half: str
    colour: str
    ink: str
    in_domain: bool


@dataclass(frozen=True)
class StaticHeat:
    """The heat-map as it stands without scripts: the headline metric of one method; rows: (source, cells)."""

    metric: str
    method: str
    rows: tuple[tuple[str, tuple[StaticCell, ...]], ...]


def shown_metrics(records: SweepRecords) -> list[str]:
    """Columns of the metrics to choose from, the headline first; inside the field of view wherever the task has one.

    Of several classes, the headline of each follows that of all.
    """
    evidence = Evidence.of(records)
    inside = [metric for metric in evidence.metrics if metric.endswith(REGION)]
    ordered = sorted(inside or evidence.metrics, key=lambda metric: metric != evidence.headline)
    classes = [column for name in evidence.classes if (column := evidence.of_class(evidence.headline, name))]
    return [*ordered[:1], *classes, *ordered[1:]]


def first_method(records: SweepRecords) -> str:
    """The method that the page opens on: GKD, else the last student, else whatever was scored."""
    students = [method for method in records.methods if method != TEACHER]
    return FIRST if FIRST in students else (students or records.methods)[-1]


def heat_data(records: SweepRecords) -> dict[str, Json] | None:
    """Everything the heat-map shows; none when nothing was scored."""
    metrics = shown_metrics(records)
    if not records.methods or not metrics:
        return None
    return {
        "sources": records.sources,
        "targets": records.targets,
        "missing": dict(records.missing),
        "methods": [{"key": method, "title": method_title(method)} for method in records.methods],
        "metrics": [_card(metric) for metric in metrics],
        "method": first_method(records),
        "alone": ALONE,
        **({} if (people := Evidence.of(records).words.subjects) == "subjects" else {"people": people}),
        "cells": {metric: _metric_cells(records, metric) for metric in metrics},
    }


def static_heat(records: SweepRecords) -> StaticHeat:
    """The first view of :func:`heat_data`, drawn without scripts."""
    metric, method = shown_metrics(records)[0], first_method(records)
    cells = Evidence.of(records).cells(metric)
    numbers = [float(cell.value) for cell in cells.values() if isinstance(cell.value, float)]
    low, high = min(numbers), max(numbers)
    rows = tuple(
        (
            source,
            tuple(
                _static_cell(cells.get((source, target, method)), metric, (low, high), source == target)
                for target in records.targets
            ),
        )
        for source in records.sources
    )
    return StaticHeat(short_title(metric), method_title(method), rows)


def _card(metric: str) -> dict[str, Json]:
    return {
        "key": metric,
        "title": short_title(metric),
        "up": metric_direction(metric) != "down",
        "decimals": metric_decimals(metric),
        "tie": metric_tie(metric),
    }


def _metric_cells(records: SweepRecords, metric: str) -> dict[str, Json]:
    """Method -> rows of cells, source by source; none where nothing was scored."""
    evidence = Evidence.of(records)
    cells, gains = evidence.cells(metric), evidence.gain_cells(metric)
    drops = dict(_drops(evidence, metric))
    return {
        method: [
            [
                _cell(cells.get(key), gains.get(key), drops.get(key))
                for key in ((source, target, method) for target in records.targets)
            ]
            for source in records.sources
        ]
        for method in records.methods
    }


def _drops(evidence: Evidence, metric: str) -> Iterator[tuple[Key, Cell]]:
    """Every foreign cell's score minus the same model's score on its own domain."""
    blocks = evidence.blocks(metric)
    for (source, target, method), block in blocks.items():
        home = blocks.get((source, source, method))
        if home is not None and source != target:
            here, there = block.seed_means, home.seed_means
            yield (
                (source, target, method),
                mean_cell(here[seed] - there[seed] for seed in sorted(here.keys() & there.keys())),
            )


def _cell(cell: Cell | None, gain: Cell | None, drop: Cell | None) -> Json:
    """Short keys, as there are thousands: v value, h half, l low, u high, n seeds, s subjects, p, f flags, d gain, r change."""
    if cell is None or not _is_finite(cell):
        return None
    return {
        **_numbers(cell),
        **({"d": _numbers(gain)} if gain is not None and _is_finite(gain) else {}),
        **({"r": _numbers(drop)} if drop is not None and _is_finite(drop) else {}),
    }


def _numbers(cell: Cell) -> dict[str, Json]:
    numbers = {"v": cell.value, "h": cell.half, "l": cell.low, "u": cell.high, "p": cell.p}
    found: dict[str, Json] = {key: _short(value) for key, value in numbers.items() if isinstance(value, int | float)}
    counts = {"n": cell.n, "s": cell.subjects}
    marks = [flag for flag in _MARKS if flag in cell.flags]
    return found | {key: count for key, count in counts.items() if count} | ({"f": marks} if marks else {})


def _is_finite(cell: Cell) -> bool:
    return isinstance(cell.value, int | float) and math.isfinite(cell.value)


def _static_cell(cell: Cell | None, metric: str, scale: tuple[float, float], in_domain: bool) -> StaticCell:
    if cell is None or not isinstance(cell.value, float):
        return StaticCell("n/a", "", "", "", in_domain)
    low, high = scale
    share = (cell.value - low) / (high - low) if high > low else 0.5
    colour = shade(SEQUENTIAL, 1 - share if metric_direction(metric) == "down" else share)
    decimals = metric_decimals(metric)
    half = "" if cell.half is None else f"± {cell.half:.{decimals}f}"
    return StaticCell(f"{cell.value:.{decimals}f}", half, colour, text_colour(colour), in_domain)


def _short(value: float | int) -> float | int | None:
    """Five significant digits: a page is read, files hold the rest."""
    if isinstance(value, int):
        return value
    return float(np.format_float_positional(value, _DIGITS, fractional=False)) if math.isfinite(value) else None

"""Heat-maps of the generalisation matrix and of what is lost on the way from the own domain to a foreign one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gkd_bench.report.captions import chosen_by
from gkd_bench.report.cells import Cell
from gkd_bench.report.extras import Extras
from gkd_bench.report.figures.axes import colour_map, empty, plain, shortened, signed
from gkd_bench.report.figures.base import PAGE, TALL, Figure, finish, panels, style
from gkd_bench.report.figures.scores import Scores, number
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import listed, method_title
from gkd_bench.report.palette import DIVERGING, FAINT, INK, MUTED, PAPER, RULE, SEQUENTIAL, shade, text_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_CELL, _ROOM = 0.62, 1.05
_LEAST_CELL = 0.34
_MISSING = "Hatched: the domain was left out (n/a); empty: not scored."


@dataclass(frozen=True)
class Scale:
    """How numbers become colours.

    Attributes:
        stops: colours from low to high.
        low, high: numbers at the ends.
    """

    stops: Sequence[str]
    low: float
    high: float

    def colour(self, value: float) -> str:
        """``#RRGGBB`` of a number."""
        return shade(self.stops, (value - self.low) / (self.high - self.low))


@dataclass(frozen=True)
class Square:
    """One cell of a heat-map: its number, the words on it, and what is special about it."""

    value: float | None
    words: str = ""
    missing: bool = False
    own: bool = False


Squares = Mapping[tuple[str, str], Square]


def generalisation_matrix(records: SweepRecords, extras: Extras) -> Figure | None:
    """Source x target Dice of every method on one scale of colours, with bootstrap intervals."""
    scores = Scores(records)
    if not scores.pairs:
        return None
    maps = {method: _score_squares(scores, method) for method in scores.methods}
    values = [square.value for squares in maps.values() for square in squares.values() if square.value is not None]
    scale = Scale(SEQUENTIAL, *_widened(min(values), max(values)))
    caption = (
        f"{scores.title}, higher is better. Rows: trained on; columns: tested on. Mean over {scores.basis()}; below it, where there is room, the "
        f"95 % bootstrap interval over seeds and {scores.people}. All panels share one scale. Outlined: in-domain. {_MISSING} "
        f"{chosen_by(scores.evidence)}"
    )
    means = [
        f"{method_title(one)} {plain(number(mean))}" for one in scores.methods if (mean := scores.foreign_mean(one))
    ]
    alt = (
        f"Heat-maps of Dice, one per method, {len(records.sources)} sources by {len(records.targets)} targets, values from "
        f"{plain(min(values))} to {plain(max(values))}. Means over foreign pairs: {listed(means) if means else 'none'}."
    )
    with style():
        drawing = _draw(records, maps, scale, f"{scores.title} \N{UPWARDS ARROW}")
        return finish(drawing, "generalisation_matrix", "matrix", "How well each method generalises", caption, alt)


def drop_matrix(records: SweepRecords, extras: Extras) -> Figure | None:
    """Source x target change of Dice from the models' own domain, around zero."""
    scores = Scores(records)
    maps = {method: _drop_squares(scores, method) for method in scores.methods}
    found = {(m, p): s.value for m, squares in maps.items() for p, s in squares.items() if s.value is not None}
    if not found:
        return None
    reach = max(0.01, *(abs(value) for value in found.values()))
    caption = (
        f"{scores.title} on the target minus the same models' Dice on their own source. Orange: lost on the foreign domain; "
        f"purple: gained. Mean over {scores.basis()}, ± half width of the 95 % t interval over seeds. {_MISSING} "
        f"{chosen_by(scores.evidence)}"
    )
    (worst, pair), value = min(found.items(), key=lambda item: item[1])
    means = [f"{method_title(one)} {signed(_mean(maps[one]))}" for one in scores.methods if _has_numbers(maps[one])]
    alt = (
        f"Heat-maps of the change of Dice from the own domain to each target. Mean changes: {listed(means)}. Largest loss: "
        f"{signed(value)}, {method_title(worst)}, {pair[0]} to {pair[1]}."
    )
    with style():
        drawing = _draw(records, maps, Scale(DIVERGING, -reach, reach), "change of Dice from the own domain")
        return finish(drawing, "drop_from_own_domain", "matrix", "What is lost on foreign domains", caption, alt)


def _score_squares(scores: Scores, method: str) -> Squares:
    return {pair: _square(scores, *pair, scores.cell(*pair, method), False) for pair in _all_pairs(scores.records)}


def _drop_squares(scores: Scores, method: str) -> Squares:
    return {pair: _square(scores, *pair, scores.drop(*pair, method), True) for pair in _all_pairs(scores.records)}


def _all_pairs(records: SweepRecords) -> list[tuple[str, str]]:
    return [(source, target) for source in records.sources for target in records.targets]


def _square(scores: Scores, source: str, target: str, found: Cell | None, change: bool) -> Square:
    missing = source in scores.records.missing or target in scores.records.missing
    if found is None:
        own = change and source == target and not missing
        return Square(None, "n/a" if missing else "own" if own else "", missing, source == target)
    value = number(found)
    words = [signed(value) if change else plain(value)]
    if change and found.half is not None:
        words.append(f"\N{PLUS-MINUS SIGN}{plain(found.half)}")
    if found.low is not None and found.high is not None:
        words.append(f"{_short(found.low)}\N{EN DASH}{_short(found.high)}")
    return Square(value, "\n".join(words), False, source == target)


def _short(value: float) -> str:
    """Three decimals without the zero before the point: ``.712``."""
    text = plain(value)
    return text[1:] if text.startswith("0.") else text


def _draw(records: SweepRecords, maps: Mapping[str, Squares], scale: Scale, label: str) -> Drawing:
    sources, targets = records.sources, records.targets
    columns, height = _size(len(maps), len(sources), len(targets), _CELL, 0.36)
    if height > TALL:
        columns, height = _size(len(maps), len(sources), len(targets), _LEAST_CELL, 0.2)
    rows, cell = math.ceil(len(maps) / columns), (PAGE - _ROOM - 0.6) / columns / len(targets)
    if height / rows / len(sources) < 0.36:
        maps = {method: _first_lines(squares) for method, squares in maps.items()}
    drawing, axes = panels(rows, columns, PAGE, height, share_x=True, share_y=True)
    for one, (method, squares) in zip(axes, maps.items(), strict=False):
        one.set_title(shortened(method_title(method), cell * len(targets) - 0.1))
        _heat(one, squares, sources, targets, scale, cell)
    _outer_labels(axes, len(maps), columns)
    empty(axes[len(maps) :])
    _bar(drawing, axes, scale, label)
    return drawing


def _size(maps: int, sources: int, targets: int, width: float, height: float) -> tuple[int, float]:
    """Columns of panels, and the height of the drawing, with cells of at least this width and just this height."""
    columns = max(1, min(maps, int((PAGE - _ROOM - 0.6) / (width * targets + 0.1))))
    return columns, math.ceil(maps / columns) * (height * sources + 0.25) + 0.75


def _first_lines(squares: Squares) -> Squares:
    """Numbers without their intervals, for which low cells have no room."""
    return {pair: replace(square, words=square.words.split("\n")[0]) for pair, square in squares.items()}


def _heat(
    axes: Axes, squares: Squares, sources: Sequence[str], targets: Sequence[str], scale: Scale, cell: float
) -> None:
    for (source, target), square in squares.items():
        _fill(axes, targets.index(target), sources.index(source), square, scale, cell)
    axes.set_xlim(-0.5, len(targets) - 0.5)
    axes.set_ylim(len(sources) - 0.5, -0.5)
    axes.set_xticks(range(len(targets)), targets, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(sources)), sources)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _fill(axes: Axes, x: int, y: int, square: Square, scale: Scale, cell: float) -> None:
    from matplotlib.patches import Rectangle

    colour = FAINT if square.value is None else scale.colour(square.value)
    hatch = "////" if square.missing else None
    axes.add_patch(
        Rectangle(
            (x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor=RULE if hatch else PAPER, hatch=hatch, linewidth=1
        )
    )
    if square.own and square.value is not None:
        axes.add_patch(
            Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor=text_colour(colour), linewidth=1)
        )
    words = square.words if cell >= _CELL * 0.9 else square.words.split("\n")[0]
    if words and cell >= _LEAST_CELL:
        ink = MUTED if square.value is None else text_colour(colour)
        ground = {"facecolor": FAINT, "edgecolor": "none", "pad": 1.0} if square.missing else None
        axes.text(x, y, words, ha="center", va="center_baseline", color=ink, linespacing=1.15, bbox=ground)


def _outer_labels(axes: Sequence[Axes], used: int, columns: int) -> None:
    """Names of targets below the lowest panel of every column, of sources at the left."""
    for at, one in enumerate(axes[:used]):
        one.tick_params(labelbottom=at + columns >= used, labelleft=at % columns == 0)
        if at % columns == 0:
            one.set_ylabel("trained on", color=MUTED)
        if at + columns >= used:
            one.set_xlabel("tested on", color=MUTED)


def _bar(drawing: Drawing, axes: Sequence[Axes], scale: Scale, label: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    colours = ScalarMappable(Normalize(scale.low, scale.high), colour_map(scale.stops))
    bar = drawing.colorbar(colours, ax=list(axes), fraction=0.025, pad=0.015, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label(label, color=INK)
    bar.ax.tick_params(length=0)
    bar.locator = MaxNLocator(6)
    bar.update_ticks()


def _widened(low: float, high: float) -> tuple[float, float]:
    """A scale that has a length even when all numbers are equal."""
    return (low, high) if high - low > 1e-6 else (low - 0.005, high + 0.005)


def _has_numbers(squares: Squares) -> bool:
    return any(square.value is not None for square in squares.values())


def _mean(squares: Squares) -> float:
    values = [square.value for square in squares.values() if square.value is not None]
    return sum(values) / len(values)

"""What distillation gains over the student alone: a forest plot of all pairs, and the same subject by subject."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gkd_bench.report.captions import chosen_by, smallest_words
from gkd_bench.report.cells import Cell
from gkd_bench.report.evidence import SIGNIFICANT, Pair
from gkd_bench.report.extras import Extras
from gkd_bench.report.figures.axes import Looks, arrow, empty, few_ticks, shortened, signed, zero_line
from gkd_bench.report.figures.base import PAGE, TALL, Figure, file_name, finish, panels, style
from gkd_bench.report.figures.scores import Scores, doubtless, named_methods, number
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import ALONE, listed, method_title, span
from gkd_bench.report.palette import FAINT, INK, MUTED, RULE
from gkd_bench.report.rows import MANY, kind_of
from gkd_bench.report.statistics import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FOREST_COLUMNS = 3
_MOST_DOMAINS = 6
_OVERALL = "all foreign pairs"
Row = tuple[str, Pair | None]
Subjects = Mapping[Pair, tuple[Array, Array]]


# ------------------------------------------------------------------------------------------------- forest plot


def gain_forest(records: SweepRecords, extras: Extras) -> Figure | None:
    """Gain in Dice over the student alone for every pair and over all foreign ones, one panel per method.

    With many methods one panel per pair, in which every method has a row.
    """
    scores = Scores(records)
    methods = _forest_methods(scores)
    if not methods:
        return None
    if len(methods) > MANY:
        return _forest_by_pair(scores, methods)
    with style():
        columns, rows = min(_FOREST_COLUMNS, len(methods)), _forest_rows(scores)
        lines = math.ceil(len(methods) / columns)
        height = _forest_height(len(methods), len(rows))
        drawing, axes = panels(lines, columns, PAGE, height, share_x=True, share_y=True)
        for one, method in zip(axes, methods, strict=False):
            _forest(one, scores, method, rows, Looks.of(records).colour(method))
        empty(axes[len(methods) :])
        drawing.supxlabel("gain in Dice over the student alone", fontsize=7)
        caption, alt = _forest_caption(scores), _forest_alt(scores, methods)
        return finish(drawing, "gain_forest", "comparison", "Gain over the student alone", caption, alt)


def _forest_methods(scores: Scores) -> list[str]:
    """Methods with gains; without the variants of ablations where all of them do not fit on a page."""
    methods = [one for one in scores.evidence.compared if any(scores.gain(*pair, one) for pair in scores.pairs)]
    whole = [one for one in methods if kind_of(scores.records, one) != "variant"]
    fits = len(methods) > MANY or _forest_height(len(methods), len(scores.pairs) + 1) <= TALL
    return methods if fits or not whole else whole


def _forest_by_pair(scores: Scores, methods: Sequence[str]) -> Figure:
    """The mean over foreign pairs first, best method above, then as many pairs as fit."""
    means = {one: scores.overall_gain(one) for one in methods}
    ranked = sorted(methods, key=lambda one: -number(means[one]) if means[one] else math.inf)
    rows = _forest_rows(scores)
    ordered = [*(row for row in rows if row[1] is None), *(row for row in rows if row[1] is not None)]
    with style():
        line = 0.14 * len(methods) + 0.34
        most = max(1, int((TALL - 0.3) / line)) * _FOREST_COLUMNS
        shown = ordered[:most]
        columns = min(_FOREST_COLUMNS, len(shown))
        lines = math.ceil(len(shown) / columns)
        drawing, axes = panels(lines, columns, PAGE, lines * line + 0.3, share_x=True, share_y=True)
        for one, row in zip(axes, shown, strict=False):
            _forest_panel(one, scores, row, ranked, Looks.of(scores.records))
        empty(axes[len(shown) :])
        drawing.supxlabel("gain in Dice over the student alone", fontsize=7)
        left_out = f" The first {len(shown)} of {len(ordered)} panels." if len(shown) < len(ordered) else ""
        caption, alt = f"{_forest_caption(scores)}{left_out}", _forest_alt(scores, ranked)
        return finish(drawing, "gain_forest", "comparison", "Gain over the student alone", caption, alt)


def _forest_panel(axes: Axes, scores: Scores, row: Row, methods: Sequence[str], looks: Looks) -> None:
    """One pair, or the mean over the foreign ones: a row for every method; controls in grey."""
    words, pair = row
    axes.axvspan(-scores.tie, scores.tie, color=FAINT, zorder=0, linewidth=0)
    zero_line(axes, "x")
    for place, method in enumerate(methods):
        gain = scores.overall_gain(method) if pair is None else scores.gain(*pair, method)
        if gain:
            control = kind_of(scores.records, method) == "control"
            _interval(axes, place, gain, MUTED if control else looks.colour(method), "D" if pair is None else "o")
    axes.set_yticks(range(len(methods)), [shortened(method_title(one), 1.75) for one in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set_title(shortened(words, 1.7), fontweight="bold" if pair is None else "normal")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(labelbottom=True)
    axes.spines["left"].set_visible(False)
    few_ticks(axes, 4, None)


def _forest_height(methods: int, rows: int) -> float:
    return math.ceil(methods / _FOREST_COLUMNS) * (0.155 * rows + 0.42) + 0.3


def _forest_rows(scores: Scores) -> list[Row]:
    foreign: list[Row] = [(arrow(*pair), pair) for pair in scores.foreign]
    own: list[Row] = [(f"{pair[0]}, in-domain", pair) for pair in scores.pairs if pair[0] == pair[1]]
    return [*foreign, *([(_OVERALL, None)] if foreign else []), *own]


def _forest(axes: Axes, scores: Scores, method: str, rows: Sequence[Row], colour: str) -> None:
    axes.axvspan(-scores.tie, scores.tie, color=FAINT, zorder=0, linewidth=0)
    zero_line(axes, "x")
    for place, (_, pair) in enumerate(rows):
        if pair is None:
            axes.axhspan(place - 0.5, place + 0.5, color=RULE, alpha=0.3, linewidth=0, zorder=0)
        gain = scores.overall_gain(method) if pair is None else scores.gain(*pair, method)
        if gain:
            _interval(axes, place, gain, colour, "D" if pair is None else "o")
    axes.set_yticks(range(len(rows)), [words for words, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_title(method_title(method))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(labelbottom=True)
    axes.spines["left"].set_visible(False)
    few_ticks(axes, 5, None)


def _interval(axes: Axes, place: int, gain: Cell, colour: str, marker: str) -> None:
    value = number(gain)
    right = value
    if gain.low is not None and gain.high is not None:
        axes.plot([gain.low, gain.high], [place, place], color=colour, linewidth=1.3, solid_capstyle="butt")
        right = gain.high
    face = colour if doubtless(gain) else "white"
    axes.plot(value, place, marker=marker, markersize=4.2, markerfacecolor=face, markeredgecolor=colour, zorder=4)
    if gain.flags & {"better", "worse"}:
        axes.annotate("*", (right, place), xytext=(2.5, -3.2), textcoords="offset points", fontsize=9, va="center")


def _forest_caption(scores: Scores) -> str:
    return (
        f"{scores.title} minus that of the {method_title(ALONE)}, paired by seed and {scores.evidence.words.subject}; higher is better. Dots: mean "
        f"over {scores.basis()}; lines: 95 % bootstrap interval over seeds and {scores.people}; filled where it leaves out zero. "
        f"Diamond: mean over the foreign pairs that every method has. Grey band: a tie (below {scores.tie:g}). "
        f"{_test_words(scores)} {chosen_by(scores.evidence)}"
    )


def _test_words(scores: Scores) -> str:
    verdicts = [*scores.evidence.verdicts(scores.metric).values()]
    if not verdicts:
        return ""
    return (
        f"* p < {SIGNIFICANT:g}, paired permutation test over {scores.people}, Holm over {verdicts[0].family} comparisons; "
        f"{smallest_words(scores.evidence, verdicts)}."
    )


def _forest_alt(scores: Scores, methods: Sequence[str]) -> str:
    words = []
    for method in methods:
        gains = [gain for pair in scores.foreign if (gain := scores.gain(*pair, method))]
        overall = scores.overall_gain(method)
        mean = f" {signed(number(overall))}{_range(overall)}," if overall else ""
        sure = sum(doubtless(gain) for gain in gains)
        words.append(f"{method_title(method)}{mean} interval without zero in {sure} of {len(gains)} foreign pairs")
    return f"Forest plot of gains in Dice over the student alone. Over all foreign pairs: {'; '.join(words)}."


def _range(gain: Cell) -> str:
    return "" if gain.low is None or gain.high is None else f" [{signed(gain.low)}, {signed(gain.high)}]"


# ----------------------------------------------------------------------------------------- subject by subject


def paired_dots(records: SweepRecords, extras: Extras) -> tuple[Figure, ...]:
    """Per method, every test subject's Dice of the student alone beside the method's; variants of ablations left out.

    Of many methods GKD, KD and the best on foreign domains.
    """
    scores = Scores(records)
    whole = [one for one in scores.evidence.compared if kind_of(records, one) == "method"]
    chosen = named_methods(records, whole, MANY)
    found = (_paired(scores, method) for method in chosen)
    return tuple(figure for figure in found if figure)


def _paired(scores: Scores, method: str) -> Figure | None:
    sources, targets = _domains(scores)
    pairs = [(source, target) for source in sources for target in targets]
    subjects = {pair: scores.subjects(*pair, method) for pair in pairs}
    if not any(after.size for _, after in subjects.values()):
        return None
    with style():
        looks, height = Looks.of(scores.records), 1.2 * len(sources) + 0.35
        drawing, axes = panels(len(sources), len(targets), PAGE, height, share_x=True, share_y=True)
        for one, pair in zip(axes, pairs, strict=True):
            _dots(one, method, subjects[pair], looks)
        _name_panels(axes, sources, targets)
        few_ticks(axes[0], None, 4)
        drawing.supylabel("Dice", fontsize=7)
        person = scores.evidence.words.subject
        name, title = file_name("paired_subjects", method), method_title(method)
        heading = f"{title} against the student alone, {person} by {person}"
        return finish(
            drawing,
            name,
            "comparison",
            heading,
            _paired_caption(scores, title),
            _paired_alt(title, subjects, scores.people),
        )


def _domains(scores: Scores) -> tuple[list[str], list[str]]:
    """Sources and targets with scores, as many as fit on a page."""
    sources = [name for name in scores.records.sources if any(name == source for source, _ in scores.pairs)]
    targets = [name for name in scores.records.targets if any(name == target for _, target in scores.pairs)]
    return sources[:_MOST_DOMAINS], targets[:_MOST_DOMAINS]


def _name_panels(axes: Sequence[Axes], sources: Sequence[str], targets: Sequence[str]) -> None:
    """``source → target`` above every panel; where that is too wide, the target there and the source at the left."""
    room = PAGE / len(targets) - 0.75
    pairs = [(source, target) for source in sources for target in targets]
    fits = all(shortened(arrow(*pair), room) == arrow(*pair) for pair in pairs)
    for at, (one, pair) in enumerate(zip(axes, pairs, strict=True)):
        one.set_title(arrow(*pair) if fits else shortened(pair[1], room), fontsize=7)
        if not fits and at % len(targets) == 0:
            one.set_ylabel(shortened(pair[0], 1.1))


def _dots(axes: Axes, method: str, scores: tuple[Array, Array], looks: Looks) -> None:
    axes.set_xlim(-0.35, 1.35)
    axes.set_xticks([0, 1], ["alone", method_title(method)])
    before, after = scores
    if not after.size:
        return
    for start, end in zip(before, after, strict=True):
        dash = "-" if end > start else (0, (2, 1.5))
        axes.plot([0, 1], [start, end], color=MUTED, linewidth=0.6, linestyle=dash, zorder=2)
    for place, values, name in ((0, before, ALONE), (1, after, method)):
        spots = np.full(len(values), place)
        axes.scatter(spots, values, s=9, color=looks.colour(name), edgecolor=INK, linewidth=0.3, zorder=3)
        edge = (-0.24, -0.08) if place == 0 else (1.08, 1.24)
        axes.plot(edge, [values.mean()] * 2, color=INK, linewidth=1.6, zorder=4)
    axes.set_title(signed(float((after - before).mean())), loc="right", fontsize=7, color=MUTED)


def _paired_caption(scores: Scores, title: str) -> str:
    subjects = span(cell.subjects for cell in scores.evidence.cells(scores.metric).values())
    return (
        f"{scores.title} of every test {scores.evidence.words.subject} (n = {subjects} per target), mean over shared seeds: left the "
        f"{method_title(ALONE)}, right {title}. Solid lines: {title} is better; dashed: it is not. Bars beside the dots: means "
        f"over {scores.people}; above each panel, at the right: their difference. Rows: trained on; columns: tested on. "
        f"{chosen_by(scores.evidence)}"
    )


def _paired_alt(title: str, subjects: Subjects, people: str) -> str:
    gains = {pair: after - before for pair, (before, after) in subjects.items() if after.size}
    better, total = (sum(int(count) for count in counts) for counts in zip(*map(_wins, gains.values()), strict=True))
    means = [f"{source} to {target} {signed(float(gain.mean()))}" for (source, target), gain in gains.items()]
    return (
        f"Paired dots: {title} is better than the student alone for {better} of {total} {people} on all pairs together. "
        f"Mean differences: {listed(means)}."
    )


def _wins(gain: Array) -> tuple[int, int]:
    return int((gain > 0).sum()), len(gain)

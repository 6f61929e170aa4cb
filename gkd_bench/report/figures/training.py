"""How trainings went: validation Dice, loss terms, and how strongly and in which direction each term pulled."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Extras
from gkd_bench.report.figures.axes import (
    OTHERS,
    Looks,
    band,
    empty,
    few_ticks,
    legend,
    plain,
    round_log,
    shortened,
    sources_of,
    whole_ticks,
    zero_line,
)
from gkd_bench.report.figures.base import PAGE, Figure, finish, panels, style
from gkd_bench.report.figures.scores import named_methods, others_words
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import counted, listed, method_title, span
from gkd_bench.report.palette import DOMAIN_COLOURS, INK, MUTED, Dash

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_COLUMNS, _MOST_BANDS, _MOST_ROWS = 3, 6, 8
_DICE = "val/dice"
_LOSS, _RATIO, _COSINE = "loss/", "grad_ratio/", "grad_cosine/"
_DASHES: tuple[Dash, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (6, 2)), (0, (2, 2)))


@dataclass(frozen=True)
class Words:
    """Name, title and caption of a figure."""

    name: str
    title: str
    caption: str

    def page(self, at: int, pages: int) -> Words:
        """The same for one of several pages; the first keeps the name."""
        if pages == 1:
            return self
        return Words(
            f"{self.name}_{at + 1}" if at else self.name, f"{self.title}, part {at + 1} of {pages}", self.caption
        )


# --------------------------------------------------------------------------------------------- validation Dice


def training_curves(records: SweepRecords, extras: Extras) -> Figure | None:
    """Validation Dice by epoch, one panel per source, one line per method."""
    frame = _epochs(records)
    frame = frame[frame[_DICE].notna()] if _DICE in frame else frame.iloc[:0]
    if frame.empty:
        return None
    methods = records.in_order(frame["method"].unique())
    sources = sources_of(records, frame["source"])
    with style():
        looks, columns, named = Looks.of(records), min(_COLUMNS, len(sources)), named_methods(records, methods)
        rows = math.ceil(len(sources) / columns)
        drawing, axes = panels(rows, columns, PAGE, 1.6 * rows + 0.5, share_y=True)
        for one, source in zip(axes, sources, strict=False):
            one.set_title(shortened(source, PAGE / columns - 0.4))
            one.grid(axis="y")
            for method in methods:
                mine = _of(frame, source, method)
                if method in named:
                    _line(
                        one,
                        mine,
                        _DICE,
                        looks.colour(method),
                        looks.dash(method),
                        looks.marker(method),
                        few=len(named) <= _MOST_BANDS,
                    )
                else:
                    _line(one, mine, _DICE, OTHERS, "-", few=False)
            whole_ticks(one)
        empty(axes[len(sources) :])
        few_ticks(axes[0], None, 5)
        _labels(axes[: len(sources)], columns, "Dice, source validation")
        legend(drawing, looks.handles(methods, named))
        kept = Evidence.of(records).words
        caption = (
            f"Dice{kept.inside} on validation {kept.picture}s of the source after every epoch: mean over "
            f"{_seeds(frame)}, band, where there are few methods: range over seeds; higher is better. Final trainings only, trials of a "
            f"search left out. {others_words(methods, named)}"
        )
        return finish(drawing, "training_curves", "health", "Validation Dice while training", caption, _dice_alt(frame))


def _dice_alt(frame: pd.DataFrame) -> str:
    last = frame.sort_values("epoch").groupby(["method", "source", "seed"])[_DICE].last()
    texts = [
        f"{method_title(str(method))} {plain(float(value))}"
        for method, value in last.groupby(level="method").mean().items()
    ]
    return f"Lines of validation Dice by epoch, one panel per source. Means at the last epoch: {listed(texts)}."


# ------------------------------------------------------------------------------------------- terms of the loss


def loss_curves(records: SweepRecords, extras: Extras) -> tuple[Figure, ...]:
    """Every term of the loss by epoch on a logarithmic scale; rows: methods, columns: sources; as many pages as it takes."""
    caption = (
        "Mean of every unweighted term of the training loss per epoch, logarithmic scale; lower is better. Line: mean over "
        "{seeds}; band: range over seeds. A term that stays flat is not learnt."
    )
    return _terms(records, (_LOSS,), ("",), "loss_terms", "Terms of the training loss", caption)


def gradient_curves(records: SweepRecords, extras: Extras) -> tuple[Figure, ...]:
    """How strongly every term pulls compared with cross-entropy, and in which direction; as many pages as it takes."""
    caption = (
        "Gradient of every term of the loss compared with cross-entropy's, after every epoch. Ratio of norms (logarithmic "
        "scale): far below 1, the term teaches next to nothing. Cosine: above zero it pulls the same way, below against. "
        "Line: mean over {seeds}; band: range over seeds."
    )
    prefixes, labels = (_RATIO, _COSINE), ("gradient ratio", "gradient cosine")
    return _terms(records, prefixes, labels, "gradient_terms", "Pull of every loss term", caption)


def _terms(
    records: SweepRecords, prefixes: Sequence[str], labels: Sequence[str], name: str, title: str, caption: str
) -> tuple[Figure, ...]:
    frame = _epochs(records)
    terms = _terms_of(frame, prefixes)
    frame = (
        frame.dropna(subset=[f"{prefixes[0]}{term}" for term in sorted(terms)], how="all") if terms else frame.iloc[:0]
    )
    if frame.empty:
        return ()
    methods = records.in_order(frame["method"].unique())
    most = _MOST_ROWS // len(prefixes)
    size = math.ceil(len(methods) / math.ceil(len(methods) / most))  # pages of about the same height
    pages = [methods[start : start + size] for start in range(0, len(methods), size)]
    words = Words(name, title, caption.format(seeds=_seeds(frame)))
    return tuple(
        _terms_page(records, frame[frame["method"].isin(page)], page, prefixes, labels, words.page(at, len(pages)))
        for at, page in enumerate(pages)
    )


def _terms_page(
    records: SweepRecords, frame: pd.DataFrame, methods: Sequence[str], prefixes: Sequence[str], labels: Sequence[str],
    words: Words,
) -> Figure:  # fmt: skip
    rows = [(method, prefix, label) for method in methods for prefix, label in zip(prefixes, labels, strict=True)]
    sources = sources_of(records, frame["source"])
    looks = _term_looks(sorted(_terms_of(frame, prefixes)))
    with style():
        height = 1.0 * len(rows) + 0.6
        drawing, axes = panels(len(rows), len(sources), PAGE, height, share_x=True)
        for at, (method, prefix, label) in enumerate(rows):
            row = axes[at * len(sources) : (at + 1) * len(sources)]
            _term_row(row, frame, sources, method, prefix, looks)
            row[0].set_ylabel("\n".join(filter(None, [textwrap.fill(method_title(method), 16), label])))
        for one, source in zip(axes, sources, strict=False):
            one.set_title(shortened(source, (PAGE - 1.0) / len(sources) - 0.1), fontsize=7)
        for one in axes[-len(sources) :]:
            whole_ticks(one)
        drawing.supxlabel("epoch", fontsize=7, color=INK)
        legend(drawing, _term_handles(looks))
        alt = _terms_alt(frame, methods, prefixes[0], labels[0])
        return finish(drawing, words.name, "health", words.title, words.caption, alt)


def _terms_of(frame: pd.DataFrame, prefixes: Sequence[str]) -> set[str]:
    """Terms that have a number in any row; other stages' terms are columns too, all empty."""
    filled = [str(name) for name in frame.columns if frame[name].notna().any()]
    return {name.removeprefix(start) for start in prefixes for name in filled if name.startswith(start)}


def _term_row(
    axes: Sequence[Axes], frame: pd.DataFrame, sources: Sequence[str], method: str, prefix: str,
    looks: Mapping[str, tuple[str, Dash]],
) -> None:  # fmt: skip
    for one, source in zip(axes, sources, strict=True):
        one.grid(axis="y")
        mine = _of(frame, source, method)
        for term, (colour, dash) in looks.items():
            if f"{prefix}{term}" in mine:
                _line(one, mine, f"{prefix}{term}", colour, dash)
    if prefix == _COSINE:
        _same_limits(axes, -1.05, 1.05)
        for one in axes:
            zero_line(one)
    else:
        _same_log(axes)


def _same_limits(axes: Sequence[Axes], low: float, high: float) -> None:
    for one in axes:
        one.set_ylim(low, high)
        one.set_yticks([-1, 0, 1])
        one.tick_params(labelleft=one is axes[0])


def _same_log(axes: Sequence[Axes]) -> None:
    """One logarithmic scale for a row, wide enough for all positive numbers in it."""
    lines = [np.asarray(line.get_ydata(), float) for one in axes for line in one.lines]
    bands = [np.asarray(path.vertices)[:, 1] for one in axes for band in one.collections for path in band.get_paths()]
    values = np.concatenate([*lines, *bands] or [np.ones(1)])
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    for one in axes:
        one.set_ylim(low / 1.5, high * 1.5)
        one.set_yscale("log")
        round_log(one, "y")
        one.tick_params(labelleft=one is axes[0])


def _term_looks(terms: Sequence[str]) -> dict[str, tuple[str, Dash]]:
    """Colour and dashes of every term; cross-entropy and Dice loss, which all methods have, are black and grey."""
    fixed = {"ce": INK, "dice": MUTED}
    others = [term for term in terms if term not in fixed]
    ordered = [*(term for term in fixed if term in terms), *others]
    colours = {term: DOMAIN_COLOURS[at % 6] for at, term in enumerate(others)}
    return {
        term: ({**fixed, **colours}[term], _DASHES[at % len(_DASHES)] if term in others else "-")
        for at, term in enumerate(ordered)
    }


def _term_handles(looks: Mapping[str, tuple[str, Dash]]) -> list[Artist]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=colour, linestyle=dash, label=term) for term, (colour, dash) in looks.items()]


def _terms_alt(frame: pd.DataFrame, methods: Sequence[str], prefix: str, label: str) -> str:
    last = frame[frame["epoch"] == frame.groupby(["method", "source", "seed"])["epoch"].transform("max")]
    texts = []
    for method in methods:
        mine = last[last["method"] == method]
        named = [str(name) for name in mine.columns if str(name).startswith(prefix) and mine[name].notna().any()]
        values = [f"{name.removeprefix(prefix)} {float(mine[name].mean()):.3g}" for name in named]
        if values:
            texts.append(f"{method_title(method)}: {listed(values)}")
    return f"Lines of {label or 'loss'} by epoch, a row per method, a column per source. Means at the last epoch: {'; '.join(texts)}."


# -------------------------------------------------------------------------------------------------------- helpers


def _epochs(records: SweepRecords) -> pd.DataFrame:
    """Epochs of final trainings of networks that are scored."""
    frame = records.final("epoch")
    return frame[frame["kind"].isin(["teacher", "baseline", "distill"])] if len(frame) else frame


def _of(frame: pd.DataFrame, source: str, method: str) -> pd.DataFrame:
    return frame[(frame["source"] == source) & (frame["method"] == method)]


def _line(
    axes: Axes, frame: pd.DataFrame, name: str, colour: str, dash: Dash, marker: str = "", few: bool = True
) -> None:
    """Mean over seeds by epoch with the range of the seeds."""
    by_epoch = frame.groupby("epoch", sort=True)[name].agg(["mean", "min", "max"]).dropna()
    if by_epoch.empty:
        return
    x = [float(epoch) for epoch in by_epoch.index]
    if few:
        band(axes, x, list(by_epoch["min"]), list(by_epoch["max"]), colour)
    axes.plot(
        x, by_epoch["mean"].to_numpy(), color=colour, linestyle=dash, marker=marker if len(x) <= 12 else "",
        markeredgecolor=INK, markeredgewidth=0.3, markersize=3,
    )  # fmt: skip


def _labels(axes: Sequence[Axes], columns: int, label: str) -> None:
    for at, one in enumerate(axes):
        if at % columns == 0:
            one.set_ylabel(label)
        one.set_xlabel("epoch")


def _seeds(frame: pd.DataFrame) -> str:
    seeds = span(frame.groupby(["method", "source"])["seed"].nunique())
    return f"n = {counted(seeds, 'seed')}"

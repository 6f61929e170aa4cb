"""Dice on the source's validation images against the strength of scanner-like corruptions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from gkd_bench.report.captions import chosen_by
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Extras
from gkd_bench.report.figures.axes import OTHERS, Looks, band, empty, few_ticks, legend, plain, signed, whole_ticks
from gkd_bench.report.figures.base import PAGE, Figure, finish, panels, style
from gkd_bench.report.figures.scores import named_methods, others_words
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import counted, listed, method_title, span, words
from gkd_bench.report.palette import INK
from gkd_bench.report.stress_tables import CLEAN, stress_scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_MOST_BANDS = 5
Curves = Mapping[tuple[str, str], pd.DataFrame]


def stress_curves(records: SweepRecords, extras: Extras) -> Figure | None:
    """One panel per corruption, one line per method: mean Dice over sources and seeds, from clean to the worst."""
    means = stress_scores(records)
    corruptions = [name for name in dict.fromkeys(means["corruption"]) if name != CLEAN] if len(means) else []
    if not corruptions:
        return None
    methods = records.in_order(means["method"].unique())
    curves = {(name, method): _curve(means, name, method) for name in corruptions for method in methods}
    with style():
        looks, columns, named = Looks.of(records), min(_COLUMNS, len(corruptions)), named_methods(records, methods)
        rows = math.ceil(len(corruptions) / columns)
        drawing, axes = panels(rows, columns, PAGE, 1.45 * rows + 0.55, share_x=True, share_y=True)
        for one, name in zip(axes, corruptions, strict=False):
            _panel(one, name, methods, named, curves, looks)
        _ticks(axes, len(corruptions), columns)
        legend(drawing, looks.handles(methods, named))
        drawing.supxlabel("strength of the corruption (0 = clean)", fontsize=7, color=INK)
        drawing.supylabel("Dice, source validation", fontsize=7, color=INK)
        title = "Dice under scanner-like corruptions"
        caption = f"{_caption(records)} {others_words(methods, named)}"
        return finish(drawing, "stress_curves", "stress", title, caption, _alt(curves, corruptions, methods))


def _curve(means: pd.DataFrame, corruption: str, method: str) -> pd.DataFrame:
    """Rows by strength: mean, lowest and highest seed, each the mean over sources."""
    chosen = means[(means["method"] == method) & means["corruption"].isin([CLEAN, corruption])]
    by_seed = chosen.groupby(["strength", "seed"], sort=True)["dice"].mean()
    return by_seed.groupby(level="strength").agg(["mean", "min", "max"])


def _panel(
    axes: Axes, corruption: str, methods: Sequence[str], named: Sequence[str], curves: Curves, looks: Looks
) -> None:
    axes.set_title(words(corruption))
    axes.grid(axis="y")
    for method in methods:
        curve, colour = curves[corruption, method], looks.colour(method)
        x = [float(value) for value in curve.index]
        if method not in named:
            axes.plot(x, curve["mean"].to_numpy(), color=OTHERS, linewidth=0.7, zorder=1)
            continue
        if len(methods) <= _MOST_BANDS:
            band(axes, x, list(curve["min"]), list(curve["max"]), colour)
        axes.plot(
            x, curve["mean"].to_numpy(), color=colour, linestyle=looks.dash(method), marker=looks.marker(method),
            markeredgecolor=INK,
        )  # fmt: skip


def _ticks(axes: Sequence[Axes], used: int, columns: int) -> None:
    few_ticks(axes[0], None, 5)
    whole_ticks(axes[0])
    for at, one in enumerate(axes[:used]):
        one.tick_params(labelbottom=at + columns >= used)
    empty(axes[used:])


def _caption(records: SweepRecords) -> str:
    frame = records.final("stress", "val")
    seeds, sources = frame["seed"].nunique(), frame["source"].nunique()
    subjects = span(frame.groupby("source")["subject"].nunique())
    named = Evidence.of(records).words
    return (
        f"Dice{named.inside} on validation {named.picture}s of the source, never of a target, higher is better; mean over "
        f"{counted(sources, 'source')}, n = {counted(seeds, 'seed')} and {counted(subjects, f'validation {named.subject}')} per source. "
        f"Bands, where there are few methods: range over seeds. Strength 0 is the clean {named.picture}. "
        f"{chosen_by(Evidence.of(records))}"
    )


def _alt(curves: Curves, corruptions: Sequence[str], methods: Sequence[str]) -> str:
    losses = {key: float(curve["mean"].iloc[-1] - curve["mean"].iloc[0]) for key, curve in curves.items() if len(curve)}
    hardest = {method: min(corruptions, key=lambda name: losses.get((name, method), 0.0)) for method in methods}
    texts = [
        f"{method_title(method)} from {plain(float(curves[name, method]['mean'].iloc[0]))} when clean, worst "
        f"{words(name)} {signed(losses.get((name, method), 0.0))}"
        for method, name in hardest.items()
    ]
    return f"Lines of Dice against strength for {listed(map(words, corruptions))}: {'; '.join(texts)}."

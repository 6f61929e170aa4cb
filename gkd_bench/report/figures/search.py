"""Searches: the objective trial by trial, what each parameter does to it, and fronts of several objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gkd_bench.config.schema import OBJECTIVES
from gkd_bench.report.captions import PICKS
from gkd_bench.report.extras import Extras
from gkd_bench.report.figures.axes import (
    Looks,
    all_domains,
    empty,
    few_ticks,
    key,
    legend,
    nothing,
    plain,
    short_number,
    shortened,
    sources_of,
    whole_ticks,
)
from gkd_bench.report.figures.base import PAGE, Figure, file_name, finish, panels, style
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import counted, listed, method_title
from gkd_bench.report.palette import INK, MUTED, domain_colours
from gkd_bench.report.searching import COMPLETE, OBJECTIVE_TITLES, STATES, SearchStudy, Trial, studies_of
from gkd_bench.report.selection import RULES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_COLUMNS = 3
_MOST_STUDIES, _MOST_PARAMETERS = 12, 9
_LOG_SPAN = 50.0
_MARKS = {"pruned": "|", "failed": "x"}
_SHAPES = ("o", "s", "^", "D", "v", "P")
_SOURCE_ONLY = "Objectives are measured on validation images of the source only."


# ------------------------------------------------------------------------------------------------ trial by trial


def search_history(records: SweepRecords, extras: Extras) -> tuple[Figure, ...]:
    """First objective of every trial, one panel per study, with the best so far and how the other trials ended.

    As many pages as the studies take, those of one method beside each other.
    """
    known = {study: _method(study) for study in studies_of(records) if study.objectives}
    order = records.in_order(set(known.values()))
    studies = sorted(known, key=lambda study: order.index(known[study]))
    pages = [studies[start : start + _MOST_STUDIES] for start in range(0, len(studies), _MOST_STUDIES)]
    return tuple(_history_page(records, page, at, len(pages)) for at, page in enumerate(pages))


def _history_page(records: SweepRecords, studies: Sequence[SearchStudy], at: int, pages: int) -> Figure:
    with style():
        looks, columns = Looks.of(records), min(_COLUMNS, len(studies))
        rows = math.ceil(len(studies) / columns)
        drawing, axes = panels(rows, columns, PAGE, 1.45 * rows + 0.5)
        for one, study in zip(axes, studies, strict=False):
            _history(one, study, looks)
        empty(axes[len(studies) :])
        for one in axes[: len(studies) : columns]:
            one.set_ylabel(_axis_words(studies[0].objectives[0]))
        drawing.supxlabel("trial", fontsize=7)
        legend(drawing, _history_handles())
        caption = (
            f"{_capital(OBJECTIVE_TITLES[studies[0].objectives[0]])}, {_better(studies[0].objectives[0])}, of every complete "
            f"trial in the order in which they were proposed; the line is the best so far. Marks on the lower edge: trials "
            f"without a result. {_taken_words(records)} {_SOURCE_ONLY}"
        )
        title = f"Search, trial by trial{f', part {at + 1} of {pages}' if pages > 1 else ''}"
        return finish(
            drawing,
            f"search_history_{at + 1}" if at else "search_history",
            "search",
            title,
            caption,
            _history_alt(studies),
        )


def _history(axes: Axes, study: SearchStudy, looks: Looks) -> None:
    objective, colour = study.objectives[0], looks.colour(_method(study))
    numbers = [trial.number for trial in study.trials]
    values = [trial.objectives[objective] for trial in study.trials]
    best = np.maximum.accumulate(values) if OBJECTIVES[objective] == "up" else np.minimum.accumulate(values)
    axes.plot(numbers, best, color=MUTED, linewidth=0.8, drawstyle="steps-post", zorder=1)
    axes.plot(numbers, values, "o", color=colour, markeredgecolor=INK, markeredgewidth=0.3, zorder=3)
    _ring(axes, study.taken, [(study.taken.number, study.taken.objectives[objective])] if study.taken else [])
    for state, mark in _MARKS.items():
        ended = study.frame.loc[study.frame["state"] == state, "number"].to_numpy(float)
        edge = axes.get_xaxis_transform()
        axes.plot(ended, np.full(len(ended), 0.04), mark, color=INK, markersize=4, markeredgewidth=0.9, transform=edge)
    axes.set_title(shortened(_title(study), PAGE / _COLUMNS - 0.3))
    axes.margins(0.06, 0.14)
    whole_ticks(axes)
    few_ticks(axes, None, 4)


def _ring(axes: Axes, taken: Trial | None, places: Sequence[tuple[float, float]]) -> None:
    if taken is not None:
        for x, y in places:
            axes.plot(
                x, y, "o", markersize=7.5, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=0.9, zorder=4
            )


def _history_handles() -> list[Artist]:
    from matplotlib.lines import Line2D

    titles = dict(STATES)
    marks = [key(titles[state], mark, INK, width=0.9) for state, mark in _MARKS.items()]
    best = Line2D([], [], color=MUTED, linewidth=0.8, label="best so far")
    return [key(titles[COMPLETE], "o", MUTED), best, _ring_handle(), *marks]


def _ring_handle() -> Artist:
    return key("taken", "o", "none", width=0.9, size=6.5)


def _history_alt(studies: Sequence[SearchStudy]) -> str:
    texts = []
    for study in studies:
        objective = study.objectives[0]
        values = [trial.objectives[objective] for trial in study.trials]
        low, high = plain(min(values)), plain(max(values))
        texts.append(f"{_title(study)}: {len(values)} of {len(study.frame)} complete, {low} to {high}")
    return f"Dots of {OBJECTIVE_TITLES[studies[0].objectives[0]]} by trial. {'; '.join(texts)}."


# ------------------------------------------------------------------------------------------------- by parameter


def parameter_slices(records: SweepRecords, extras: Extras) -> tuple[Figure, ...]:
    """First objective against every searched parameter; one figure per method, sources in colours."""
    groups: dict[str, list[SearchStudy]] = {}
    for study in studies_of(records):
        if study.trials and study.objectives:
            groups.setdefault(_method(study), []).append(study)
    found = (_slices(records, method, groups[method]) for method in records.in_order(groups))
    return tuple(figure for figure in found if figure)


def _slices(records: SweepRecords, method: str, studies: Sequence[SearchStudy]) -> Figure | None:
    names = sorted({name for study in studies for trial in study.trials for name in trial.params})[:_MOST_PARAMETERS]
    if not names:
        return None
    sources = sources_of(records, map(_source, studies))
    colours = domain_colours(all_domains(records, sources))
    with style():
        columns = min(_COLUMNS, len(names))
        rows = math.ceil(len(names) / columns)
        drawing, axes = panels(rows, columns, PAGE, 1.55 * rows + 0.35, share_y=True)
        for one, name in zip(axes, names, strict=False):
            _slice(one, studies, name, sources, colours)
        empty(axes[len(names) :])
        for one in axes[: len(names) : columns]:
            one.set_ylabel(_axis_words(studies[0].objectives[0]))
        few_ticks(axes[0], None, 5)
        legend(drawing, [*_source_handles(sources, colours), _ring_handle()])
        caption = (
            f"{_capital(OBJECTIVE_TITLES[studies[0].objectives[0]])}, {_better(studies[0].objectives[0])}, of every complete "
            f"trial of {method_title(method)} against each searched parameter; the others vary as well. "
            f"{_taken_words(records)} {_SOURCE_ONLY}"
        )
        title = f"What the searched parameters of {method_title(method)} do"
        alt = _slices_alt(method, studies, names)
        return finish(drawing, file_name("search_parameters", method), "search", title, caption, alt)


def _slice(
    axes: Axes, studies: Sequence[SearchStudy], name: str, sources: Sequence[str], colours: Mapping[str, str]
) -> None:
    place = _scale(axes, [trial.params[name] for study in studies for trial in study.trials if name in trial.params])
    for study in studies:
        objective, at = study.objectives[0], sources.index(_source(study))
        trials = [trial for trial in study.trials if name in trial.params]
        x = [place(trial.params[name]) for trial in trials]
        y = [trial.objectives[objective] for trial in trials]
        axes.plot(
            x, y, _SHAPES[at % len(_SHAPES)], color=colours[_source(study)], markeredgecolor=INK, markeredgewidth=0.3,
            linestyle="none", alpha=0.85,
        )  # fmt: skip
        taken = study.taken
        if taken is not None and name in taken.params:
            _ring(axes, taken, [(place(taken.params[name]), taken.objectives[objective])])
    axes.grid(axis="y")
    axes.set_xlabel(name.removeprefix("methods."))
    axes.margins(0.08, 0.12)


class _Place:
    """Where a parameter's value stands on an axis: numbers as they are, anything else side by side by name."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __call__(self, value: Any) -> float:
        return float(self.names.index(str(value))) if self.names else float(value)


def _scale(axes: Axes, values: Sequence[Any]) -> _Place:
    """Set up a horizontal axis for a parameter: logarithmic over wide ranges, names for what is no number."""
    from matplotlib.ticker import FuncFormatter

    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        names = sorted({str(value) for value in values})
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        return _Place(names)
    low, high = min(values), max(values)
    if low > 0 and high / low >= _LOG_SPAN:
        axes.set_xscale("log")
    else:
        few_ticks(axes, 4, None)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    return _Place(())


def _source_handles(sources: Sequence[str], colours: Mapping[str, str]) -> list[Artist]:
    return [key(name, _SHAPES[at % len(_SHAPES)], colours[name]) for at, name in enumerate(sources)]


def _slices_alt(method: str, studies: Sequence[SearchStudy], names: Sequence[str]) -> str:
    texts = []
    for study in studies:
        if study.taken is not None:
            values = [
                f"{name.removeprefix('methods.')} {_value(study.taken.params[name])}"
                for name in names
                if name in study.taken.params
            ]
            texts.append(f"{_source(study)}: {listed(values)}")
    return f"Dots of the objective against {counted(len(names), 'parameter')} of {method_title(method)}. Taken for {'; '.join(texts)}."


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# ----------------------------------------------------------------------------------------------- several objectives


def search_fronts(records: SweepRecords, extras: Extras) -> Figure | None:
    """First objective against each other one, a row per study, with the trials that no other trial beats."""
    studies = [study for study in studies_of(records) if len(study.objectives) > 1][: _MOST_STUDIES // 2]
    if not studies:
        return None
    others = list(dict.fromkeys(name for study in studies for name in study.objectives[1:]))
    with style():
        looks, width = Looks.of(records), PAGE * max(len(others), 2) / max(len(others), 3)
        drawing, axes = panels(len(studies), len(others), width, 1.5 * len(studies) + 0.5)
        for row, study in enumerate(studies):
            for column, other in enumerate(others):
                _front(axes[row * len(others) + column], study, other, looks)
            axes[row * len(others)].set_ylabel(_axis_words(study.objectives[0]))
            axes[row * len(others)].set_title(_title(study))
        for one, other in zip(axes[-len(others) :], others, strict=True):
            one.set_xlabel(_axis_words(other))
        legend(drawing, _front_handles())
        caption = (
            f"Complete trials of every study: {OBJECTIVE_TITLES[studies[0].objectives[0]]} against each further objective; arrows: "
            f"which way is better. Filled: on the Pareto front of all objectives together, so not beaten in one without losing in "
            f"another. {_taken_words(records)} {_SOURCE_ONLY}"
        )
        title = "Search with several objectives"
        return finish(drawing, "search_fronts", "search", title, caption, _fronts_alt(studies))


def _front(axes: Axes, study: SearchStudy, other: str, looks: Looks) -> None:
    if other not in study.objectives:
        nothing(axes, "not an objective")
        return
    colour, first = looks.colour(_method(study)), study.objectives[0]
    best = {trial.number for trial in study.front}
    for trial in study.trials:
        on = trial.number in best
        axes.plot(
            trial.objectives[other], trial.objectives[first], "o", markersize=4.5 if on else 3.5,
            markerfacecolor=colour if on else "white", markeredgecolor=INK if on else MUTED, zorder=3 if on else 2,
        )  # fmt: skip
    if study.taken is not None:
        _ring(axes, study.taken, [(study.taken.objectives[other], study.taken.objectives[first])])
    from matplotlib.ticker import FuncFormatter

    axes.margins(0.1, 0.14)
    few_ticks(axes, 4, 4)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def _front_handles() -> list[Artist]:
    return [key("on the front", "o", MUTED), key("beaten", "o", "white", edge=MUTED), _ring_handle()]


def _fronts_alt(studies: Sequence[SearchStudy]) -> str:
    texts = []
    for study in studies:
        taken = "none taken"
        if study.taken is not None:
            numbers = listed(
                f"{OBJECTIVE_TITLES[name]} {short_number(study.taken.objectives[name])}" for name in study.objectives
            )
            taken = f"taken trial {study.taken.number} with {numbers}"
        texts.append(f"{_title(study)}: {len(study.front)} of {len(study.trials)} trials on the front, {taken}")
    return f"Scatter of objectives of complete trials. {'; '.join(texts)}."


# -------------------------------------------------------------------------------------------------------- helpers


def _source(study: SearchStudy) -> str:
    return _first(study.frame, "source")


def _method(study: SearchStudy) -> str:
    return _first(study.frame, "method")


def _first(frame: pd.DataFrame, name: str) -> str:
    return str(frame[name].iloc[0])


def _title(study: SearchStudy) -> str:
    return f"{_source(study)}, {method_title(_method(study))}"


def _axis_words(objective: str) -> str:
    short = {
        "source_val": "validation Dice",
        "source_val_stressed": "validation Dice, stressed",
        "stress_fsd": "FSD under stress",
        "student_macs": "multiply-accumulates",
    }
    way = "\N{UPWARDS ARROW}" if OBJECTIVES[objective] == "up" else "\N{DOWNWARDS ARROW}"
    return f"{short.get(objective, objective)} {way}"


def _better(objective: str) -> str:
    return "higher is better" if OBJECTIVES[objective] == "up" else "lower is better"


def _taken_words(records: SweepRecords) -> str:
    pick = PICKS.get(records.origin.pick, records.origin.pick)
    several = any(len(study.objectives) > 1 for study in studies_of(records))
    front = f", {pick} on the Pareto front" if several else ""
    return f"Ringed: the trial that was taken (rule: {RULES[records.origin.rule].title}{front})."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

"""Can the Dice drop on a new domain be foretold without its labels?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gkd_bench.report.extras import Extras
from gkd_bench.report.figures.axes import OTHERS, Looks, few_ticks, legend, zero_line
from gkd_bench.report.figures.base import PAGE, Figure, finish, panels, style
from gkd_bench.report.figures.scores import named_methods, others_words
from gkd_bench.report.forecast import Forecast, Point, forecasts
from gkd_bench.report.forecasting import forecast_points, forecast_verdict
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import counted
from gkd_bench.report.palette import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FSD = "Fréchet distance of the aligned vectors, target from source"


def forecast_scatter(records: SweepRecords, extras: Extras) -> Figure | None:
    """Dice drop against FSD with a fit, and against what each model's own stress curve says."""
    points = [point for point in forecast_points(records) if point.source != point.target]
    if len(points) < 3:
        return None
    foretold = [point for point in points if point.stress_curve_prediction is not None]
    methods = records.in_order({point.method for point in points})
    results = {one.predictor.name: one for one in forecasts(points)}
    with style():
        looks, columns, named = Looks.of(records), 2 if foretold else 1, named_methods(records, methods)
        drawing, axes = panels(1, columns, PAGE * columns / 2, 2.75, share_y=True)
        _against_fsd(axes[0], points, named, looks)
        axes[0].set_title(_score("FSD alone", results.get("fsd")))
        if foretold:
            _against_curve(axes[1], foretold, named, looks)
            axes[1].set_title(_score("own stress curve", results.get("stress_curve")))
        axes[0].set_ylabel("Dice drop (in-domain \N{MINUS SIGN} target)")
        legend(drawing, looks.handles(methods, named, line=False))
        title = "Can the drop on a new domain be foretold?"
        alt = f"Scatter of Dice drop against Fréchet distance, {_count(points)}. {forecast_verdict(records)}"
        caption = f"{_caption(points, list(results.values()))} {others_words(methods, named)}"
        return finish(drawing, "forecast", "forecast", title, caption, alt)


def _against_fsd(axes: Axes, points: Sequence[Point], named: Sequence[str], looks: Looks) -> None:
    x, y = (np.array([getattr(point, name) for point in points]) for name in ("fsd", "drop"))
    _scatter(axes, points, x, named, looks)
    if np.ptp(x) > 0:
        slope, start = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, start + slope * ends, color=MUTED, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    axes.set_xlabel(_FSD)


def _against_curve(axes: Axes, points: Sequence[Point], named: Sequence[str], looks: Looks) -> None:
    x = np.array([point.stress_curve_prediction for point in points], np.float64)
    _scatter(axes, points, x, named, looks)
    low, high = (float(limit) for limit in (min(x.min(), 0.0), x.max()))
    axes.plot([low, high], [low, high], color=MUTED, linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=1)
    axes.set_xlabel("drop foretold by the model's own stress curve")


def _scatter(
    axes: Axes, points: Sequence[Point], x: np.ndarray[tuple[int, ...], np.dtype[np.float64]], named: Sequence[str],
    looks: Looks,
) -> None:  # fmt: skip
    drops = np.array([point.drop for point in points])
    names = np.array([point.method for point in points])
    many = len(points) > 400
    for method in dict.fromkeys(names.tolist()):
        mine, is_named = names == method, method in named
        colour, marker = (looks.colour(method), looks.marker(method)) if is_named else (OTHERS, "o")
        axes.scatter(
            x[mine], drops[mine], s=13 if is_named else 7, color=colour, marker=marker,
            edgecolor=INK if is_named else "none", linewidth=0.3, alpha=0.85, zorder=3 if is_named else 2, rasterized=many,
        )  # fmt: skip
    zero_line(axes)
    few_ticks(axes, 5, 5)


def _score(words: str, result: Forecast | None) -> str:
    if result is None or result.skill is None:
        return words
    return f"{words}: {'predicts' if result.predicts else 'predicts nothing'}"


def _count(points: Sequence[Point]) -> str:
    pairs, targets = len({(p.source, p.target) for p in points}), len({p.target for p in points})
    return f"{counted(len(points), 'point')} of {counted(pairs, 'pair')} on {counted(targets, 'target')}"


def _caption(points: Sequence[Point], results: Sequence[Forecast]) -> str:
    judged = " ".join(f"{one.verdict}." for one in results if one.predictor.inputs and one.points)
    return (
        f"Every point is one trained network on one foreign target ({_count(points)}). Left: dashed, a straight line through all "
        f"points, to guide the eye. Right, where there are stress results: dotted, where the forecast would be exact. Judged "
        f"by foretelling every target from the other domains, without its labels: {judged}"
    )

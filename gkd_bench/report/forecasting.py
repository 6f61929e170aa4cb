"""Is the Dice drop on a target foretold by distances and stress? The points of the forecast, its table and its verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from gkd_bench.report.captions import sentences
from gkd_bench.report.cells import Cell, Column, Table
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.forecast import Curve, Forecast, Point, forecasts, stress_curve
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import metric_direction
from gkd_bench.report.stress_tables import CLEAN, MODEL, stress_scores

SPACE = "aligned_own"
Model = tuple[str, str, int]
"""(method, source, seed)"""
_Condition = tuple[bool, float, float]
"""(whether clean, Dice, FSD or NaN)"""


def forecast_points(records: SweepRecords) -> list[Point]:
    """One point per final training and foreign target with a distance, a score there and a score in-domain."""
    evidence = Evidence.of(records)
    metric = evidence.headline
    if not evidence.metrics:
        return []
    frame = records.seed_scores
    names = (frame[name].tolist() for name in (*MODEL, "target", metric))
    scores = {(method, source, seed, target): value for method, source, seed, target, value in zip(*names, strict=True)}
    sign = -1.0 if metric_direction(metric) == "down" else 1.0
    stress = _stress(records)
    points = []
    for method, source, seed, target, fsd in _distances(records).itertuples(index=False, name=None):
        ends = [(method, source, seed, domain) for domain in (source, target)]
        drop = sign * float(scores.get(ends[0], math.nan) - scores.get(ends[1], math.nan))
        if source != target and math.isfinite(drop):
            lost, curve = stress.get((method, source, seed), (None, None))
            foretold = None if curve is None else curve(float(fsd))
            points.append(Point(source, target, method, int(seed), drop, float(fsd), lost, foretold))
    return points


def forecast_table(records: SweepRecords) -> Table:
    """How well each predictor foretells the drop on targets it has not seen; the verdict is in words."""
    columns = (
        Column("predictor", "predictor"),
        Column("points", "points", decimals=0),
        Column("pairs", "pairs", decimals=0),
        Column("targets", "targets", decimals=0),
        Column("mae", "mean absolute error", "down"),
        Column("mae_mean", "the same for the mean drop", "down"),
        Column("skill", "skill", "up", decimals=2, signed=True),
        Column("rank", "prediction against drop", "up", decimals=2, signed=True, interval=True),
        Column("rank_within", "within one method", "up", decimals=2, signed=True),
        Column("reason", "why not"),
    )
    evidence, found = Evidence.of(records), forecast_results(records)
    rows = tuple(_row(forecast) for forecast in found if forecast.points)
    caption = sentences(
        f"Drop: in-domain minus target {evidence.title(evidence.headline)} of the same network",
        "Each target is predicted from the other domains, without any of its labels. Skill: 1 - squared error / that of the mean "
        "drop of the other targets (1 perfect, 0 no better)",
        "Prediction against drop: Spearman, [ ] 95 % bootstrap interval over source -> target pairs, since networks of one pair are "
        "not independent; it says nothing of the sign of a fitted slope",
        *_plain_rank(records),
        *(forecast.verdict for forecast in found if forecast.points),
    )
    return Table("forecast", "Can the drop on a new domain be foretold?", caption, columns, rows, "forecast")


def _plain_rank(records: SweepRecords) -> list[str]:
    """How the distance itself goes with the drop, over all points: the sign that a fit may hide."""
    points = forecast_points(records)
    if len(points) < 3:
        return []
    distance, drop = (pd.Series(values) for values in ([p.fsd for p in points], [p.drop for p in points]))
    rank = float(distance.rank().corr(drop.rank()))
    if not math.isfinite(rank):
        return []
    words = "a larger distance went with a larger drop" if rank > 0 else "a larger distance went with a smaller drop"
    return [f"FSD against drop itself ({len(points)} points, Spearman): {rank:+.2f}, {words}"]


def forecast_results(records: SweepRecords) -> tuple[Forecast, ...]:
    """Every predictor judged on the points; empty without points."""
    points = forecast_points(records)
    return forecasts(points) if points else ()


def forecast_verdict(records: SweepRecords) -> str:
    """The forecast in plain words: what foretells the drop, or that nothing does; empty without points."""
    judged = [one for one in forecast_results(records) if one.predictor.inputs and one.points]
    if not judged:
        return ""
    able = [one for one in judged if one.predicts]
    if able:
        return f"The drop on a new domain can be foretold without its labels. {able[0].verdict}."
    return f"Nothing here foretells the drop on a new domain better than the mean of the others. {judged[0].verdict}."


def _distances(records: SweepRecords) -> pd.DataFrame:
    frame = Evidence.of(records).final("fsd", "test")
    chosen = frame[(frame["use"] == "domain") & (frame["space"] == SPACE) & frame["value"].notna()]
    return chosen[[*MODEL, "target", "value"]].sort_values([*MODEL, "target"], kind="stable")


def _stress(records: SweepRecords) -> dict[Model, tuple[float | None, Curve | None]]:
    """Model -> its mean drop under stress, and its drop as a function of FSD; from the source's validation subjects."""
    dice = stress_scores(records)
    fsd = Evidence.of(records).final("stress_fsd", "val")
    keys = [*MODEL, "corruption", "strength"]
    near = fsd[fsd["space"] == SPACE].groupby(keys, sort=True)["value"].mean().reset_index()
    both = dice.merge(near, on=keys, how="left")
    models: dict[Model, list[_Condition]] = {}
    for method, source, seed, corruption, _, score, value in both.itertuples(index=False, name=None):
        models.setdefault((method, source, int(seed)), []).append((corruption == CLEAN, float(score), float(value)))
    return {model: _curve(conditions) for model, conditions in models.items()}


def _curve(conditions: Sequence[_Condition]) -> tuple[float | None, Curve | None]:
    clean = [(dice, fsd) for is_clean, dice, fsd in conditions if is_clean]
    stressed = [(dice, fsd) for is_clean, dice, fsd in conditions if not is_clean]
    if not clean or not stressed:
        return None, None
    start, origin = clean[0]
    lost = start - float(np.mean([dice for dice, _ in stressed]))
    known = [(dice, fsd) for dice, fsd in stressed if math.isfinite(fsd)]
    if not math.isfinite(origin) or not known:
        return lost, None
    drops = [start - dice for dice, _ in known]
    return lost, stress_curve([origin, *(fsd for _, fsd in known)], [0.0, *drops])


def _row(forecast: Forecast) -> tuple[Cell, ...]:
    return (
        Cell(forecast.predictor.title),
        Cell(forecast.points),
        Cell(forecast.pairs),
        Cell(forecast.targets),
        Cell(forecast.mae),
        Cell(forecast.mae_mean),
        Cell(forecast.skill),
        Cell(forecast.rank, None, forecast.rank_low, forecast.rank_high),
        Cell(forecast.rank_within),
        Cell(forecast.reason or None),
    )

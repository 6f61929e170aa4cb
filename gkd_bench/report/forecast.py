"""How well is the Dice drop on an unseen target predicted without its labels? From FSD and the stress results alone.

Every prediction for a domain is made without any result of that domain, neither as target nor as source: that is where a
hospital stands whose images are there and whose labels are not. A forecast that is no better than the mean drop of the other targets
is said to predict nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.statistics import TAIL, Array

LEAST_TARGETS = 3
LEAST_POINTS = 3  # of one method, for a rank correlation of its own
LEAST_PAIRS = 5  # four pairs fall into the right order by chance once in 24 times, five once in 120
_DECIMALS = 10  # numbers that differ by less share a rank
_ROUNDING = 1e-9  # relative spread of numbers that are equal but for rounding

Curve = Callable[[float], float]
Names = NDArray[np.str_]


@dataclass(frozen=True)
class Point:
    """One model of one source on one target.

    Attributes:
        source, target, method, seed: which model, scored where.
        drop: in-domain Dice - target Dice of the same model; reads target labels: only ever predicted, never used for its
            own target.
        fsd: Fréchet distance of the target's tiles from the source's training tiles.
        stress_drop: clean - stressed Dice on the source's validation subjects; none without stress results.
        stress_curve_prediction: this model's :func:`stress_curve` at ``fsd``; none where it has no curve.
    """

    source: str
    target: str
    method: str
    seed: int
    drop: float
    fsd: float
    stress_drop: float | None = None
    stress_curve_prediction: float | None = None


@dataclass(frozen=True)
class Predictor:
    """A way to predict the drop.

    Attributes:
        name: its name in files.
        title: its name for readers.
        inputs: fields of :class:`Point` that it reads.
        fitted: a linear function of its inputs is fitted to the other domains' drops; else its one input is the prediction.
    """

    name: str
    title: str
    inputs: tuple[str, ...]
    fitted: bool = True


_INPUTS = {"fsd": "FSD", "stress_drop": "stress drop", "stress_curve_prediction": "prediction of the stress curves"}
MEAN = Predictor("mean", "mean drop of the other targets", ())
PREDICTORS = (
    Predictor("fsd", "FSD alone", ("fsd",)),
    Predictor("fsd_stress", "FSD and stress drop", ("fsd", "stress_drop")),
    Predictor("stress_curve", "each model's own stress curve", ("stress_curve_prediction",), fitted=False),
    MEAN,
)


@dataclass(frozen=True)
class Forecast:
    """How well one predictor does; errors in Dice. Numbers are none where they are undefined, and ``reason`` says why.

    Attributes:
        predictor: which one.
        points, pairs, targets: how many it is judged on; models of one pair are not independent.
        mae: mean absolute error.
        mae_mean: the same for the mean drop of the other targets, on the same points.
        skill: R2 against that mean, 1 - SSE / SSE of the mean: 1 perfect, 0 no better, below 0 worse.
        rank: Spearman correlation of prediction and drop over all points. Below 0 where the inputs say nothing: a target with
            a large drop is predicted from the others, whose drops are smaller.
        rank_low, rank_high: 95 % percentile bootstrap interval of it over (source, target) pairs, predictions held.
        rank_within: mean over methods of the correlation among the points of one method; none below three points each.
        reason: why something is none; else empty.
    """

    predictor: Predictor
    points: int
    pairs: int
    targets: int
    mae: float | None = None
    mae_mean: float | None = None
    skill: float | None = None
    rank: float | None = None
    rank_low: float | None = None
    rank_high: float | None = None
    rank_within: float | None = None
    reason: str = ""

    @property
    def predicts(self) -> bool:
        """Whether it is better than the mean and the interval of its rank correlation lies above 0."""
        return self.skill is not None and self.rank_low is not None and self.skill > 0 and self.rank_low > 0

    @property
    def verdict(self) -> str:
        """The result in one plain sentence, with its numbers."""
        counted = f"{self.points} points of {self.pairs} pairs on {self.targets} targets"
        if self.mae is None or self.mae_mean is None:
            return f"{self.predictor.title}: cannot be judged, {self.reason} ({counted})"
        if self.predictor == MEAN:
            return f"{self.predictor.title}: misses the Dice drop by {self.mae:.3f} on average ({counted})"
        errors = f"misses by {self.mae:.3f} on average, the mean drop of the other targets by {self.mae_mean:.3f}"
        numbers = f"{errors}; {_rank_words(self)}; skill {_number(self.skill)}; {counted}"
        return f"{self.predictor.title}: {self._judgement} ({numbers})"

    @property
    def _judgement(self) -> str:
        if self.predicts:
            return "predicts the Dice drop"
        too_few = self.rank_low is None and self.skill is not None and self.skill > 0
        return "cannot be told from chance" if too_few else "predicts nothing"


@dataclass(frozen=True, eq=False)
class _Columns:
    """Points as arrays of one length; ``inputs`` is (points, inputs)."""

    sources: Names
    targets: Names
    methods: Names
    pairs: NDArray[np.intp]
    drops: Array
    inputs: Array


def forecasts(points: Sequence[Point], *, draws: int = 2000, seed: int = 0) -> tuple[Forecast, ...]:
    """Judge every predictor of ``PREDICTORS`` by predicting each target from the other domains.

    Points of a source on itself are left out: they have no drop. Each predictor is judged on the points that have all its
    inputs, beside the mean drop on the same points. Linear fits weigh all points alike; where the other domains cannot tell
    a slope, the smallest one is taken.

    Args:
        points: one per final training and target.
        draws: bootstrap replicates.
        seed: of the bootstrap.

    Raises:
        GkdBenchError: a drop or distance is not finite.
    """
    _refuse_undefined(points)
    foreign = [point for point in points if point.source != point.target]
    return tuple(_judge(predictor, foreign, draws, seed) for predictor in PREDICTORS)


def stress_curve(fsd: ArrayLike, drop: ArrayLike) -> Curve | None:
    """A model's Dice drop as a function of FSD, from its source's validation images under stress: no target is needed.

    A line through the clean point with the least-squares slope, never below 0, with predictions in [0, 1]; nothing is lost
    nearer than the clean images. A line, not an isotonic fit: targets tend to be farther away than any stress, where an isotonic
    fit would stay at its last step.

    Args:
        fsd: (n,) Fréchet distances of stressed validation tiles from training tiles, the first one without stress.
        drop: (n,) clean - stressed Dice of the same conditions; the first one 0.

    Returns:
        FSD -> predicted drop; none where stress does not move the tiles, so that there is no slope.

    Raises:
        GkdBenchError: the two differ in length, or a number is not finite.
    """
    x, y = np.asarray(fsd, np.float64).ravel(), np.asarray(drop, np.float64).ravel()
    if x.shape != y.shape or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise GkdBenchError(f"a stress curve needs one finite drop per finite FSD, found {len(x)} FSD, {len(y)} drops")
    if len(x) < 2 or _constant(x):
        return None
    clean, far, lost = float(x[0]), x - x[0], y - y[0]
    slope = max(float(far @ lost / (far @ far)), 0.0)
    return lambda distance: min(slope * max(distance - clean, 0.0), 1.0)


def _judge(predictor: Predictor, points: Sequence[Point], draws: int, seed: int) -> Forecast:
    usable = [point for point in points if all(getattr(point, name) is not None for name in predictor.inputs)]
    columns = _columns(predictor, usable)
    counts = (len(usable), len(set(columns.pairs.tolist())), len(set(columns.targets.tolist())))
    reason = _degenerate(predictor, columns)
    if reason:
        return Forecast(predictor, *counts, reason=reason)
    mean = _held_out(columns, columns.inputs[:, :0])
    predicted = _held_out(columns, columns.inputs) if predictor.fitted else columns.inputs[:, 0]
    mae, mae_mean = (float(np.abs(columns.drops - guess).mean()) for guess in (predicted, mean))
    if predictor == MEAN:
        return Forecast(predictor, *counts, mae, mae_mean, 0.0, reason="it ranks nothing within a target")
    skill = _skill(columns.drops, predicted, mean)
    return _ranked(Forecast(predictor, *counts, mae, mae_mean, skill), columns, predicted, draws, seed)


def _columns(predictor: Predictor, points: Sequence[Point]) -> _Columns:
    named = sorted({(point.source, point.target) for point in points})
    places = {pair: place for place, pair in enumerate(named)}
    inputs = [[float(getattr(point, name)) for name in predictor.inputs] for point in points]
    return _Columns(
        np.array([point.source for point in points], np.str_),
        np.array([point.target for point in points], np.str_),
        np.array([point.method for point in points], np.str_),
        np.array([places[point.source, point.target] for point in points], np.intp),
        np.array([point.drop for point in points], np.float64),
        np.array(inputs, np.float64).reshape(len(points), len(predictor.inputs)),
    )


def _degenerate(predictor: Predictor, columns: _Columns) -> str:
    """Why the predictor cannot be judged on these points; empty when it can."""
    targets = sorted(set(columns.targets.tolist()))
    if len(targets) < LEAST_TARGETS:
        return f"at least {LEAST_TARGETS} targets with all its inputs are needed, here {len(targets)}"
    if _constant(columns.drops):
        return "the drop is the same everywhere"
    flat = [name for name, column in zip(predictor.inputs, columns.inputs.T, strict=True) if _constant(column)]
    if flat:
        return f"{' and '.join(_INPUTS[name] for name in flat)}: the same everywhere"
    bare = [target for target in targets if not _others(columns, target).any()]
    return f"without {', '.join(bare)} no pair is left to learn from" if bare else ""


def _others(columns: _Columns, domain: str) -> NDArray[np.bool_]:
    """Points that have nothing to do with a domain: as a source, too, it would give away its labels."""
    return np.asarray((columns.targets != domain) & (columns.sources != domain), np.bool_)


def _held_out(columns: _Columns, inputs: Array) -> Array:
    """(points,) prediction for every target by a linear fit on the points of the other domains; inputs: (points, k)."""
    predicted = np.empty(len(inputs), np.float64)
    for target in set(columns.targets.tolist()):
        mine, others = columns.targets == target, _others(columns, target)
        predicted[mine] = _linear(inputs[others], columns.drops[others], inputs[mine])
    return predicted


def _linear(seen: Array, drops: Array, asked: Array) -> Array:
    """Least squares with intercept, inputs scaled to deviation 1; the smallest slopes where several fit as well."""
    centre, spread = seen.mean(axis=0), seen.std(axis=0)
    scale = np.where(spread > _ROUNDING * np.abs(centre), spread, 1.0)
    slopes = np.linalg.lstsq((seen - centre) / scale, drops - drops.mean())[0]
    return np.asarray(drops.mean() + (asked - centre) / scale @ slopes, np.float64)


def _skill(drops: Array, predicted: Array, mean: Array) -> float | None:
    missed = float(((drops - mean) ** 2).sum())
    return 1 - float(((drops - predicted) ** 2).sum()) / missed if missed > 0 else None


def _ranked(forecast: Forecast, columns: _Columns, predicted: Array, draws: int, seed: int) -> Forecast:
    """The forecast with its rank correlations."""
    pairs = forecast.pairs
    rank = _optional(_spearman(predicted, columns.drops, columns.pairs, np.ones((1, pairs)))[0])
    judged = replace(forecast, rank=rank, rank_within=_within(columns, predicted))
    if pairs < LEAST_PAIRS:
        return replace(judged, reason=f"an interval needs at least {LEAST_PAIRS} pairs, here {pairs}")
    drawn = np.random.default_rng(seed).multinomial(pairs, np.full(pairs, 1 / pairs), size=draws)
    correlations = _spearman(predicted, columns.drops, columns.pairs, drawn.astype(np.float64))
    # A resample in which everything is equal shows no order: it counts as one without correlation.
    low, high = np.quantile(np.nan_to_num(correlations), [TAIL, 1 - TAIL])
    return replace(judged, rank_low=float(low), rank_high=float(high))


def _spearman(first: Array, second: Array, pairs: NDArray[np.intp], drawn: Array) -> Array:
    """(draws,) Spearman correlations when pair p is there ``drawn[:, p]`` times, ties at mean ranks; NaN where constant.

    Args:
        first, second: (points,) values.
        pairs: (points,) pair of every point.
        drawn: (draws, pairs) how often a pair is there with all its points.
    """
    counts = drawn[:, pairs]
    weights = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    a, b = (_counted_ranks(np.round(values, _DECIMALS), pairs, drawn) for values in (first, second))
    a, b = (ranks - (weights * ranks).sum(axis=1, keepdims=True) for ranks in (a, b))
    spread = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    level = np.where(spread > _ROUNDING, spread, np.nan)
    return np.asarray((weights * a * b).sum(axis=1) / level, np.float64)


def _counted_ranks(values: Array, pairs: NDArray[np.intp], drawn: Array) -> Array:
    """(draws, points) mean ranks from 1/2 on: copies below, and half of the equal ones."""
    below = (values[:, None] < values[None, :]) + 0.5 * (values[:, None] == values[None, :])
    members = np.eye(drawn.shape[1])[pairs]
    return np.asarray(drawn @ (members.T @ below), np.float64)


def _within(columns: _Columns, predicted: Array) -> float | None:
    """Mean over methods of the rank correlation among the points of one method, where it has three points or more."""
    found = []
    for method in sorted(set(columns.methods.tolist())):
        mine = columns.methods == method
        if mine.sum() >= LEAST_POINTS:
            alone = np.zeros(int(mine.sum()), np.intp)
            found.append(float(_spearman(predicted[mine], columns.drops[mine], alone, np.ones((1, 1)))[0]))
    known = [value for value in found if math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _constant(values: Array) -> bool:
    return not len(values) or float(np.ptp(values)) <= _ROUNDING * float(np.abs(values).max())


def _refuse_undefined(points: Sequence[Point]) -> None:
    wrong = [one for one in points if not all(math.isfinite(value) for value in _numbers(one))]
    if wrong:
        first = wrong[0]
        where = f"{first.source} -> {first.target}, {first.method}, seed {first.seed}"
        raise GkdBenchError(f"{len(wrong)} points of the forecast are not finite, first {where}; leave them out")


def _numbers(point: Point) -> list[float]:
    values = (point.drop, point.fsd, point.stress_drop, point.stress_curve_prediction)
    return [value for value in values if value is not None]


def _optional(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _rank_words(forecast: Forecast) -> str:
    rank = f"rank correlation {_number(forecast.rank)}"
    if forecast.rank_low is None or forecast.rank_high is None:
        return f"{rank}, {forecast.reason}"
    return f"{rank} [{forecast.rank_low:.2f}, {forecast.rank_high:.2f}]"

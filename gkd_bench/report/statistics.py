"""Doubt in numbers: intervals and gap closed. Pure functions of arrays, batched over the cells of a table.

Two kinds of doubt are kept apart. *Would another training say the same?* is answered by seeds (:func:`t_interval`). *Would
other patients say the same as well?* is answered by resampling seeds and test subjects (:class:`HierarchicalBootstrap`).
All intervals are 95 % intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gkd_bench.errors import GkdBenchError

Array = NDArray[np.float64]

TAIL = 0.025  # on either side of a 95 % interval


@dataclass(frozen=True)
class Interval:
    """Mean of ``n`` values and the half width of its t interval; no half width below two values."""

    mean: float
    half: float | None
    n: int

    @property
    def low(self) -> float | None:
        """Lower end."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end."""
        return None if self.half is None else self.mean + self.half


@dataclass(frozen=True)
class Bounds:
    """Lower and upper end of an interval that need not be symmetric."""

    low: float
    high: float


@dataclass(frozen=True)
class GapClosed:
    """Share of the gap between student alone and teacher that distillation closes: 0 nothing, 1 all of it; may leave [0, 1].

    Attributes:
        value: (distilled - alone) / (teacher - alone); none where the teacher is not better.
        low: lower end of its interval; none where it is undefined.
        high: upper end of it.
        reversed: share of the resamples in which the teacher is not better.
        reason: why something is none, in plain words; else empty.
    """

    value: float | None
    low: float | None
    high: float | None
    reversed: float
    reason: str = ""


def t_interval(values: ArrayLike) -> Interval | None:
    """Mean and 95 % t interval of the finite values; none when there is none.

    Args:
        values: (n,) one value per seed.
    """
    given = np.asarray(values, np.float64).ravel()
    known = given[np.isfinite(given)]
    if not known.size:
        return None
    if known.size == 1:
        return Interval(float(known[0]), None, 1)
    half = t_half_width(known.std(ddof=1), known.size)
    return Interval(float(known.mean()), float(half), int(known.size))


def t_half_width(deviation: ArrayLike, count: ArrayLike) -> Array:
    """Half widths of t intervals, t(0.975, n - 1) s / sqrt(n), of any number of cells at once; NaN below two values.

    Args:
        deviation: standard deviations s (n - 1 in the denominator), any shape.
        count: numbers of values n, a shape that goes with it.
    """
    from scipy.special import stdtrit

    n = np.asarray(count, np.float64)
    enough = np.where(n > 1, n, np.nan)
    return np.asarray(stdtrit(enough - 1, 1 - TAIL) * np.asarray(deviation, np.float64) / np.sqrt(enough), np.float64)


@dataclass(frozen=True)
class HierarchicalBootstrap:
    """Resamples of seeds, then of subjects, both with replacement; the same ones for every cell of its shape.

    The subjects of a replicate are drawn once and used for all its seeds. Seeds and subjects are crossed: every seed is
    scored on the same patients, and a patient who is hard for one is hard for all. Other patients for every seed would
    average that out and give intervals that are too narrow (Owen, Annals of Applied Statistics 1:386, 2007: the pigeonhole
    bootstrap). With one seed only subjects are drawn, with one subject only seeds. Seed k of two methods belongs together
    (same start, same teacher), so a difference of methods is resampled as one array of differences.

    With few seeds it knows little of them. In simulations with three seeds and 20 subjects it covered the truth in 92 of 100 worlds
    where subjects are most of the doubt, and in 71 where seeds are all of it. The t interval over seeds stands beside it for that.

    Attributes:
        seeds: seeds per cell.
        subjects: subjects per cell.
        draws: replicates.
        seed: where the draws start.
    """

    seeds: int
    subjects: int
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise GkdBenchError when there is nothing to draw from."""
        if min(self.seeds, self.subjects, self.draws) < 1:
            raise GkdBenchError(f"a bootstrap needs at least one seed, subject and draw: {self}; leave empty cells out")

    @property
    def informative(self) -> bool:
        """Whether there is anything to resample: more than one seed or more than one subject."""
        return self.seeds > 1 or self.subjects > 1

    @cached_property
    def weights(self) -> Array:
        """(draws, seeds * subjects), each row sums to one: how much each score weighs in the mean of a replicate."""
        rng = np.random.default_rng([self.seed, self.seeds, self.subjects])
        chosen, met = (_resampled(rng, size, self.draws) for size in (self.seeds, self.subjects))
        return (chosen[:, :, None] * met[:, None, :]).reshape(self.draws, -1)

    def replicates(self, values: ArrayLike) -> Array:
        """(cells, draws) means of the resampled scores.

        Args:
            values: (cells, seeds, subjects) finite scores, or differences of scores.

        Raises:
            GkdBenchError: another shape, or a score that is not finite.
        """
        return self._checked(values).reshape(-1, self.seeds * self.subjects) @ self.weights.T

    def intervals(self, values: ArrayLike) -> list[Bounds | None]:
        """Percentile interval of the mean of every cell; none where there is one score only. See :meth:`replicates`."""
        replicates = self.replicates(values)
        if not self.informative:
            return [None] * len(replicates)
        ends = np.quantile(replicates, [TAIL, 1 - TAIL], axis=1)
        return [Bounds(float(low), float(high)) for low, high in ends.T]

    def _checked(self, values: ArrayLike) -> Array:
        array = np.asarray(values, np.float64)
        if array.ndim != 3 or array.shape[1:] != (self.seeds, self.subjects):
            raise GkdBenchError(
                f"scores of shape {array.shape} for a bootstrap over (cells, {self.seeds} seeds, {self.subjects} subjects); "
                f"group the cells by shape"
            )
        return finite(array)


def gap_closed(
    teacher: ArrayLike,
    alone: ArrayLike,
    distilled: ArrayLike,
    bootstrap: HierarchicalBootstrap,
    *,
    higher_is_better: bool = True,
) -> list[GapClosed]:
    """Gap closed per cell, (distilled - alone) / (teacher - alone) of mean scores, with a percentile interval.

    The formula is the same for metrics where lower is better; only what "the teacher is better" means turns around. All
    three are resampled together. A resample without a gap says nothing about the share of it: it counts as minus infinity
    for the lower end and as infinity for the upper one, and from 2.5 % of them on there is no interval.

    Args:
        teacher, alone, distilled: (cells, seeds, subjects) finite scores; seed k and subject j are the same in all three.
        bootstrap: resamples for this number of seeds and subjects.
        higher_is_better: direction of the metric.

    Raises:
        GkdBenchError: shapes differ, or a score is not finite.
    """
    best, start, end = (np.asarray(scores, np.float64) for scores in (teacher, alone, distilled))
    if not best.shape == start.shape == end.shape:
        raise GkdBenchError(f"scores of one cell need one shape, found {best.shape}, {start.shape} and {end.shape}")
    sign = 1.0 if higher_is_better else -1.0
    gap, gain = sign * (best - start), sign * (end - start)
    ratios, without = _ratios(bootstrap.replicates(gain), bootstrap.replicates(gap))
    share = without.mean(axis=1)
    lows, highs = _wide_ends(ratios, without & (share < TAIL)[:, None])
    means = zip(gain.mean(axis=(1, 2)), gap.mean(axis=(1, 2)), strict=True)
    return [
        _gap_cell(float(over), float(under), Bounds(float(low), float(high)), float(part), bootstrap.informative)
        for (over, under), low, high, part in zip(means, lows, highs, share, strict=True)
    ]


def finite(array: Array) -> Array:
    """The same scores. Raises GkdBenchError when one is NaN or infinite."""
    if not np.isfinite(array).all():
        raise GkdBenchError(f"{(~np.isfinite(array)).sum()} scores are not finite; leave undefined subjects out first")
    return array


def _resampled(rng: np.random.Generator, size: int, draws: int) -> Array:
    """(draws, size) share of each of ``size`` things in a sample of that size drawn with replacement."""
    return np.asarray(rng.multinomial(size, np.full(size, 1 / size), size=draws) / size, np.float64)


def _ratios(gains: Array, gaps: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Ratio of every replicate, 0 where there is no gap, and where that is."""
    without = gaps <= 0
    return np.where(without, 0.0, gains / np.where(without, 1.0, gaps)), without


def _wide_ends(ratios: Array, widened: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Percentiles of every row with the marked replicates at the far side of either end; below 2.5 % of them both are finite."""
    low = np.quantile(np.where(widened, -np.inf, ratios), TAIL, axis=1)
    high = np.quantile(np.where(widened, np.inf, ratios), 1 - TAIL, axis=1)
    return low, high


def _gap_cell(gain: float, gap: float, ends: Bounds, share: float, informative: bool) -> GapClosed:
    if gap <= 0:
        return GapClosed(None, None, None, share, "the teacher is not better than the student alone")
    if not informative:
        return GapClosed(gain / gap, None, None, share, "one seed and one subject: nothing to resample")
    if share >= TAIL:
        return GapClosed(gain / gap, None, None, share, f"the teacher is not better in {share:.1%} of the resamples")
    return GapClosed(gain / gap, ends.low, ends.high, share)

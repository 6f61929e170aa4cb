"""Significance over test subjects: paired tests of every cell, batched, and Holm's correction. All p-values are two-sided."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.statistics import Array, finite

EXACT_SUBJECTS = 14  # 2^-13 is above 1 / 10,000, 2^-14 below: from 15 subjects on, random flips resolve enough
SIGN_DRAWS = 9_999
_SCIPY_EXACT = 50  # scipy's own limit for the exact null distribution of ranks
_DECIMALS = 10  # below that, a difference of two scores is rounding, which would break ties by chance
_TOLERANCE = 1e-12  # sums of the same numbers in another order count as equal; relative to the sum of magnitudes
_BLOCK = 256  # cells per matrix product: at most 20 MB at a time


@dataclass(frozen=True)
class PairedTest:
    """What the test subjects say about one difference; never to be shown without ``n``.

    Attributes:
        n: subjects.
        difference: mean difference in the unit of the metric; none without subjects.
        p_wilcoxon: signed-rank test; none below two subjects. Subjects without a difference are left out (Wilcoxon 1945).
        p_permutation: sign-flip test of the mean difference; none below two subjects.
        rank_biserial: matched-pairs rank-biserial correlation in [-1, 1], (R+ - R-) / (R+ + R-) (Kerby, Comprehensive
            Psychology 3:11.IT.3.1, 2014).
        cohen_dz: mean difference / its standard deviation over subjects (n - 1); none where all differ by the same amount.
        smallest_p: the smallest p that the permutation test can give with ``n`` subjects, 2^(1 - n) or 1 / 10,000: above
            0.05, as with five subjects, nothing can be significant.
        reason: why there is no test; else empty.
    """

    n: int
    difference: float | None
    p_wilcoxon: float | None = None
    p_permutation: float | None = None
    rank_biserial: float | None = None
    cohen_dz: float | None = None
    smallest_p: float | None = None
    reason: str = ""


def paired_tests(differences: Sequence[ArrayLike], *, seed: int = 0) -> list[PairedTest]:
    """Wilcoxon signed-rank and sign-flip permutation test of every cell over its test subjects, with effect sizes.

    Both tests take all 2^n sign flips where at most 14 subjects differ, ties included (mean ranks). Above that, the permutation
    test takes 9,999 random flips and the one observed; Wilcoxon is scipy's, exact up to 50 subjects without ties, else
    by the normal approximation with correction for ties. Without any difference both p are 1 and both effects 0.

    Args:
        differences: per cell (subjects,) finite differences of a method from its reference, averaged over seeds before:
            seeds of one patient are no further patients.
        seed: of the random sign flips; the same flips serve all cells with the same number of differing subjects.

    Raises:
        GkdBenchError: a difference is not finite.
    """
    cells = [np.round(finite(np.asarray(cell, np.float64).ravel()), _DECIMALS) for cell in differences]
    results: list[PairedTest] = [PairedTest(len(cell), _mean(cell), reason=_too_few(len(cell))) for cell in cells]
    for places, block in _blocks(cells):
        ranks = _signed_ranks(block)
        flips = _flip_p(block, seed)
        for row, (place, ranked, flipped) in enumerate(zip(places, _wilcoxon_p(block, ranks), flips, strict=True)):
            results[place] = _tested(cells[place], float(ranked), float(flipped), ranks[row])
    return results


def holm(pvalues: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values of one family (Holm, Scandinavian Journal of Statistics 6:65, 1979).

    Args:
        pvalues: p-values in [0, 1]; none and NaN are not part of the family and stay none.

    Raises:
        GkdBenchError: a p-value is outside [0, 1].
    """
    given = np.array([math.nan if value is None else value for value in pvalues], np.float64)
    family = np.flatnonzero(~np.isnan(given))
    if ((given[family] < 0) | (given[family] > 1)).any():
        raise GkdBenchError(f"p-values lie in [0, 1], found {given[family].min():g} to {given[family].max():g}")
    order = family[np.argsort(given[family], kind="stable")]
    steps = np.maximum.accumulate(given[order] * np.arange(len(order), 0, -1))
    adjusted: list[float | None] = [None] * len(given)
    for place, value in zip(order, np.minimum(steps, 1.0), strict=True):
        adjusted[place] = float(value)
    return adjusted


def _mean(values: Array) -> float | None:
    return float(values.mean()) if values.size else None


def _too_few(subjects: int) -> str:
    return "" if subjects > 1 else f"a paired test needs at least two subjects, here {subjects}"


def _blocks(cells: Sequence[Array]) -> Iterator[tuple[list[int], Array]]:
    """Cells with a test, grouped by how many of their subjects differ: places, and (cells, differing) differences."""
    groups: dict[int, list[int]] = {}
    for place, cell in enumerate(cells):
        if len(cell) > 1:
            groups.setdefault(int(np.count_nonzero(cell)), []).append(place)
    for count, places in sorted(groups.items()):
        yield places, np.array([cells[place][cells[place] != 0] for place in places]).reshape(len(places), count)


def _signed_ranks(block: Array) -> Array:
    """(cells, n) mean ranks of the magnitudes in each row, with the signs of the differences."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(np.abs(block), axis=1) * np.sign(block), np.float64) if block.shape[1] else block


def _flip_p(block: Array, seed: int) -> Array:
    """(cells,) share of sign flips whose sum is at least as far from zero as the one seen; block: (cells, n)."""
    cells, n = block.shape
    exact = n <= EXACT_SUBJECTS
    signs = _all_signs(n) if exact else _random_signs(n, seed)
    hits = np.empty(cells, np.float64)
    for start in range(0, cells, _BLOCK):
        rows = block[start : start + _BLOCK]
        edge = np.abs(rows.sum(axis=1)) - _TOLERANCE * np.abs(rows).sum(axis=1)
        hits[start : start + _BLOCK] = np.count_nonzero(np.abs(rows @ signs) >= edge[:, None], axis=1)
    return np.asarray(hits / signs.shape[1] if exact else (hits + 1) / (signs.shape[1] + 1), np.float64)


def _all_signs(n: int) -> Array:
    """(n, 2^(n-1)) all patterns of signs with the last one fixed: the other half only turns all of them around."""
    codes = np.arange(2 ** max(n - 1, 0))
    return np.where((codes >> np.arange(n)[:, None]) & 1, 1.0, -1.0)


def _random_signs(n: int, seed: int) -> Array:
    coins = np.random.default_rng([seed, n]).integers(2, size=(n, SIGN_DRAWS))
    return np.where(coins, 1.0, -1.0)


def _wilcoxon_p(block: Array, ranks: Array) -> Array:
    """(cells,) p-values of the signed-rank test; block: (cells, n) without zeros, ranks: its signed ranks."""
    from scipy.stats import wilcoxon

    n = block.shape[1]
    if n <= EXACT_SUBJECTS:
        return _flip_p(ranks, 0)
    tied = (np.diff(np.sort(np.abs(block), axis=1), axis=1) == 0).any(axis=1)
    approximate = tied | (n > _SCIPY_EXACT)
    p = np.empty(len(block))
    for method, rows in (("exact", ~approximate), ("asymptotic", approximate)):
        if rows.any():
            p[rows] = wilcoxon(block[rows], axis=1, method=method).pvalue
    return p


def _tested(cell: Array, ranked: float, flipped: float, ranks: Array) -> PairedTest:
    mean, spread, total = float(cell.mean()), float(cell.std(ddof=1)), float(np.abs(ranks).sum())
    even = spread <= _TOLERANCE * abs(mean)
    effect = mean / spread if not even else None if mean else 0.0
    biserial = float(ranks.sum()) / total if total else 0.0
    smallest = max(2.0 ** (1 - len(cell)), 1 / (SIGN_DRAWS + 1))
    return PairedTest(len(cell), mean, ranked, flipped, biserial, effect, smallest)

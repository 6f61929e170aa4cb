"""Frechet semantic distance (FSD): the Frechet distance of two Gaussians fitted to two sets of semantic vectors.

FSD = |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2), with unbiased covariances S, in float64 (Dowson and
Landau, J. Multivariate Analysis 12:450, 1982). The paper's FSD is known by name only; this use is a reconstruction.
No ridge is added: with c centred samples X, Tr (S_a^1/2 S_b S_a^1/2)^1/2 is the sum of the singular values of X_a X_b^T,
which needs neither a matrix square root nor full rank.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gkd_bench.errors import StageError

Vectors = NDArray[np.float64]

_SPREAD_VARIANCE = 0.999
_SPREAD_AXES = 128


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of vectors; 0 or more, finite for any rank.

    Through the cross-Gram matrix when a set has fewer vectors than dimensions, else through covariances.

    Args:
        a: (n, d) vectors, n >= 2.
        b: (m, d) vectors, m >= 2.

    Raises:
        StageError: a set is not a finite (n >= 2, d) matrix, or the dimensions differ.
    """
    return _distance(*_checked(a, b))


@dataclass(frozen=True, eq=False)
class SemanticStatistics:
    """Count, mean and scatter of a set of vectors: all that an FSD needs, whatever the number of vectors; ``+`` merges.

    Attributes:
        count: number of vectors.
        mean: (d,) float64.
        scatter: (d, d) float64, sum of (x - mean)(x - mean)^T.
    """

    count: int
    mean: Vectors
    scatter: Vectors

    @classmethod
    def from_vectors(cls, vectors: ArrayLike) -> SemanticStatistics:
        """Statistics of (n, d) vectors, n >= 1. Raises StageError for other shapes, NaN or infinities."""
        values = _matrix(vectors, "vectors", least=1)
        centred = values - values.mean(axis=0)
        return cls(len(values), values.mean(axis=0), centred.T @ centred)

    def __add__(self, other: SemanticStatistics) -> SemanticStatistics:
        """Statistics of both sets together (Chan, Golub and LeVeque 1979, equation 2.1)."""
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
        return SemanticStatistics(count, self.mean + step * (other.count / count), scatter)

    @property
    def covariance(self) -> Vectors:
        """(d, d) unbiased covariance. Raises StageError with fewer than 2 vectors."""
        if self.count < 2:
            raise StageError(f"a covariance needs at least 2 vectors, not {self.count}; use more tiles")
        return self.scatter / (self.count - 1)

    def distance(self, other: SemanticStatistics) -> float:
        """FSD to another set; see :func:`frechet_distance`."""
        if self.mean.shape != other.mean.shape:
            raise StageError(f"vectors of {len(self.mean)} and {len(other.mean)} dimensions cannot be compared")
        first, second = self.covariance, other.covariance
        return _combine(self.mean - other.mean, float(np.trace(first + second)), _root_trace(first, second))


@dataclass(frozen=True)
class FrechetReport:
    """An FSD with what is needed to judge it. It grows as the number of vectors falls, so compare it with ``floor`` only.

    Attributes:
        value: FSD of the two sets.
        n_a: vectors of the first set.
        n_b: vectors of the second set.
        dim: dimensions.
        low: lower end of the 95 % bootstrap interval; None without bootstrap.
        high: upper end of it.
        floor: mean FSD between random halves of the first set: what no domain gap looks like with half as many vectors
            (so, on the safe side, somewhat too high); None with fewer than 4 vectors.
        floor_high: 95 % quantile of the same halves; a value above it is a gap, not chance.
    """

    value: float
    n_a: int
    n_b: int
    dim: int
    low: float | None
    high: float | None
    floor: float | None
    floor_high: float | None

    def record(self) -> dict[str, float | int | None]:
        """The fields as plain JSON values."""
        return asdict(self)


def frechet_report(
    a: ArrayLike, b: ArrayLike, *, bootstrap: int = 200, halves: int = 20, seed: int = 0
) -> FrechetReport:
    """FSD with a bootstrap interval over vectors and the same-domain floor.

    Both sets are resampled with replacement. Repeated vectors raise an FSD, so plain percentiles would lie above the
    value; the replicates are shifted to have the value as their mean. The interval shows the spread at these numbers of vectors,
    not their bias, which the floor shows. Replicates are computed in the (at most 128) principal axes of all vectors
    that hold 99.9 % of the variance: exact for up to 128 vectors, and fast for thousands. Intervals err on the wide side: up to
    twice the spread of fresh samples for two dozen vectors or unstructured noise.

    Args:
        a: (n, d) vectors, n >= 2.
        b: (m, d) vectors, m >= 2.
        bootstrap: number of replicates; 0 = no interval.
        halves: number of random halves of ``a`` for the floor; 0 = no floor.
        seed: seed of both.

    Raises:
        StageError: as :func:`frechet_distance`.
    """
    first, second = _checked(a, b)
    generator = np.random.default_rng(seed)
    value = _distance(first, second)
    low, high = _interval(value, first, second, bootstrap, generator)
    floor, floor_high = _floor(first, halves, generator)
    return FrechetReport(value, len(first), len(second), first.shape[1], low, high, floor, floor_high)


def _distance(a: Vectors, b: Vectors) -> float:
    if min(len(a), len(b)) >= a.shape[1]:
        return SemanticStatistics.from_vectors(a).distance(SemanticStatistics.from_vectors(b))
    first, second = _scaled_residuals(a), _scaled_residuals(b)
    root_trace = float(np.linalg.svd(first @ second.T, compute_uv=False).sum())
    traces = float(np.vdot(first, first) + np.vdot(second, second))
    return _combine(a.mean(axis=0) - b.mean(axis=0), traces, root_trace)


def _scaled_residuals(vectors: Vectors) -> Vectors:
    """(n, d) matrix X with X^T X = covariance."""
    residuals: Vectors = (vectors - vectors.mean(axis=0)) / np.sqrt(len(vectors) - 1)
    return residuals


def _combine(step: Vectors, traces: float, root_trace: float) -> float:
    """FSD from its three parts; rounding may leave it a hair below zero for equal sets."""
    return max(0.0, float(step @ step + traces - 2.0 * root_trace))


def _root_trace(first: Vectors, second: Vectors) -> float:
    """Tr (S_a^1/2 S_b S_a^1/2)^1/2 of covariances, as the sum of roots of eigenvalues of F^T S_b F with S_a = F F^T."""
    values, axes = np.linalg.eigh(first)
    kept = values > _rounding(values)
    factor = axes[:, kept] * np.sqrt(values[kept])
    squares = np.linalg.eigvalsh(factor.T @ second @ factor)
    return float(np.sqrt(squares[squares > _rounding(squares)]).sum())


def _rounding(eigenvalues: Vectors) -> float:
    """Below this an eigenvalue is rounding noise, whose root, summed over many dimensions, would not be small."""
    return float(eigenvalues.max(initial=0.0)) * len(eigenvalues) * float(np.finfo(np.float64).eps)


def _interval(
    value: float, a: Vectors, b: Vectors, count: int, generator: np.random.Generator
) -> tuple[float, float] | tuple[None, None]:
    if not count:
        return None, None
    first, second = _principal_coordinates(a, b)
    replicates = np.array([_distance(_resample(first, generator), _resample(second, generator)) for _ in range(count)])
    low, high = np.quantile(replicates - replicates.mean(), (0.025, 0.975))
    return max(0.0, value + float(low)), max(0.0, value + float(high))


def _resample(vectors: Vectors, generator: np.random.Generator) -> Vectors:
    return vectors[generator.integers(len(vectors), size=len(vectors))]


def _principal_coordinates(a: Vectors, b: Vectors) -> tuple[Vectors, Vectors]:
    """Both sets in the leading principal axes of their union: (n, r) and (m, r). Distances in the axes kept stay the same."""
    union = np.concatenate([a, b])
    union -= union.mean(axis=0)
    if len(union) <= union.shape[1]:
        squares, left = np.linalg.eigh(union @ union.T)
        coordinates = left * np.sqrt(np.maximum(squares, 0.0))
    else:
        squares, axes = np.linalg.eigh(union.T @ union)
        coordinates = union @ axes
    kept = coordinates[:, ::-1][:, : _leading_axes(squares[::-1])]
    return kept[: len(a)], kept[len(a) :]


def _leading_axes(squares: Vectors) -> int:
    """How many axes to keep: every one when few, else those that hold 99.9 % of the variance, at most 128."""
    held = np.cumsum(np.maximum(squares, 0.0))
    enough = int(np.searchsorted(held, _SPREAD_VARIANCE * held[-1])) + 1
    return len(squares) if len(squares) <= _SPREAD_AXES else min(enough, _SPREAD_AXES)


def _floor(a: Vectors, count: int, generator: np.random.Generator) -> tuple[float, float] | tuple[None, None]:
    if not count or len(a) < 4:
        return None, None
    values = [_distance(*_halves(generator.permutation(a))) for _ in range(count)]
    return float(np.mean(values)), float(np.quantile(values, 0.95))


def _halves(vectors: Vectors) -> tuple[Vectors, Vectors]:
    middle = len(vectors) // 2
    return vectors[:middle], vectors[middle:]


def _checked(a: ArrayLike, b: ArrayLike) -> tuple[Vectors, Vectors]:
    first, second = _matrix(a, "first set"), _matrix(b, "second set")
    if first.shape[1] != second.shape[1]:
        raise StageError(f"vectors of {first.shape[1]} and {second.shape[1]} dimensions cannot be compared")
    return first, second


def _matrix(vectors: ArrayLike, name: str, least: int = 2) -> Vectors:
    values = np.asarray(vectors, dtype=np.float64)
    if values.ndim != 2 or len(values) < least or not values.shape[1]:
        raise StageError(
            f"{name}: an FSD needs a matrix of at least {least} vectors, not shape {values.shape}; use more tiles"
        )
    if not np.isfinite(values).all():
        rows = int((~np.isfinite(values)).any(axis=1).sum())
        raise StageError(
            f"{name}: {rows} of {len(values)} vectors hold NaN or infinities: the network has diverged; lower its lr"
        )
    return values

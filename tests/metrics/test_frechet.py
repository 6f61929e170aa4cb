from __future__ import annotations

import json
import math
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from gkd_bench.errors import StageError
from gkd_bench.metrics.frechet import SemanticStatistics, frechet_distance, frechet_report

Vectors = NDArray[np.float64]


def _sets(n: int, m: int, d: int, seed: int = 0) -> tuple[Vectors, Vectors]:
    """Two sets of different mean, scale and correlation."""
    generator = np.random.default_rng(seed)
    mix = np.eye(d) + 0.3 * generator.normal(size=(d, d)) / math.sqrt(d)
    return generator.normal(size=(n, d)), generator.normal(size=(m, d)) @ mix * 1.4 + 0.2


def _reference(a: Vectors, b: Vectors) -> float:
    """The defining formula, through scipy's general matrix square root."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    step = a.mean(axis=0) - b.mean(axis=0)
    return float(step @ step + np.trace(first + second) - 2.0 * np.trace(sqrtm(first @ second)).real)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 16), (100, 100, 64), (65, 1000, 64), (500, 20, 8)])
def test_full_rank_equals_sqrtm(n: int, m: int, d: int) -> None:
    a, b = _sets(n, m, d)
    assert frechet_distance(a, b) == pytest.approx(_reference(a, b), rel=1e-9)


@pytest.mark.filterwarnings("ignore:Matrix is singular")
@pytest.mark.parametrize(("n", "m", "d"), [(20, 20, 64), (20, 100, 64), (100, 3, 64), (2, 2, 5), (64, 64, 64)])
def test_rank_deficient_equals_sqrtm_where_that_converges(n: int, m: int, d: int) -> None:
    a, b = _sets(n, m, d)
    with np.errstate(all="ignore"):
        expected = _reference(a, b)
    assert math.isfinite(expected)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_one_dimension_is_the_closed_form() -> None:
    a, b = _sets(50, 70, 1)
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_commuting_covariances_are_the_closed_form() -> None:
    axis = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    a, b = axis * [3.0, 1.0], axis * [1.0, 2.0] + [5.0, 0.0]
    unit = math.sqrt(2.0 / 3.0)  # standard deviation of the unit cross
    assert frechet_distance(a, b) == pytest.approx(25.0 + (3 * unit - unit) ** 2 + (unit - 2 * unit) ** 2)


@pytest.mark.parametrize(("n", "m"), [(30, 40), (8, 40), (8, 9), (20, 21)])
def test_gram_path_equals_covariance_path(n: int, m: int) -> None:
    a, b = _sets(n, m, 20)
    through_covariances = SemanticStatistics.from_vectors(a).distance(SemanticStatistics.from_vectors(b))
    assert frechet_distance(a, b) == pytest.approx(through_covariances, rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(10, 64), (200, 32), (33, 32)])
def test_identical_sets_have_no_distance(n: int, d: int) -> None:
    a, _ = _sets(n, n, d)
    assert 0.0 <= frechet_distance(a, a[::-1].copy()) < 1e-9 * np.var(a) * d


@pytest.mark.parametrize(("n", "d"), [(10, 64), (200, 32)])
def test_moved_set_has_the_squared_step(n: int, d: int) -> None:
    a, _ = _sets(n, n, d)
    assert frechet_distance(a, a + 0.5) == pytest.approx(0.25 * d)


@pytest.mark.parametrize(("n", "d"), [(5, 64), (200, 32)])
def test_constant_sets_are_finite(n: int, d: int) -> None:
    constant, (a, _) = np.full((n, d), 3.0), _sets(n, n, d)
    assert frechet_distance(constant, constant) == 0.0
    spread = float(np.trace(np.cov(a, rowvar=False)) + ((a.mean(axis=0) - 3.0) ** 2).sum())
    assert frechet_distance(constant, a) == pytest.approx(spread)
    assert frechet_distance(a, constant) == pytest.approx(spread)


def test_vectors_in_a_subspace_are_finite_and_small_against_themselves() -> None:
    generator = np.random.default_rng(0)
    a = generator.normal(size=(300, 3)) @ generator.normal(size=(3, 64))
    assert frechet_distance(a, a + 0.0) < 1e-9 * np.trace(np.cov(a, rowvar=False))


def test_distance_is_symmetric_and_invariant_to_rotation() -> None:
    a, b = _sets(50, 60, 24)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(24, 24)))
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a @ rotation + 7.0, b @ rotation + 7.0) == pytest.approx(frechet_distance(a, b))


def test_float32_tensors_are_taken_and_computed_in_float64() -> None:
    a, b = (torch.tensor(values, dtype=torch.float32) for values in _sets(40, 50, 16))
    assert frechet_distance(a, b) == frechet_distance(a.double(), b.double())


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 4)), np.zeros((0, 4)), np.zeros(4), np.zeros((3, 0)), np.full((3, 4), np.nan)]
)
def test_sets_without_a_covariance_are_refused(bad: Vectors) -> None:
    good = np.zeros((3, 4))
    for pair in ((bad, good), (good, bad)):
        with pytest.raises(StageError, match=r"set: .*(at least 2 vectors|NaN)"):
            frechet_distance(*pair)


def test_different_dimensions_are_refused() -> None:
    with pytest.raises(StageError, match="4 and 5 dimensions"):
        frechet_distance(np.zeros((3, 4)), np.zeros((3, 5)))
    with pytest.raises(StageError, match="4 and 5 dimensions"):
        SemanticStatistics.from_vectors(np.zeros((3, 4))).distance(SemanticStatistics.from_vectors(np.zeros((3, 5))))


# ---------------------------------------------------------------- merging


def test_merged_statistics_equal_those_of_all_vectors() -> None:
    a, b = _sets(300, 50, 16)
    vectors = a * 1e-3 + 1e3  # a large common offset shows a careless formula
    parts = [SemanticStatistics.from_vectors(part) for part in np.split(vectors, [1, 2, 100, 107])]
    merged, whole = reduce(add, parts), SemanticStatistics.from_vectors(vectors)
    assert merged.count == 300
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(merged.covariance, np.cov(vectors, rowvar=False), rtol=1e-6, atol=1e-14)
    other = SemanticStatistics.from_vectors(b)
    assert merged.distance(other) == pytest.approx(frechet_distance(vectors, b), rel=1e-9)


def test_merging_is_order_free() -> None:
    a, b = (SemanticStatistics.from_vectors(values) for values in _sets(30, 7, 5))
    np.testing.assert_allclose((a + b).scatter, (b + a).scatter)
    np.testing.assert_allclose((a + b).mean, (b + a).mean)


def test_statistics_of_one_vector_merge_but_have_no_covariance() -> None:
    one = SemanticStatistics.from_vectors([[1.0, 2.0]])
    assert (one + one).covariance.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    with pytest.raises(StageError, match="at least 2 vectors"):
        one.distance(one + one)


# ---------------------------------------------------------------- report


def test_report_is_reproducible_json_and_holds_the_value() -> None:
    a, b = _sets(40, 50, 64)
    report = frechet_report(a, b, seed=3)
    assert report == frechet_report(a, b, seed=3)
    assert report != frechet_report(a, b, seed=4)
    assert report.value == frechet_distance(a, b)
    assert (report.n_a, report.n_b, report.dim) == (40, 50, 64)
    assert report.low is not None
    assert report.high is not None
    assert report.low < report.value < report.high
    assert json.loads(json.dumps(report.record(), allow_nan=False)) == report.record()


@pytest.mark.parametrize(("n", "d", "decay"), [(40, 200, 0.0), (400, 200, 1.0)])
def test_interval_is_as_wide_as_the_spread_of_fresh_samples(n: int, d: int, decay: float) -> None:
    scale = np.arange(1.0, d + 1.0) ** -decay
    generator = np.random.default_rng(0)

    def draw() -> tuple[Vectors, Vectors]:
        return generator.normal(size=(n, d)) * scale, generator.normal(size=(n, d)) * scale * 1.3 + 0.2 * scale

    spread = float(np.std([frechet_distance(*draw()) for _ in range(40)]))
    reports = [frechet_report(*draw(), bootstrap=100, halves=0) for _ in range(4)]
    widths = [(r.high or 0.0) - (r.low or 0.0) for r in reports]
    assert 0.7 * spread < np.mean(widths) / 3.92 < 2.2 * spread


def test_same_domain_lies_below_the_floor_and_another_above() -> None:
    generator = np.random.default_rng(0)
    a, same = generator.normal(size=(2, 200, 32))
    report = frechet_report(a, same)
    assert report.floor is not None
    assert report.floor_high is not None
    assert report.value < report.floor <= report.floor_high
    assert frechet_report(a, same + 0.5).value > report.floor_high


def test_tiny_sets_have_no_floor_and_intervals_can_be_left_out() -> None:
    a, b = _sets(3, 3, 8)
    report = frechet_report(a, b, bootstrap=0)
    assert (report.low, report.high, report.floor, report.floor_high) == (None, None, None, None)


def test_identical_and_constant_sets_have_finite_reports() -> None:
    a, _ = _sets(20, 20, 40)
    for pair in ((a, a), (np.ones((5, 4)), np.ones((5, 4))), (np.ones((300, 200)), np.ones((300, 200)))):
        values = [value for value in frechet_report(*pair, bootstrap=20).record().values() if value is not None]
        assert all(math.isfinite(value) and value >= 0.0 for value in values)

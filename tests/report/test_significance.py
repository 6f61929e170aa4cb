from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.significance import EXACT_SUBJECTS, SIGN_DRAWS, PairedTest, holm, paired_tests

DIFFERENCE = st.integers(-300, 300).map(lambda step: step / 1000)  # three decimals: ties and zeros do occur
CELL = st.lists(DIFFERENCE, min_size=2, max_size=9)
quick = settings(deadline=None, max_examples=60)
PVALUES = st.lists(st.one_of(st.none(), st.just(math.nan), st.floats(0, 1)), max_size=12)


def one(differences: list[float], seed: int = 0) -> PairedTest:
    (test,) = paired_tests([differences], seed=seed)
    return test


def p_of(test: PairedTest) -> tuple[float, float]:
    assert test.p_wilcoxon is not None and test.p_permutation is not None
    return test.p_wilcoxon, test.p_permutation


def draw(seed: int, subjects: int, shift: float = 0.0) -> list[float]:
    return np.random.default_rng(seed).normal(shift, 0.02, subjects).tolist()


def by_scipy(differences: list[float]) -> float:
    def mean(values: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(values.mean(axis=axis))

    result = stats.permutation_test((differences,), mean, permutation_type="samples", n_resamples=np.inf)
    return float(result.pvalue)


def test_both_tests_are_the_hand_calculation() -> None:
    # Differences 0.10, 0.01, 0.035, -0.04: magnitudes have ranks 4, 1, 2, 3, so R+ = 7 and R- = 3.
    # Wilcoxon: of the 16 sets of negative ranks those with a sum of at most 3 are {}, {1}, {2}, {3}, {1, 2}: 2 * 5 / 16.
    # Flips: the sum is 0.105 = 0.185 - 2 * 0.04; negative sets with at most 0.04: {}, {0.01}, {0.035}, {0.04}: 2 * 4 / 16.
    # d_z: mean 0.02625, squares of deviations sum to 0.01016875, s = sqrt(0.01016875 / 3) = 0.0582201.
    test = one([0.10, 0.01, 0.035, -0.04])
    assert (test.p_wilcoxon, test.p_permutation) == (pytest.approx(0.625), pytest.approx(0.5))
    assert test.rank_biserial == pytest.approx((7 - 3) / 10)
    assert (test.difference, test.cohen_dz) == (pytest.approx(0.02625), pytest.approx(0.02625 / 0.0582201, rel=1e-5))
    assert (test.n, test.smallest_p, test.reason) == (4, pytest.approx(2 / 16), "")


def test_ties_have_mean_ranks_and_an_exact_p() -> None:
    # 0.02, 0.02, 0.02, -0.01: ranks 3, 3, 3, 1. Negative sets with a sum of at most 1: {} and {1}: 2 * 2 / 16.
    test = one([0.02, 0.02, 0.02, -0.01])
    assert test.p_wilcoxon == pytest.approx(0.25)
    assert test.rank_biserial == pytest.approx((9 - 1) / 10)


@pytest.mark.parametrize("subjects", [2, 5, 9, 13, 14, 15, 20, 33, 50])
def test_wilcoxon_agrees_with_scipy_without_ties(subjects: int) -> None:
    cells = [draw(seed, subjects, 0.01) for seed in range(6)]
    expected = [float(stats.wilcoxon(cell, method="exact").pvalue) for cell in cells]
    assert [p_of(test)[0] for test in paired_tests(cells)] == pytest.approx(expected)


@settings(deadline=None, max_examples=20)
@given(st.lists(DIFFERENCE, min_size=2, max_size=7).filter(lambda cell: np.count_nonzero(cell) > 1))
def test_tests_agree_with_scipy_with_ties_and_zeros(cell: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nonzero = [value for value in cell if value]
        ranked = stats.wilcoxon(nonzero, method=stats.PermutationMethod(n_resamples=np.inf)).pvalue
    assert p_of(one(cell)) == (pytest.approx(float(ranked)), pytest.approx(by_scipy(cell)))


def test_many_subjects_with_ties_take_scipys_approximation() -> None:
    tied = [*draw(1, 20, 0.01), 0.03, 0.03, 0.0]
    many = draw(2, 60, 0.005)
    found = [p_of(test)[0] for test in paired_tests([tied, many])]
    rounded = np.round(tied, 10)
    expected = [stats.wilcoxon(rounded[rounded != 0], method="asymptotic"), stats.wilcoxon(many, method="asymptotic")]
    assert found == pytest.approx([float(result.pvalue) for result in expected])


def test_random_flips_come_close_to_all_flips() -> None:
    cell = draw(3, 16, 0.008)
    assert p_of(one(cell))[1] == pytest.approx(by_scipy(cell), abs=4 * math.sqrt(0.1 * 0.9 / SIGN_DRAWS))
    assert p_of(one(cell, 1)) == p_of(one(cell, 1))
    assert p_of(one(cell, 1)) != p_of(one(cell, 2))


def test_exact_and_random_flips_meet_at_the_border() -> None:
    same = [abs(value) + 0.001 for value in draw(4, EXACT_SUBJECTS + 1)]
    exact, random = one(same[:-1]), one(same)
    assert exact.p_permutation == exact.smallest_p == 2.0 ** (1 - EXACT_SUBJECTS)
    assert random.smallest_p == 1 / (SIGN_DRAWS + 1)
    assert p_of(random)[1] <= 3 / (SIGN_DRAWS + 1)
    assert p_of(one([abs(value) for value in draw(5, 60)]))[1] == random.smallest_p  # the one seen counts, so never 0


def test_no_difference_at_all_is_p_one_and_no_effect() -> None:
    assert one([0.0] * 6) == PairedTest(6, 0.0, 1.0, 1.0, 0.0, 0.0, 2.0**-5)
    assert p_of(one([0.0] * 20)) == (1.0, 1.0)


def test_rounding_noise_is_no_difference() -> None:
    assert p_of(one([1e-16, 2e-16, -3e-17, 1e-16, 2e-16])) == (1.0, 1.0)
    third = (0.1 + 0.2) - 0.3  # 5.6e-17
    assert p_of(one([0.02 + third, 0.02, 0.02, -0.01])) == p_of(one([0.02, 0.02, 0.02, -0.01]))


def test_equal_differences_have_no_standardised_effect() -> None:
    test = one([0.1] * 6)
    assert (test.cohen_dz, test.rank_biserial) == (None, 1.0)
    assert p_of(test) == (2.0**-5, 2.0**-5)


def test_five_subjects_can_never_be_significant() -> None:
    test = one([0.1, 0.2, 0.3, 0.4, 0.5])
    assert p_of(test) == (test.smallest_p, test.smallest_p) == (0.0625, 0.0625)


def test_fewer_than_two_subjects_have_no_test() -> None:
    lone, none, fine = paired_tests([[0.1], [], [0.1, 0.2]])
    assert (lone.n, lone.difference, lone.p_wilcoxon, lone.p_permutation) == (1, pytest.approx(0.1), None, None)
    assert lone.reason == "a paired test needs at least two subjects, here 1"
    assert (none.n, none.difference) == (0, None)
    assert fine.reason == ""
    assert paired_tests([]) == []


def test_a_cell_does_not_depend_on_the_others_in_its_batch() -> None:
    cells = [draw(5, 6), draw(6, 20), [0.0, 0.1, 0.1], draw(7, 6), [0.01] * 4, [*draw(8, 19), 0.0], draw(9, 300)]
    together = paired_tests(cells, seed=3)
    for cell, test in zip(cells, together, strict=True):
        assert test == one(cell, 3)


def test_a_batch_larger_than_one_block_is_the_same_as_its_cells() -> None:
    cells = [draw(seed, 6) for seed in range(300)]
    assert paired_tests(cells)[290:] == paired_tests(cells[290:])


@pytest.mark.parametrize("subjects", [8, 20])
def test_tests_are_wrong_in_at_most_five_of_a_hundred_worlds(subjects: int) -> None:
    tests = paired_tests([draw(seed, subjects) for seed in range(1200)])
    for p in zip(*map(p_of, tests), strict=True):
        assert 0.03 < np.mean(np.array(p) <= 0.05) < 0.064


def test_a_clear_effect_is_found() -> None:
    assert max(p_of(one(draw(1, 12, 0.05)))) < 0.01


@quick
@given(CELL, st.randoms(use_true_random=False))
def test_order_of_subjects_does_not_matter(cell: list[float], shuffler: object) -> None:
    other = list(cell)
    shuffler.shuffle(other)  # type: ignore[attr-defined]
    assert p_of(one(cell)) == p_of(one(other))


@quick
@given(CELL)
def test_exchanged_methods_have_the_same_p_and_the_opposite_effect(cell: list[float]) -> None:
    test, turned = one(cell), one([-value for value in cell])
    assert p_of(test) == p_of(turned)
    assert test.rank_biserial == pytest.approx(-(turned.rank_biserial or 0.0))
    assert test.difference == pytest.approx(-(turned.difference or 0.0))


@quick
@given(CELL)
def test_p_lies_between_its_smallest_and_one(cell: list[float]) -> None:
    test = one(cell)
    assert test.smallest_p is not None and all(test.smallest_p <= p <= 1 for p in p_of(test))


def test_undefined_differences_are_refused() -> None:
    with pytest.raises(GkdBenchError, match="1 scores are not finite"):
        paired_tests([[0.1, math.nan]])


def test_holm_is_the_hand_calculation() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04, times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04; never below the one before: 0.04, 0.06, 0.06, 0.06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])


def test_undefined_p_values_are_no_part_of_the_family() -> None:
    assert holm([None, 0.01, math.nan, 0.5]) == [None, pytest.approx(0.02), None, pytest.approx(0.5)]
    assert holm([]) == []
    assert holm([None]) == [None]


def loop(pvalues: list[float]) -> list[float]:
    """Adjusted p: the smallest level at which Holm's procedure rejects; each hypothesis by itself, quadratic."""
    return [
        min(1.0, max((sum(q >= p for q in pvalues)) * p for p in pvalues if p <= mine)) if pvalues else 1.0
        for mine in pvalues
    ]


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_an_independent_loop(pvalues: list[float]) -> None:
    assert holm(list(pvalues)) == pytest.approx(loop(pvalues))


@quick
@given(PVALUES)
def test_holm_is_monotone_and_between_raw_and_bonferroni(pvalues: list[float | None]) -> None:
    adjusted = holm(pvalues)
    pairs = [(p, q) for p, q in zip(pvalues, adjusted, strict=True) if p is not None and q is not None]
    assert len(pairs) == sum(p is not None and not math.isnan(p) for p in pvalues)
    assert all(p <= q <= min(1.0, len(pairs) * p) + 1e-12 for p, q in pairs)
    in_order = [q for _, q in sorted(pairs)]
    assert in_order == sorted(in_order)


def test_holm_refuses_what_is_no_p_value() -> None:
    with pytest.raises(GkdBenchError, match=r"\[0, 1\]"):
        holm([0.5, 1.2])

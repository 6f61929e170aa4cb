from __future__ import annotations

import numpy as np
import pytest

from gkd_bench.report.blocks import Block, Key
from gkd_bench.report.overall import gather, overall_cell, overall_gap, overall_test
from gkd_bench.report.significance import paired_tests


def blocks(shapes: dict[Key, int], seeds: int = 3, level: float = 0.5, seed: int = 0) -> dict[Key, Block]:
    rng = np.random.default_rng(seed)
    return {
        key: Block(np.arange(seeds), np.arange(size), rng.normal(level, 0.1, (seeds, size)))
        for key, size in shapes.items()
    }


def test_every_pair_counts_the_same_however_many_subjects_it_has() -> None:
    found = blocks({("a", "b", "m"): 4, ("a", "c", "m"): 20})
    several = gather(found, list(found), [0, 1, 2])
    expected = np.mean([block.values.mean() for block in found.values()])
    cell = overall_cell(several)
    assert cell.value == pytest.approx(expected)
    assert (cell.n, cell.subjects) == (3, 24)


def test_subjects_of_a_target_count_once_for_all_its_sources() -> None:
    found = blocks({("a", "c", "m"): 5, ("b", "c", "m"): 5})
    several = gather(found, list(found), [0, 1, 2])
    assert several is not None
    assert several.subjects == 5


def test_a_missing_pair_or_seed_leaves_no_mean() -> None:
    found = blocks({("a", "b", "m"): 4})
    assert gather(found, [("a", "b", "m"), ("a", "c", "m")], [0, 1, 2]) is None
    assert gather(found, [("a", "b", "m")], [0, 7]) is None
    assert overall_cell(None).value is None


def test_interval_is_as_wide_as_the_standard_error_of_independent_subjects() -> None:
    found = blocks({("a", "b", "m"): 200, ("a", "c", "m"): 200}, seeds=1)
    cell = overall_cell(gather(found, list(found), [0]))
    error = np.sqrt(sum(block.values.var() / 200 for block in found.values())) / 2
    assert cell.low is not None and cell.high is not None
    assert (cell.high - cell.low) / 2 == pytest.approx(1.96 * error, rel=0.08)


def test_interval_of_seeds_does_not_shrink_with_more_pairs() -> None:
    """A seed that is better everywhere is one piece of luck, not one per pair."""
    luck = np.array([[-0.1], [0.0], [0.1]])
    found = {("a", name, "m"): Block(np.arange(3), np.arange(2), luck + np.zeros((3, 2))) for name in "bcde"}
    one = overall_cell(gather(found, [("a", "b", "m")], [0, 1, 2]))
    four = overall_cell(gather(found, list(found), [0, 1, 2]))
    assert (four.low, four.high) == (pytest.approx(one.low), pytest.approx(one.high))


def test_test_of_equal_targets_is_the_test_of_all_their_subjects() -> None:
    found = blocks({("a", "b", "m"): 5, ("a", "c", "m"): 5}, level=0.02)
    several = gather(found, list(found), [0, 1, 2])
    assert several is not None
    pooled = np.concatenate([block.values.mean(axis=0) for block in found.values()])
    assert overall_test(several).p_permutation == paired_tests([pooled])[0].p_permutation


def test_tested_difference_is_the_one_that_is_shown() -> None:
    found = blocks({("a", "b", "m"): 3, ("a", "c", "m"): 9, ("d", "c", "m"): 9})
    several = gather(found, list(found), [0, 1, 2])
    assert several is not None
    test = overall_test(several)
    assert (test.n, test.difference) == (12, pytest.approx(overall_cell(several).value))


def test_gap_closed_is_that_of_the_means() -> None:
    keys: list[Key] = [("a", "b", "m"), ("a", "c", "m")]
    rng = np.random.default_rng(0)
    start = {key: Block(np.arange(2), np.arange(6), rng.normal(0.5, 0.01, (2, 6))) for key in keys}
    moved = [
        {key: Block(block.seeds, block.subjects, block.values + shift) for key, block in start.items()}
        for shift in (0.2, 0.0, 0.05)
    ]
    gap = overall_gap(*(gather(found, keys, [0, 1]) for found in moved))
    assert gap is not None
    assert (gap.value, gap.low, gap.high) == (pytest.approx(0.25), pytest.approx(0.25), pytest.approx(0.25))
    assert overall_gap(None, None, None) is None

"""Successive halving."""

from __future__ import annotations

import numpy as np
import pytest

from gkd_bench.cluster.halving import falls_behind, rungs, stopped_at


@pytest.mark.parametrize(
    ("grace", "reduction", "epochs", "expected"),
    [(1, 3, 30, [1, 3, 9, 27]), (1, 3, 27, [1, 3, 9]), (2, 2, 9, [2, 4, 8]), (4, 2, 4, []), (5, 2, 3, [])],
)
def test_rungs_are_below_the_last_epoch(grace: int, reduction: int, epochs: int, expected: list[int]) -> None:
    assert rungs(grace, reduction, epochs) == expected


@pytest.mark.parametrize("reduction", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_the_best_share_goes_on(count: int, reduction: int) -> None:
    draws = np.random.default_rng(count).random(count + 20)
    others, news = draws[:count].tolist(), draws[count:].tolist()
    cut = np.percentile(others, (1 - 1 / reduction) * 100)
    assert [falls_behind(value, others, reduction) for value in news] == [value < cut for value in news]
    assert not falls_behind(float("-inf"), [], reduction)


def test_the_first_rung_that_is_missed_stops_and_missing_epochs_do_not_count() -> None:
    others = [{1: 0.5, 3: 0.9}, {1: 0.6}, {3: 0.8}]
    assert stopped_at({1: 0.7, 2: 0.0, 3: 0.1}, others, [1, 3], 2) == 3
    assert stopped_at({1: 0.1, 3: 0.1}, others, [1, 3], 2) == 1
    assert stopped_at({2: 0.0}, others, [1, 3], 2) is None
    assert stopped_at({1: 0.0}, [{2: 1.0}], [1], 2) is None

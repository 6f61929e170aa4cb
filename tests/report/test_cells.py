from __future__ import annotations

import pytest
import scipy.stats

from gkd_bench.report.cells import Cell, Column, Table, mark_ranks, mean_cell


def flags(cells: list[Cell]) -> list[str]:
    return ["".join(sorted(cell.flags)) for cell in cells]


def test_mean_cell_has_the_t_interval_of_scipy() -> None:
    values = [0.71, 0.74, 0.69, 0.75]
    cell = mean_cell(values)
    low, high = scipy.stats.t.interval(0.95, 3, loc=cell.value, scale=scipy.stats.sem(values))
    assert cell.value == pytest.approx(0.7225)
    assert cell.half == pytest.approx((high - low) / 2)
    assert cell.n == 4


def test_half_width_of_two_values_matches_a_hand_calculation() -> None:
    # mean 0.6, s = 0.1414214, s / sqrt(2) = 0.1, t(0.975, 1) = 12.7062
    assert mean_cell([0.5, 0.7]).half == pytest.approx(1.27062, abs=1e-5)


def test_mean_of_nothing_is_empty_and_infinities_are_left_out() -> None:
    assert mean_cell([]) == Cell()
    assert mean_cell([float("nan"), float("inf"), None, 2.0]) == Cell(2.0, n=1)


def test_best_and_second_are_flagged_in_the_direction_of_the_metric() -> None:
    cells = [Cell(0.5), Cell(0.9), Cell(0.7), Cell()]
    assert flags(mark_ranks(cells, "up")) == ["", "best", "second", ""]
    assert flags(mark_ranks(cells, "down")) == ["best", "", "second", ""]
    assert mark_ranks(cells, "none") == cells


def test_numbers_that_look_equal_share_a_rank() -> None:
    cells = [Cell(0.7001), Cell(0.7004), Cell(0.65)]
    assert flags(mark_ranks(cells, "up", 3)) == ["best", "best", "second"]
    assert flags(mark_ranks(cells, "up", 4)) == ["second", "best", ""]


def test_no_contest_flags_nothing() -> None:
    assert mark_ranks([Cell(1.0), Cell()], "up") == [Cell(1.0), Cell()]
    assert flags(mark_ranks([Cell(1.0), Cell(1.0)], "up")) == ["", ""]


def test_of_two_contestants_the_loser_is_not_praised() -> None:
    assert flags(mark_ranks([Cell(1.0), Cell(0.5)], "down")) == ["", "best"]


def test_oracle_is_no_contestant() -> None:
    cells = [Cell(0.5), Cell(0.6), Cell(0.9).marked("oracle")]
    assert flags(mark_ranks(cells, "up")) == ["", "best", "oracle"]


def test_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        Table("t", "t", "", (Column("a", "a"), Column("b", "b")), ((Cell(1),),), "answer")


def test_table_knows_the_different_counts_of_its_cells() -> None:
    table = Table("t", "t", "", (Column("a", "a"),), ((Cell(1.0, n=3),), (Cell(2.0, n=2),), (Cell("x"),)), "answer")
    assert table.seed_counts == (2, 3)

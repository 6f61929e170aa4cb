from __future__ import annotations

import pytest

from gkd_bench.report.distances import fsd_comparison, fsd_matrix, fsd_values
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.render import to_markdown

from .made_up import Record
from .small import cells_of


def test_fsd_matrix_is_of_the_asked_space_and_states_its_n(sweep_records: SweepRecords) -> None:
    table = fsd_matrix(sweep_records, space="random_header")
    assert cells_of(table)["chase_db1"].value == pytest.approx(3.7, abs=0.05)
    assert "n_a = 400, n_b = 380; dimensions d = 64" in table.caption
    assert "over n = 3 seeds (0, 1, 2)" in table.caption
    assert table.columns[1].direction == "down"


def test_fsd_comparison_puts_controls_and_floor_beside_the_value(sweep_records: SweepRecords) -> None:
    table = fsd_comparison(sweep_records)
    spaces = ["aligned", "aligned_own", "random_header", "bottleneck"]
    assert [column.key for column in table.columns[3:]] == [*spaces, "floor", "floor_high"]
    cells = cells_of(table)
    assert [cells[name].value for name in ("floor", "floor_high")] == [pytest.approx(0.1), pytest.approx(0.15)]
    assert cells["aligned_own"].value == pytest.approx(2.9, abs=0.05)
    assert "Only aligned own" in table.caption
    assert "aligned is in P-SAE units and shrinks when vectors regress to the mean" in table.caption
    assert len(table.rows) == 3 * 3 * 6


def test_floor_of_the_caption_is_in_the_units_of_its_column(made_up: list[Record]) -> None:
    other = {"floor": 50.0, "floor_high": 60.0}
    rows = [{**row, **other} if row.get("space") == "bottleneck" and row["record"] == "fsd" else row for row in made_up]
    caption = fsd_comparison(SweepRecords.from_dicts(rows)).caption
    assert "Same-domain floor (aligned) 0.1, 95 % of the null below 0.15." in caption


@pytest.mark.parametrize("use", ["semantic", "teacher_student"])
def test_distance_without_a_floor_says_nothing_about_one(made_up: list[Record], use: str) -> None:
    nothing = dict.fromkeys(("low", "high", "floor", "floor_high"))
    rows = [{**row, **nothing, "use": use} for row in made_up if row["record"] == "fsd" and row["space"] == "aligned"]
    records = SweepRecords.from_dicts([*(row for row in made_up if row["record"] == "image"), *rows])
    for table in (fsd_comparison(records, use), fsd_matrix(records, use)):
        text = to_markdown(table)
        assert "floor" not in text
        assert "nan" not in text
        assert "share a scale" not in text


def test_long_table_of_distances_has_the_end_of_the_null_and_final_trainings_only(sweep_records: SweepRecords) -> None:
    table = fsd_values(sweep_records)
    assert cells_of(table)["floor_high"].value == pytest.approx(0.15)
    assert len(table.rows) == 6 * 3 * 3 * 3 * 4

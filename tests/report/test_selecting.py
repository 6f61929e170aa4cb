from __future__ import annotations

import pytest

from gkd_bench.report.frame import Origin, SweepRecords
from gkd_bench.report.selecting import rule_choices, selection_table

from .made_up import Record, base
from .small import cells_of, image_rows

# (trial, variant): validation Dice, stressed validation Dice, Dice on two targets
FACTS = {
    (None, "best"): (0.80, 0.60, 0.50, 0.60),
    (None, "last"): (0.79, 0.50, 0.55, 0.40),
    (0, "best"): (0.70, 0.70, 0.70, 0.10),
}


def sweep(rule: str = "source_val", scored: bool = True, seeds: int = 1) -> SweepRecords:
    rows: list[Record] = []
    for seed in range(seeds):
        for (trial, variant), (clean, stressed, *dice) in FACTS.items():
            labels = base("stress", "gkd", "a", None, seed, "val", trial) | {"variant": variant, "record": "candidate"}
            rows.append({**labels, "epoch": 1, "val_dice": clean, "val_dice_stressed": stressed, "stress_fsd": None,
                         "macs": 1.0})  # fmt: skip
            for target, score in zip("bc", dice, strict=True):
                if scored or trial is None:
                    row = image_rows({"gkd": [score]}, "a", target)[0]
                    names = base("evaluate", "gkd", "a", target, seed, trial=trial)
                    rows.append({**row, **names, "variant": variant})
    return SweepRecords.from_dicts(rows, Origin(rule=rule))


def test_every_rule_takes_its_own_candidate_and_the_oracle_one_per_target() -> None:
    row = cells_of(selection_table(sweep()))
    assert row["source_val"].value == pytest.approx((0.5 + 0.6) / 2)
    assert row["source_val_stressed"].value == pytest.approx((0.7 + 0.1) / 2)
    assert row["last"].value == pytest.approx((0.55 + 0.4) / 2)
    assert row["oracle"].value == pytest.approx((0.7 + 0.6) / 2)
    assert row["candidates"].value == "3"


def test_regret_is_what_the_oracle_has_more() -> None:
    row = cells_of(selection_table(sweep()))
    assert row["source_val_regret"].value == pytest.approx(0.65 - 0.55)
    assert {column.key: column.direction for column in selection_table(sweep()).columns}["last_regret"] == "down"


def test_oracle_is_last_and_greyed_and_wins_nothing() -> None:
    table = selection_table(sweep())
    assert table.columns[-1].key == "oracle"
    assert cells_of(table)["oracle"].flags == {"oracle"}
    assert "best" in cells_of(table)["source_val"].flags
    assert "reads target labels" in table.columns[-1].title
    assert "never used" in table.caption


def test_choices_do_not_depend_on_the_rule_of_the_sweep_but_it_is_named() -> None:
    first, second = selection_table(sweep()), selection_table(sweep("last"))
    assert [cell.value for cell in first.rows[0]] == [cell.value for cell in second.rows[0]]
    assert [column.title for column in second.columns if "(used)" in column.title] == ["last (used)"]


def test_candidates_without_scores_on_the_targets_are_not_compared() -> None:
    (choice,) = rule_choices(sweep(scored=False))
    assert choice.candidates == 2
    assert choice.scores["source_val_stressed"] == pytest.approx(0.55)


def test_cells_are_means_over_seeds() -> None:
    cell = cells_of(selection_table(sweep(seeds=3)))["oracle"]
    assert (cell.value, cell.n, cell.half) == (pytest.approx(0.65), 3, pytest.approx(0.0, abs=1e-12))


def test_teacher_is_not_selected(sweep_records: SweepRecords) -> None:
    assert "teacher" not in {row[0].value for row in selection_table(sweep_records).rows}


def test_records_without_candidates_make_no_table() -> None:
    assert not selection_table(SweepRecords.from_dicts(image_rows({"gkd": [0.5]}))).rows

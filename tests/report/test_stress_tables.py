from __future__ import annotations

import pytest

from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.stress_tables import stress_scores, stress_table, stress_values

from .made_up import Record, base
from .small import cells_of, row_of


def stressed(method: str, source: str, seed: int, **dice: float) -> list[Record]:
    """One subject with two images per condition, named ``corruption_strength``; images lie around the score."""
    labels = base("stress", method, source, None, seed, "val") | {"record": "stress", "variant": "best", "subject": "v"}
    conditions = [(*name.rsplit("_", 1), score) for name, score in dice.items()]
    return [
        {**labels, "corruption": corruption, "strength": int(strength), "image": image, "dice": score + shift}
        for corruption, strength, score in conditions
        for image, shift in (("i", 0.01), ("j", -0.01))
    ]


def test_cell_is_the_mean_over_sources_then_over_seeds() -> None:
    rows = stressed("gkd", "a", 0, none_0=0.8, blur_1=0.6) + stressed("gkd", "b", 0, none_0=0.6, blur_1=0.2)
    rows += stressed("gkd", "a", 1, none_0=0.9, blur_1=0.7) + stressed("gkd", "b", 1, none_0=0.7, blur_1=0.3)
    cell = row_of(stress_table(SweepRecords.from_dicts(rows)), "blur")["gkd"]
    assert (cell.value, cell.n) == (pytest.approx(0.45), 2)
    assert cell.half == pytest.approx(12.7062 * 0.05, rel=1e-4)


def test_seed_that_lacks_a_source_does_not_count() -> None:
    rows = (
        stressed("gkd", "a", 0, none_0=0.8) + stressed("gkd", "b", 0, none_0=0.6) + stressed("gkd", "a", 1, none_0=0.1)
    )
    cell = row_of(stress_table(SweepRecords.from_dicts(rows)), "clean")["gkd"]
    assert (cell.value, cell.n) == (pytest.approx(0.7), 1)


def test_clean_is_first_and_conditions_follow_by_strength(sweep_records: SweepRecords) -> None:
    table = stress_table(sweep_records)
    names = [(row[0].value, row[1].value) for row in table.rows]
    assert names == [("clean", 0), ("gamma", 1), ("gamma", 2), ("noise", 1), ("noise", 2)]
    assert "no target is read" in table.caption
    assert "best" in cells_of(table)["gkd"].flags
    assert not cells_of(table)["teacher"].flags


def test_every_stressed_score_is_in_the_long_table(sweep_records: SweepRecords) -> None:
    assert len(stress_values(sweep_records).rows) == len(stress_scores(sweep_records)) == 6 * 3 * 3 * 5


def test_records_without_stress_make_no_rows() -> None:
    cost = {**base("distill", "gkd", "a", None, 0, "val"), "record": "epoch", "epoch": 1}
    assert not stress_table(SweepRecords.from_dicts([cost])).rows

from __future__ import annotations

import pytest

from gkd_bench.report.comparison import ablation, comparison, further_comparison, parameter_counts, significant, wins
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.frame import Origin, SweepRecords

from .made_up import make_origin
from .small import cells_of, image_rows, row_of

ALONE = [[0.5, 0.52, 0.48, 0.5, 0.51, 0.49, 0.5, 0.5]]
AHEAD = [[score + gain for score, gain in zip(ALONE[0], (0.05, 0.06, 0.04, 0.07, 0.05, 0.03, 0.06, 0.04), strict=True)]]


@pytest.fixture(scope="module")
def made() -> SweepRecords:
    """Two foreign pairs: on one GKD is far ahead, on the other equal; in-domain it is ahead as well."""
    levels = {"teacher": [[0.9] * 8], "scratch": ALONE, "gkd": AHEAD, "gkd_small": ALONE}
    rows = image_rows(levels, "a", "a") + image_rows(levels, "a", "b")
    rows += image_rows({**levels, "gkd": ALONE}, "a", "c")
    return SweepRecords.from_dicts(
        rows, Origin(variants={"gkd_small": {"of": "gkd", "set": {"inter": 0.0, "views": 2}}})
    )


def test_comparison_averages_foreign_and_in_domain_pairs_apart(made: SweepRecords) -> None:
    row = row_of(comparison(made), "GKD")
    assert row["in_domain"].value == pytest.approx(0.55)
    assert row["foreign"].value == pytest.approx((0.55 + 0.5) / 2)
    assert row["gain"].value == pytest.approx(0.025)
    assert row["gap"].value == pytest.approx(0.025 / 0.4)


def test_comparison_names_the_worst_pair_and_counts_wins_and_significant_pairs(made: SweepRecords) -> None:
    row = row_of(comparison(made), "GKD")
    assert (row["worst"].value, row["worst_pair"].value) == (pytest.approx(0.5), "a → c")
    assert (row["wins"].value, row["significant"].value) == ("1/1/0", "1/0 of 2")
    evidence = Evidence.of(made)
    assert wins(evidence, "dice_fov", "gkd") == (1, 1, 0)
    assert significant(evidence, "dice_fov", "gkd") == (1, 0, 2)


def test_worst_of_a_metric_where_less_is_better_is_the_largest() -> None:
    rows = [
        row
        for target, distance in (("b", 3.0), ("c", 9.0))
        for row in image_rows({"scratch": [[5.0, 5.0]], "gkd": [[distance, distance]]}, "a", target, "hd95_fov")
    ]
    evidence = Evidence(SweepRecords.from_dicts(rows))
    assert wins(evidence, "hd95_fov", "gkd") == (1, 0, 1)


def test_comparison_flags_the_best_student_of_a_column_not_the_teacher(made: SweepRecords) -> None:
    table = comparison(made)
    assert "best" in row_of(table, "GKD")["foreign"].flags
    assert not row_of(table, "teacher")["foreign"].flags


def test_caption_says_n_and_the_smallest_p(made: SweepRecords) -> None:
    caption = comparison(made).caption
    assert "n = 16 subjects" in caption
    assert "p cannot be below 0.0001" in caption
    assert "in-domain and over all 2 foreign source -> target pairs" in caption


def test_pairs_that_a_method_lacks_are_left_out_for_all_and_counted() -> None:
    rows = image_rows({"scratch": [0.5], "gkd": [0.6]}, "a", "b") + image_rows({"scratch": [0.1]}, "a", "c")
    table = comparison(SweepRecords.from_dicts(rows))
    assert row_of(table, "student alone")["foreign"].value == pytest.approx(0.5)
    assert "the 1 of 2 foreign source -> target pairs that every method has" in table.caption


def test_further_metrics_go_in_their_own_direction(sweep_records: SweepRecords) -> None:
    table = further_comparison(sweep_records)
    assert [column.key for column in table.columns[1:-1]] == ["hd95", "nsd", "cldice", "components", "ece", "brier"]
    best = {column.key: column.direction for column in table.columns}
    assert (best["hd95"], best["nsd"]) == ("down", "up")
    assert {"best"} == row_of(table, "GKD")["hd95"].flags == row_of(table, "GKD")["nsd"].flags


def test_ablation_has_each_variant_behind_its_method_with_what_was_changed(made: SweepRecords) -> None:
    table = ablation(made)
    assert [row[0].value for row in table.rows] == ["GKD", "GKD small"]
    row = cells_of(table, 1)
    assert row["change"].value == "inter = 0, views = 2"
    assert row["difference"].value == pytest.approx(-0.025)
    assert cells_of(table)["difference"].value is None


def test_ablation_without_variants_is_empty() -> None:
    assert not ablation(SweepRecords.from_dicts(image_rows({"scratch": [0.5], "gkd": [0.6]}))).rows


def test_parameters_of_the_teacher_are_those_that_were_measured(made_up: list[dict[str, object]]) -> None:
    counts = parameter_counts(SweepRecords.from_dicts(made_up, make_origin()))
    assert (counts["teacher"], counts["gkd"]) == (490_000, 17_000)

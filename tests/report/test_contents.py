from __future__ import annotations

from typing import get_args

import pytest

from gkd_bench.report.cells import Section
from gkd_bench.report.contents import answer, file_tables, page_tables, terminal_tables
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.frame import SweepRecords

from .made_up import Record, make_origin
from .small import image_rows, scored

START = [0.5, 0.52, 0.48, 0.5, 0.51, 0.49, 0.5, 0.5]
GAIN = [0.05, 0.06, 0.04, 0.07, 0.05, 0.03, 0.06, 0.04]


def ahead(factor: float) -> list[list[float]]:
    return [[score + factor * gain for score, gain in zip(START, GAIN, strict=True)]]


def test_page_begins_with_the_answer_and_has_every_section(made_up: list[Record]) -> None:
    page = page_tables(SweepRecords.from_dicts(made_up, make_origin()))
    assert [table.name for table in page[:2]] == ["triple", "gap"]
    assert {table.section for table in page} == set(get_args(Section)) - {"domains"}, "old records describe no domain"
    assert all(table.rows for table in page)
    assert len({table.name for table in page}) == len(page)


def test_sections_are_not_mixed(sweep_records: SweepRecords) -> None:
    order = [table.section for table in page_tables(sweep_records)]
    assert [name for at, name in enumerate(order) if at == 0 or order[at - 1] != name] == list(dict.fromkeys(order))


def test_page_has_the_headline_and_one_metric_of_every_kind_for_all_methods(sweep_records: SweepRecords) -> None:
    names = {table.name for table in page_tables(sweep_records)}
    assert {f"matrix_dice_{method}" for method in sweep_records.methods} <= names
    metrics = ("dice", "hd95", "nsd", "cldice", "ece")
    assert {f"matrix_{metric}_{method}" for metric in metrics for method in sweep_records.methods} <= names
    assert "matrix_iou_gkd" not in names


def test_files_have_every_metric_inside_the_field_of_view_of_every_method_and_the_long_tables(
    sweep_records: SweepRecords,
) -> None:
    files = file_tables(sweep_records)
    evidence = Evidence.of(sweep_records)
    assert (
        sum(name.startswith("matrix_") for name in files) == sum(m.endswith("_fov") for m in evidence.metrics) * 6 + 6
    )
    assert {column.key for column in files["scores"].columns} > set(evidence.metrics)
    assert {
        "scores",
        "fsd",
        "trials",
        "stress_values",
        "triple",
        "significance_scratch",
        "significance_kd",
    } <= files.keys()


def test_any_part_of_a_sweep_makes_a_report(made_up: list[Record]) -> None:
    for kind in ("trial", "cost", "health", "efficiency", "epoch", "stress", "fsd", "candidate", "image"):
        records = SweepRecords.from_dicts([row for row in made_up if row["record"] == kind])
        page, files = page_tables(records), file_tables(records)
        assert {table.name for table in page} <= files.keys()
        assert answer(records).endswith(".")
        assert all(table.rows for table in terminal_tables(records))


def test_reports_do_not_depend_on_the_order_of_records(made_up: list[Record]) -> None:
    first, second = (SweepRecords.from_dicts(rows) for rows in (made_up, made_up[::-1]))
    assert page_tables(first) == page_tables(second)


def test_answer_averages_only_pairs_and_seeds_that_every_method_has() -> None:
    said = answer(scored({"scratch": [0.5, 0.6, 0.1], "gkd": [0.6, 0.8]}))
    assert said.startswith(
        "Mean Dice (field of view) over 1 foreign source → target pair, n = 2 seeds: student alone 0.550, GKD 0.700."
    )


def test_answer_needs_one_seed_that_every_method_has(made_up: list[Record]) -> None:
    seeds = {"scratch": 0, "gkd": 1}
    kept = [row for row in made_up if row["record"] == "image" and seeds.get(row["method"]) == row["seed"]]
    assert (
        answer(SweepRecords.from_dicts(kept)) == "No foreign pair of domains was scored with every method on one seed."
    )


def test_answer_without_foreign_domains_says_so() -> None:
    records = SweepRecords.from_dicts(image_rows({"gkd": [0.5]}, "a", "a"))
    assert answer(records) == "No network was scored on a foreign domain."


def test_answer_counts_the_pairs_with_a_significant_gain_and_loss() -> None:
    said = answer(scored({"scratch": [START], "kd": ahead(-1.0), "gkd": ahead(1.0)}))
    assert "Better than the student alone by more than a tie and significantly" in said
    assert "GKD on 1 of 1 foreign pairs" in said
    assert "Worse in the same way: KD on 1 of 1." in said


def test_answer_says_when_no_method_beats_a_tie() -> None:
    said = answer(scored({"scratch": [[0.5, 0.5]], "gkd": [[0.503, 0.502]]}))
    assert "No method beats the student alone on a foreign domain by more than a tie (0.005)." in said


def test_a_significant_gain_that_is_a_tie_is_no_gain() -> None:
    said = answer(scored({"scratch": [START], "gkd": [[value + 0.001 for value in START]]}))
    assert "No method beats the student alone on a foreign domain by more than a tie (0.005)" in said
    assert "smaller than a tie" in said


def test_answer_says_when_a_lead_cannot_be_told_from_chance() -> None:
    said = answer(scored({"scratch": [[0.5, 0.5]], "gkd": [[0.6, 0.6]]}))
    assert "No method beats the student alone by more than a tie (0.005) and significantly" in said
    assert "with so few test subjects none could be" in said
    assert "GKD ahead on 1, behind on 0 of 1 pairs" in said


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_answer_never_speaks_of_the_paper(gain: float) -> None:
    assert "paper" not in answer(scored({"scratch": [START], "gkd": ahead(gain)}))


def test_captions_keep_symbols_as_they_are(sweep_records: SweepRecords) -> None:
    captions = " ".join(table.caption for table in page_tables(sweep_records))
    assert "N = " not in captions
    assert ".." not in captions

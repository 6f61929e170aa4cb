from __future__ import annotations

import json
import statistics
from dataclasses import replace
from typing import get_args

import pytest

from gkd_bench.cluster.search import TrialState
from gkd_bench.metrics.catalogue import METRICS as CARDS
from gkd_bench.report import diagnostics, tables
from gkd_bench.report.cells import Cell, Column, Table, mark_best, mean_cell
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.render import to_markdown

from .made_up import DOMAINS, SEEDS, Record, base, metrics


def scored(levels: dict[str, list[float]], source: str = "hrf", target: str = "stare") -> SweepRecords:
    """One image per method and seed with the given Dice."""
    rows = [
        {**base("evaluate", method, source, target, seed), "record": "image", "subject": "s", "image": "a",
         **metrics(level)}
        for method, values in levels.items() for seed, level in enumerate(values)
    ]  # fmt: skip
    return SweepRecords.from_dicts(rows)


def cells_of(table: Table, row: int = 0) -> dict[str, Cell]:
    return dict(zip((column.key for column in table.columns), table.rows[row], strict=True))


def test_matrix_cell_is_mean_and_sample_deviation_over_seeds(made_up: list[Record]) -> None:
    table = tables.matrix(SweepRecords.from_dicts(made_up), "dice_fov", "gkd")
    rows = [
        r
        for r in made_up
        if r["record"] == "image" and (r["method"], r["source"], r["target"]) == ("gkd", "hrf", "stare")
    ]
    per_seed = [statistics.mean(r["dice_fov"] for r in rows if r["seed"] == seed) for seed in SEEDS]
    cell = cells_of(table, DOMAINS.index("hrf"))["stare"]
    assert cell.value == pytest.approx(statistics.mean(per_seed))
    assert cell.spread == pytest.approx(statistics.stdev(per_seed))
    assert cell.n == 3


def test_matrix_marks_in_domain_cells_only(sweep_records: SweepRecords) -> None:
    table = tables.matrix(sweep_records)
    marked = {(row[0].value, column.key) for row in table.rows
              for column, cell in zip(table.columns, row, strict=True) if "in_domain" in cell.flags}  # fmt: skip
    assert marked == {(name, name) for name in DOMAINS}


def test_matrix_states_subjects_images_and_seeds(sweep_records: SweepRecords) -> None:
    caption = tables.matrix(sweep_records).caption
    assert "stare: 2 subjects, 4 images" in caption
    assert "n = 3 seeds (0, 1, 2)" in caption


def test_single_seed_has_no_spread() -> None:
    table = tables.matrix(scored({"gkd": [0.7]}))
    cell = cells_of(table)["stare"]
    assert (cell.value, cell.spread, cell.n) == (pytest.approx(0.7), None, 1)
    assert "n = 1 seed (0)." in table.caption


def test_caption_counts_the_seeds_that_its_own_cells_have() -> None:
    records = scored({"scratch": [0.5, 0.6, 0.7], "gkd": [0.6, 0.7]})
    assert "n = 2 seeds (0, 1)." in tables.matrix(records, method="gkd").caption
    assert "n = 3 seeds (0, 1, 2)." in tables.matrix(records, method="scratch").caption
    assert "n = 2 to 3 seeds (0, 1, 2)." in tables.triple(records).caption


def test_caption_counts_the_images_of_its_own_method(made_up: list[Record]) -> None:
    kept = [r for r in made_up if not (r["record"] == "image" and r["method"] == "kd" and r["image"] == "b")]
    records = SweepRecords.from_dicts(kept)
    assert "stare: 2 subjects, 2 images" in tables.matrix(records, method="kd").caption
    assert "stare: 2 subjects, 2 to 4 images" in tables.triple(records).caption


def test_answer_averages_only_rows_that_every_method_has() -> None:
    assert tables.answer(scored({"scratch": [0.5, 0.6, 0.1], "gkd": [0.6, 0.8]})) == (
        "Mean Dice (field of view) over 1 foreign source -> target pair, n = 2 of 3 (source, target, seed) rows, those "
        "that every method has: student alone 0.550, GKD 0.700."
    )


def test_answer_needs_one_seed_that_every_method_has(made_up: list[Record]) -> None:
    seeds = {"scratch": 0, "gkd": 1}
    kept = [r for r in made_up if r["record"] == "image" and seeds.get(r["method"]) == r["seed"]]
    answer = tables.answer(SweepRecords.from_dicts(kept))
    assert answer == "No foreign pair of domains was scored with every method on one seed."


@pytest.mark.parametrize("higher", [True, False])
def test_direction_and_title_of_a_metric_come_from_its_card(monkeypatch: pytest.MonkeyPatch, higher: bool) -> None:
    monkeypatch.setitem(CARDS, "dice", replace(CARDS["dice"], title="Card", higher_is_better=higher))
    records = scored({"scratch": [0.5], "kd": [0.7], "gkd": [0.6]})
    table = tables.triple(records)
    assert table.title.startswith("Card (field of view)")
    assert [name for name, cell in cells_of(table).items() if "best" in cell.flags] == ["kd" if higher else "scratch"]
    named = [*table.columns[2:], *tables.matrix(records).columns[1:], *tables.matrix(records, "dice").columns[1:]]
    assert {column.direction for column in named} == {"up" if higher else "down"}
    long = {column.key: column.direction for column in tables.scores(records).columns}
    assert {long["dice"], long["dice_fov"]} == {"up" if higher else "down"}


def test_metric_without_a_card_is_shown_without_a_direction() -> None:
    assert tables.metric_title("depth_fov") == "depth (field of view)"
    assert tables.metric_direction("depth_fov") == "none"


def test_matrix_of_the_whole_image_has_another_name(sweep_records: SweepRecords) -> None:
    assert tables.matrix(sweep_records).name == "matrix_dice_gkd"
    assert tables.matrix(sweep_records, "dice").name == "matrix_dice_whole_gkd"


def test_helper_networks_have_titles() -> None:
    titles = [tables.method_title(name) for name in ("p-sae", "tan", "san")]
    assert titles == ["P-SAE", "TAN (teacher)", "SAN (student)"]


def test_left_out_domain_is_not_available_and_unscored_pair_is_empty(made_up: list[Record]) -> None:
    missing = {"record": "missing", "sweep": "made_up", "domain": "drive", "reason": "not found"}
    kept = [r for r in made_up if not (r["source"] == "hrf" and r["target"] == "stare")]
    records = SweepRecords.from_dicts([*kept, missing], sources=DOMAINS)
    cells = cells_of(tables.matrix(records), DOMAINS.index("hrf"))
    assert "missing" in cells["drive"].flags
    assert cells["stare"] == Cell()
    gain = cells_of(tables.triple(records), 1)
    assert gain["target"].value == "drive"
    assert "missing" in gain["gkd-scratch"].flags


def test_matrix_of_an_unknown_metric_is_refused(sweep_records: SweepRecords) -> None:
    with pytest.raises(KeyError, match="hausdorff"):
        tables.matrix(sweep_records, "hausdorff")


def test_differences_are_paired_by_seed() -> None:
    records = scored({"scratch": [0.5, 0.7], "gkd": [0.6, 0.8, 0.1], "teacher": [0.9]})
    cells = cells_of(tables.triple(records))
    assert cells["gkd-scratch"].value == pytest.approx(0.1)
    assert cells["gkd-scratch"].spread == pytest.approx(0.0, abs=1e-12)
    assert cells["gkd-scratch"].n == 2
    assert cells["gkd"].n == 3


def test_best_student_is_marked_and_the_teacher_is_no_contestant() -> None:
    cells = cells_of(tables.triple(scored({"teacher": [0.9], "scratch": [0.5], "kd": [0.7], "gkd": [0.6]})))
    assert [name for name, cell in cells.items() if "best" in cell.flags] == ["kd"]


@pytest.mark.parametrize(
    ("gains", "tie"),
    [([0.004, -0.001, 0.002], True), ([0.004, 0.003, 0.002], False), ([0.004], True), ([0.02, -0.001, 0.02], False)],
)
def test_small_difference_is_a_tie_unless_three_seeds_agree(gains: list[float], tie: bool) -> None:
    records = scored({"scratch": [0.5] * len(gains), "gkd": [0.5 + gain for gain in gains]})
    assert ("tie" in cells_of(tables.triple(records))["gkd-scratch"].flags) is tie


def test_triple_without_teacher_or_student_alone_shows_their_absence() -> None:
    cells = cells_of(tables.triple(scored({"gkd": [0.6]})))
    assert cells["teacher"].value is cells["scratch"].value is cells["gkd-scratch"].value is None


def test_fsd_matrix_is_of_the_asked_space_and_states_its_n(sweep_records: SweepRecords) -> None:
    table = tables.fsd_matrix(sweep_records, space="random_header")
    assert cells_of(table)["chase_db1"].value == pytest.approx(3.7, abs=0.05)
    assert "n_a = 400, n_b = 380; dimensions d = 64" in table.caption
    assert "over n = 3 seeds (0, 1, 2)" in table.caption
    assert table.columns[1].direction == "down"


def test_fsd_comparison_puts_controls_and_floor_beside_the_value(sweep_records: SweepRecords) -> None:
    table = tables.fsd_comparison(sweep_records)
    spaces = ["aligned", "aligned_own", "random_header", "bottleneck"]
    assert [column.key for column in table.columns[3:]] == [*spaces, "floor", "floor_high"]
    cells = cells_of(table)
    assert [cells[name].value for name in ("floor", "floor_high")] == [pytest.approx(0.1), pytest.approx(0.15)]
    assert cells["aligned_own"].value == pytest.approx(2.9, abs=0.05)
    assert "Only aligned own" in table.caption
    assert "aligned is in P-SAE units and shrinks when vectors regress to the mean" in table.caption
    assert len(table.rows) == 3 * 3 * 4


def test_floor_of_the_caption_is_in_the_units_of_its_column(made_up: list[Record]) -> None:
    other = {"floor": 50.0, "floor_high": 60.0}
    rows = [{**r, **other} if r.get("space") == "bottleneck" else r for r in made_up]
    caption = tables.fsd_comparison(SweepRecords.from_dicts(rows)).caption
    assert "Same-domain floor (aligned) 0.1, 95 % of the null below 0.15." in caption


@pytest.mark.parametrize("use", ["semantic", "teacher_student"])
def test_distance_without_a_floor_says_nothing_about_one(made_up: list[Record], use: str) -> None:
    nothing = dict.fromkeys(("low", "high", "floor", "floor_high"))
    rows = [{**r, **nothing, "use": use} for r in made_up if r["record"] == "fsd" and r["space"] == "aligned"]
    records = SweepRecords.from_dicts([*(r for r in made_up if r["record"] == "image"), *rows])
    for table in (tables.fsd_comparison(records, use), tables.fsd_matrix(records, use)):
        text = to_markdown(table)
        assert "floor" not in text
        assert "nan" not in text
        assert "share a scale" not in text


def test_long_table_of_distances_has_the_end_of_the_null(sweep_records: SweepRecords) -> None:
    assert cells_of(tables.fsd_values(sweep_records))["floor_high"].value == pytest.approx(0.15)


def test_scores_have_a_row_per_training_and_target_with_pooled_metrics(sweep_records: SweepRecords) -> None:
    table = tables.scores(sweep_records)
    assert len(table.rows) == 4 * 3 * 3 * 3
    row = cells_of(table)
    assert (row["source"].value, row["method"].value) == ("chase_db1", "gkd")
    assert row["pooled/dice"].value == pytest.approx(0.74)


def test_search_summary_names_the_best_complete_trial_and_counts_states(sweep_records: SweepRecords) -> None:
    row = cells_of(diagnostics.search_summary(sweep_records))
    assert [row[name].value for name in ("complete", "pruned", "failed", "other")] == [2, 1, 1, 0]
    assert (row["best_trial"].value, row["best_value"].value) == (3, pytest.approx(0.63))
    assert row["best_params"].value == "methods.gkd.cross = 0.3, methods.gkd.intra = 0.4"


def test_study_without_a_complete_trial_has_no_best() -> None:
    trial: Record = {"record": "trial", "sweep": "s", "study": "a/gkd", "number": 0, "params": json.dumps({"x": 1}),
                     "state": "failed", "value": None, "cause": "x", "key": None}  # fmt: skip
    row = cells_of(diagnostics.search_summary(SweepRecords.from_dicts([trial])))
    assert (row["failed"].value, row["other"].value, row["best_trial"].value) == (1, 0, None)


@pytest.mark.parametrize("state", get_args(TrialState))
def test_every_way_a_search_ends_a_trial_has_its_column(made_up: list[Record], state: str) -> None:
    trials = [{**record, "state": state} for record in made_up if record["record"] == "trial"]
    row = cells_of(diagnostics.search_summary(SweepRecords.from_dicts(trials)))
    assert (row[state].value, row["other"].value) == (4, 0)


def test_health_counts_failures_and_warns_in_plain_words(sweep_records: SweepRecords) -> None:
    rows = [cells_of(diagnostics.health_table(sweep_records), at) for at in range(2)]
    assert [row["failed"].value for row in rows] == ["0 of 3", "3 of 3"]
    assert "warning" in rows[1]["value"].flags
    assert "warning" not in rows[0]["value"].flags
    lines = diagnostics.health_warnings(sweep_records)
    assert lines[0].startswith("alignment student chase_db1: the bottleneck carries no information")
    assert lines[0].endswith("(in 3 runs)")


def test_check_without_a_verdict_is_not_a_failure() -> None:
    check = {**base("semantic", "gkd", "hrf", None, 0), "record": "health", "check": "rank", "value": 4.0,
             "reference": None, "ok": None, "warning": None, "host": None}  # fmt: skip
    row = cells_of(diagnostics.health_table(SweepRecords.from_dicts([check])))
    assert (row["failed"].value, row["host"].value, row["reference"].value) == (None, None, None)


def test_cost_counts_every_stage_once(made_up: list[Record]) -> None:
    costs = [row for row in made_up if row["record"] == "cost"]
    again = [{**row, "trial": 3} for row in costs]
    row = cells_of(diagnostics.cost_table(SweepRecords.from_dicts([*costs, *again])))
    assert (row["runs"].value, row["total_seconds"].value) == (9, pytest.approx(9 * 13.5))
    assert row["parameters"].value == "17000"


def test_mean_of_nothing_is_empty_and_infinities_are_left_out() -> None:
    assert mean_cell([]) == Cell()
    assert mean_cell([float("nan"), float("inf"), 2.0]) == Cell(2.0, None, 1)


def test_best_of_equals_is_marked_alike_and_one_number_is_no_contest() -> None:
    assert ["best" in c.flags for c in mark_best([Cell(1.0), Cell(1.0), Cell(0.5), Cell()], "up")] == [
        True,
        True,
        False,
        False,
    ]
    assert ["best" in c.flags for c in mark_best([Cell(1.0), Cell(0.5)], "down")] == [False, True]
    assert mark_best([Cell(1.0), Cell()], "up") == [Cell(1.0), Cell()]


def test_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        Table("t", "t", "", (Column("a", "a"), Column("b", "b")), ((Cell(1),),))

from __future__ import annotations

import json
import statistics

import pytest

from gkd_bench.report import diagnostics, tables
from gkd_bench.report.cells import Cell, Column, Table, mark_best, mean_cell
from gkd_bench.report.frame import SweepRecords

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
    cell = cells_of(tables.matrix(scored({"gkd": [0.7]})))["stare"]
    assert (cell.value, cell.spread, cell.n) == (pytest.approx(0.7), None, 1)


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
    assert "n = 400, m = 380" in table.caption
    assert table.columns[1].direction == "down"


def test_fsd_comparison_puts_controls_and_floor_beside_the_value(sweep_records: SweepRecords) -> None:
    table = tables.fsd_comparison(sweep_records)
    assert [column.key for column in table.columns[3:]] == ["aligned", "bottleneck", "random_header", "floor"]
    assert cells_of(table)["floor"].value == pytest.approx(0.1)
    assert len(table.rows) == 3 * 3 * 4


def test_scores_have_a_row_per_training_and_target_with_pooled_metrics(sweep_records: SweepRecords) -> None:
    table = tables.scores(sweep_records)
    assert len(table.rows) == 4 * 3 * 3 * 3
    row = cells_of(table)
    assert (row["source"].value, row["method"].value) == ("chase_db1", "gkd")
    assert row["pooled/dice"].value == pytest.approx(0.74)


def test_search_summary_names_the_best_complete_trial_and_counts_states(sweep_records: SweepRecords) -> None:
    row = cells_of(diagnostics.search_summary(sweep_records))
    assert (row["complete"].value, row["pruned"].value, row["fail"].value) == (3, 1, 0)
    assert (row["best_trial"].value, row["best_value"].value) == (3, pytest.approx(0.63))
    assert row["best_params"].value == "methods.gkd.cross = 0.3, methods.gkd.intra = 0.4"


def test_study_without_a_complete_trial_has_no_best() -> None:
    trial: Record = {"record": "trial", "sweep": "s", "study": "a/gkd", "number": 0, "params": json.dumps({"x": 1}),
                     "state": "FAIL", "value": None, "key": None}  # fmt: skip
    row = cells_of(diagnostics.search_summary(SweepRecords.from_dicts([trial])))
    assert (row["fail"].value, row["best_trial"].value) == (1, None)


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

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from gkd_bench.metrics.catalogue import METRICS as CARDS
from gkd_bench.report import names, tables
from gkd_bench.report.cells import Cell
from gkd_bench.report.frame import SweepRecords

from .made_up import DOMAINS, SEEDS, Record, make_origin
from .small import cells_of, image_rows, row_of, scored


def test_matrix_cell_is_the_mean_over_seeds_of_the_epochs_that_validation_chose(made_up: list[Record]) -> None:
    mine = [row for row in made_up if (row["method"], row["source"], row.get("trial")) == ("gkd", "hrf", None)]
    validated = sorted((row["seed"], row["val_dice"], row["variant"]) for row in mine if row["record"] == "candidate")
    chosen = {seed: variant for seed, _, variant in validated}
    scores = [row for row in mine if (row["record"], row["target"]) == ("image", "stare")]
    per_seed = [
        statistics.mean(row["dice_fov"] for row in scores if (row["seed"], row["variant"]) == (seed, chosen[seed]))
        for seed in SEEDS
    ]
    cell = row_of(tables.matrix(SweepRecords.from_dicts(made_up, make_origin()), "dice_fov", "gkd"), "hrf")["stare"]
    assert cell.value == pytest.approx(statistics.mean(per_seed))
    assert cell.half == pytest.approx(4.302653 * statistics.stdev(per_seed) / 3**0.5, rel=1e-5)
    assert (cell.n, cell.subjects) == (3, 6)


def test_heat_table_is_the_matrix_of_the_headline(sweep_records: SweepRecords) -> None:
    assert tables.heat_table(sweep_records) == tables.matrix(sweep_records, "dice_fov", "gkd")


def test_matrix_marks_in_domain_cells_only(sweep_records: SweepRecords) -> None:
    table = tables.matrix(sweep_records)
    marked = {(row[0].value, column.key) for row in table.rows
              for column, cell in zip(table.columns, row, strict=True) if "in_domain" in cell.flags}  # fmt: skip
    assert marked == {(name, name) for name in DOMAINS}


def test_matrix_states_subjects_images_seeds_and_rule(sweep_records: SweepRecords) -> None:
    caption = tables.matrix(sweep_records).caption
    assert "stare: 6 subjects, 12 images" in caption
    assert "n = 3 seeds (0, 1, 2)" in caption
    assert "best validation Dice of the source; no target is read" in caption
    assert "p cannot be below 0.031" in caption


def test_matrix_marks_the_best_student_of_each_pair_and_carries_the_p(sweep_records: SweepRecords) -> None:
    best, second = (tables.matrix(sweep_records, method=name) for name in ("gkd", "gkd_intra"))
    assert "best" in row_of(best, "hrf")["stare"].flags
    assert "second" in row_of(second, "hrf")["stare"].flags
    assert row_of(best, "hrf")["stare"].p == pytest.approx(27 * 2 / 2**6)
    assert row_of(tables.matrix(sweep_records, method="teacher"), "hrf")["stare"].p is None


def test_single_seed_has_no_interval_over_seeds() -> None:
    table = tables.matrix(scored({"gkd": [0.7]}))
    cell = cells_of(table)["stare"]
    assert (cell.value, cell.half, cell.n) == (pytest.approx(0.7), None, 1)
    assert "n = 1 seed (0)." in table.caption


def test_caption_counts_the_seeds_that_its_own_cells_have() -> None:
    records = scored({"scratch": [0.5, 0.6, 0.7], "gkd": [0.6, 0.7]})
    assert "n = 2 seeds (0, 1)." in tables.matrix(records, method="gkd").caption
    assert "n = 3 seeds (0, 1, 2)." in tables.matrix(records, method="scratch").caption
    assert "n = 2 to 3 seeds (0, 1, 2)." in tables.triple(records).caption


def test_caption_counts_the_images_of_its_own_method(made_up: list[Record]) -> None:
    kept = [
        row
        for row in made_up
        if not (row["record"] == "image" and row["method"] == "kd" and row["image"].endswith("b"))
    ]
    records = SweepRecords.from_dicts(kept)
    assert "stare: 6 subjects, 6 images" in tables.matrix(records, method="kd").caption
    assert "stare: 6 subjects, 6 to 12 images" in tables.triple(records).caption


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
    assert names.metric_title("depth_fov") == "depth (field of view)"
    assert names.metric_direction("depth_fov") == "none"


def test_titles_of_metrics_have_their_unit_and_short_ones_no_region() -> None:
    assert names.metric_title("hd95_fov") == "HD95, px (field of view)"
    assert (names.short_title("hd95_fov"), names.short_title("dice")) == ("HD95, px", "Dice")
    assert (names.metric_title("dice"), names.metric_title("dice", whole=True)) == ("Dice", "Dice (whole image)")


def test_name_of_a_metric_is_taken_apart_into_metric_class_and_place() -> None:
    for name in (
        "dice",
        "dice_fov",
        "pooled/dice",
        "pooled/dice_fov",
        "dice/disc",
        "dice/disc_fov",
        "pooled/dice/disc_fov",
    ):
        assert names.bare(name) == "dice"
        assert names.class_of(name) == ("disc" if "disc" in name else "")
    assert names.bare("hd95_mm/right_kidney") == "hd95_mm"
    assert [names.of_class(name, "disc") for name in ("dice", "dice_fov")] == ["dice/disc", "dice/disc_fov"]


def test_metric_of_a_class_is_shown_like_the_metric() -> None:
    name = "hd95_mm/right_kidney"
    assert (names.metric_title(name), names.short_title(name)) == ("HD95, right kidney, mm",) * 2
    assert names.metric_title("dice/disc_fov") == "Dice, disc (field of view)"
    assert (names.metric_direction(name), names.metric_decimals(name), names.metric_tie(name)) == ("down", 2, 1.0)


def test_helper_networks_and_variants_have_titles() -> None:
    titles = [names.method_title(name) for name in ("p-sae", "tan", "san", "gkd_no_inter", "at")]
    assert titles == ["P-SAE", "TAN (teacher)", "SAN (student)", "GKD no inter", "AT"]


def test_matrix_of_the_whole_image_has_another_name(sweep_records: SweepRecords) -> None:
    assert tables.matrix(sweep_records).name == "matrix_dice_gkd"
    assert tables.matrix(sweep_records, "dice").name == "matrix_dice_whole_gkd"


def test_left_out_domain_is_not_available_and_unscored_pair_is_empty(made_up: list[Record]) -> None:
    missing = {"record": "missing", "sweep": "made_up", "domain": "drive", "reason": "not found"}
    kept = [row for row in made_up if not (row["source"] == "hrf" and row.get("target") == "stare")]
    records = SweepRecords.from_dicts([*kept, missing], make_origin(sources=DOMAINS))
    cells = row_of(tables.matrix(records), "hrf")
    assert "missing" in cells["drive"].flags
    assert cells["stare"] == Cell()
    for table in (tables.triple(records), tables.gap_table(records)):
        row = row_of(table, "chase_db1", "drive")
        assert all("missing" in cell.flags for name, cell in row.items() if name not in ("source", "target"))


def test_matrix_of_an_unknown_metric_is_refused(sweep_records: SweepRecords) -> None:
    with pytest.raises(KeyError, match="hausdorff"):
        tables.matrix(sweep_records, "hausdorff")


def test_differences_are_paired_by_seed() -> None:
    cells = cells_of(tables.triple(scored({"scratch": [0.5, 0.7], "gkd": [0.6, 0.8, 0.1], "teacher": [0.9]})))
    assert cells["gkd-scratch"].value == pytest.approx(0.1)
    assert cells["gkd-scratch"].half == pytest.approx(0.0, abs=1e-12)
    assert cells["gkd-scratch"].n == 2
    assert cells["gkd"].n == 3


def test_best_and_second_student_are_marked_and_the_teacher_is_no_contestant() -> None:
    cells = cells_of(tables.triple(scored({"teacher": [0.9], "scratch": [0.5], "kd": [0.7], "gkd": [0.6]})))
    assert [name for name, cell in cells.items() if "best" in cell.flags] == ["kd"]
    assert [name for name, cell in cells.items() if "second" in cell.flags] == ["gkd"]


def test_triple_without_teacher_or_student_alone_shows_their_absence() -> None:
    cells = cells_of(tables.triple(scored({"gkd": [0.6]})))
    assert cells["teacher"].value is cells["scratch"].value is cells["gkd-scratch"].value is None


def test_gap_table_says_where_there_is_no_gap() -> None:
    rows = image_rows({"teacher": [[0.9, 0.9]], "scratch": [[0.5, 0.5]], "gkd": [[0.6, 0.6]]})
    rows += image_rows({"teacher": [[0.4, 0.4]], "scratch": [[0.5, 0.5]], "gkd": [[0.6, 0.6]]}, target="chase_db1")
    table = tables.gap_table(SweepRecords.from_dicts(rows))
    assert row_of(table, "hrf", "stare")["gkd"].value == pytest.approx(0.25)
    assert row_of(table, "hrf", "stare")["gap"].value == pytest.approx(0.4)
    assert row_of(table, "hrf", "chase_db1")["gkd"].value == "teacher not better"


def test_scores_have_a_row_per_training_and_target_with_pooled_metrics(sweep_records: SweepRecords) -> None:
    table = tables.scores(sweep_records)
    assert len(table.rows) == 6 * 3 * 3 * 3
    row = cells_of(table)
    assert (row["source"].value, row["method"].value, row["subjects"].value) == ("chase_db1", "baseline", 6)
    assert row["pooled/dice"].value == pytest.approx(0.69, abs=0.02)

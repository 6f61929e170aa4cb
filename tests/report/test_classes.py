"""Scores of several classes: the mean is the headline, and each class has a table beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gkd_bench.report.backend import client_of
from gkd_bench.report.classes import classes_by_pair, classes_table
from gkd_bench.report.contents import answer, file_tables, page_tables
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.latex import latex_document
from gkd_bench.report.model_card import Card, model_card
from gkd_bench.report.page import html_page
from gkd_bench.report.page.heat import shown_metrics
from gkd_bench.report.render import to_csv, to_markdown
from gkd_bench.report.runs import child_runs, legal_name
from gkd_bench.report.tables import scores
from gkd_bench.report.tracking import write_tracking

from .made_up_volumes import make_discs, make_liver, make_organs, volumes_origin
from .mlflow_help import new_backend, shown, student
from .small import row_of
from .test_latex import ENGINE, compiled, structure_problems


@pytest.fixture(scope="module")
def discs() -> SweepRecords:
    return SweepRecords.from_dicts(make_discs(), volumes_origin())


@pytest.fixture(scope="module")
def organs() -> SweepRecords:
    return SweepRecords.from_dicts(make_organs(), volumes_origin())


def test_metrics_of_the_sweep_are_means_over_classes(discs: SweepRecords) -> None:
    evidence = Evidence.of(discs)
    assert evidence.metrics == ["dice_fov", "iou_fov", "hd95_fov", "dice"]
    assert evidence.classes == ["cup", "disc"]
    assert (evidence.headline, evidence.title("dice"), evidence.title("dice_fov")) == (
        "dice_fov",
        "Dice (whole image)",
        "Dice (field of view)",
    )


def test_classes_stand_beside_their_mean(discs: SweepRecords) -> None:
    table = classes_table(discs)
    assert [(column.key, column.title, column.direction) for column in table.columns[1:]] == [
        ("dice", "Dice, mean", "up"), ("dice/cup", "Dice, cup", "up"), ("dice/disc", "Dice, disc", "up"),
        ("hd95", "HD95, mean, px", "down"), ("hd95/cup", "HD95, cup, px", "down"), ("hd95/disc", "HD95, disc, px", "down"),
    ]  # fmt: skip
    row = row_of(table, "KD")
    assert row["dice/cup"].value == pytest.approx(0.9 * float(row["dice"].value or 0))
    assert row["dice/disc"].value == pytest.approx(1.1 * float(row["dice"].value or 0))
    assert "over the classes cup and disc of every image" in table.caption


def test_best_student_of_every_class_is_marked(discs: SweepRecords) -> None:
    table = classes_table(discs)
    assert all("best" in row_of(table, "GKD")[column.key].flags for column in table.columns[1:])
    assert not any("best" in cell.flags for cell in row_of(table, "teacher").values())


def test_volumes_show_millimetres_and_names_in_plain_words(organs: SweepRecords) -> None:
    titles = [column.title for column in classes_table(organs).columns]
    assert titles[1:4] == ["Dice, mean", "Dice, liver", "Dice, right kidney"]
    assert titles[4:] == ["HD95, mean, mm", "HD95, liver, mm", "HD95, right kidney, mm"]
    assert "liver and right kidney of every volume" in classes_table(organs).caption


def test_every_pair_has_its_classes_in_a_file(organs: SweepRecords) -> None:
    table = file_tables(organs)["classes_by_pair"]
    assert len(table.rows) == 2 * 2 * 4
    cell = row_of(table, "mine", "theirs", "KD")["dice/right_kidney"]
    assert cell.value == Evidence.of(organs).cells("dice/right_kidney")["mine", "theirs", "kd"].value
    assert "theirs: 6 subjects, 63 slices" in table.caption
    assert to_csv(table).splitlines()[2].startswith("source,target,method,dice,dice_half")


@pytest.mark.parametrize("rows", [make_liver(), [{**row, "dice/liver": 0.5} for row in make_liver()]])
def test_one_class_has_no_table_of_classes(rows: list[dict[str, object]]) -> None:
    records = SweepRecords.from_dicts(rows)
    assert not {"classes", "classes_by_pair"} & file_tables(records).keys()
    assert not classes_table(records).rows and not classes_by_pair(records).rows


def test_class_metrics_have_no_matrices_but_all_scores_have_them(organs: SweepRecords) -> None:
    names = file_tables(organs).keys()
    assert "matrix_dice_gkd" in names and not any("kidney" in name for name in names)
    keys = {column.key: column.direction for column in scores(organs).columns}
    assert (keys["dice/liver"], keys["pooled/dice/liver"], keys["hd95_mm/liver"]) == ("up", "up", "down")


def test_heat_map_offers_dice_of_every_class(discs: SweepRecords) -> None:
    assert shown_metrics(discs) == ["dice_fov", "dice/cup_fov", "dice/disc_fov", "iou_fov", "hd95_fov"]


def test_page_names_the_classes_and_no_task_twice(discs: SweepRecords) -> None:
    page = html_page(discs, page_tables(discs), (), Extras())
    assert "gkd_bench · segmentation<" in page
    assert "<dt>Classes</dt><dd>cup, disc</dd>" in page
    assert "<dt>Test subjects</dt><dd>canon 4, topcon 4</dd>" in page
    assert answer(discs).startswith("Mean Dice (field of view) over 2 foreign source → target pairs, n = 2 seeds: ")


def test_tracking_tells_classes_and_targets_apart(discs: SweepRecords) -> None:
    finals = [run.finals for run in child_runs(discs) if run.tags["kind"] == "final"]
    names = {name for one in finals for name in one}
    assert {"dice/canon", "foreign/dice", "class/cup/dice/canon", "class/cup/dice/foreign"} <= names
    assert not any(name.startswith(("dice/cup", "dice/disc")) for name in names)
    assert all(legal_name(name) == name for name in names)


def test_real_tracking_store_takes_metrics_of_classes(discs: SweepRecords, tmp_path: Path) -> None:
    backend = new_backend(tmp_path)
    written = write_tracking(discs, backend, "classes", shown())
    assert not written.warning
    runs = client_of(backend).search_runs([written.experiment_id])
    kept = {name for run in runs for name in run.data.metrics}
    assert {"dice/canon", "class/disc/dice/canon", "class/cup/hd95/foreign"} <= kept


def test_model_card_names_the_classes(discs: SweepRecords) -> None:
    chosen = next(one for one in discs.candidates if one.method == "gkd" and one.seed == 0)
    text = model_card(Card(discs, chosen, student("canon", "gkd", 0)))
    assert "Segments cup and disc in prepared image tiles" in text
    assert "| Dice, cup | Dice, disc |" in text
    assert "Means over test subjects inside the field of view" in text


@pytest.mark.parametrize("rows", [make_discs(), make_organs()], ids=["photographs", "volumes"])
def test_tables_are_well_formed_everywhere(rows: list[dict[str, object]], tmp_path: Path) -> None:
    page = page_tables(SweepRecords.from_dicts(rows, volumes_origin()))
    text = latex_document(page)
    assert not structure_problems(text)
    if ENGINE is not None:
        assert "Overfull \\hbox" not in compiled(text, tmp_path)
    assert all(to_markdown(table).count(table.title) for table in page)

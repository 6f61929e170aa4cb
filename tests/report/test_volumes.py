"""A sweep of CT and MR: patients and slices, millimetres where a spacing is known and pixels where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gkd_bench.report import tables
from gkd_bench.report.archive import SavedSweep, load_sweep_records, save_sweep
from gkd_bench.report.cells import Table
from gkd_bench.report.comparison import further_comparison
from gkd_bench.report.contents import answer, file_tables, page_tables
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Extras
from gkd_bench.report.figures import draw_figures
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.model_card import Card, model_card
from gkd_bench.report.names import METHOD_TITLES
from gkd_bench.report.page import html_page
from gkd_bench.report.page.heat import heat_data
from gkd_bench.report.parent import parent_metrics
from gkd_bench.report.render import to_csv
from gkd_bench.report.runs import child_runs, legal_name
from gkd_bench.report.writer import write_report
from gkd_bench.store.artefacts import LocalStore

from .made_up_volumes import CT, LEVEL, LOOSE, liver_records, make_liver, volumes_origin
from .mlflow_help import student
from .small import row_of
from .test_latex import ENGINE, compiled, structure_problems


@pytest.fixture(scope="module")
def liver() -> SweepRecords:
    return liver_records()


@pytest.fixture(scope="module")
def page(liver: SweepRecords) -> str:
    return html_page(liver, page_tables(liver), (), Extras())


def words_of(table: Table) -> str:
    return " ".join([table.title, table.caption, *table.notes, *(column.title for column in table.columns)])


def test_no_table_speaks_of_subjects_whole_images_or_a_field_of_view(liver: SweepRecords) -> None:
    for table in (*page_tables(liver), *file_tables(liver).values()):
        text = words_of(table).replace("paired_subjects", "")
        assert "whole image" not in text and "field of view" not in text and "test image" not in text, table.name
        if table.name != "scores":
            assert "subject" not in text, (table.name, text)


def test_no_figure_speaks_of_subjects_or_a_field_of_view(liver: SweepRecords) -> None:
    for figure in draw_figures(liver, Extras()):
        text = f"{figure.title} {figure.caption} {figure.alt}"
        assert "field of view" not in text and "subject" not in text and "validation image" not in text, figure.name


def test_captions_count_patients_and_slices(liver: SweepRecords) -> None:
    caption = tables.triple(liver).caption
    assert f"Tested on: {CT}: 6 patients, 63 slices; {LOOSE}: 6 patients, 63 slices." in caption
    assert caption.startswith("Per test volume or stack of slices, averaged per patient, then over patients;")


def test_several_stacks_of_a_patient_are_counted() -> None:
    rows = [{**row, "subject": "p0" if row.get("subject") == "p1" else row.get("subject")} for row in make_liver()]
    caption = tables.triple(SweepRecords.from_dicts(rows)).caption
    assert f"{CT}: 5 patients, 6 stacks, 63 slices" in caption


def test_answer_counts_patients_and_slices(liver: SweepRecords) -> None:
    said = answer(liver)
    assert said.startswith("Mean Dice over 2 foreign source → target pairs, n = 2 seeds, 12 patients, 126 slices: ")
    assert "paired tests over patients" in said and "test patients" in said


def test_scores_have_a_column_of_slices_that_is_no_metric(liver: SweepRecords) -> None:
    table = tables.scores(liver)
    keys = [column.key for column in table.columns]
    assert keys[5:8] == ["subjects", "images", "slices"]
    assert "pooled/slices" not in keys
    assert row_of(table, CT, LOOSE, "gkd")["slices"].value == 63
    assert "slices" not in Evidence.of(liver).metrics


def test_headline_and_its_matrix_are_plain_dice(liver: SweepRecords) -> None:
    table = tables.matrix(liver)
    assert Evidence.of(liver).headline == "dice"
    assert (table.name, table.title) == ("matrix_dice_gkd", "Dice of GKD, source x target")


def test_surface_metrics_stand_in_the_unit_of_each_target(liver: SweepRecords) -> None:
    for metric, having, lacking in (("hd95_mm", CT, LOOSE), ("hd95", LOOSE, CT)):
        row = row_of(tables.matrix(liver, metric), CT)
        assert isinstance(row[having].value, float) and row[lacking].value is None
    assert f"Not measured on {LOOSE}, of which no spacing is known." in tables.matrix(liver, "nsd_mm").caption
    assert f"Not measured on {CT}, where it is in mm." in tables.matrix(liver, "nsd").caption
    assert "Not measured" not in tables.matrix(liver, "dice").caption


def test_metric_that_some_targets_lack_is_averaged_over_the_others_and_says_so(liver: SweepRecords) -> None:
    table = further_comparison(liver)
    row = row_of(table, METHOD_TITLES["kd"])
    expected = Evidence.of(liver).cells("hd95_mm")[LOOSE, CT, "kd"].value
    assert row["hd95_mm"].value == pytest.approx(expected)
    assert f"HD95, mm: over 1 of 2 pairs, {LOOSE} not among the targets." in table.caption


def test_metric_of_no_foreign_pair_has_no_column() -> None:
    rows = [row for row in make_liver() if (row.get("source"), row.get("target")) != (LOOSE, CT)]
    keys = [column.key for column in further_comparison(SweepRecords.from_dicts(rows)).columns]
    assert "hd95_mm" not in keys and "hd95" in keys


def test_all_stacks_with_a_spacing_are_volumes() -> None:
    rows = [row for row in make_liver() if LOOSE not in (row.get("source"), row.get("target"))]
    assert Evidence.of(SweepRecords.from_dicts(rows)).words.image == "volume"


def test_a_metric_that_was_written_as_nothing_is_no_problem() -> None:
    rows = [{"hd95": None, "hd95_mm": None, **row} if row["record"] == "image" else row for row in make_liver()]
    records, plain = SweepRecords.from_dicts(rows), SweepRecords.from_dicts(make_liver())
    assert page_tables(records) == page_tables(plain)


def test_page_says_what_was_segmented_and_on_whom(page: str) -> None:
    assert "gkd_bench · liver segmentation" in page
    assert f"<dt>Test patients</dt><dd>{CT} 6 (63 slices), {LOOSE} 6 (63 slices)</dd>" in page
    assert "broken images were left out" in page
    assert '"people":"patients"' in page


def test_heat_map_offers_millimetres_and_pixels(liver: SweepRecords) -> None:
    data = heat_data(liver)
    assert isinstance(data, dict)
    titles = {metric["key"]: metric["title"] for metric in data["metrics"]}  # type: ignore[index,union-attr,call-overload]
    assert titles["hd95"] == "HD95, px" and titles["hd95_mm"] == "HD95, mm"
    json.dumps(data, allow_nan=False)


def test_model_card_speaks_of_patients_slices_and_the_intensity_window(liver: SweepRecords) -> None:
    chosen = next(one for one in liver.candidates if one.source == CT and one.method == "gkd" and one.seed == 0)
    text = model_card(Card(liver, chosen, student(CT, "gkd", 0)))
    assert "subject" not in text and "field of view" not in text
    assert "Segments livers in prepared image tiles" in text
    assert "| target | Dice | 95 % interval | patients | slices | " in text
    assert "| 6 | 63 | " in text
    assert f"* grey levels of {CT.replace('_', '_')}: HU -160 ... 240" in text.replace("\\", "")


def test_tracking_has_legal_names_for_both_units(liver: SweepRecords) -> None:
    finals = [run.finals for run in child_runs(liver) if run.tags["kind"] == "final"]
    names = {name for one in finals for name in one}
    assert {f"hd95_mm/{CT}", f"hd95/{LOOSE}", "foreign/hd95_mm", f"dice/{CT}", "foreign/dice"} <= names
    assert f"hd95_mm/{LOOSE}" not in names and not any("slices" in name for name in names)
    assert all(legal_name(name) == name for name in names)
    assert set(parent_metrics(liver)) >= {f"foreign/{method}/dice" for method in LEVEL}


def test_latex_is_well_formed(liver: SweepRecords, tmp_path: Path) -> None:
    from gkd_bench.report.latex import latex_document

    text = latex_document(page_tables(liver))
    assert not structure_problems(text)
    if ENGINE is not None:
        assert "Overfull \\hbox" not in compiled(text, tmp_path)


def test_report_is_made_again_byte_for_byte_from_its_records_alone(tmp_path: Path) -> None:
    saved = SavedSweep("made_up", tuple(make_liver()), volumes_origin(), ())
    save_sweep(saved, LocalStore(tmp_path))
    again = load_sweep_records("made_up", LocalStore(tmp_path))
    first = write_report(SweepRecords.from_dicts(again.records, again.origin), Extras(), tmp_path / "a")
    second = write_report(SweepRecords.from_dicts(again.records, again.origin), Extras(), tmp_path / "b")
    assert [path.read_bytes() for path in first.all()] == [path.read_bytes() for path in second.all()]
    assert "domains" in first.tables and (tmp_path / "a" / "tables" / "domains.tex").exists()


def test_csv_of_a_matrix_has_an_empty_cell_where_nothing_was_measured(liver: SweepRecords) -> None:
    lines = to_csv(tables.matrix(liver, "hd95_mm")).splitlines()
    assert lines[-1].startswith(f"{LOOSE},") and lines[-1].endswith(",,,,0,0,")

"""A report of every method at once, with controls, variants and a second student: tables, answer and figures stay readable."""

from __future__ import annotations

import struct
from itertools import combinations

import pytest

from gkd_bench.config.method_options import METHOD_OPTIONS
from gkd_bench.report.cells import Table
from gkd_bench.report.contents import answer, file_tables, page_tables, terminal_tables
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Extras
from gkd_bench.report.figures import gains, matrices, stress, training
from gkd_bench.report.figures.base import PAGE, TALL, Figure
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.latex import WIDEST, latex_document
from gkd_bench.report.names import method_title
from gkd_bench.report.page import html_page
from gkd_bench.report.palette import method_colours, method_dashes, method_markers
from gkd_bench.report.render import to_csv, to_markdown
from gkd_bench.report.runs import child_runs

from .made_up import base
from .made_up_many import many_records
from .small import row_of

NOTHING = Extras()


@pytest.fixture(scope="module")
def records() -> SweepRecords:
    """One seed, as a sweep of many methods has it."""
    return many_records((0,))


@pytest.fixture(scope="module")
def tables(records: SweepRecords) -> dict[str, Table]:
    return {table.name: table for table in page_tables(records)}


def test_no_table_has_a_column_for_every_method(tables: dict[str, Table]) -> None:
    assert max(len(table.columns) for table in tables.values()) <= 13


def test_main_table_has_a_row_for_every_source_and_method_with_the_scores_of_the_matrices(
    records: SweepRecords, tables: dict[str, Table]
) -> None:
    table = tables["triple"]
    assert len(table.rows) == len(records.sources) * len(records.methods)
    cells = Evidence.of(records).cells("dice_fov")
    row = row_of(table, "hrf", "CIRKD")
    assert row["stare"].value == cells["hrf", "stare", "cirkd"].value and "in_domain" in row["hrf"].flags
    assert row["stare"].p == Evidence.of(records).gain_cells("dice_fov")["hrf", "stare", "cirkd"].p


def test_difference_and_gap_tables_leave_references_out(records: SweepRecords, tables: dict[str, Table]) -> None:
    gain = Evidence.of(records).gain_cells("dice_fov")["hrf", "stare", "gkd_small"]
    assert row_of(tables["gains"], "hrf", "GKD small")["stare"].value == gain.value
    names = {str(row[1].value) for name in ("gains", "gap") for row in tables[name].rows}
    assert not names & {"teacher", "student alone", "student alone small", "student before continuation"}


def test_every_matrix_is_still_a_file(records: SweepRecords) -> None:
    names = file_tables(records)
    assert all(f"matrix_dice_{method}" in names and f"matrix_fsd_{method}" in names for method in records.methods)


def test_terminal_has_rows_of_methods_and_no_table_by_pair(records: SweepRecords) -> None:
    assert next(table.name for table in terminal_tables(records)) == "comparison"
    assert "triple" not in {table.name for table in terminal_tables(records)}


def test_answer_names_references_the_best_three_and_gkd_and_counts_the_others(records: SweepRecords) -> None:
    text, evidence = answer(records), Evidence.of(records)
    first = text.split(". ")[0]
    means = {one: several.cell.value for one in evidence.compared if (several := evidence.several("dice_fov", one))}
    controls = {"bn_views", "scratch_photometric", "kd_photometric"}
    rows = [one for one in means if one not in controls | {"gkd_small"}]  # equal ones stay in table order
    ranked = sorted(rows, key=lambda one: -round(float(means[one] or 0), 3))
    assert all(f"{method_title(name)} {means[name]:.3f}" in first for name in ranked[:3])
    assert "teacher 0." in first and "student alone 0." in first and "GKD 0." in first
    assert f"of {len(ranked)} methods" in first and f"of {len(ranked)} are ahead of the student alone" in text
    assert len(text) < 2200


def test_answer_says_that_a_plain_control_is_ahead_of_all_distillation(records: SweepRecords) -> None:
    assert "student alone + photometric 0." in answer(records).split("No method may take credit: ")[1]


def test_students_table_compares_each_with_itself_alone(tables: dict[str, Table]) -> None:
    small = row_of(tables["students"], "mobile_unet x0.25", "GKD")
    assert small["parameters"].value == 5000 and small["macs"].value == pytest.approx(0.6)
    assert small["gain"].value == pytest.approx(float(small["foreign"].value or 0) - float(small["alone"].value or 0))
    alone = row_of(tables["students"], "mobile_unet x0.25", "student alone")
    assert alone["foreign"].value == small["alone"].value and alone["gain"].value is None and alone["gap"].value is None


def test_ablation_leaves_controls_and_other_students_out(tables: dict[str, Table]) -> None:
    assert [row[0].value for row in tables["ablation"].rows] == ["KD", "KD adapted", "GKD", "GKD intra"]


@pytest.mark.parametrize("name", ["triple", "comparison", "methods"])
def test_notes_stand_below_the_table_in_every_form(records: SweepRecords, tables: dict[str, Table], name: str) -> None:
    table = tables[name]
    port = METHOD_OPTIONS["diga"].port[:40]
    assert any(port in note for note in table.notes)
    latex = latex_document([table])
    assert port in to_markdown(table) and port in to_csv(table) and port.replace("-", "{-}") in latex
    assert r"\P{} DiGA" in latex and "§ uses unlabelled" in to_markdown(table)
    assert port in html_page(records, [table], (), NOTHING)


def test_latex_parts_are_no_wider_than_a_page(tables: dict[str, Table]) -> None:
    rows = [line for line in latex_document([tables["comparison"]]).splitlines() if line.startswith("Graph Flow")]
    assert rows and all(len(line) < 1.5 * WIDEST for line in rows)


def test_methods_of_a_kind_and_ports_are_tags_of_runs_in_mlflow(records: SweepRecords) -> None:
    runs = {run.tags["gkd.method"]: run.tags for run in child_runs(records) if run.tags["kind"] == "final"}
    kinds = [runs[name]["method_kind"] for name in ("scratch", "bn_views", "kd_photometric", "diga", "gkd_intra")]
    assert kinds == ["reference", "control", "control", "method", "variant"]
    assert runs["diga"]["port"] == METHOD_OPTIONS["diga"].port and "port" not in runs["kd"]
    assert runs["at"]["gradient"] == "silent" and runs["kd_adapted"]["remedies"] == "bn_adapt"


# ---------------------------------------------------------------- figures


def test_no_two_methods_look_the_same(records: SweepRecords) -> None:
    colours, markers, dashes = (look(records.methods) for look in (method_colours, method_markers, method_dashes))
    looks = {name: (colours[name], markers[name]) for name in records.methods}
    own = [
        name for name in records.methods if name in METHOD_OPTIONS or name in ("teacher", "baseline", "kd_photometric")
    ]
    assert all(looks[a] != looks[b] for a, b in combinations(own, 2))
    assert dashes["kd_photometric"] != dashes["kd"] == "-"


def inches(figure: Figure) -> tuple[float, float]:
    width, height = struct.unpack(">II", figure.png[16:24])
    return width / 200, height / 200


@pytest.mark.slow
def test_heat_maps_and_forest_fit_on_a_page(records: SweepRecords) -> None:
    drawn = [matrices.generalisation_matrix(records, NOTHING), gains.gain_forest(records, NOTHING)]
    for figure in drawn:
        assert figure is not None and inches(figure)[0] <= PAGE + 0.1 and inches(figure)[1] <= TALL + 0.1


def test_lines_of_many_methods_name_a_few_and_count_the_others(records: SweepRecords) -> None:
    for draw in (stress.stress_curves, training.training_curves):
        figure = draw(records, NOTHING)
        assert figure is not None and "grey: the others" in figure.caption


def test_loss_terms_take_several_pages_of_one_title() -> None:
    methods = ["scratch", "kd", "at", "fsp", "skd", "cwd", "dsd", "coco", "gkd"]
    labels = [base("distill", method, "hrf", None, 0, "val") for method in methods]
    epochs = [{**one, "record": "epoch", "epoch": 1, "loss/ce": 0.5, "loss/kd": 0.1} for one in labels]
    pages = training.loss_curves(SweepRecords.from_dicts(epochs), NOTHING)
    assert [page.name for page in pages] == ["loss_terms", "loss_terms_2"]
    assert [page.title.partition(", ")[2] for page in pages] == ["part 1 of 2", "part 2 of 2"]
    assert "student alone" in pages[0].alt and "GKD" in pages[1].alt and "GKD" not in pages[0].alt

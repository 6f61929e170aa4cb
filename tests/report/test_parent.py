from __future__ import annotations

import json
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from gkd_bench.report.cells import Cell, Column, Section, Table
from gkd_bench.report.contents import answer, page_tables
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.model_card import Card
from gkd_bench.report.models import selected_cards
from gkd_bench.report.parent import Shown, parent_files, parent_metrics, parent_note, parent_tags, table_json

from .made_up import DOMAINS, METHODS, Record, make_origin
from .mlflow_help import shown, students


@pytest.fixture(scope="module")
def whole(sweep_records: SweepRecords) -> Shown:
    return Shown(answer(sweep_records), page_tables(sweep_records))


@pytest.fixture(scope="module")
def cards(sweep_records: SweepRecords) -> list[Card]:
    return selected_cards(sweep_records, students())


def test_metrics_are_means_over_seeds_by_pair_and_over_pairs_by_method(sweep_records: SweepRecords) -> None:
    metrics = parent_metrics(sweep_records)
    assert len(metrics) == len(METHODS) * (len(DOMAINS) ** 2 + 2)
    scores = sweep_records.seed_scores.set_index(["source", "target", "method"])["dice_fov"]
    pairs = {(s, t): float(np.mean(scores.loc[s, t, "gkd"])) for s in DOMAINS for t in DOMAINS}
    assert metrics["hrf-to-stare/gkd/dice"] == pytest.approx(pairs["hrf", "stare"], abs=1e-5)
    foreign = np.mean([value for (source, target), value in pairs.items() if source != target])
    assert metrics["foreign/gkd/dice"] == pytest.approx(foreign, abs=1e-5)
    assert metrics["in_domain/gkd/dice"] == pytest.approx(np.mean([pairs[s, s] for s in DOMAINS]), abs=1e-5)


def test_sweep_without_scores_has_no_metrics(made_up: list[Record]) -> None:
    assert parent_metrics(SweepRecords.from_dicts([r for r in made_up if r["record"] == "cost"])) == {}


def test_note_opens_with_the_answer_the_rule_and_the_disclaimer(sweep_records: SweepRecords, whole: Shown) -> None:
    note = parent_note(sweep_records, whole)
    assert note.startswith("**Mean Dice")
    assert note.index("best validation Dice of the source") < note.index("none of these numbers is the paper's")
    assert note.index("| source | target |") < note.index("### Warnings")
    assert "the bottleneck carries no information" in note


def test_note_is_never_cut_within_a_table(sweep_records: SweepRecords, whole: Shown) -> None:
    assert len(parent_note(sweep_records, whole)) < 8000
    note = parent_note(sweep_records, whole, 4500)
    assert len(note) <= 4500
    assert "did not fit here" in note
    assert all(line.endswith("|") for line in note.splitlines() if line.startswith("|"))


def test_note_has_nothing_that_hides_tables_in_mlflow(sweep_records: SweepRecords, whole: Shown) -> None:
    assert "\\<" not in parent_note(sweep_records, replace(whole, answer="p < 0.05"))
    assert "p &lt; 0.05" in parent_note(sweep_records, replace(whole, answer="p < 0.05"))


def test_narrow_cells_of_the_note_break_before_the_interval_only(sweep_records: SweepRecords, whole: Shown) -> None:
    note = parent_note(sweep_records, whole)
    assert "| chase_db1 | chase_db1\u00a0◦ | 0.796 ±\u00a00.007\u00a0◦ |" in note
    assert "\u00a0◦** |" in note
    assert "± " not in note


def test_note_shows_the_sections_that_answer_before_the_others(sweep_records: SweepRecords) -> None:
    sections = ("efficiency", "matrix", "answer", "comparison", "health")
    tables = [
        Table(name, f"About {name}", "", (Column("a", "a"),), ((Cell(1),),), cast("Section", name)) for name in sections
    ]
    note = parent_note(sweep_records, Shown("Yes.", tables))
    places = [note.index(f"About {name}") for name in ("answer", "comparison", "matrix", "efficiency")]
    assert places == sorted(places)
    assert "About health" not in note


def test_files_hold_the_report_tables_cards_and_the_origin(sweep_records: SweepRecords, cards: list[Card]) -> None:
    files = parent_files(sweep_records, shown(), cards)
    assert files["index.html"] == b"<h1>made up</h1>"
    assert json.loads(files["mlflow_tables/triple.json"]) == {
        "columns": ["target", "GKD ↑"],
        "data": [["stare", "0.700"]],
    }
    assert files["model_cards/hrf.md"].startswith(b"# gkd_bench.made_up.hrf")
    assert b"none of these numbers is the paper's" in files["origin.txt"]
    assert not any(b'"record"' in content for content in files.values())


def test_tags_list_the_tables_for_the_viewer_and_name_the_students(made_up: list[Record], cards: list[Card]) -> None:
    records = SweepRecords.from_dicts(made_up, make_origin())
    tags = parent_tags(records, shown(), cards)
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "mlflow_tables/triple.json", "type": "table"}]
    assert tags["selected.stare"] == "gkd_bench.made_up.stare"
    assert (tags["kind"], tags["rule"], tags["seeds"]) == ("sweep", "source_val", "0, 1, 2")
    assert tags["command"].startswith("python -m gkd_bench.sweep")


def test_table_for_the_viewer_has_what_readers_see(whole: Shown) -> None:
    table = json.loads(table_json(whole.tables[0]))
    assert table["columns"][:2] == ["source", "target"]
    assert all(len(row) == len(table["columns"]) for row in table["data"])

from __future__ import annotations

import json
import random
from typing import get_args

import pytest

from gkd_bench.cluster.search import TrialState
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.runs import (
    NODE_TAG,
    TRIAL_TAG,
    ChildRun,
    Provenance,
    child_runs,
    legal_name,
    parent_metrics,
    parent_note,
    sweep_files,
    sweep_tags,
)

from .made_up import Record, key_of


def named(children: list[ChildRun], name: str) -> ChildRun:
    (found,) = [child for child in children if child.name == name]
    return found


def test_one_run_per_trial_and_per_final_training(sweep_records: SweepRecords) -> None:
    children = child_runs(sweep_records)
    assert sum(child.tag == TRIAL_TAG for child in children) == 3 * 4
    assert sum(child.tag == NODE_TAG for child in children) == 4 * 3 * 3
    assert len({(child.tag, child.identity) for child in children}) == len(children)


def test_final_training_shows_its_curves_and_its_scores_on_every_target(sweep_records: SweepRecords) -> None:
    child = named(child_runs(sweep_records), "distill gkd hrf seed 0")
    assert child.identity == key_of("distill", "gkd", "hrf", None, 0)
    curve = [(point.epoch, point.value) for point in child.curves if point.name == "val/dice"]
    assert curve == [(epoch, pytest.approx(0.74 - 0.3 / epoch)) for epoch in (1, 2, 3, 4)]
    scores = sweep_records.seed_scores.set_index(["source", "target", "method", "seed"])["dice_fov"]
    for target in ("chase_db1", "hrf", "stare"):
        assert child.finals[f"test/{target}/dice"] == pytest.approx(scores["hrf", target, "gkd", 0])
    assert child.finals["test/stare/fsd_domain_aligned"] == pytest.approx(0.6, abs=0.1)
    assert (child.seconds, child.finals["cost/parameters"]) == (12.5, 17000)
    assert child.tags["gkd.source"] == "hrf"


def test_trial_shows_parameters_objective_and_how_it_ended(sweep_records: SweepRecords) -> None:
    children = child_runs(sweep_records)
    stopped = named(children, "trial hrf/gkd 1")
    assert (stopped.status, stopped.identity) == ("KILLED", "hrf/gkd/1")
    assert stopped.params == {"methods.gkd.intra": "0.2", "methods.gkd.cross": "0.3"}
    assert stopped.finals == {}
    assert [point.epoch for point in stopped.curves] == [1, 2]
    complete = named(children, "trial hrf/gkd 0")
    assert (complete.status, complete.finals) == ("FINISHED", {"objective": pytest.approx(0.6)})


def test_failed_trial_is_a_failed_run_that_says_why(sweep_records: SweepRecords) -> None:
    children = child_runs(sweep_records)
    failed = named(children, "trial hrf/gkd 2")
    assert (failed.status, failed.tags["gkd.state"]) == ("FAILED", "failed")
    assert failed.tags["gkd.cause"] == "its loss is not finite"
    assert "gkd.cause" not in named(children, "trial hrf/gkd 1").tags


@pytest.mark.parametrize("state", get_args(TrialState))
def test_every_way_a_search_ends_a_trial_ends_its_run(made_up: list[Record], state: str) -> None:
    trials = [{**record, "state": state} for record in made_up if record["record"] == "trial"]
    assert "RUNNING" not in {child.status for child in child_runs(SweepRecords.from_dicts(trials))}


def test_settings_of_a_stage_become_flat_parameters(sweep_records: SweepRecords) -> None:
    key = key_of("distill", "gkd", "hrf", None, 0)
    children = child_runs(sweep_records, {key: {"optimiser": {"lr": 0.001, "name": "adam"}, "views": ["strong"]}})
    params = named(children, "distill gkd hrf seed 0").params
    assert params["optimiser.lr"] == "0.001"
    assert params["optimiser.name"] == "adam"
    assert json.loads(params["views"]) == ["strong"]


def test_scores_without_records_of_their_training_are_still_shown(made_up: list[Record]) -> None:
    kept = [record for record in made_up if record["record"] in ("image", "fsd")]
    children = child_runs(SweepRecords.from_dicts(kept))
    assert len(children) == 4 * 3 * 3
    assert named(children, "evaluate gkd hrf seed 0").finals["test/hrf/dice"] == pytest.approx(0.74, abs=0.05)


def test_undefined_and_infinite_values_are_left_out(made_up: list[Record]) -> None:
    key = key_of("distill", "gkd", "hrf", None, 0)
    changed = [
        {**record, "val/dice": float("nan"), "loss/ce": float("inf")} if record["key"] == key else record
        for record in made_up
    ]
    child = named(child_runs(SweepRecords.from_dicts(changed)), "distill gkd hrf seed 0")
    assert {point.name for point in child.curves} == {"grad_cosine/intra"}


def test_digests_do_not_depend_on_the_order_of_records_but_on_their_values(made_up: list[Record]) -> None:
    shuffled = random.Random(0).sample(made_up, len(made_up))
    first, second = child_runs(SweepRecords.from_dicts(made_up)), child_runs(SweepRecords.from_dicts(shuffled))
    assert [child.digest for child in first] == [child.digest for child in second]
    changed = [{**record, "seconds": 99.0} if record["record"] == "cost" else record for record in made_up]
    third = child_runs(SweepRecords.from_dicts(changed))
    assert first[-1].digest != third[-1].digest


@pytest.mark.parametrize(
    ("text", "name"),
    [("drive->stare/dice", "drive-to-stare/dice"), ("grad_ratio/intra", "grad_ratio/intra"), ("a=b%", "a_b_"),
     ("//x//y/", "x/y"), ("../up", "up"), ("", "_")],
)  # fmt: skip
def test_names_are_made_legal(text: str, name: str) -> None:
    assert legal_name(text) == name


def test_parent_has_the_headline_of_every_cell(sweep_records: SweepRecords) -> None:
    metrics = parent_metrics(sweep_records)
    assert len(metrics) == 3 * 3 * 4
    assert metrics["hrf-to-stare/gkd/dice"] == pytest.approx(0.64, abs=0.02)


def test_note_opens_with_the_answer_and_is_never_cut(sweep_records: SweepRecords) -> None:
    note = parent_note(sweep_records)
    assert note.startswith(
        "**Mean Dice (field of view) over 6 foreign source -\\> target pairs, n = 18 (source, target, seed) rows"
    )
    assert "student alone" in note
    assert len(note) < 8000
    short = parent_note(sweep_records, 2500)
    assert len(short) <= 2500
    assert "sections did not fit" in short
    assert all(line.endswith("|") for line in short.splitlines() if line.startswith("|"))


def test_files_of_the_sweep_and_the_tag_that_makes_tables_of_them(sweep_records: SweepRecords) -> None:
    origin = Provenance("name: made_up\n", "gkd-bench sweep x.yaml", "2 cores", {"stare": "abc"})
    files = sweep_files(sweep_records, origin, {"hrf": b"png"})
    assert files["overlays/hrf.png"] == b"png"
    assert json.loads(files["provenance.json"])["data_fingerprints"] == {"stare": "abc"}
    tags = sweep_tags(sweep_records, origin, list(files))
    listed = [entry["path"] for entry in json.loads(tags["mlflow.loggedArtifacts"])]
    assert "tables/triple.json" in listed
    assert {path.replace("tables/", "csv/").replace(".json", ".csv") for path in listed} <= set(files)
    assert set(listed) <= set(files)
    assert tags["gkd.data.stare"] == "abc"

from __future__ import annotations

import json
import random
from typing import Any, get_args

import numpy as np
import pytest

from gkd_bench.cluster.search import TrialState
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.palette import METHOD_COLOURS
from gkd_bench.report.runs import ChildRun, child_runs, finite, legal_name
from gkd_bench.report.students import registered_name, selected_students

from .made_up import DOMAINS, METHODS, SEEDS, STATES, Record, make_origin, model_key


@pytest.fixture(scope="module")
def children(sweep_records: SweepRecords) -> list[ChildRun]:
    return child_runs(sweep_records)


def named(children: list[ChildRun], name: str) -> ChildRun:
    (found,) = [child for child in children if child.name == name]
    return found


def of(records: list[Record], **labels: Any) -> list[Record]:
    return [record for record in records if all(record.get(name) == value for name, value in labels.items())]


def mean_dice(records: list[Record], **labels: Any) -> float:
    """By hand: mean over images per subject, then over subjects."""
    images = of(records, record="image", trial=None, variant="best", **labels)
    subjects = {record["subject"] for record in images}
    return float(np.mean([np.mean([r["dice_fov"] for r in images if r["subject"] == one]) for one in sorted(subjects)]))


def test_one_run_per_trial_and_per_final_training(children: list[ChildRun]) -> None:
    kinds = [child.tags["kind"] for child in children]
    assert kinds.count("trial") == len(DOMAINS) * len(STATES)
    assert kinds.count("final") == len(METHODS) * len(DOMAINS) * len(SEEDS)
    assert len({child.identity for child in children}) == len({child.name for child in children}) == len(children)


def test_final_training_shows_its_scores_by_target_and_their_foreign_mean(
    made_up: list[Record], children: list[ChildRun]
) -> None:
    found = named(children, "hrf: KD, seed 1").finals
    expected = {name: mean_dice(made_up, method="kd", source="hrf", seed=1, target=name) for name in DOMAINS}
    for target, dice in expected.items():
        assert found[f"dice/{target}"] == pytest.approx(dice, abs=1e-5)
    assert found["in_domain/dice"] == found["dice/hrf"]
    assert found["foreign/dice"] == pytest.approx((expected["chase_db1"] + expected["stare"]) / 2, abs=1e-5)
    assert found["hd95/stare"] > found["hd95/hrf"]


def test_names_sort_what_is_compared_first_and_what_is_rare_behind_it(children: list[ChildRun]) -> None:
    names = sorted(named(children, "hrf: GKD, seed 0").finals)
    assert {"cost/macs", "cost/latency_p50_ms", "cost/parameters", "fsd/stare", "foreign/hd95", "stressed/dice"} <= set(
        names
    )
    assert "other/accuracy/stare" in names
    assert not any(name.startswith("accuracy") for name in names)
    assert [name for name in names[:7] if not name.startswith("cost/")] == [
        *sorted(f"dice/{one}" for one in DOMAINS),
        "ece/chase_db1",
    ]
    assert {"foreign/cldice", "other/cldice/stare"} <= set(names)


def test_final_training_shows_distance_stress_and_cost(made_up: list[Record], children: list[ChildRun]) -> None:
    found = named(children, "hrf: GKD, seed 1").finals
    space = {"record": "fsd", "method": "gkd", "source": "hrf", "seed": 1, "space": "aligned_own"}
    distances = {name: of(made_up, **space, target=name)[0]["value"] for name in DOMAINS}
    assert found["fsd/stare"] == pytest.approx(distances["stare"], rel=1e-4)
    assert found["foreign/fsd"] == pytest.approx((distances["stare"] + distances["chase_db1"]) / 2, rel=1e-4)
    stressed = of(made_up, record="stress", method="gkd", source="hrf", seed=1, corruption="noise")
    assert found["stressed/dice_noise"] == pytest.approx(np.mean([record["dice"] for record in stressed]), abs=1e-5)
    (cost,) = of(made_up, record="efficiency", role="student")
    assert (found["cost/macs"], found["cost/parameters"]) == (cost["macs"], cost["parameters"])
    assert named(children, "hrf: teacher, seed 1").finals["cost/parameters"] == 490_000
    assert found["training/seconds"] == 13.5


def test_final_training_shows_its_curves(children: list[ChildRun]) -> None:
    child = named(children, "hrf: GKD, seed 0")
    assert child.identity == model_key("gkd", "hrf", 0)
    curve = [(point.epoch, point.value) for point in child.curves if point.name == "val/dice"]
    assert curve == [(epoch, pytest.approx(0.74 - 0.3 / epoch)) for epoch in (1, 2, 3, 4)]
    assert {point.name for point in child.curves} >= {"loss/ce", "loss/intra", "grad_ratio/intra"}
    assert child.seconds == 12.5


def test_labels_group_runs_and_colour_them_by_method(children: list[ChildRun]) -> None:
    tags = named(children, "hrf: GKD, seed 1").tags
    expected = {
        "source": "hrf",
        "method": "GKD",
        "model": "hrf, GKD",
        "seed": "1",
        "stage": "distill",
        "rule": "source_val",
    }
    assert expected.items() <= tags.items()
    assert tags["mlflow.runColor"] == METHOD_COLOURS["gkd"]
    assert "trained on hrf only" in tags["mlflow.note.content"]


def test_selected_is_the_best_validation_student_of_each_source(
    made_up: list[Record], children: list[ChildRun], sweep_records: SweepRecords
) -> None:
    marked = {child.tags["source"]: child.identity for child in children if child.tags["selected"] == "yes"}
    for source in DOMAINS:
        pool = [r for r in of(made_up, record="candidate", source=source, trial=None) if r["method"] in METHODS[2:]]
        assert marked[source] == max(pool, key=lambda record: record["val_dice"])["model"]
    assert marked == {source: one.model for source, one in selected_students(sweep_records).items()}


def test_selection_reads_no_target(made_up: list[Record], sweep_records: SweepRecords) -> None:
    rng = random.Random(0)
    scrambled = [{**r, "dice_fov": rng.random()} if r["record"] == "image" else r for r in made_up]
    assert selected_students(SweepRecords.from_dicts(scrambled)) == selected_students(sweep_records)


def test_selection_follows_the_rule_of_the_sweep(made_up: list[Record]) -> None:
    favoured = model_key("scratch", "hrf", 2)
    changed = [
        {**r, "val_dice_stressed": 0.99} if r["record"] == "candidate" and r["model"] == favoured else r
        for r in made_up
    ]
    records = SweepRecords.from_dicts(changed, make_origin(rule="source_val_stressed"))
    assert selected_students(records)["hrf"].model == favoured


def test_registered_names_hold_no_path(sweep_records: SweepRecords) -> None:
    assert registered_name("cross/2:a", "hrf") == "gkd_bench.cross_2_a.hrf"


def test_trial_shows_parameters_objectives_and_how_it_ended(children: list[ChildRun]) -> None:
    stopped = named(children, "hrf: GKD, trial 1")
    assert (stopped.status, stopped.identity, stopped.tags["trial"]) == ("KILLED", "hrf gkd/1", "1")
    assert stopped.params == {"methods.gkd.intra": "0.2", "methods.gkd.cross": "0.3"}
    assert stopped.finals == {}
    assert [point.epoch for point in stopped.curves] == [1, 2]
    complete = named(children, "hrf: GKD, trial 0")
    assert complete.status == "FINISHED"
    assert complete.finals["objective/source_val"] == pytest.approx(0.6)
    assert complete.finals["objective/stress_fsd"] == pytest.approx(3.0)


def test_trial_shows_nothing_of_a_target(children: list[ChildRun]) -> None:
    starts = {name.partition("/")[0] for child in children if child.tags["kind"] == "trial" for name in child.finals}
    assert starts == {"objective", "source_val", "stressed"}


def test_failed_trial_is_a_failed_run_that_says_why(children: list[ChildRun]) -> None:
    failed = named(children, "hrf: GKD, trial 2")
    assert (failed.status, failed.tags["state"]) == ("FAILED", "failed")
    assert failed.tags["cause"] == "its loss is not finite"
    assert "cause" not in named(children, "hrf: GKD, trial 1").tags


@pytest.mark.parametrize("state", get_args(TrialState))
def test_every_way_a_search_ends_a_trial_ends_its_run(made_up: list[Record], state: str) -> None:
    trials = [{**record, "state": state} for record in made_up if record["record"] == "trial"]
    assert "RUNNING" not in {child.status for child in child_runs(SweepRecords.from_dicts(trials))}


def test_settings_of_the_origin_become_flat_parameters(made_up: list[Record]) -> None:
    key = model_key("gkd", "hrf", 0)
    settings = {key: {"optimiser": {"lr": 0.001, "name": "adam"}, "views": ["strong"]}}
    records = SweepRecords.from_dicts(made_up, make_origin(settings=settings))
    params = named(child_runs(records), "hrf: GKD, seed 0").params
    assert params["optimiser.lr"] == "0.001"
    assert params["optimiser.name"] == "adam"
    assert json.loads(params["views"]) == ["strong"]


def test_networks_that_others_are_built_on_are_kept_apart(made_up: list[Record]) -> None:
    (template,) = of(made_up, record="cost", method="gkd", source="hrf", seed=0)
    part = {**template, "kind": "alignment", "method": "tan", "key": "ab" * 12, "model": "ab" * 12}
    measured = {**part, "kind": "stress", "key": "cd" * 12}
    children = child_runs(SweepRecords.from_dicts([*made_up, part, measured]))
    (found,) = [child for child in children if child.tags["kind"] == "part"]
    assert found.name == "hrf: TAN (teacher) (alignment), seed 0"
    assert not any(name.startswith(("dice", "foreign")) for name in found.finals)
    assert "cd" * 12 not in {child.identity for child in children}


def test_scores_without_records_of_their_training_are_still_shown(made_up: list[Record]) -> None:
    kept = [record for record in made_up if record["record"] in ("image", "fsd", "candidate")]
    children = child_runs(SweepRecords.from_dicts(kept))
    assert len(children) == len(METHODS) * len(DOMAINS) * len(SEEDS)
    assert named(children, "hrf: GKD, seed 0").finals["dice/hrf"] == pytest.approx(0.74, abs=0.05)


def test_undefined_and_infinite_values_are_left_out(made_up: list[Record]) -> None:
    key = model_key("kd", "hrf", 0)
    changed = [
        {**record, "val/dice": float("nan"), "loss/ce": float("inf")} if record["key"] == key else record
        for record in made_up
    ]
    assert named(child_runs(SweepRecords.from_dicts(changed)), "hrf: KD, seed 0").curves == ()


def test_fractions_are_shortened_and_counts_are_not() -> None:
    shown = finite({"dice": 0.7234567, "macs": 73_512_345, "none": None, "nan": float("nan"), "a->b": 1e-9})
    assert shown == {"dice": 0.72346, "macs": 73_512_345, "a-to-b": 1e-9}


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

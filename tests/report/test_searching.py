from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from gkd_bench.cluster.search import TrialState
from gkd_bench.report import searching
from gkd_bench.report.frame import Origin, SweepRecords

from .made_up import Record
from .small import cells_of


def trial(number: int, params: dict[str, Any], state: str = "complete", **objectives: float) -> Record:
    return {"record": "trial", "sweep": "s", "study": "a gkd", "source": "a", "method": "gkd", "number": number,
            "params": json.dumps(params), "state": state, "value": next(iter(objectives.values()), None), "cause": "",
            "key": None, "objectives": json.dumps(objectives)}  # fmt: skip


def records(*trials: Record, **origin: str) -> SweepRecords:
    return SweepRecords.from_dicts(trials, Origin(**origin))  # type: ignore[arg-type]


FRONT = (
    trial(0, {"x": 1.0}, source_val=0.70, stress_fsd=3.0),
    trial(1, {"x": 2.0}, source_val=0.72, stress_fsd=4.0),
    trial(2, {"x": 3.0}, source_val=0.69, stress_fsd=3.5),
    trial(3, {"x": 4.0}, source_val=0.60, stress_fsd=1.0),
)


def test_summary_names_the_taken_trial_and_counts_states(sweep_records: SweepRecords) -> None:
    row = cells_of(searching.search_summary(sweep_records))
    assert [row[name].value for name in ("complete", "pruned", "failed", "other")] == [2, 1, 1, 0]
    assert (row["taken"].value, row["source_val"].value) == (3, pytest.approx(0.63))
    assert row["params"].value == "methods.gkd.cross = 0.3, methods.gkd.intra = 0.4"


def test_study_without_a_complete_trial_has_no_best() -> None:
    row = cells_of(searching.search_summary(records(trial(0, {"x": 1}, "failed"))))
    assert (row["failed"].value, row["other"].value, row["taken"].value) == (1, 0, None)


@pytest.mark.parametrize("state", get_args(TrialState))
def test_every_way_a_search_ends_a_trial_has_its_column(made_up: list[Record], state: str) -> None:
    trials = [{**record, "state": state} for record in made_up if record["record"] == "trial"]
    row = cells_of(searching.search_summary(SweepRecords.from_dicts(trials)))
    assert (row[state].value, row["other"].value) == (4, 0)


def test_front_has_the_trials_that_no_other_beats_and_marks_the_taken_one() -> None:
    table = searching.pareto_table(records(*FRONT))
    assert [row[1].value for row in table.rows] == [0, 1, 3]
    assert [row[1].value for row in table.rows if row[2].value] == [1]
    assert "best validation Dice of the source" in table.caption


def test_closest_to_the_ideal_point_is_another_pick_and_said_so() -> None:
    # scaled over the front: trial 0 is (1/6, 2/3) from the ideal, trial 1 (0, 1), trial 3 (1, 0)
    table = searching.pareto_table(records(*FRONT, pick="closest_to_ideal"))
    assert [row[1].value for row in table.rows if row[2].value] == [0]
    assert "closest to the ideal point" in table.caption


def test_what_the_records_say_was_taken_goes_before_the_rule() -> None:
    told = [{**row, "taken": row["number"] == 3} for row in FRONT]
    assert [row[1].value for row in searching.pareto_table(records(*told)).rows if row[2].value] == [3]
    untaken = [{**row, "taken": False} for row in FRONT]
    assert cells_of(searching.search_summary(records(*untaken)))["taken"].value is None


def test_one_objective_makes_no_front() -> None:
    assert not searching.pareto_table(records(trial(0, {"x": 1.0}, source_val=0.7))).rows


def test_importance_finds_the_parameter_that_matters_whatever_its_type() -> None:
    trials = [
        trial(n, {"x": n / 20, "kind": "ab"[n % 2], "count": n % 3, "fixed": 1.0}, source_val=0.5 + n / 40)
        for n in range(20)
    ]
    (study,) = searching.studies_of(records(*trials))
    found = searching.importances(study, "source_val")
    assert set(found) == {"x", "kind", "count"}
    assert max(found, key=lambda name: found[name]) == "x"
    assert sum(found.values()) == pytest.approx(1.0)
    assert found == searching.importances(study, "source_val")


def test_importance_is_not_told_below_four_trials_or_without_variation() -> None:
    three = [trial(n, {"x": float(n)}, source_val=0.1 * n) for n in range(3)]
    flat = [trial(n, {"x": float(n)}, source_val=0.5) for n in range(9)]
    for trials in (three, flat):
        table = searching.importance_table(records(*trials))
        assert [row[4].value for row in table.rows] == [None]
    assert "fewer than 4 complete trials" in searching.importance_table(records(*three)).caption


def test_importance_announces_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    trials = [trial(n, {"x": float(n)}, source_val=0.1 * n) for n in range(6)]
    searching.importance_table(records(*trials))
    assert capfd.readouterr() == ("", "")


def test_all_trials_are_listed_with_their_cause(sweep_records: SweepRecords) -> None:
    table = searching.trials_table(sweep_records)
    failed = [cells_of(table, at) for at in range(len(table.rows)) if cells_of(table, at)["state"].value == "failed"]
    assert len(table.rows) == 12
    assert {row["cause"].value for row in failed} == {"its loss is not finite"}

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import optuna
import pytest

from gkd_bench.cluster import search
from gkd_bench.cluster.search import FinishedTrial, Study, Trial
from gkd_bench.config.schema import Choice, Range, Search
from gkd_bench.store.node import content_hash
from gkd_bench.store.records import RecordLog

SPACE: dict[str, Range | Choice] = {
    "methods.gkd.cross": Range(low=0.01, high=1.0, log=True),
    "methods.gkd.graph_loss": Choice(choice=("mse", "softmax_kl")),
}
DEFAULT: dict[str, float | int | str | bool] = {"methods.gkd.cross": 0.3, "methods.gkd.graph_loss": "mse"}
SAMPLERS = ["tpe", "random", "grid"]
OBJECTIVES = [
    ("source_val",),
    ("stress_fsd",),
    ("source_val", "stress_fsd"),
    ("source_val", "source_val_stressed", "student_macs"),
]


def settings(**changes: Any) -> Search:
    return Search(**{"trials": 8, "sampler": "tpe", "startup_trials": 3, **changes})


def study(path: Path, name: str = "chase", seed: int = 0, space: Any = None, epochs: int = 0, **changes: Any) -> Study:
    journal = RecordLog(path / "study.jsonl")
    return Study(name, space or SPACE, settings(**changes), seed, journal, DEFAULT, epochs)


def score(trial: Trial) -> float:
    cross = trial.params["methods.gkd.cross"]
    assert isinstance(cross, float)
    return (0.2 if trial.params["methods.gkd.graph_loss"] == "mse" else 0.0) - abs(math.log(cross) - math.log(0.1))


def values(trial: Trial) -> dict[str, float]:
    """A value of every objective; they disagree about the best point."""
    cross = trial.params["methods.gkd.cross"]
    assert isinstance(cross, float)
    stressed = -abs(math.log(cross) - math.log(0.3))
    return {
        "source_val": score(trial),
        "source_val_stressed": stressed,
        "stress_fsd": cross,
        "student_macs": 1e9 / cross,
    }


def end(study: Study, trial: Trial) -> None:
    """End a trial: every third is stopped early, every fourth fails."""
    study.report(trial.number, 1, score(trial) - 1)
    if trial.number % 3 == 2:
        study.tell(trial.number, "pruned")
    elif trial.number % 4 == 3:
        study.tell(trial.number, "failed", cause="NaN loss")
    else:
        study.tell(trial.number, "complete", values(trial))


def play(study: Study, trials: int = 100) -> list[FinishedTrial]:
    """Run up to so many trials, one after another."""
    while trials > 0 and (trial := study.ask()) is not None:
        end(study, trial)
        trials -= 1
    return study.finished()


@pytest.mark.parametrize("objectives", OBJECTIVES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_interrupted_study_proposes_what_the_undisturbed_one_proposes(
    tmp_path: Path, sampler: str, objectives: tuple[str, ...]
) -> None:
    asked: dict[str, Any] = {"sampler": sampler, "objectives": objectives}
    whole = play(study(tmp_path, "whole", **asked))
    while study(tmp_path, "parts", **asked).remaining:
        part = study(tmp_path, "parts", **asked)
        play(part, 1)
        part.ask()  # begun, never ended
    assert study(tmp_path, "parts", **asked).finished() == whole
    assert len(whole) == (6 if sampler == "grid" else 8)  # 3 x 2 grid points


def play_two_at_once(path: Path, restart: bool, **asked: Any) -> list[FinishedTrial]:
    """Two trials are open whenever one ends, the older one; ``restart``: before each end, from the journal."""
    run, running = study(path, **asked), list[Trial]()
    while len(run.finished()) < run.size:
        if restart:
            run, running = study(path, **asked), []
        while len(running) < 2 and (trial := run.ask()) is not None:
            running.append(trial)
        end(run, running.pop(0))
    return run.finished()


@pytest.mark.parametrize("objectives", OBJECTIVES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_beside_an_open_trial_do_not_depend_on_restarts(
    tmp_path: Path, sampler: str, objectives: tuple[str, ...]
) -> None:
    asked: dict[str, Any] = {"sampler": sampler, "objectives": objectives, "trials": 9, "concurrency": 2}
    whole = play_two_at_once(tmp_path / "whole", restart=False, **asked)
    assert play_two_at_once(tmp_path / "restarted", restart=True, **asked) == whole
    assert len({str(trial.params) for trial in whole}) == len(whole)


def chaotic(path: Path, draws: random.Random, **asked: Any) -> list[FinishedTrial]:
    """Up to three trials are open; a drawn one goes on by an epoch or ends, and now and then the driver dies."""
    run, running = study(path, epochs=9, **asked), dict[int, tuple[Trial, int]]()
    for _ in range(10_000):
        if len(run.finished()) == run.size:
            return run.finished()
        if draws.random() < 0.08:
            run, running = study(path, epochs=9, **asked), {}
        while len(running) < 3 and (trial := run.ask()) is not None:
            running[trial.number] = (trial, 0)
        number = draws.choice(sorted(running))
        trial, epoch = running.pop(number)
        if epoch == 9:
            run.tell(number, "complete", values(trial), epochs={e: score(trial) + e for e in range(1, 10)})
            continue
        if draws.random() < 0.95:  # else its report is lost
            run.report(number, epoch + 1, score(trial) + epoch + 1)
        else:
            run = study(path, epochs=9, **asked)
            running = {}
            continue
        if run.stops(number, epoch + 1):
            run.tell(number, "pruned")
        else:
            running[number] = (trial, epoch + 1)
    raise AssertionError("the search does not end")


@pytest.mark.parametrize("objectives", [OBJECTIVES[0], OBJECTIVES[2]])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_in_fixed_order_neither_timing_nor_crashes_change_a_search(
    tmp_path: Path, sampler: str, objectives: tuple[str, ...]
) -> None:
    asked: dict[str, Any] = {"sampler": sampler, "objectives": objectives, "trials": 14, "concurrency": 3}
    found = [chaotic(tmp_path / str(seed), random.Random(seed), **asked) for seed in range(3)]
    assert found[1:] == found[:1] * 2
    states = [trial.state for trial in found[0]]
    assert sampler == "grid" or {"complete", "pruned"} == set(states)


def test_in_order_of_arrival_the_sampler_hears_at_once_and_nobody_waits(tmp_path: Path) -> None:
    run = study(tmp_path, order="arrival", concurrency=2)
    trials = [run.ask() for _ in range(3)]
    assert None not in trials and not run.waits
    run.tell(2, "complete", {"source_val": 0.3})
    assert run._study.trials[2].state == optuna.trial.TrialState.COMPLETE
    late = study(tmp_path / "late", concurrency=2)
    assert [late.ask() is None for _ in range(3)] == [False, False, True] and late.waits
    late.tell(1, "complete", {"source_val": 0.3})
    assert late.waits and late._study.trials[1].state == optuna.trial.TrialState.RUNNING
    late.tell(0, "complete", {"source_val": 0.3})
    assert not late.waits and late.ask() is not None
    states = [trial.state.name for trial in late._study.trials]
    assert states == ["COMPLETE", "RUNNING", "RUNNING"]  # trial 1 counts from trial 3 on


def test_a_trial_that_ran_out_of_memory_is_proposed_again_with_half_its_batch(tmp_path: Path) -> None:
    run = study(tmp_path, memory_retries=2)
    first = run.ask()
    assert first is not None
    run.report(0, 1, 0.3)
    assert run.halve(0)
    assert run.ask() == Trial(0, first.params, {}, 1)
    run.report(0, 1, 0.4)
    again = study(tmp_path, memory_retries=2)
    assert again.ask() == Trial(0, first.params, {1: 0.4}, 1)
    assert again.halve(0) and again.ask() == Trial(0, first.params, {}, 2)
    assert not again.halve(0)
    done = again.tell(0, "failed", cause="out of memory")
    assert (done.halvings, study(tmp_path, memory_retries=2).finished()) == (2, [done])


def test_unfinished_trials_run_again_first_with_the_same_parameters(tmp_path: Path) -> None:
    before = study(tmp_path, concurrency=2)
    first, second = before.ask(), before.ask()
    assert first is not None and second is not None
    before.report(first.number, 1, 0.4)
    before.tell(second.number, "complete", {"source_val": 0.5})
    after = study(tmp_path, concurrency=2)
    again = after.ask()
    assert again == Trial(0, first.params, {1: 0.4})
    assert after.remaining == 6
    after.report(0, 1, 0.4)
    after.tell(0, "complete", {"source_val": 0.6})
    assert [trial.number for trial in after.finished()] == [0, 1]
    assert sum(r["record"] == "trial_epoch" for r in RecordLog(tmp_path / "study.jsonl").read()) == 1


def test_trial_zero_is_the_default_where_it_fits(tmp_path: Path) -> None:
    on_grid = {**SPACE, "methods.gkd.cross": Range(low=0.03, high=3.0, log=True)}  # 3 points, the middle one is 0.3
    for sampler in SAMPLERS:
        trial = study(tmp_path, sampler, space=on_grid, sampler=sampler).ask()
        assert trial is not None and trial.params == DEFAULT
    outside = study(tmp_path, "outside", space={"methods.gkd.cross": Range(low=0.5, high=1.0)}).ask()
    assert outside is not None and outside.params != {"methods.gkd.cross": 0.3}


def test_grid_visits_every_point_once_and_ends(tmp_path: Path) -> None:
    space: dict[str, Range | Choice] = {"a": Range(low=0.01, high=1.0, log=True, points=3), "b": Choice(choice=(1, 2))}
    grid = Study("s", space, settings(sampler="grid", trials=99), 0, RecordLog(tmp_path / "j"), {"a": 1.0, "b": 2})
    assert grid.size == grid.remaining == 6
    points = []
    while (trial := grid.ask()) is not None:
        points.append((trial.params["a"], trial.params["b"]))
        grid.tell(trial.number, "complete", {"source_val": 0.0})
    assert points[0] == (1.0, 2)
    assert sorted(points) == [(a, b) for a in (0.01, pytest.approx(0.1), 1.0) for b in (1, 2)]


def visited(study: Study, path: str) -> list[float | int | str | bool]:
    """The values of one parameter of all trials, in their order."""
    while (trial := study.ask()) is not None:
        study.tell(trial.number, "complete", {"source_val": 0.0})
    return [trial.params[path] for trial in study.finished()]


def test_default_beside_the_grid_takes_no_point_of_it(tmp_path: Path) -> None:
    space: dict[str, Range | Choice] = {"a": Range(low=0.0, high=1.0, points=3)}
    for default in (0.3, 0.5):
        grid = Study(
            "s", space, settings(sampler="grid", trials=3), 0, RecordLog(tmp_path / str(default)), {"a": default}
        )
        assert sorted(visited(grid, "a")) == [0.0, 0.5, 1.0]


def test_default_that_is_a_grid_point_but_for_rounding_is_that_point(tmp_path: Path) -> None:
    space: dict[str, Range | Choice] = {"a": Range(low=0.001, high=1.0, log=True, points=4)}
    for default in (0.01, 0.1, 1.0):  # the computed points are 0.009999999999999998 and 0.09999999999999998
        grid = Study(
            "s", space, settings(sampler="grid", trials=4), 0, RecordLog(tmp_path / str(default)), {"a": default}
        )
        points = visited(grid, "a")
        assert points[0] == default
        assert sorted(points) == [pytest.approx(point) for point in (0.001, 0.01, 0.1, 1.0)]


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    runs = [play(study(tmp_path, f"run{i}", seed=seed, sampler="random")) for i, seed in enumerate([0, 0, 1])]
    assert [t.params for t in runs[0]] == [t.params for t in runs[1]] != [t.params for t in runs[2]]


def test_tpe_finds_better_points_than_the_first_random_ones(tmp_path: Path) -> None:
    tpe = study(tmp_path, trials=40, startup_trials=8)
    while (trial := tpe.ask()) is not None:
        tpe.tell(trial.number, "complete", values(trial))
    scores = [trial.values["source_val"] for trial in tpe.finished()]
    assert sum(scores[-15:]) / 15 > sum(scores[1:9]) / 8


def test_stopped_and_failed_trials_are_told_to_optuna_as_such(tmp_path: Path) -> None:
    run = study(tmp_path, order="arrival")
    play(run)
    states = [trial.state for trial in run._study.trials]
    restored = study(tmp_path, order="arrival")._study.trials
    assert states[:4] == [optuna.trial.TrialState[name] for name in ("COMPLETE", "COMPLETE", "PRUNED", "FAIL")]
    assert [trial.state for trial in restored] == states
    assert [trial.params for trial in restored] == [trial.params for trial in run._study.trials]
    assert [t.intermediate_values for t in restored] == [t.intermediate_values for t in run._study.trials]


def test_value_that_is_not_finite_fails_the_trial_with_its_cause(tmp_path: Path) -> None:
    run = study(tmp_path)
    for value in (math.nan, math.inf, None):
        trial = run.ask()
        assert trial is not None
        run.report(trial.number, 1, math.nan)
        ended = run.tell(trial.number, "complete", {"source_val": value})
        assert (ended.state, ended.values, ended.epochs) == ("failed", {}, {})
        assert ended.cause == f"its objective source_val is {value}"
    assert run.front() == [] and run.best_value() is None
    assert run.ask() is not None


def test_more_trials_extend_a_finished_study(tmp_path: Path) -> None:
    assert len(play(study(tmp_path, trials=3))) == 3
    assert study(tmp_path, trials=3).ask() is None
    more = study(tmp_path, trials=5)
    assert more.remaining == 2
    assert [trial.number for trial in play(more)] == [0, 1, 2, 3, 4]


def test_another_space_or_name_is_another_study(tmp_path: Path) -> None:
    play(study(tmp_path))
    assert study(tmp_path, "stare").finished() == []
    assert study(tmp_path, space={"methods.gkd.cross": Range(low=0.1, high=0.5)}).finished() == []


def test_no_trial_starts_after_the_time_is_over(tmp_path: Path) -> None:
    now = [0.0]
    run = Study("s", SPACE, settings(minutes=1.0, concurrency=2), 0, RecordLog(tmp_path / "j"), clock=lambda: now[0])
    assert run.ask() is not None
    now[0] = 59.0
    assert run.ask() is not None
    run.tell(0, "pruned")
    now[0] = 61.0
    assert not run.waits and run.ask() is None


def out_of_time(path: Path, **changes: Any) -> Study:
    """A study whose time is over after two of eight trials."""
    now = [0.0]
    run = Study("s", SPACE, settings(minutes=1.0, **changes), 0, RecordLog(path / "j"), clock=lambda: now[0])
    play(run, 2)
    now[0] = 61.0
    assert run.ask() is None
    return run


def again(path: Path, **changes: Any) -> Study:
    return Study("s", SPACE, settings(**{"minutes": 1.0, **changes}), 0, RecordLog(path / "j"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_study_whose_time_is_over_has_ended_for_the_next_run_too(tmp_path: Path, sampler: str) -> None:
    run = out_of_time(tmp_path, sampler=sampler)
    for study in (run, again(tmp_path, sampler=sampler)):
        assert (study.remaining, study.size, study.ask()) == (0, 2, None)
        assert len(study.finished()) == 2
    ends = [record for record in RecordLog(tmp_path / "j").read() if record["record"] == "study_end"]
    assert [(end["trials"], end["minutes"]) for end in ends] == [(8, 1.0)]


@pytest.mark.parametrize(("changes", "left"), [({"trials": 9}, 7), ({"minutes": 2.0}, 6), ({"minutes": None}, 6)])
def test_more_trials_or_minutes_open_a_study_whose_time_was_over(
    tmp_path: Path, changes: dict[str, Any], left: int
) -> None:
    out_of_time(tmp_path)
    assert again(tmp_path, **changes).remaining == left
    assert again(tmp_path, **changes).ask() is not None
    for fewer in ({"trials": 7}, {"minutes": 0.5}):
        assert again(tmp_path / "fewer", **fewer).remaining > 0
        assert again(tmp_path, **fewer).remaining == 1  # the one begun above, never ended


def test_study_whose_trials_all_ran_is_not_marked_as_out_of_time(tmp_path: Path) -> None:
    play(again(tmp_path))
    assert again(tmp_path).ask() is None
    assert all(record["record"] != "study_end" for record in RecordLog(tmp_path / "j").read())


def test_journal_is_flat_records(tmp_path: Path) -> None:
    play(study(tmp_path), 1)
    kinds = []
    for record in RecordLog(tmp_path / "study.jsonl").read():
        kinds.append(record["record"])
        assert record["study"] == "chase" and record["number"] == 0
        assert not any(isinstance(value, dict | list) for value in record.values())
    assert kinds == ["trial_start", "trial_epoch", "trial_end"]


def test_journal_of_another_layout_is_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(study(tmp_path))
    monkeypatch.setattr(search, "LAYOUT", search.LAYOUT + 1)
    assert study(tmp_path).finished() == []


def test_journal_from_before_there_were_several_objectives_is_another_study(tmp_path: Path) -> None:
    space = content_hash({path: item.model_dump(mode="json") for path, item in sorted(SPACE.items())})
    head = {"study": "chase", "space": space, "number": 0}
    params = {f"param/{path}": value for path, value in DEFAULT.items()}
    journal = RecordLog(tmp_path / "study.jsonl")
    journal.append({"record": "trial_start", **head, **params})
    journal.append({"record": "trial_end", **head, "state": "complete", "value": 0.7, "cause": ""})
    fresh = study(tmp_path)
    assert fresh.finished() == [] and fresh.remaining == 8
    play(fresh)
    assert len(study(tmp_path).finished()) == 8

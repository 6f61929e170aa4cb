"""Searches with several objectives: the front, the values, and what Optuna is told."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from gkd_bench.cluster.objectives import best_of, undominated
from gkd_bench.cluster.search import Study, Trial
from gkd_bench.config.schema import Choice, Range, Search
from gkd_bench.store.records import RecordLog

SPACE: dict[str, Range | Choice] = {"x": Range(low=0.0, high=1.0), "y": Range(low=0.0, high=1.0)}
PAIR = ("source_val", "stress_fsd")
ALL = ("source_val", "source_val_stressed", "stress_fsd", "student_macs")


def study(path: Path, objectives: tuple[str, ...] = PAIR, **changes: Any) -> Study:
    settings = Search(**{"trials": 12, "sampler": "random", "objectives": objectives, **changes})
    return Study("s", SPACE, settings, 0, RecordLog(path / "j.jsonl"))


def ask(run: Study) -> Trial:
    trial = run.ask()
    assert trial is not None
    return trial


def fill(run: Study, points: list[dict[str, float]]) -> None:
    """Complete one trial per point."""
    for point in points:
        run.tell(ask(run).number, "complete", point)


def random_points(count: int, names: tuple[str, ...], levels: int, seed: int) -> list[dict[str, float]]:
    """Points with few different values, so that ties and equal points are among them."""
    draws = np.random.default_rng(seed).integers(0, levels, (count, len(names))) / levels
    return [dict(zip(names, map(float, row), strict=True)) for row in draws]


# ------------------------------------------------------------ the front


@pytest.mark.parametrize("names", [ALL[:1], PAIR, ALL])
@pytest.mark.parametrize("levels", [3, 1000])
def test_front_is_what_no_other_point_dominates(names: tuple[str, ...], levels: int) -> None:
    points = random_points(60, names, levels, seed=len(names))
    upward = np.array([[-p[n] if n in ("stress_fsd", "student_macs") else p[n] for n in names] for p in points])
    beaten = [((upward >= row).all(axis=1) & (upward > row).any(axis=1)).any() for row in upward]
    assert undominated(points) == [index for index, lost in enumerate(beaten) if not lost]


@pytest.mark.parametrize("names", [PAIR, ALL])
def test_front_of_a_study_is_optunas(tmp_path: Path, names: tuple[str, ...]) -> None:
    run = study(tmp_path, names, trials=40, order="arrival")
    fill(run, random_points(40, names, 1000, seed=5))
    front = [trial.number for trial in run.front()]
    assert front == sorted(trial.number for trial in run._study.best_trials)
    assert 1 < len(front) < 40
    assert [trial.number for trial in study(tmp_path, names, trials=40).front()] == front


def test_directions_equal_points_and_the_order_of_the_front(tmp_path: Path) -> None:
    run = study(tmp_path)
    rows = [(0.8, 2.0), (0.7, 1.0), (0.8, 1.5), (0.7, 1.0), (0.6, 1.0), (0.9, 3.0)]
    fill(run, [{"source_val": dice, "stress_fsd": fsd} for dice, fsd in rows])
    assert [trial.number for trial in run.front()] == [1, 2, 3, 5]


def test_one_objective_has_a_front_of_its_best_trials_in_its_direction(tmp_path: Path) -> None:
    for name, best in (("source_val", [1, 2]), ("stress_fsd", [0])):
        run = study(tmp_path / name, (name,))
        fill(run, [{name: value} for value in (0.5, 0.7, 0.7)])
        assert [trial.number for trial in run.front()] == best
        assert run.best_value() == run.front()[0].values[name]


def test_pruned_and_failed_trials_are_not_on_the_front(tmp_path: Path) -> None:
    run = study(tmp_path)
    run.report(ask(run).number, 1, 0.99)
    run.tell(0, "pruned", {"source_val": 0.99, "stress_fsd": 0.0})
    run.tell(ask(run).number, "failed", {"source_val": 0.99, "stress_fsd": 0.0}, cause="NaN loss")
    assert run.front() == [] and run.best_value() is None
    fill(run, [{"source_val": 0.1, "stress_fsd": 9.0}])
    assert [trial.number for trial in run.front()] == [2] and run.best_value() == 0.1
    assert [dict(trial.values) for trial in run.finished()[:2]] == [{}, {}]


def test_best_value_is_the_first_objectives(tmp_path: Path) -> None:
    points: list[dict[str, float]] = [{"source_val": 0.8, "stress_fsd": 2.0}, {"source_val": 0.7, "stress_fsd": 1.0}]
    for names, best in ((PAIR, 0.8), (PAIR[::-1], 1.0)):
        run = study(tmp_path / names[0], names)
        fill(run, points)
        assert run.best_value() == best


def test_best_of_several_studies_goes_the_objectives_way() -> None:
    assert best_of("source_val", [0.5, None, 0.7]) == 0.7
    assert best_of("student_macs", [5e6, None, 7e6]) == 5e6
    assert best_of("source_val", [None]) is None


# ------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"source_val": 0.7, "stress_fsd": math.nan}, "its objective stress_fsd is nan"),
        ({"source_val": 0.7, "stress_fsd": None}, "its objective stress_fsd is None"),
        ({"stress_fsd": 1.0}, "its objective source_val is None"),
        ({"source_val": -math.inf}, "its objective source_val is -inf; its objective stress_fsd is None"),
        (None, "its objective source_val is None; its objective stress_fsd is None"),
    ],
)
def test_complete_trial_without_every_objective_has_failed_and_says_which(
    tmp_path: Path, values: Mapping[str, float | None] | None, cause: str
) -> None:
    ended = (run := study(tmp_path)).tell(ask(run).number, "complete", values)
    assert (ended.state, ended.values, ended.cause) == ("failed", {}, cause)
    assert study(tmp_path).finished() == [ended]


def test_values_are_flat_fields_of_the_journal_and_only_those_searched(tmp_path: Path) -> None:
    run = study(tmp_path)
    fill(run, [{"student_macs": 4e7, "stress_fsd": 1.5, "source_val": 0.8}])
    run.tell(ask(run).number, "pruned")
    complete, pruned = [r for r in RecordLog(tmp_path / "j.jsonl").read() if r["record"] == "trial_end"]
    assert {name: value for name, value in complete.items() if "value" in name} == {
        "value/source_val": 0.8,
        "value/stress_fsd": 1.5,
    }
    assert not [name for name in pruned if "value" in name]


def test_other_objectives_or_another_order_of_them_are_another_study(tmp_path: Path) -> None:
    fill(study(tmp_path), [{"source_val": 0.8, "stress_fsd": 1.5}])
    for names in (("source_val",), PAIR[::-1], ALL):
        assert study(tmp_path, names).finished() == []
    assert len(study(tmp_path).finished()) == 1


# ------------------------------------------------------------ what Optuna is told


def test_optuna_knows_the_directions_and_only_epochs_of_the_objective_itself(tmp_path: Path) -> None:
    up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    for names, ways in ((ALL, [up, up, down, down]), (("source_val",), [up]), (("stress_fsd",), [down])):
        run = study(tmp_path / str(len(names)) / names[0], names, order="arrival")
        run.report(ask(run).number, 1, 0.4)
        ended = run.tell(0, "pruned")
        assert run._study.directions == ways
        told = run._study.trials[0].intermediate_values
        assert told == ({1: 0.4} if names == ("source_val",) else {})
        assert ended.epochs == {1: 0.4}


def test_epochs_of_an_open_trial_survive_a_restart_with_several_objectives(tmp_path: Path) -> None:
    run = study(tmp_path)
    for epoch, value in ((1, 0.3), (2, 0.4), (2, 0.9), (3, math.nan)):
        run.report(ask(run).number if epoch == 1 else 0, epoch, value)
    again = study(tmp_path)
    assert ask(again).epochs == {1: 0.3, 2: 0.4}
    again.report(0, 2, 0.9)
    again.report(0, 3, 0.5)
    assert again.tell(0, "pruned").epochs == {1: 0.3, 2: 0.4, 3: 0.5}


def landscape(trial: Trial) -> dict[str, float]:
    """The best Dice is at x = 0.6, the smallest distance at x = 0.4, both at y = 0.5: the front lies between."""
    x, y = (float(trial.params[name]) for name in ("x", "y"))
    return {"source_val": 1 - (x - 0.6) ** 2 - (y - 0.5) ** 2, "stress_fsd": (x - 0.4) ** 2 + (y - 0.5) ** 2}


def off_front(trial: Trial) -> float:
    """Distance to the set of best compromises."""
    x, y = (float(trial.params[name]) for name in ("x", "y"))
    return math.hypot(max(0.4 - x, 0.0, x - 0.6), y - 0.5)


@pytest.mark.parametrize("names", [PAIR, PAIR[::-1], ("stress_fsd",)])
def test_tpe_moves_towards_the_front(tmp_path: Path, names: tuple[str, ...]) -> None:
    run = study(tmp_path, names, sampler="tpe", trials=60, startup_trials=10)
    while (trial := run.ask()) is not None:
        run.tell(trial.number, "complete", landscape(trial))
    distances = [off_front(trial) for trial in run.finished()]
    assert np.mean(distances[-20:]) < 0.6 * np.mean(distances[:10])


def test_tpe_goes_on_after_many_trials_were_stopped_or_failed(tmp_path: Path) -> None:
    run = study(tmp_path, ALL, sampler="tpe", startup_trials=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(12):
            trial = ask(run)
            run.report(number, 1, 0.5)
            if number in (4, 9):
                run.tell(number, "complete", dict.fromkeys(ALL, 0.0) | landscape(trial))
            else:
                run.tell(number, "failed" if number % 4 == 0 else "pruned")
    assert {trial.number for trial in run.front()} <= {4, 9}

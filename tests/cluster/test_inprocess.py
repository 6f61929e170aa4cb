from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fake_stages
import pytest
from fake_stages import final_values, history, node, runs

from gkd_bench.cluster.engine import load_runner
from gkd_bench.cluster.inprocess import InProcessEngine
from gkd_bench.cluster.search import Study, Trial
from gkd_bench.cluster.tune_search import Job, TrialStages, run_study_inprocess
from gkd_bench.config.schema import Choice, Range, Search
from gkd_bench.errors import ClusterError, StageError
from gkd_bench.stages.monitor import Monitor, Outcome, Progress, Workplace
from gkd_bench.store.node import StageNode
from gkd_bench.store.records import RecordLog


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[InProcessEngine]:
    with InProcessEngine(
        fake_stages.execute, Workplace(tmp_path, tmp_path), lambda key: (tmp_path / key).exists()
    ) as it:
        yield it


def test_wait_runs_what_the_stages_need_and_nothing_else(engine: InProcessEngine, tmp_path: Path) -> None:
    teacher, other = node("teacher"), node("teacher", seed=1)
    distill = node("distill", {"teacher": teacher}, epochs=2)
    seen: list[tuple[str, int]] = []
    engine.submit([distill, other, teacher])
    assert engine.wait([distill.key], lambda key, progress: seen.append((key, progress.epoch))) == {distill.key: "done"}
    assert seen == [(distill.key, 1), (distill.key, 2)]
    assert [runs(tmp_path, stage.key) for stage in (teacher, distill, other)] == [1, 1, 0]


def test_failure_is_returned_and_does_not_stop_the_others(engine: InProcessEngine, tmp_path: Path) -> None:
    bad, good = node(fail="NaN loss"), node(seed=1)
    child = node("evaluate", {"model": bad})
    engine.submit([bad, good, child])
    results = engine.wait([bad.key, good.key, child.key])
    assert results[good.key] == "done"
    for key in (bad.key, child.key):
        assert isinstance(results[key], StageError)
        assert "ValueError: NaN loss" in str(results[key])
    report = tmp_path / "failures" / f"{bad.key}.txt"
    assert f"(traceback: failures/{bad.key}.txt in the store)" in str(results[bad.key])
    assert "fake_stages.py" in report.read_text() and "ValueError: NaN loss" in report.read_text()
    assert [path.name for path in report.parent.iterdir()] == [report.name]


def test_folder_that_takes_no_traceback_does_not_hide_the_failure(engine: InProcessEngine, tmp_path: Path) -> None:
    (tmp_path / "failures").write_text("a file, where the folder should be")
    bad = node(fail="NaN loss")
    engine.submit([bad])
    assert "NaN loss" in str(engine.wait([bad.key])[bad.key])


def test_stored_stages_are_not_run_again(engine: InProcessEngine, tmp_path: Path) -> None:
    stage = node()
    engine.submit([stage])
    engine.wait([stage.key])
    with InProcessEngine(
        fake_stages.execute, Workplace(tmp_path, tmp_path), lambda key: (tmp_path / key).exists()
    ) as new:
        new.submit([stage])
        assert new.wait([stage.key]) == {stage.key: "cached"}
    assert runs(tmp_path, stage.key) == 1


def test_cancel_from_the_progress_callback_stops_the_stage(engine: InProcessEngine, tmp_path: Path) -> None:
    stage = node(epochs=50)
    engine.submit([stage])
    assert engine.wait([stage.key], lambda key, progress: engine.cancel([key])) == {stage.key: "stopped"}
    assert (tmp_path / f"{stage.key}.checkpoint").read_text() == "1"


def test_interrupt_leaves_the_stage_in_the_queue(tmp_path: Path) -> None:
    calls: list[str] = []

    def execute(stage: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
        calls.append(stage.key)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return Outcome("done")

    engine = InProcessEngine(execute, Workplace(tmp_path, tmp_path), lambda key: False)
    stage = node()
    engine.submit([stage])
    with pytest.raises(KeyboardInterrupt):
        engine.wait([stage.key])
    assert engine.wait([stage.key]) == {stage.key: "done"}


def test_runner_that_cannot_be_imported_is_named() -> None:
    assert load_runner("fake_stages:execute") is fake_stages.execute
    for path in ("fake_stages:nothing", "no_such_module:execute"):
        with pytest.raises(ClusterError, match=path):
            load_runner(path)


def test_study_shares_ancestors_skips_what_is_stored_and_survives_failures(
    engine: InProcessEngine, tmp_path: Path
) -> None:
    teacher = node("teacher")

    def has(key: str) -> bool:
        return (tmp_path / key).exists()

    def make_nodes(trial: Trial) -> TrialStages:
        params: dict[str, Any] = dict(trial.params)
        trouble: dict[str, Any] = {"fail": "NaN loss"} if params["weight"] > 0.8 else {}
        distill = node("distill", {"teacher": teacher}, value=params["weight"], epochs=2, **trouble)
        return TrialStages((teacher, distill), distill.key)

    def run() -> Study:
        search = Search(sampler="random", trials=8, scheduler="none")
        study = Study("s", {"weight": Range(low=0.0, high=1.0)}, search, 0, RecordLog(tmp_path / "j.jsonl"))
        run_study_inprocess(
            study, Job(make_nodes, partial(final_values, tmp_path), partial(history, tmp_path), has), engine
        )
        return study

    first = run()
    states = [trial.state for trial in first.finished()]
    assert states.count("failed") >= 1 and len(states) == 8
    assert all("NaN loss" in trial.cause for trial in first.finished() if trial.state == "failed")
    (best,) = first.front()
    value = best.values["source_val"]
    assert value == first.best_value() == max(t.values["source_val"] for t in first.finished() if t.values)
    assert best.epochs == {1: pytest.approx(value / 2), 2: value}
    begun = {path.name: len(path.read_text().splitlines()) for path in tmp_path.glob("*.runs")}
    assert set(begun.values()) == {1}
    assert run().finished() == first.finished()
    (tmp_path / "j.jsonl").unlink()  # even without its journal the study trains nothing twice
    assert [trial.values for trial in run().finished()] == [trial.values for trial in first.finished()]
    done = [key for key in begun if (tmp_path / key.removesuffix(".runs")).exists()]
    assert all(len((tmp_path / key).read_text().splitlines()) == 1 for key in done)


def test_trial_takes_epochs_from_the_training_and_values_from_the_stage_that_scores_it(
    engine: InProcessEngine, tmp_path: Path
) -> None:
    def make_nodes(trial: Trial) -> TrialStages:
        w = trial.params["w"]
        distill = node("distill", epochs=2, value=w, **({"fail": "NaN loss"} if w == 0.3 else {}))
        trouble = {"fail": "no room left"} if w == 0.2 else {}
        scores = {"source_val": w, "stress_fsd": None if w == 0.4 else 1.0}
        stress = node("stress", {"model": distill}, epochs=3, value=99.0, scores=scores, **trouble)
        return TrialStages((distill, stress), distill.key)

    search = Search(sampler="grid", trials=4, objectives=("source_val", "stress_fsd"))
    space = {"w": Choice(choice=(0.1, 0.2, 0.3, 0.4))}
    study = Study("s", space, search, 0, RecordLog(tmp_path / "j.jsonl"))
    job = Job(
        make_nodes, partial(final_values, tmp_path), partial(history, tmp_path), lambda key: (tmp_path / key).exists()
    )
    run_study_inprocess(study, job, engine)
    good, unscored, untrained, unmeasured = sorted(study.finished(), key=lambda trial: str(trial.params["w"]))
    assert (good.state, good.values, good.epochs) == (
        "complete",
        {"source_val": 0.1, "stress_fsd": 1.0},
        {1: 0.05, 2: 0.1},
    )
    assert unscored.state == "failed" and "stress" in unscored.cause and "no room left" in unscored.cause
    assert unscored.epochs == {1: 0.1, 2: 0.2}
    assert untrained.state == "failed" and untrained.cause.startswith("distill") and "NaN loss" in untrained.cause
    assert (unmeasured.state, unmeasured.cause) == ("failed", "its objective stress_fsd is None")
    assert study.front() == [good]


def test_watched_stage_that_is_not_among_the_trials_stages_is_refused() -> None:
    with pytest.raises(ClusterError, match="abc"):
        TrialStages((node(),), "abc")


def test_progress_values_are_those_of_the_stage(engine: InProcessEngine) -> None:
    stage, seen = node(epochs=2, value=0.8), []
    engine.submit([stage])

    def on_progress(key: str, progress: Progress) -> None:
        seen.append(progress.metrics["val/dice"])

    engine.wait([stage.key], on_progress)
    assert seen == [0.4, 0.8]

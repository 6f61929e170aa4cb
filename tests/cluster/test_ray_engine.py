"""The Ray engine end to end: one session, one group of one worker and one of two."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fake_stages import artefact, final_values, history, node, runs

from gkd_bench.cluster.ray_engine import Places, RayEngine
from gkd_bench.cluster.search import Study, Trial
from gkd_bench.cluster.session import RaySession
from gkd_bench.cluster.tune_search import Job, MakeStages, TrialStages, run_study_on_ray
from gkd_bench.config.schema import Choice, Compute, Pool, Range, Search
from gkd_bench.errors import ClusterError, StageError
from gkd_bench.store.records import RecordLog

pytestmark = pytest.mark.ray

ALONE = Pool(stages=("teacher", "baseline", "semantic", "alignment", "distill", "stress", "efficiency"))
PAIR = Pool(stages=("evaluate",), workers=2)
COMPUTE = Compute(pools=(ALONE, PAIR), max_failures=1)


@pytest.fixture(scope="module")
def session() -> Iterator[RaySession]:
    with RaySession(COMPUTE, num_cpus=4) as session:
        yield session


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def engine(session: RaySession, store: Path) -> Iterator[RayEngine]:
    places = Places(store, store, runner="fake_stages:execute")
    with RayEngine(session, COMPUTE, places, lambda key: artefact(store, key).exists()) as engine:
        yield engine


def starts(engine: RayEngine) -> dict[str, int]:
    return {group.name: group.starts for group in engine.snapshot().groups}


def placement_groups() -> int:
    import ray
    from ray.util.state import list_placement_groups

    address = ray.get_runtime_context().gcs_address
    return sum(group.state != "REMOVED" for group in list_placement_groups(address=address, limit=1000))


def test_stages_of_both_pools_run_in_order_with_their_epochs(engine: RayEngine, store: Path) -> None:
    teacher = node("teacher", epochs=2, seconds=0.1)
    evaluate = node("evaluate", {"model": teacher}, epochs=2, seconds=0.1)
    seen: list[tuple[str, int]] = []
    engine.submit([evaluate, teacher])
    results = engine.wait([evaluate.key, teacher.key], lambda key, progress: seen.append((key, progress.epoch)))
    assert results == {evaluate.key: "done", teacher.key: "done"}
    assert seen == [(teacher.key, 1), (teacher.key, 2), (evaluate.key, 1), (evaluate.key, 2)]
    assert runs(store, evaluate.key) == 1


def test_failing_stage_is_reported_and_the_single_worker_lives_on(engine: RayEngine, store: Path) -> None:
    bad, good = node(fail="NaN loss"), node(seed=1)
    before = starts(engine)
    engine.submit([bad, good])
    results = engine.wait([bad.key, good.key])
    assert results[good.key] == "done"
    assert isinstance(results[bad.key], StageError) and "ValueError: NaN loss" in str(results[bad.key])
    assert (store / f"{bad.key}.runs").read_text() == (store / f"{good.key}.runs").read_text()
    assert starts(engine) == before
    report = store / "failures" / f"{bad.key}.txt"
    assert f"failures/{bad.key}.txt in the store" in str(results[bad.key]) and "fake_stages.py" in report.read_text()


def test_running_stage_stops_soon_after_it_is_taken_back(engine: RayEngine) -> None:
    stage = node(epochs=100, seconds=0.2, seed=7)
    engine.submit([stage])

    def cancel(key: str, _: object) -> None:
        engine.cancel([key])
        begun.append(time.monotonic())

    begun: list[float] = []
    assert engine.wait([stage.key], cancel) == {stage.key: "stopped"}
    assert time.monotonic() - begun[0] < 5.0


def test_killed_worker_is_replaced_and_its_stage_continues_from_the_checkpoint(engine: RayEngine, store: Path) -> None:
    stage, after = node(epochs=3, kill_at=3), node(seed=2)
    before = starts(engine)["pool0-group0"]
    epochs: list[int] = []
    engine.submit([stage, after])
    results = engine.wait([stage.key, after.key], lambda key, p: epochs.append(p.epoch) if key == stage.key else None)
    assert results == {stage.key: "done", after.key: "done"}
    assert epochs == [1, 2, 3]
    assert (runs(store, stage.key), runs(store, after.key)) == (2, 1)
    assert starts(engine)["pool0-group0"] == before + 1


def test_one_failing_rank_fails_the_stage_and_its_group_is_replaced(engine: RayEngine) -> None:
    bad = node("evaluate", fail="rank 1 is ill", fail_rank=1, epochs=2)
    engine.submit([bad])
    failed = engine.wait([bad.key])[bad.key]
    assert isinstance(failed, StageError) and "rank 1 is ill" in str(failed)
    good = node("evaluate", seed=3, epochs=2)
    engine.submit([good])
    assert engine.wait([good.key]) == {good.key: "done"}


def job_of(make_nodes: MakeStages, store: Path) -> Job:
    return Job(
        make_nodes,
        lambda key: final_values(store, key),
        lambda key: history(store, key),
        lambda key: artefact(store, key).exists(),
    )


def make_job(store: Path, name: str, seconds: float = 0.3, **more: Any) -> Job:
    def make_nodes(trial: Trial) -> TrialStages:
        teacher = node("teacher", name=name, seconds=0.5)
        distill = node("distill", {"teacher": teacher}, epochs=4, seconds=seconds, value=trial.params["w"], **more)
        return TrialStages((teacher, distill), distill.key)

    return job_of(make_nodes, store)


def make_study(
    path: Path, space: dict[str, Range | Choice] | None = None, first: float = 0.9, **settings: Any
) -> Study:
    search = Search(**{"sampler": "random", "trials": 6, "concurrency": 2, "reduction": 2, **settings})
    journal = RecordLog(path / "study.jsonl")
    return Study("chase_db1/gkd", space or {"w": Range(low=0.0, high=1.0)}, search, 0, journal, {"w": first}, 4)


def test_asha_stops_trials_frees_the_worker_and_leaks_no_placement_group(
    engine: RayEngine, store: Path, tmp_path: Path
) -> None:
    groups = placement_groups()
    study, job = make_study(tmp_path), make_job(store, "asha", seconds=1.0)  # long enough to be stopped in time
    run_study_on_ray(study, job, engine)
    ended = study.finished()
    assert [trial.number for trial in ended] == list(range(6))
    assert {trial.state for trial in ended} == {"complete", "pruned"}
    values = [trial.values["source_val"] for trial in ended if trial.values]
    assert [trial.values["source_val"] for trial in study.front()] == [max(values)]
    assert runs(store, node("teacher", name="asha", seconds=0.5).key) == 1
    for trial in ended:
        last = job.make_nodes(trial).last
        assert artefact(store, last).exists() == (trial.state == "complete")
    free = node(seed=11)
    engine.submit([free])
    begun = time.monotonic()
    engine.wait([free.key])
    assert time.monotonic() - begun < 5.0
    for _ in range(50):
        if placement_groups() == groups:
            break
        time.sleep(0.2)
    assert placement_groups() == groups
    assert engine.snapshot().running == ()


def test_trials_with_a_scoring_stage_complete_are_stopped_before_it_or_fail_in_it(
    engine: RayEngine, store: Path, tmp_path: Path
) -> None:
    def make_nodes(trial: Trial) -> TrialStages:
        w = trial.params["w"]
        distill = node("distill", epochs=4, seconds=0.3, value=w)
        trouble = {"fail": "no room left"} if w == 0.55 else {}
        scores = {"source_val": w, "stress_fsd": 10 * w}
        stress = node("stress", {"model": distill}, value=99.0, scores=scores, **trouble)
        return TrialStages((distill, stress), distill.key)

    space: dict[str, Range | Choice] = {"w": Choice(choice=(0.5, 0.55, 0.1, 0.6))}
    asked: dict[str, Any] = {"sampler": "grid", "trials": 4, "concurrency": 1}
    study = make_study(tmp_path, space, 0.5, objectives=("source_val", "stress_fsd"), **asked)
    run_study_on_ray(study, job_of(make_nodes, store), engine)
    ended = {trial.params["w"]: trial for trial in study.finished()}
    first, stopped, unscored, second = (ended[w] for w in (0.5, 0.1, 0.55, 0.6))
    assert [trial.number for trial in (first, stopped, unscored, second)] == [0, 1, 2, 3]
    assert study.front() == [first, second]
    assert first.values == {"source_val": 0.5, "stress_fsd": 5.0}
    assert list(first.epochs) == list(unscored.epochs) == [1, 2, 3, 4] and list(stopped.epochs) == [1]
    assert (stopped.state, stopped.values, unscored.state, unscored.values) == ("pruned", {}, "failed", {})
    assert "stress" in unscored.cause and "no room left" in unscored.cause
    scored = [runs(store, make_nodes(trial).last) for trial in (first, stopped, unscored, second)]
    assert scored == [1, 0, 1, 1]


def test_processes_of_trials_that_are_killed_change_nothing(engine: RayEngine, store: Path, tmp_path: Path) -> None:
    import ray
    from ray.util.state import list_actors

    address = ray.get_runtime_context().gcs_address
    study = make_study(tmp_path, trials=1, concurrency=1, scheduler="none")
    enough = tmp_path / "enough"
    job = make_job(store, "killed", until=str(enough))  # trains until the processes have been killed
    running = threading.Thread(target=run_study_on_ray, args=(study, job, engine))
    running.start()
    killed: set[int] = set()
    filters = [("state", "=", "ALIVE")]
    while running.is_alive() and len(killed) < 4:
        for actor in list_actors(address=address, filters=filters, detail=True):
            if "ResourceTrainable" in actor.class_name and actor.pid and actor.pid not in killed:  # as Tune wraps it
                killed.add(actor.pid)
                with suppress(ProcessLookupError):
                    os.kill(actor.pid, signal.SIGKILL)
        time.sleep(0.2)
    enough.touch()
    running.join()
    (trial,) = study.finished()
    assert len(killed) == 4 and (trial.state, trial.cause) == ("complete", "")
    assert runs(store, job.make_nodes(trial).watched) == 1


def test_many_waiting_trials_do_not_starve_the_workers(engine: RayEngine, store: Path, tmp_path: Path) -> None:
    study = make_study(tmp_path, trials=4, concurrency=4, scheduler="none")
    run_study_on_ray(study, make_job(store, "starve"), engine)  # 3 of 4 CPUs are the groups'
    assert [trial.state for trial in study.finished()] == ["complete"] * 4
    begun = time.monotonic()
    again = make_study(tmp_path / "again", trials=4, concurrency=4, scheduler="none")
    run_study_on_ray(again, make_job(store, "starve"), engine)
    assert [trial.values for trial in again.finished()] == [trial.values for trial in study.finished()]
    assert time.monotonic() - begun < 15.0


def test_runner_that_workers_cannot_import_is_an_error_and_not_a_hang(session: RaySession, store: Path) -> None:
    compute = Compute(pools=(Pool(),))
    with RayEngine(
        session, compute, Places(store, store, runner="no_such_module:execute"), lambda key: False
    ) as engine:
        engine.submit([node()])
        with pytest.raises(ClusterError, match="no_such_module"):
            engine.wait([node().key])


def test_group_that_cannot_start_is_an_error_that_names_what_is_missing(session: RaySession, store: Path) -> None:
    compute = Compute(pools=(Pool(cpus=64),), start_minutes=1 / 30)
    places = Places(store, store, runner="fake_stages:execute")
    threads = set(threading.enumerate())
    with RayEngine(session, compute, places, lambda key: False) as engine:
        engine.submit([node()])
        with pytest.raises(ClusterError, match="CPU: 64 needed, 4 there"):
            engine.wait([node().key])
    left = [thread.name for thread in set(threading.enumerate()) - threads if thread.name.startswith("gkd-")]
    assert left == []  # one that waits for Ray when the session ends makes Ray exit the process
    assert engine.snapshot().counts == {"ready": 1}


def test_machine_without_the_gpus_asked_for_is_refused_at_once(session: RaySession) -> None:
    begun = time.monotonic()
    with pytest.raises(ClusterError, match="GPU: 1 needed, 0 there"), RaySession(Compute(pools=(Pool(gpus=1.0),))):
        pass
    assert time.monotonic() - begun < 10.0


def test_errors_of_the_broker_reach_the_caller(engine: RayEngine) -> None:
    with pytest.raises(ClusterError, match="neither submitted nor in the store"):
        engine.submit([node("evaluate", {"model": node(seed=99)})])
    with pytest.raises(ClusterError, match="never submitted"):
        engine.wait(["nothing"])

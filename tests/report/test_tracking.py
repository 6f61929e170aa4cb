"""Writes to a real SQLite file and reads it back with MLflow's own client. MLflow makes one database in five seconds."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gkd_bench.report import tracking
from gkd_bench.report.backend import Backend, Tracked, client_of, resolve_backend
from gkd_bench.report.frame import Origin, SweepRecords
from gkd_bench.report.tracking import write_tracking
from gkd_bench.report.views import decode_state

from .made_up import Record, make_origin, model_key
from .mlflow_help import new_backend, shown, small

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
RUNS = 3 * 2 + 3  # trainings and trials of a small sweep


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return new_backend(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def few(made_up: list[Record]) -> list[Record]:
    return small(made_up)


@pytest.fixture(scope="module")
def written(few: list[Record], backend: Backend) -> Tracked:
    return write(few, backend, "written")


def write(
    records: list[Record], backend: Backend, experiment: str, origin: Origin | None = None, **changes: Any
) -> Tracked:
    found = SweepRecords.from_dicts(records, origin or make_origin())
    return write_tracking(found, backend, experiment, replace(shown(), **changes))


def runs_of(backend: Backend, tracked: Tracked) -> list[Any]:
    return list(client_of(backend).search_runs([tracked.experiment_id], max_results=1000))


def child(backend: Backend, tracked: Tracked, name: str) -> Any:
    (found,) = [run for run in runs_of(backend, tracked) if run.info.run_name == name]
    return found


def load_table(tracked: Tracked, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """As MLflow's viewer finds it; ``load_table`` asks the process-wide store, not the client's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", backend.uri)
    return client_of(backend).load_table(tracked.experiment_id, "mlflow_tables/triple.json", [tracked.run_id])


def snapshot(backend: Backend, tracked: Tracked) -> dict[str, Any]:
    """Everything the database says about an experiment, histories included."""
    client = client_of(backend)
    return {
        run.info.run_id: (run.data.tags, run.data.params,
                          {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics},
                          run.info.status, run.info.end_time)
        for run in runs_of(backend, tracked)
    }  # fmt: skip


def test_written_sweep_reads_back_as_parent_and_children(written: Tracked, backend: Backend) -> None:
    runs = runs_of(backend, written)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == written.run_id]
    assert written.warning is None
    assert len(runs) == written.written == 1 + len(children) == 1 + RUNS
    run = child(backend, written, "hrf: GKD, seed 1")
    assert run.data.metrics["dice/stare"] == pytest.approx(0.64, abs=0.05)
    assert (run.data.tags["source"], run.data.tags["method"], run.data.tags["seed"]) == ("hrf", "GKD", "1")
    history = client_of(backend).get_metric_history(run.info.run_id, "val/dice")
    assert [(point.step, point.value) for point in history] == [
        (e, pytest.approx(0.74 - 0.3 / e)) for e in (1, 2, 3, 4)
    ]
    assert run.info.end_time - run.info.start_time == 13_500
    states = {run.data.tags["trial"]: run.info.status for run in children if run.data.tags["kind"] == "trial"}
    assert states == {"0": "FINISHED", "1": "KILLED", "2": "FAILED"}


def test_runs_are_found_by_what_they_are(written: Tracked, backend: Backend) -> None:
    query = "tags.sweep = 'made_up' AND tags.kind = 'final' AND tags.source = 'hrf' AND tags.method = 'GKD'"
    order = ["metrics.`foreign/dice` DESC"]
    found = client_of(backend).search_runs([written.experiment_id], query, order_by=order)
    assert len(found) == 2
    assert found[0].data.metrics["foreign/dice"] >= found[1].data.metrics["foreign/dice"]


def test_parent_opens_on_its_note_and_carries_tables_files_and_data(
    written: Tracked, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(backend)
    parent = client.get_run(written.run_id)
    assert parent.data.tags["mlflow.note.content"].startswith("**GKD is best.**")
    assert list(load_table(written, backend, monkeypatch)["target"]) == ["stare"]
    for path, content in shown().files.items():
        assert Path(client.download_artifacts(written.run_id, path, str(tmp_path))).read_bytes() == content
    inputs = {(one.dataset.name, one.tags[0].value) for one in parent.inputs.dataset_inputs}
    assert inputs == {("hrf", "source"), ("stare", "target"), ("chase_db1", "target")}
    assert parent.data.metrics["foreign/gkd/dice"] == pytest.approx(0.64, abs=0.05)


def test_views_are_saved_in_the_experiment_and_the_first_is_linked(written: Tracked, backend: Backend) -> None:
    tags = client_of(backend).get_experiment(written.experiment_id).tags
    saved = {key: value for key, value in tags.items() if key.startswith("mlflow.sharedViewState.")}
    assert len(saved) == 4
    assert f"mlflow.sharedViewState.{written.view}" in saved
    states = [decode_state(json.loads(value)["state"]) for value in saved.values()]
    assert all("tags.sweep = 'made_up'" in state["searchFilter"] for state in states)


def test_views_that_are_no_more_are_removed(few: list[Record], backend: Backend) -> None:
    first = write(few, backend, "shrunk")
    write([record for record in few if record["record"] != "trial"], backend, "shrunk")
    tags = client_of(backend).get_experiment(first.experiment_id).tags
    assert not any(key.endswith("-search") for key in tags)


def test_unknown_version_of_mlflow_gets_no_views(
    few: list[Record], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "supported", lambda version: False)
    tracked = write(few, backend, "unknown_version")
    assert (tracked.view, tracked.warning, tracked.written) == (None, None, 1 + RUNS)


def test_failing_views_cost_a_warning_and_no_run(
    few: list[Record], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> dict[str, str]:
        raise ValueError("no such state")

    monkeypatch.setattr(tracking, "view_tags", fail)
    tracked = write(few, backend, "failing_views")
    assert tracked.written == 1 + RUNS
    assert tracked.warning is not None and "no such state" in tracked.warning


def test_second_call_adds_nothing(few: list[Record], backend: Backend) -> None:
    first = write(few, backend, "twice")
    before = snapshot(backend, first)
    second = write(few, backend, "twice")
    assert (second.run_id, second.written) == (first.run_id, 0)
    assert snapshot(backend, first) == before


def test_interrupted_write_is_completed_without_duplicates(few: list[Record], backend: Backend) -> None:
    first = write(few, backend, "interrupted")
    before = snapshot(backend, first)
    client = client_of(backend)
    for run_id in before:
        client.delete_tag(run_id, "gkd.digest")
    again = write(few, backend, "interrupted")
    assert again.written == len(before)
    after = snapshot(backend, first)
    assert {run: parts[:3] for run, parts in after.items()} == {run: parts[:3] for run, parts in before.items()}


def test_extended_sweep_adds_its_runs_and_brings_the_tables_up_to_date(
    few: list[Record], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write([record for record in few if record["method"] != "scratch"], backend, "extended")
    second = write(few, backend, "extended", tables=shown(rows=3).tables)
    assert second.run_id == first.run_id
    assert second.written == 1 + 2
    assert len(load_table(second, backend, monkeypatch)) == 3
    assert "hrf-to-stare/scratch/dice" in client_of(backend).get_run(second.run_id).data.metrics


def test_changed_choice_of_student_moves_the_mark(few: list[Record], backend: Backend) -> None:
    first = write(few, backend, "moved")
    favoured = model_key("scratch", "hrf", 1)
    better = [{**r, "val_dice": 0.99} if r["record"] == "candidate" and r["model"] == favoured else r for r in few]
    write(better, backend, "moved")
    marked = [run.info.run_name for run in runs_of(backend, first) if run.data.tags.get("selected") == "yes"]
    assert marked == ["hrf: student alone, seed 1"]


def test_more_points_and_parameters_than_one_request_takes(few: list[Record], backend: Backend) -> None:
    epochs = [record for record in few if record["record"] == "epoch" and record["kind"] == "teacher"]
    many = [{**epochs[0], "epoch": epoch, "val/dice": epoch / 1000} for epoch in range(1, 1001)]
    settings = {epochs[0]["key"]: {f"setting_{number}": number for number in range(150)}}
    tracked = write(many, backend, "many", make_origin(settings=settings))
    run = child(backend, tracked, f"hrf: teacher, seed {epochs[0]['seed']}")
    assert len(client_of(backend).get_metric_history(run.info.run_id, "val/dice")) == 1000
    assert run.data.params["setting_149"] == "149"


@pytest.fixture(scope="module")
def first_connections(tmp_path_factory: pytest.TempPathFactory) -> tuple[Backend, list[tuple[int, str]]]:
    """Exit code and experiment id of two processes that open a fresh database at the same time."""
    fresh = resolve_backend(None, tmp_path_factory.mktemp("fresh"))
    code = (
        "import sys; from gkd_bench.report.backend import Backend, initialise\n"
        "print(initialise(Backend(sys.argv[1], sys.argv[2]), 'first'))"
    )
    words = [sys.executable, "-c", code, fresh.uri, str(fresh.artifacts)]
    workers = [subprocess.Popen(words, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True) for _ in range(2)]
    answers = [worker.communicate(timeout=200)[0] for worker in workers]
    return fresh, [(worker.returncode, answer.strip()) for worker, answer in zip(workers, answers, strict=True)]


def test_processes_that_start_at_once_make_one_database(
    first_connections: tuple[Backend, list[tuple[int, str]]],
) -> None:
    assert first_connections[1] == [(0, "1"), (0, "1")]


def test_experiment_keeps_its_files_beside_the_database_whatever_the_working_directory(
    written: Tracked, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = client_of(backend).get_experiment(written.experiment_id)
    assert backend.database is not None
    assert experiment.artifact_location == (backend.database.parent / "mlartifacts").as_uri()
    assert not list(tmp_path.iterdir())


def test_relative_database_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = resolve_backend("sqlite:///runs/m.db", Path("results"))
    assert resolved == Backend(f"sqlite:///{tmp_path}/runs/m.db", (tmp_path / "runs" / "mlartifacts").as_uri())
    assert resolve_backend(None, Path("results")).uri == f"sqlite:///{tmp_path}/results/mlflow.db"
    assert resolve_backend("http://host:5000/", Path("results")) == Backend("http://host:5000", None)


def test_server_that_is_down_is_one_warning_and_costs_no_time(
    few: list[Record], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING, logger="gkd_bench"):
        tracked = write(few, resolve_backend(f"http://user:secret@127.0.0.1:{port}", Path()), "down")
    assert time.perf_counter() - start < 10
    assert tracked.run_id is None
    assert tracked.warning is not None
    assert "no server answers" in tracked.warning
    assert "secret" not in tracked.warning
    assert [record.getMessage() for record in caplog.records if record.name.startswith("gkd_bench")] == [
        tracked.warning
    ]


def test_deleted_experiment_is_a_warning_that_says_how_to_restore_it(few: list[Record], backend: Backend) -> None:
    client = client_of(backend)
    number = client.create_experiment("deleted", artifact_location=backend.artifacts)
    client.delete_experiment(number)
    warning = write(few, backend, "deleted").warning
    assert warning is not None
    assert f"mlflow experiments restore -x {number}" in warning


def test_importing_the_writer_does_not_import_mlflow() -> None:
    code = "import sys, gkd_bench.report.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0

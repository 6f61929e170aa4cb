"""Writes to a real SQLite file and reads it back with MLflow's own client. MLflow makes one database in five seconds."""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.tracking import (
    Backend,
    Provenance,
    Tracked,
    resolve_backend,
    ui_command,
    write_tracking,
)

from .made_up import Record

PROVENANCE = Provenance("name: made_up\n", "gkd-bench sweep made_up.yaml", "2 cores", {"stare": "abc123"})
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
PICTURES = {"gkd-hrf": b"\x89PNG"}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return resolve_backend(None, tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def first_connections(fresh: Backend) -> list[tuple[int, str]]:
    """Exit code and experiment id of two processes that open a fresh database at the same time."""
    code = (
        "import sys; from gkd_bench.report.tracking import Backend, initialise\n"
        "print(initialise(Backend(sys.argv[1], sys.argv[2]), 'first'))"
    )
    words = [sys.executable, "-c", code, fresh.uri, str(fresh.artifacts)]
    workers = [subprocess.Popen(words, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True) for _ in range(2)]
    answers = [worker.communicate(timeout=120)[0] for worker in workers]
    return [(worker.returncode, answer.strip()) for worker, answer in zip(workers, answers, strict=True)]


@pytest.fixture(scope="module")
def backend(fresh: Backend, first_connections: list[tuple[int, str]]) -> Backend:
    return fresh


@pytest.fixture(scope="module")
def small(made_up: list[Record]) -> list[Record]:
    """One source, two seeds, a trial of every state."""
    kept = [record for record in made_up if record["source"] == "hrf" and record["seed"] < 2]
    return [record for record in kept if record.get("trial") in (None, 0, 1, 2)]


def client_of(backend: Backend) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=backend.uri)


def write(records: list[Record], backend: Backend, experiment: str, **changes: Any) -> Tracked:
    arguments = {"provenance": PROVENANCE, "pictures": PICTURES, **changes}
    return write_tracking(SweepRecords.from_dicts(records), backend, experiment, **arguments)


def load_table(tracked: Tracked, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """As MLflow's viewer finds it; ``load_table`` asks the process-wide store, not the client's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", backend.uri)
    return client_of(backend).load_table(tracked.experiment_id, "tables/triple.json", [tracked.run_id])


def snapshot(backend: Backend, tracked: Tracked) -> dict[str, Any]:
    """Everything the database says about an experiment, histories included."""
    client = client_of(backend)
    runs = client.search_runs([tracked.experiment_id], max_results=1000)
    return {
        run.info.run_id: (run.data.tags, run.data.params,
                          {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics},
                          run.info.status, run.info.end_time)
        for run in runs
    }  # fmt: skip


def test_written_sweep_reads_back_as_parent_and_children(small: list[Record], backend: Backend) -> None:
    tracked = write(small, backend, "reads_back")
    client = client_of(backend)
    runs = client.search_runs([tracked.experiment_id], max_results=1000)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == tracked.run_id]
    assert tracked.warning is None
    assert len(runs) == tracked.written == 1 + len(children) == 1 + 4 * 2 + 3
    (child,) = [run for run in children if run.info.run_name == "distill gkd hrf seed 1"]
    assert child.data.metrics["test/stare/dice"] == pytest.approx(0.64, abs=0.05)
    history = client.get_metric_history(child.info.run_id, "val/dice")
    assert [(point.step, point.value) for point in history] == [
        (e, pytest.approx(0.74 - 0.3 / e)) for e in (1, 2, 3, 4)
    ]
    assert child.info.end_time - child.info.start_time == 13_500
    states = {run.data.tags["gkd.trial"]: run.info.status for run in children if "gkd.trial" in run.data.tags}
    assert states == {"hrf/gkd/0": "FINISHED", "hrf/gkd/1": "KILLED", "hrf/gkd/2": "FAILED"}


def test_parent_opens_on_its_note_and_carries_tables_and_pictures(
    small: list[Record], backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = write(small, backend, "parent")
    client = client_of(backend)
    parent = client.get_run(tracked.run_id)
    assert "| hrf | stare |" in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["gkd.data.stare"] == "abc123"
    table = load_table(tracked, backend, monkeypatch)
    assert list(table["target"]) == ["chase_db1", "hrf ◦", "stare"]
    picture = client.download_artifacts(tracked.run_id, "overlays/gkd-hrf.png", str(tmp_path))
    assert Path(picture).read_bytes() == PICTURES["gkd-hrf"]
    assert Path(client.download_artifacts(tracked.run_id, "sweep.yaml", str(tmp_path))).read_text() == "name: made_up\n"


def test_second_call_adds_nothing(small: list[Record], backend: Backend) -> None:
    first = write(small, backend, "twice")
    before = snapshot(backend, first)
    second = write(small, backend, "twice")
    assert (second.run_id, second.written) == (first.run_id, 0)
    assert snapshot(backend, first) == before


def test_interrupted_write_is_completed_without_duplicates(small: list[Record], backend: Backend) -> None:
    first = write(small, backend, "interrupted")
    before = snapshot(backend, first)
    client = client_of(backend)
    for run_id in before:
        client.delete_tag(run_id, "gkd.digest")
    again = write(small, backend, "interrupted")
    assert again.written == len(before)
    after = snapshot(backend, first)
    assert {run: parts[:3] for run, parts in after.items()} == {run: parts[:3] for run, parts in before.items()}


def test_extended_sweep_adds_its_runs_and_brings_the_tables_up_to_date(
    small: list[Record], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write([record for record in small if record["method"] != "kd"], backend, "extended")
    second = write(small, backend, "extended", provenance=replace(PROVENANCE, sweep_yaml="name: made_up\n# more\n"))
    assert second.run_id == first.run_id
    assert second.written == 1 + 2
    table = load_table(second, backend, monkeypatch)
    assert len(table) == 3
    assert "KD ↑" in table
    client = client_of(backend)
    assert "hrf-to-stare/kd/dice" in client.get_run(second.run_id).data.metrics


def test_more_points_and_parameters_than_one_request_takes(small: list[Record], backend: Backend) -> None:
    epochs = [record for record in small if record["record"] == "epoch" and record["kind"] == "teacher"]
    many = [{**epochs[0], "epoch": epoch, "val/dice": epoch / 1000} for epoch in range(1, 1001)]
    settings = {epochs[0]["key"]: {f"setting_{number}": number for number in range(150)}}
    tracked = write(many, backend, "many", settings=settings)
    client = client_of(backend)
    (child,) = [run for run in client.search_runs([tracked.experiment_id]) if "gkd.node" in run.data.tags]
    assert len(client.get_metric_history(child.info.run_id, "val/dice")) == 1000
    assert child.data.params["setting_149"] == "149"


def test_experiment_keeps_its_files_beside_the_database_whatever_the_working_directory(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = client_of(backend).get_experiment_by_name("first")
    database = Path(backend.uri.removeprefix("sqlite:///"))
    assert experiment.artifact_location == (database.parent / "mlartifacts").as_uri()
    assert not list(tmp_path.iterdir())


def test_relative_database_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = resolve_backend("sqlite:///runs/m.db", Path("results"))
    assert resolved == Backend(f"sqlite:///{tmp_path}/runs/m.db", (tmp_path / "runs" / "mlartifacts").as_uri())
    assert resolve_backend(None, Path("results")).uri == f"sqlite:///{tmp_path}/results/mlflow.db"
    assert resolve_backend("http://host:5000/", Path("results")) == Backend("http://host:5000", None)


def test_server_that_is_down_is_one_warning_and_costs_no_time(
    small: list[Record], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING, logger="gkd_bench"):
        tracked = write(small, resolve_backend(f"http://user:secret@127.0.0.1:{port}", Path()), "down")
    assert time.perf_counter() - start < 10
    assert tracked.run_id is None
    assert tracked.warning is not None
    assert "no server answers" in tracked.warning
    assert "secret" not in tracked.warning
    assert [record.getMessage() for record in caplog.records if record.name.startswith("gkd_bench")] == [
        tracked.warning
    ]


def test_deleted_experiment_is_a_warning_that_says_how_to_restore_it(small: list[Record], backend: Backend) -> None:
    client = client_of(backend)
    number = client.create_experiment("deleted", artifact_location=backend.artifacts)
    client.delete_experiment(number)
    warning = write(small, backend, "deleted").warning
    assert warning is not None
    assert f"mlflow experiments restore -x {number}" in warning


def test_processes_that_start_at_once_make_one_database(first_connections: list[tuple[int, str]]) -> None:
    assert first_connections == [(0, "1"), (0, "1")]


def test_dashboard_command_is_loopback_only_and_its_link_opens_the_runs() -> None:
    shown = ui_command(Backend("sqlite:////my results/mlflow.db", None), "3", "abc", port=5077)
    words = shlex.split(shown.command)
    assert words[words.index("--backend-store-uri") + 1] == "sqlite:////my results/mlflow.db"
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert shown.link == "http://127.0.0.1:5077/#/experiments/3/runs?workflowType=machine_learning"
    assert shown.run_link == "http://127.0.0.1:5077/#/experiments/3/runs/abc?workflowType=machine_learning"


def test_dashboard_of_a_server_needs_no_command_and_shows_no_password() -> None:
    shown = ui_command(Backend("http://user:secret@host:80", None))
    assert shown.command == ""
    assert "secret" not in shown.link


def test_importing_the_writer_does_not_import_mlflow() -> None:
    code = "import sys, gkd_bench.report.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0

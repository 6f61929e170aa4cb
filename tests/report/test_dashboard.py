from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gkd_bench.errors import GkdBenchError
from gkd_bench.report import dashboard
from gkd_bench.report.backend import Backend, Tracked, client_of
from gkd_bench.report.dashboard import find_sweep, free_port, open_dashboard, ui_command
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.tracking import write_tracking

from .made_up import Record, make_origin
from .mlflow_help import new_backend, shown, small

SERVE = """
import sys
from pathlib import Path
from gkd_bench.report.dashboard import open_dashboard
sys.exit(open_dashboard(Path(sys.argv[1]), None, "dashboards", None, int(sys.argv[2]), browser=False))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def backend(results: Path) -> Backend:
    return new_backend(results)


@pytest.fixture(scope="module")
def tracked(made_up: list[Record], backend: Backend) -> Tracked:
    records = SweepRecords.from_dicts(small(made_up), make_origin())
    return write_tracking(records, backend, "dashboards", shown())


@contextmanager
def listening() -> Iterator[int]:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        yield int(busy.getsockname()[1])


def test_command_is_loopback_only_and_starts_no_job_runner() -> None:
    shown_command = ui_command(Backend("sqlite:////my results/mlflow.db", None), Tracked("3", "abc"), port=5077).command
    words = shlex.split(shown_command)
    assert words[words.index("--backend-store-uri") + 1] == "sqlite:////my results/mlflow.db"
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true"} <= set(words)


def test_links_land_on_the_comparison_the_sweep_and_its_models() -> None:
    found = Tracked("3", "abc", view="gkd-x-comparison", models=("gkd_bench.x.hrf",))
    links = ui_command(Backend("sqlite:////r/mlflow.db", None), found, port=5077)
    root = "http://127.0.0.1:5077/#"
    page = "workflowType=machine_learning"
    assert links.link == f"{root}/experiments/3/runs?{page}&viewStateShareKey=gkd-x-comparison&compareRunsMode=CHART"
    assert links.run_link == f"{root}/experiments/3/runs/abc?{page}"
    assert links.model_links == (f"{root}/models/gkd_bench.x.hrf",)


def test_link_without_a_view_opens_the_runs() -> None:
    links = ui_command(Backend("sqlite:////r/mlflow.db", None), Tracked("3"), port=5077)
    assert links.link == "http://127.0.0.1:5077/#/experiments/3/runs?workflowType=machine_learning"
    assert links.run_link == ""


def test_server_that_runs_already_needs_no_command_and_shows_no_password() -> None:
    links = ui_command(Backend("http://user:secret@host:80", None), Tracked("1", "abc"))
    assert links.command == ""
    assert "secret" not in links.link + links.run_link


def test_sweep_is_found_with_its_view(tracked: Tracked, backend: Backend) -> None:
    found = find_sweep(backend, "dashboards", "made_up")
    assert (found.experiment_id, found.run_id, found.view) == (tracked.experiment_id, tracked.run_id, tracked.view)


def test_latest_sweep_is_taken_when_none_is_named(made_up: list[Record], tmp_path: Path) -> None:
    backend = new_backend(tmp_path)
    for name in ("older", "newer"):
        renamed = [{**record, "sweep": name} for record in small(made_up) if record["record"] == "cost"]
        write_tracking(SweepRecords.from_dicts(renamed, make_origin()), backend, "dashboards", shown())
    found = find_sweep(backend, "dashboards", None)
    assert client_of(backend).get_run(found.run_id).data.tags["sweep"] == "newer"


def test_unknown_names_are_answered_with_the_known_ones(tracked: Tracked, backend: Backend) -> None:
    with pytest.raises(GkdBenchError, match=r"no sweep 'other'.*made_up"):
        find_sweep(backend, "dashboards", "other")
    with pytest.raises(GkdBenchError, match=r"no experiment 'none'.*dashboards"):
        find_sweep(backend, "none", None)


def test_missing_database_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GkdBenchError, match=r"no MLflow database at .*: run a sweep first"):
        open_dashboard(tmp_path, None, "dashboards", None, 5000, browser=False)
    assert not list(tmp_path.iterdir())


def test_port_in_use_is_passed_over() -> None:
    with listening() as port:
        assert free_port(port) > port


def test_no_free_port_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "PORTS_TRIED", 1)
    with listening() as port, pytest.raises(GkdBenchError, match="--port"):
        free_port(port)


def test_running_server_is_only_pointed_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dashboard, "find_sweep", lambda *_: Tracked("1", "abc"))
    opened: list[str] = []
    monkeypatch.setattr(dashboard.webbrowser, "open", lambda link: opened.append(link) or True)
    assert open_dashboard(tmp_path, "http://host:5000", "dashboards", None, 5000, browser=True) == 0
    assert opened[0].startswith("http://host:5000/#/experiments/1/runs?")
    assert opened[0] in capsys.readouterr().out


def test_server_that_cannot_start_is_an_error_with_its_log(
    tracked: Tracked, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "_serve_words", lambda backend, port: ["ui", "--no-such-option"])
    with pytest.raises(GkdBenchError, match=r"did not start(?s:.)*no-such-option"):
        open_dashboard(results, None, "dashboards", None, free_port(6100), browser=False)


@pytest.mark.slow
def test_serves_on_the_next_free_port_until_it_is_terminated(tracked: Tracked, results: Path) -> None:
    with listening() as port:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(results), str(port)], stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line.strip())
                if line.startswith("Stop it"):
                    break
            assert lines[0].startswith(f"Port {port} is in use; taking ")
            served = lines[0].split()[-1].rstrip(".")
            assert f"comparison: http://127.0.0.1:{served}/#/experiments/1/runs?" in lines[2]
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"http://127.0.0.1:{served}/health", timeout=30) as reply:
                assert reply.status == 200
        finally:
            process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert rest.strip() == "Stopped."
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(served))) != 0

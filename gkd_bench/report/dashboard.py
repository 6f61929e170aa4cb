"""Opens MLflow on the right comparison: the command that serves it on this machine only, and the links worth opening."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO, NoReturn
from urllib.parse import quote

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.backend import (
    QUIET,
    Backend,
    Tracked,
    check_reachable,
    client_of,
    resolve_backend,
    without_password,
)  # fmt: skip
from gkd_bench.report.views import TAG_PREFIX, slug_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

HOST = "127.0.0.1"
PORTS_TRIED = 20
START_SECONDS = 90.0
STOP_SECONDS = 10.0
HOSTS = "localhost:*,127.0.0.1:*"
"""What a browser may call this server. MLflow's own list has ``10.*`` and the like, which foreign pages may be called too."""
_SERVER = QUIET | {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # the job runner: eight more processes, nothing uses them
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
}
_OPENING = frozenset({
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "MLFLOW_UVICORN_OPTS", "MLFLOW_GUNICORN_OPTS", "MLFLOW_ENABLE_REMOTE_ASSISTANT",
})  # fmt: skip
"""Settings of other servers of the user, which would open this one to other machines or pages."""
_URI = "MLFLOW_BACKEND_STORE_URI"
_PAGE = "workflowType=machine_learning"
_LOG_LINES = 15


@dataclass(frozen=True)
class Dashboard:
    """How to open MLflow.

    Attributes:
        command: the command line that serves it on this machine only, with ``***`` for user and password of its database;
            empty when a server already does.
        link: the finished comparison, or the runs of the experiment where there is none.
        run_link: the sweep's own run, which opens on its tables; empty when it is not known.
        model_links: pages of the registered students.
    """

    command: str
    link: str
    run_link: str = ""
    model_links: tuple[str, ...] = ()


def ui_command(backend: Backend, tracked: Tracked, port: int = 5000) -> Dashboard:
    """The exact command line that serves the tracking database, and links into it.

    Without ``workflowType`` in its links MLflow opens on a page about traces of language models.
    """
    settings = ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true")
    secret = [f"{_URI}={shlex.quote(backend.shown)}"] if backend.has_secret else []
    command = " ".join([*settings, *secret, shlex.join(["mlflow", *_serve_words(backend, port)])])
    root = f"{backend.shown if backend.served else f'http://{HOST}:{port}'}/#"
    place = f"{root}/experiments/{tracked.experiment_id}/runs" if tracked.experiment_id else f"{root}/experiments"
    query = f"{_PAGE}&viewStateShareKey={tracked.view}&compareRunsMode=CHART" if tracked.view else _PAGE
    return Dashboard(
        command="" if backend.served else command,
        link=f"{place}?{query}" if tracked.experiment_id else place,
        run_link=f"{place}/{tracked.run_id}?{_PAGE}" if tracked.run_id else "",
        model_links=tuple(f"{root}/models/{quote(name)}" for name in tracked.models),
    )


def open_dashboard(results: Path, uri: str | None, experiment: str, sweep: str | None, port: int, browser: bool) -> int:
    """Serve MLflow until Ctrl-C or SIGTERM and print where to look; the exit code.

    Args:
        results: folder of results, which holds the database unless ``uri`` names another.
        uri: tracking URI, or none.
        experiment: name of the experiment.
        sweep: name of a sweep, or none for the one that was written last.
        port: first port to try; the next free one is taken when it is in use.
        browser: open the comparison in a browser.

    Raises:
        GkdBenchError: there is no database, experiment or sweep of that name, or MLflow does not start.
    """
    backend = resolve_backend(uri, results)
    tracked = find_sweep(backend, experiment, sweep)
    if backend.served:
        _announce(ui_command(backend, tracked), browser)
        return 0
    free = free_port(port)
    if free != port:
        print(f"Port {port} is in use; taking {free}.")
    print("Starting MLflow, which takes some seconds ...", flush=True)
    with _interrupted_by_terminate(), tempfile.TemporaryFile() as log:
        try:
            with _server(backend, free, log) as process:
                _announce(ui_command(backend, tracked, free), browser)
                print("Stop it with Ctrl-C.", flush=True)
                process.wait()
        except KeyboardInterrupt:
            print("Stopped.")
            return 0
        raise GkdBenchError(
            f"MLflow ended by itself (exit code {process.returncode}). The end of its log:\n{_tail(log)}"
        )


def find_sweep(backend: Backend, experiment: str, sweep: str | None) -> Tracked:
    """Where a sweep is in MLflow; the one written last when no name is given, only the experiment when there is none.

    Raises:
        GkdBenchError: there is no database, experiment or sweep of that name; names those that are there.
    """
    if backend.database is not None and not backend.database.is_file():
        advice = "run a sweep first, or name the folder of its results"
        raise GkdBenchError(f"no MLflow database at {backend.database}: {advice}")
    check_reachable(backend)
    client = client_of(backend)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = ", ".join(repr(one.name) for one in client.search_experiments())
        raise GkdBenchError(f"no experiment {experiment!r} in {backend.shown}; there are {known}")
    run = _sweep_run(client, found.experiment_id, sweep)
    if run is None:
        return Tracked(found.experiment_id)
    view = slug_of(run.data.tags["sweep"], "comparison")
    models = tuple(sorted(name for key, name in run.data.tags.items() if key.startswith("selected.")))
    there = f"{TAG_PREFIX}{view}" in found.tags
    return Tracked(found.experiment_id, run.info.run_id, view=view if there else None, models=models)


def free_port(first: int) -> int:
    """The first port from ``first`` on that nothing listens at. Raises GkdBenchError when the next twenty are all taken."""
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise GkdBenchError(f"ports {first} to {first + PORTS_TRIED - 1} are all in use; name another with --port")


def _sweep_run(client: MlflowClient, experiment_id: str, sweep: str | None) -> Run | None:
    runs = client.search_runs([experiment_id], "tags.kind = 'sweep'", order_by=["attributes.end_time DESC"])
    chosen = [run for run in runs if sweep is None or run.data.tags.get("sweep") == sweep]
    if sweep is not None and not chosen:
        known = ", ".join(sorted(run.data.tags.get("sweep", "") for run in runs)) or "none yet"
        raise GkdBenchError(f"no sweep {sweep!r} in MLflow; there are: {known}")
    return chosen[0] if chosen else None


def _serve_words(backend: Backend, port: int) -> list[str]:
    """What to call MLflow with. A URI with a password stays out of it: everybody on a machine can read command lines."""
    uri = [] if backend.has_secret else ["--backend-store-uri", backend.uri]
    return ["ui", *uri, "--host", HOST, "--port", str(port), "--allowed-hosts", HOSTS, "--workers", "1"]


@contextmanager
def _server(backend: Backend, port: int, log: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow as a process group of its own that answers; stopped by its handle, workers included, whatever happens."""
    words = [sys.executable, "-m", "mlflow", *_serve_words(backend, port)]
    inherited = {name: value for name, value in os.environ.items() if name not in _OPENING}
    environment = {**inherited, **_SERVER, _URI: backend.uri}
    process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_answering(process, port, log)
        yield process
    finally:
        _stop(process)


def _wait_until_answering(process: subprocess.Popen[bytes], port: int, log: BinaryIO) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise GkdBenchError(f"MLflow did not start (exit code {process.returncode}). Its log:\n{_tail(log)}")
        if _answers(port):
            return
        time.sleep(0.2)
    raise GkdBenchError(f"MLflow does not answer after {START_SECONDS:.0f} s. Its log:\n{_tail(log)}")


def _answers(port: int) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine's ports
    try:
        with direct.open(f"http://{HOST}:{port}/health", timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def _announce(dashboard: Dashboard, browser: bool) -> None:
    lines = {
        "comparison": dashboard.link,
        "sweep": dashboard.run_link,
        "models": "\n            ".join(dashboard.model_links),
    }
    print("\n".join(f"{name + ':':<12}{link}" for name, link in lines.items() if link), flush=True)
    if browser and not webbrowser.open(dashboard.link):
        print("No browser could be opened; open the first link by hand.", flush=True)


def _tail(log: BinaryIO) -> str:
    log.seek(0)
    lines: Sequence[str] = without_password(log.read().decode(errors="replace")).splitlines()
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:])


@contextmanager
def _interrupted_by_terminate() -> Iterator[None]:
    """SIGTERM stops as cleanly as Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

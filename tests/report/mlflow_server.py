"""An ``mlflow server`` of one's own, a proxy in front of it that loses, hangs and kills at will, and writers in processes."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.parent import Shown

from .made_up import make_origin, make_records
from .postgres_server import free_port

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
START_SECONDS = 240.0
Fault = Literal["pass", "refuse", "lose", "hang", "broken"]

# Write one made-up sweep as soon as all writers are ready; says what it was told when that failed.
WRITER = """
import sys, time
from pathlib import Path
from gkd_bench.report.backend import resolve_backend
from gkd_bench.report.tracking import write_tracking
from tests.report.mlflow_server import light_report, made_up_sweep
uri, folder, count, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
records, backend = made_up_sweep(number), resolve_backend(uri or None, folder)
import mlflow
(folder / f"ready-{number}-{sys.argv[5]}").touch()
while len(list(folder.glob("ready-*"))) < count:
    time.sleep(0.02)
tracked = write_tracking(records, backend, "together", light_report())
print(tracked.warning or "", end="")
"""


def made_up_sweep(number: int) -> SweepRecords:
    """Records of a small sweep; every number is another sweep with other scores over the same data."""
    methods = ("teacher", "scratch", "gkd", "student")
    kept = [one for one in make_records(seed=number) if one["source"] in ("hrf", None) and one["method"] in methods]
    few = [one for one in kept if one["seed"] < 2 and one.get("trial") in (None, 0, 1, 2)]
    renamed = [{**record, "sweep": f"sweep_{number}"} for record in few]
    return SweepRecords.from_dicts(renamed, make_origin(command=f"python -m gkd_bench.sweep sweep_{number}.yaml"))


def light_report() -> Shown:
    """A report of two files, without what torch would have to be imported for."""
    return Shown("GKD is best.", (), {"index.html": b"<h1>made up</h1>", "figures/matrix.png": b"\x89PNG"})


def write_together(uri: str, folder: Path, numbers: Sequence[int]) -> list[str]:
    """Write sweeps at the same time, a process each; their warnings, none of them where all went well."""
    common = [uri, str(folder), str(len(numbers))]
    words = [[sys.executable, "-c", WRITER, *common, str(number), str(at)] for at, number in enumerate(numbers)]
    writers = [subprocess.Popen(one, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True) for one in words]
    try:
        answers = [writer.communicate(timeout=500)[0] for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    assert [writer.returncode for writer in writers] == [0] * len(numbers)
    return [answer for answer in answers if answer]


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """As a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_server(store: str, folder: Path) -> Iterator[Server]:
    """A server over a database; its files are below the folder."""
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--artifacts-destination", str(folder / "served")]
    environment = {**ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": store}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        server = Server(process, port)
        try:
            _wait(server, log)
            yield server
        finally:
            server.kill()


def _wait(server: Server, log: Any) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if _forwarded(server.port, "GET", "/health", {}, b"")[0] == 200:
                return
        if server.process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            pytest.fail(f"the MLflow server did not start:\n{log.read().decode(errors='replace')}")
        time.sleep(0.2)


# ---------------------------------------------------------------- faults on the way


@dataclass
class Faults:
    """A proxy's orders: ``choose(number, path)`` says what becomes of a request; ``paths`` are those seen so far."""

    port: int
    choose: Callable[[int, str], Fault] = lambda number, path: "pass"
    paths: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def proxy_of(upstream: int) -> Iterator[Faults]:
    """A proxy in front of a server on this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            faults.paths.append(self.path.partition("?")[0])
            fault = faults.choose(len(faults.paths), faults.paths[-1])
            if fault == "hang":
                faults.closing.wait()
            self.close_connection = fault != "pass"
            if fault in ("refuse", "hang"):
                return
            try:
                status, headers, content = (500, [], b"{}") if fault == "broken" else self.forwarded(body)
            except OSError:
                self.close_connection = True
                return
            if fault != "lose":
                self.answer(status, headers, content)

        def forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            return _forwarded(upstream, self.command, self.path, dict(self.headers), body)

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    with Quiet(("127.0.0.1", 0), Handler) as server:
        faults = Faults(int(server.server_address[1]))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield faults
        finally:
            faults.closing.set()
            server.shutdown()
            thread.join()


def _forwarded(
    port: int, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        kept = {name: value for name, value in headers.items() if name.lower() not in ("connection", "content-length")}
        connection.request(method, path, body, {**kept, "Content-Length": str(len(body))})
        reply = connection.getresponse()
        return reply.status, reply.getheaders(), reply.read()
    finally:
        connection.close()

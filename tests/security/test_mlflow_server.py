"""MLflow as ``gkd-bench dashboard`` serves it: this machine only, and no page that merely claims to be this machine."""

from __future__ import annotations

import http.client
import shlex
import socket
import tempfile
from pathlib import Path

import pytest

from gkd_bench.report import dashboard
from gkd_bench.report.backend import Backend, Tracked
from gkd_bench.report.dashboard import free_port, ui_command

from ..report.mlflow_help import new_backend

SQLITE = Backend("sqlite:////r/mlflow.db", None)
FOREIGN = (
    "evil.example",
    "10.evil.example",
    "192.168.evil.example",
    "172.16.evil.example",
    "localhost.evil.example",
    "",
)


def status(port: int, host: str, method: str = "GET", path: str = "/", **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": host, "Content-Length": "2", **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(b"{}")
        return connection.getresponse().status
    finally:
        connection.close()


def listening(port: int) -> set[str]:
    """Addresses, as the kernel writes them, on which something listens at a port."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {
        line[1].partition(":")[0] for line in lines if line[3] == "0A" and int(line[1].rpartition(":")[2], 16) == port
    }


def test_printed_command_serves_this_machine_to_this_machine_only() -> None:
    words = shlex.split(ui_command(SQLITE, Tracked("1", "a")).command)
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[words.index("--allowed-hosts") + 1] == "localhost:*,127.0.0.1:*"


def test_a_password_is_on_no_command_line() -> None:
    command = ui_command(Backend("postgresql://me:hunter2@db/mlflow", None), Tracked("1", "a")).command
    assert "hunter2" not in command


@pytest.mark.slow
def test_pages_of_others_are_not_answered_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, port = new_backend(tmp_path), free_port(6200)
    for name, value in {
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
        "MLFLOW_UVICORN_OPTS": "--host 0.0.0.0",
        "MLFLOW_ENABLE_REMOTE_ASSISTANT": "true",
        "MLFLOW_HOST": "0.0.0.0",
    }.items():
        monkeypatch.setenv(name, value)
    with tempfile.TemporaryFile() as log, dashboard._server(backend, port, log):
        assert listening(port) == {"0100007F"}
        for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
            assert status(port, host) == 200
        api = "/ajax-api/2.0/mlflow/experiments/create"
        for host in FOREIGN:
            assert status(port, f"{host}:{port}") in (400, 403), host
            assert status(port, f"{host}:{port}", "POST", api, Content_Type="application/json") in (400, 403), host
        mine = f"127.0.0.1:{port}"
        assert status(port, mine, "POST", api, Content_Type="application/json", Origin="http://evil.example") == 403
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0

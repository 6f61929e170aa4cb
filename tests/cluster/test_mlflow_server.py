"""docs/cluster/mlflow_server.sh: MLflow with Postgres on a cluster's head, for its own user alone, with files in object storage."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ..s3_server import BUCKET, Service

SCRIPT = Path(__file__).parents[2] / "docs" / "cluster" / "mlflow_server.sh"
NOBODY = [
    "unshare",
    "--user",
    "--map-user=65534",
    "--map-group=65534",
    "--",
]  # Postgres refuses root: another name for it
WRITE = """
import mlflow, sys
mlflow.set_tracking_uri(sys.argv[1])
with mlflow.start_run(run_name="a run"):
    mlflow.log_metric("dice", 0.5)
    mlflow.log_text("kept", "notes/a.txt")
"""
READ = """
import mlflow, sys
mlflow.set_tracking_uri(sys.argv[1])
(run,) = mlflow.search_runs(output_format="list")
text = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/notes/a.txt")
print(run.info.run_name, run.data.metrics["dice"], text)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")), reason="Postgres is not installed"),
]


class Head:
    """The head of a cluster: a home, and the script run in it."""

    def __init__(self, home: Path, service: Service) -> None:
        self.home, self.folder = home, home / "mlflow"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self.destination = f"http://127.0.0.1:{self.port}", f"{service.folder()}/mlflow"
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
        own = {
            "HOME": str(home),
            "MLFLOW_PORT": str(self.port),
            "PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin",
        }
        aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        self.environment = {**aws, **quiet, **own, "PYTHONDONTWRITEBYTECODE": "1"}
        self.prefix = NOBODY if os.geteuid() == 0 else []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self.prefix, str(SCRIPT), *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=240)

    def python(self, code: str) -> str:
        command = [shutil.which("python", path=self.environment["PATH"]) or "python", "-c", code, self.uri]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self) -> dict[int, str]:
        """Process id -> command, of all that this home's MLflow and Postgres consist of."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = (process / "environ").read_bytes().split(b"\0")
                name = (process / "comm").read_text().strip()
                if f"HOME={self.home}".encode() in environment and "Z" not in (process / "stat").read_text().split()[2]:
                    found[int(process.name)] = name
        return found

    def listening(self) -> set[str]:
        """Addresses, in hexadecimal, of TCP sockets that its processes listen on."""
        inodes = set()
        for number in self.processes():
            for link in Path(f"/proc/{number}/fd").iterdir():
                with suppress(OSError):
                    inodes.add(os.readlink(link))
        rows = [
            line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()
        ]
        return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


@pytest.fixture
def head(s3_service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    head = Head(tmp_path_factory.mktemp("head"), s3_service)
    if head.prefix and subprocess.run([*NOBODY, "true"], capture_output=True).returncode:
        pytest.skip("Postgres does not run as root, and user namespaces are not allowed here")
    yield head
    for number in head.processes():
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def test_mlflow_keeps_runs_in_postgres_and_files_in_object_storage(head: Head, s3_service: Service) -> None:
    started = head.run("start", head.destination)
    assert started.returncode == 0, started.stderr + (head.folder / "mlflow.log").read_text()
    assert head.uri in started.stdout
    head.python(WRITE)
    assert kept_in_s3(head, s3_service) == ["a.txt"]

    before = head.processes()
    assert head.run("start", head.destination).returncode == 0
    assert {one for one in before if before[one] != "postgres"} <= set(head.processes()), (
        "a second start changes nothing"
    )

    loopback = f"0100007F:{head.port:04X}"
    assert head.listening() == {loopback}, "MLflow on loopback, Postgres on no port at all"
    assert [oct(path.stat().st_mode & 0o777) for path in (head.folder, head.folder / "socket")] == ["0o700", "0o700"]
    methods = [
        line.split()[-1]
        for line in (head.folder / "database/pg_hba.conf").read_text().splitlines()
        if line[:1].isalpha()
    ]
    assert set(methods) == {"peer", "reject"}
    assert "a run" in head.run("dump").stdout

    assert head.run("stop").returncode == 0
    assert head.processes() == {}
    assert head.run("stop").returncode == 0


def test_runs_outlive_a_container_that_was_cut_off(head: Head) -> None:
    assert head.run("start", head.destination).returncode == 0
    head.python(WRITE)
    for number in head.processes():
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    for left in (
        "database/postmaster.pid",
        "socket/.s.PGSQL.5432.lock",
        "mlflow.pid",
    ):  # in a new container the numbers are other processes'
        lines = (head.folder / left).read_text().splitlines()
        (head.folder / left).write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    assert head.run("start", head.destination).returncode == 0
    assert head.python(READ) == "a run 0.5 kept\n"
    assert head.run("stop").returncode == 0


def test_mistakes_are_told(head: Head) -> None:
    assert "s3://BUCKET/mlflow" in head.run("start").stderr
    assert "usage" in head.run("begin").stderr
    with socket.create_server(("127.0.0.1", head.port)) as taken:
        taken.settimeout(60)
        assert head.run("start", head.destination).returncode == 1


def kept_in_s3(head: Head, service: Service) -> list[str]:
    """Names of the files below the destination."""
    import boto3

    prefix = head.destination.removeprefix(f"s3://{BUCKET}/")
    listed = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
    return [one["Key"].rpartition("/")[2] for one in listed.get("Contents", [])]

"""A Postgres server of one's own for the length of a test, made from the distribution's packages."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

USER, PASSWORD = "gkd", "s3cret/p@ss:word"
START_SECONDS, STOP_SECONDS = 30.0, 20.0
_SETTINGS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=60", "shared_buffers=32MB")


@dataclass
class PostgresServer:
    """A running server on 127.0.0.1 that asks for a password."""

    process: subprocess.Popen[bytes]
    port: int

    def uri(self, database: str, user: str = USER, password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def new_database(self, name: str) -> str:
        """An empty database; its URI."""
        self.run("postgres", f'CREATE DATABASE "{name}"')
        return self.uri(name)

    def run(self, database: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.connection(database) as connection:
            found = connection.execute(statement, values)
            return found.fetchall() if found.description else []

    def connection(self, database: str) -> Any:
        import psycopg

        place = {"host": "127.0.0.1", "port": self.port, "dbname": database}
        return psycopg.connect(**place, user=USER, password=PASSWORD, connect_timeout=5, autocommit=True)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The server takes connections and never says a word, on those that are open neither."""
        held = [self.process.pid, *self._children()]
        for pid in held:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in held:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _children(self) -> list[int]:
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def require_postgres() -> Path:
    """The folder of the server's programs; skips the test where Postgres or its driver is not installed."""
    pytest.importorskip("psycopg", reason="needs the extra [postgres] of this package")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("needs a Postgres server: apt-get install postgresql")
    if os.geteuid() == 0 and "postgres" not in {one.pw_name for one in pwd.getpwall()}:
        pytest.skip("Postgres refuses root, and there is no user postgres to run it as")
    return (found[-1] if found else Path(str(on_path))).parent


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A fresh server; it is stopped by its own pid and its files are removed."""
    programs = require_postgres()
    other = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="gkd-postgres-"))
    try:
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if other:
            for path in (folder, secret):
                shutil.chown(path, "postgres", "postgres")
        data = folder / "data"
        words = ["initdb", "--pgdata", data, "--username", USER, "--pwfile", secret, "--auth", "scram-sha-256"]
        _call([programs / words[0], *words[1:], "--encoding", "UTF8", "--no-sync"], folder, other)
        with _serving(programs, folder, data, other) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _call(words: list[Any], folder: Path, other: dict[str, Any]) -> None:
    done = subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True, check=False, **other)
    if done.returncode:
        pytest.fail(f"{words[0]} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def _serving(programs: Path, folder: Path, data: Path, other: dict[str, Any]) -> Iterator[PostgresServer]:
    port = free_port()
    settings = [*_SETTINGS, "listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}"]
    words = [str(programs / "postgres"), "-D", str(data), *(part for one in settings for part in ("-c", one))]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log, start_new_session=True, **other)
        server = PostgresServer(process, port)
        try:
            _wait(server, log)
            yield server
        finally:
            _stop(process)


def _wait(server: PostgresServer, log: Any) -> None:
    import psycopg

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            server.run("postgres", "SELECT 1")
            return
        except psycopg.OperationalError as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                pytest.fail(f"Postgres did not start ({error}):\n{log.read().decode(errors='replace')}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """A fast shutdown, which ends open connections; else the hard way."""
    for number in (signal.SIGINT, signal.SIGKILL):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

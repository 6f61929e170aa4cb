"""MLflow over a real Postgres server, which these tests start themselves; skipped where Postgres is not installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from gkd_bench import cli
from gkd_bench.errors import GkdBenchError
from gkd_bench.report import backend as backend_module
from gkd_bench.report import patience
from gkd_bench.report.archive import SavedSweep, save_sweep
from gkd_bench.report.backend import Backend, check_reachable, client_of, initialise, resolve_backend, without_password
from gkd_bench.report.dashboard import ui_command
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.tracking import write_tracking
from gkd_bench.store.artefacts import LocalStore

from .made_up import Record, make_origin
from .mlflow_help import shown, small, student
from .mlflow_server import ENVIRONMENT, made_up_sweep, running_server, write_together
from .mlflow_state import assert_says_the_records, state_of
from .postgres_server import PASSWORD, PostgresServer, free_port, running_postgres

DASHBOARD = """
import sys
from pathlib import Path
from gkd_bench.report.dashboard import open_dashboard
sys.exit(open_dashboard(Path(sys.argv[1]), sys.stdin.readline().strip(), "one", None, int(sys.argv[2]), browser=False))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as running:
        yield running


@pytest.fixture(scope="module")
def made(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database that MLflow has made its tables in, once: it takes ten seconds."""
    uri = server.new_database("made")
    initialise(resolve_backend(uri, tmp_path_factory.mktemp("made")), "nothing")
    backend_of(uri, Path())
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore._engine_map[uri].dispose()  # a database is only copied while nobody is connected to it
    return "made"


@pytest.fixture
def backend(server: PostgresServer, made: str, tmp_path: Path, request: pytest.FixtureRequest) -> Backend:
    name = f"{request.node.name[:40]}-{free_port()}"
    server.run("postgres", f'CREATE DATABASE "{name}" TEMPLATE "{made}"')
    return backend_of(server.uri(name), tmp_path)


def backend_of(uri: str, folder: Path) -> Backend:
    return resolve_backend(uri, folder / "results")


@pytest.fixture(scope="module")
def records(made_up: list[Record]) -> SweepRecords:
    return SweepRecords.from_dicts(small(made_up), make_origin())


def names_of(server: PostgresServer, backend: Backend) -> tuple[str, list[str]]:
    database = backend.uri.rpartition("/")[2]
    found = server.run(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return database, [name for (name,) in found]


def everything_in(server: PostgresServer, backend: Backend) -> str:
    database, tables = names_of(server, backend)
    return "\n".join(str(server.run(database, f'SELECT * FROM "{table}"')) for table in tables)


# ---------------------------------------------------------------- one writer


@pytest.mark.slow
def test_sweep_and_its_student_are_written_and_a_second_report_adds_nothing(
    backend: Backend, records: SweepRecords
) -> None:
    beside = Extras(students=tuple(student("hrf", method, seed) for method in ("scratch", "gkd") for seed in (0, 1)))
    first = write_tracking(records, backend, "one", shown(), beside)
    assert (first.warning, first.models) == (None, ("gkd_bench.made_up.hrf",))
    state = state_of(backend, "one")
    assert_says_the_records(state, records)
    assert [version[:2] for version in state["models"]["gkd_bench.made_up.hrf"]] == [(1, ["selected"])]
    assert set(state["files"]["made_up"]) >= {"index.html", "mlflow_tables/triple.json", "model_cards/hrf.md"}
    second = write_tracking(records, backend, "one", shown(), beside)
    assert (second.warning, second.written, second.run_id) == (None, 0, first.run_id)
    assert state_of(backend, "one") == state


@pytest.mark.slow
def test_report_command_writes_to_postgres_and_names_no_password(
    server: PostgresServer, backend: Backend, made_up: list[Record], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = f"python -m gkd_bench.sweep made_up.yaml --set tracking.uri={backend.uri}"
    saved = SavedSweep("made_up", tuple(small(made_up)), make_origin(command=secret), ())
    save_sweep(saved, LocalStore(tmp_path / "store"))
    words = ["report", "made_up", "--store", str(tmp_path / "store"), "--results", str(tmp_path / "results")]
    assert cli.main([*words, "--no-figures", "--uri", backend.uri, "--experiment", "one"]) == 0
    said = "".join(capfd.readouterr())
    assert "runs written" in said
    assert "postgresql://***@127.0.0.1" in said
    kept = everything_in(server, backend)
    assert "postgresql://***@127.0.0.1" in kept
    assert_says_the_records(state_of(backend, "one"), SweepRecords.from_dicts(saved.records, saved.origin))
    for text in (said, kept):
        assert PASSWORD not in text
        assert quote(PASSWORD, safe="") not in text


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("postgresql://me:secret@host/db", "postgresql://***@host/db"),
        ("postgresql://me:se/cret@host/db", "postgresql://***@host/db"),
        ("postgresql://me:se@cret@host/db", "postgresql://***@host/db"),
        ("postgresql+psycopg://me@host:5432/db?connect_timeout=3", "postgresql+psycopg://***@host:5432/db?connect_timeout=3"),
        ("postgresql:///db?host=/run&user=me&password=secret", "postgresql:///db?host=/run&user=me&password=***"),
        ("failed: password=secret host=h, https://me:secret@h:80/x", "failed: password=*** host=h, https://***@h:80/x"),
        ("sqlite:////results/mlflow.db", "sqlite:////results/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)  # fmt: skip
def test_no_password_is_shown(text: str, shown_as: str) -> None:
    assert without_password(text) == shown_as


def test_backend_does_not_tell_its_password() -> None:
    found = resolve_backend("postgres://me:secret@host/db", Path())
    assert found.uri == "postgresql://me:secret@host/db"
    assert "secret" not in f"{found} {found!r} {found.shown} {ui_command(found, backend_module.Tracked()).command}"


@pytest.mark.slow
def test_dashboard_serves_postgres_and_its_command_lines_hold_no_password(
    backend: Backend, made_up: list[Record], tmp_path: Path
) -> None:
    few = [record for record in small(made_up) if record["record"] == "cost"]
    write_tracking(SweepRecords.from_dicts(few, make_origin()), backend, "one", shown())
    words = [sys.executable, "-c", DASHBOARD, str(tmp_path), str(free_port())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(words, env=ENVIRONMENT, text=True, **pipes)
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{backend.uri}\n")
        process.stdin.close()
        said = next(line for line in process.stdout if line.startswith("Stop it") or not line)
        assert said.startswith("Stop it")
        commands = [text for text in map(_command_line, _descendants(process.pid)) if "mlflow" in text]
        assert commands
        assert not any(quote(PASSWORD, safe="") in text or PASSWORD in text for text in commands)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def _descendants(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield int(word)
            yield from _descendants(int(word))


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


# ---------------------------------------------------------------- many writers


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_six_processes_that_report_into_a_fresh_database_lose_nothing(server: PostgresServer, tmp_path: Path) -> None:
    uri = server.new_database("six")
    assert write_together(uri, tmp_path, range(6)) == []
    state = state_of(resolve_backend(uri, tmp_path), "together")
    assert len(state["runs"]) == 6 * (1 + 9)
    for number in range(6):
        assert_says_the_records(state, made_up_sweep(number))
    assert set(state["files"]) == {f"sweep_{number}" for number in range(6)}
    assert all(len(files) == 3 for files in state["files"].values())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_six_processes_that_report_to_one_server_over_postgres_lose_nothing(
    server: PostgresServer, tmp_path: Path
) -> None:
    uri = server.new_database("served")
    with running_server(uri, tmp_path) as mlflow:
        assert write_together(mlflow.uri, tmp_path, range(6)) == []
    state = state_of(resolve_backend(uri, tmp_path), "together", files=False)
    assert len(state["runs"]) == 6 * (1 + 9)
    for number in range(6):
        assert_says_the_records(state, made_up_sweep(number))
    assert len([path for path in (tmp_path / "served").rglob("*") if path.is_file()]) == 6 * 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_that_report_the_same_sweep_make_it_once(backend: Backend, tmp_path: Path) -> None:
    assert write_together(backend.uri, tmp_path, [0, 0]) == []
    assert_says_the_records(state_of(backend, "together", files=False), made_up_sweep(0))


# ---------------------------------------------------------------- faults


def test_wrong_password_missing_database_and_missing_server_are_told_at_once(
    server: PostgresServer, tmp_path: Path
) -> None:
    places = {
        server.uri("postgres", password="wr0ng"): "password authentication failed",
        server.uri("nowhere"): 'database "nowhere" does not exist',
        f"postgresql://gkd:wr0ng@127.0.0.1:{free_port()}/db": "Connection refused",
    }
    for uri, words in places.items():
        begin = time.monotonic()
        with pytest.raises(GkdBenchError, match=words) as told:
            initialise(resolve_backend(uri, tmp_path), "one")
        assert time.monotonic() - begin < 5
        assert "postgresql://***@127.0.0.1" in str(told.value)
        assert not {"wr0ng", quote(PASSWORD, safe="")} & set(str(told.value).split(":"))


def test_missing_driver_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(GkdBenchError, match=r"pip install 'gkd-bench\[postgres\]'"):
        initialise(resolve_backend("postgresql://me@127.0.0.1:1/db", tmp_path), "one")


def test_server_that_takes_connections_and_says_nothing_is_not_waited_for(
    server: PostgresServer, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "PROBE_SECONDS", 2)
    begin = time.monotonic()
    with server.frozen(), pytest.raises(GkdBenchError, match="no database answers"):
        check_reachable(backend)
    assert time.monotonic() - begin < 5


def test_server_that_stops_answering_in_the_middle_costs_seconds_and_is_brought_up_to_date_later(
    server: PostgresServer, backend: Backend, records: SweepRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "PROBE_SECONDS", 2)
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 2.0)
    calls, frozen = [], server.frozen()
    of = patience.Pulse.of

    def freezing(pulse: patience.Pulse, client: object) -> object:
        felt = pulse.felt

        def count() -> None:
            calls.append(1)
            if len(calls) == 20:
                frozen.__enter__()
            felt()

        monkeypatch.setattr(pulse, "felt", count)
        return of(pulse, client)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(patience.Pulse, "of", freezing)
        begin = time.monotonic()
        try:
            lost = write_tracking(records, backend, "one", shown())
        finally:
            frozen.__exit__(None, None, None)
    assert time.monotonic() - begin < 60
    assert lost.warning is not None and "no database answers at postgresql://***@127.0.0.1" in lost.warning
    assert "gkd-bench report made_up --uri 'postgresql://***@127.0.0.1" in lost.warning
    assert write_tracking(records, backend, "one", shown()).warning is None
    assert_says_the_records(state_of(backend, "one"), records)


def test_first_connection_waits_for_another_process_but_not_for_ever(
    server: PostgresServer, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "LOCK_SECONDS", 1)
    database = backend.uri.rpartition("/")[2]
    with server.connection(database) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [backend_module._ADVISORY_LOCK])
        with pytest.raises(GkdBenchError, match="another process has been setting up postgresql://"):
            initialise(backend, "one")
    assert initialise(backend, "one")


@pytest.mark.slow
def test_process_that_is_killed_while_it_makes_the_tables_leaves_a_database_that_works(
    server: PostgresServer, tmp_path: Path
) -> None:
    code = (
        "import sys; from gkd_bench.report.backend import Backend, initialise\n"
        "initialise(Backend(sys.argv[1], sys.argv[2]), 'one')"
    )
    for number, seconds in enumerate((0.3, 1.5)):
        uri = server.new_database(f"killed-{number}")
        process = subprocess.Popen([sys.executable, "-c", code, uri, tmp_path.as_uri()], env=ENVIRONMENT)
        _wait_for_lock(server, f"killed-{number}")
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        found = resolve_backend(uri, tmp_path)
        assert client_of(found).get_experiment(initialise(found, "one")).name == "one"


def _wait_for_lock(server: PostgresServer, database: str) -> None:
    query = "SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory' AND datname = %s"
    deadline = time.monotonic() + 60
    while not server.run("postgres", query, database):
        assert time.monotonic() < deadline
        time.sleep(0.02)

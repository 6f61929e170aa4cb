"""What becomes of MLflow when its server, its database or its disk fails: nothing of a sweep is lost, nothing waits for long,
and a later report brings MLflow to the state that it would have had. Failures of the sweep itself are shown with their cause.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine, event

from gkd_bench.report import models, patience
from gkd_bench.report import tracking as tracking_module
from gkd_bench.report.backend import DATABASE, Backend, Tracked, client_of, initialise, resolve_backend
from gkd_bench.report.cells import Table
from gkd_bench.report.contents import file_tables, page_tables
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.latex import to_latex
from gkd_bench.report.page.markdown import markdown_page
from gkd_bench.report.parent import parent_note, parent_tags
from gkd_bench.report.render import to_csv
from gkd_bench.report.runs import child_runs
from gkd_bench.report.tables import failures_of, failures_table, plain_cause
from gkd_bench.report.tracking import write_tracking

from .made_up import Record, base, make_origin, model_key
from .mlflow_help import new_backend, shown, small, student
from .mlflow_server import ENVIRONMENT, Faults, Server, made_up_sweep, proxy_of, running_server, write_together
from .mlflow_state import State, assert_says_the_records, state_of

KEY = "ab" * 12
LOCKER = """
import sqlite3, sys
base = sqlite3.connect(sys.argv[1], isolation_level=None)
base.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True, scope="module")
def careless() -> Iterator[None]:
    """No file is flushed to the disk, which costs more than all else here."""

    def connected(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", connected)
    yield
    event.remove(Engine, "connect", connected)


class Killed(BaseException):
    """As SIGKILL: nothing that the writer could do about it."""


@pytest.fixture(scope="module")
def few(made_up: list[Record]) -> SweepRecords:
    return SweepRecords.from_dicts(small(made_up), make_origin())


@pytest.fixture(scope="module")
def least(made_up: list[Record]) -> SweepRecords:
    """Two trainings and a failed trial."""
    keys = {model_key("scratch", "hrf", 0), model_key("gkd", "hrf", 0)}
    kinds = ("cost", "epoch", "candidate")
    kept = [one for one in made_up if one.get("model") in keys and one["record"] in kinds and one["trial"] is None]
    failed = [one for one in made_up if one["record"] == "trial" and one["source"] == "hrf" and one["number"] == 2]
    return SweepRecords.from_dicts([*kept, *failed], make_origin(sources=("hrf",), targets=("hrf",)))


@pytest.fixture
def quick_models(monkeypatch: pytest.MonkeyPatch) -> Extras:
    """Students whose hand-over writes a file and exports nothing."""

    def export(path: Path, described: Any, student: Any) -> None:
        path.mkdir()
        (path / "MLmodel").write_text("made up")

    monkeypatch.setattr(models, "_export", export)
    return Extras(students=tuple(student("hrf", method, 0) for method in ("scratch", "gkd")))


@pytest.fixture
def undisturbed(least: SweepRecords, quick_models: Extras, tmp_path: Path) -> State:
    return written(least, fresh(tmp_path / "undisturbed"), quick_models)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow waits a fifth of a second for a locked file, not twenty seconds, and tries again sooner."""
    import sqlalchemy

    text = sqlalchemy.sql.text
    monkeypatch.setattr(sqlalchemy.sql, "text", lambda words: text(words.replace("20000", "200")))
    monkeypatch.setattr(patience, "PAUSES", (0.2, 0.8))


def fresh(folder: Path) -> Backend:
    folder.mkdir(parents=True, exist_ok=True)
    return new_backend(folder)


def write(records: SweepRecords, backend: Backend, extras: Extras | None = None) -> Tracked:
    return write_tracking(records, backend, "faults", shown(), extras)


def written(records: SweepRecords, backend: Backend, extras: Extras | None = None) -> State:
    assert write(records, backend, extras).warning is None
    return state_of(backend, "faults")


@contextmanager
def at_call(number: int, act: Callable[[], object]) -> Iterator[list[str]]:
    """Do something before a call of MLflow by its number; the names of the calls so far."""
    names: list[str] = []

    class Counting:
        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            found = getattr(self._client, name)
            if not callable(found):
                return found

            def call(*args: Any, **named: Any) -> Any:
                names.append(name)
                if len(names) == number:
                    act()
                return found(*args, **named)

            return call

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tracking_module, "client_of", lambda backend: Counting(client_of(backend)))
        yield names


def kill() -> None:
    raise Killed


# ---------------------------------------------------------------- a writer that dies


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_write_that_was_killed_between_any_two_calls_is_completed(
    least: SweepRecords, quick_models: Extras, undisturbed: State, tmp_path: Path
) -> None:
    with at_call(0, kill) as calls:
        write(least, fresh(tmp_path / "whole"), quick_models)
    assert {"create_run", "log_batch", "log_artifacts", "create_model_version"} <= set(calls)
    pairs = list(pairwise(["", *calls]))
    places = [number for number, pair in enumerate(pairs, 1) if pair not in pairs[: number - 1]]
    assert len(places) > 20
    for number in places:
        backend = fresh(tmp_path / str(number))
        with at_call(number, kill), pytest.raises(Killed):
            write(least, backend, quick_models)
        assert written(least, backend, quick_models) == undisturbed, f"killed between {pairs[number - 1]}"


@pytest.mark.parametrize("step", ["_log_metrics", "_set_tags", "_log_inputs_impl"])
def test_write_that_was_killed_within_a_call_is_completed(
    least: SweepRecords, quick_models: Extras, undisturbed: State, tmp_path: Path, step: str
) -> None:
    backend = fresh(tmp_path / "killed")
    initialise(backend, "faults")
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    whole, times = getattr(SqlAlchemyStore, step), []

    def dying(self: Any, *args: Any) -> Any:
        times.append(1)
        if len(times) == (1 if step == "_log_inputs_impl" else 2):
            raise Killed
        return whole(self, *args)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SqlAlchemyStore, step, dying)
        with pytest.raises(Killed):
            write(least, backend, quick_models)
    assert written(least, backend, quick_models) == undisturbed


def test_database_that_was_being_made_when_its_maker_died_is_made_again(tmp_path: Path) -> None:
    draft = tmp_path / f"{DATABASE}.new-abc"
    draft.write_bytes(b"half of a database")
    backend = resolve_backend(None, tmp_path)
    assert initialise(backend, "faults") == "1"
    assert not draft.exists()
    found = {path.name for path in tmp_path.iterdir()}
    assert found <= {DATABASE, f"{DATABASE}.lock"}


def test_database_is_not_there_before_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.db import utils

    monkeypatch.setattr(utils, "_upgrade_db", lambda engine: kill())
    backend = resolve_backend(None, tmp_path)
    with pytest.raises(Killed):
        initialise(backend, "faults")
    assert [path.name for path in tmp_path.iterdir()] == [f"{DATABASE}.lock"]
    monkeypatch.undo()
    assert initialise(backend, "faults") == "1"


# ---------------------------------------------------------------- many writers


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_six_processes_that_report_into_one_new_sqlite_file_lose_nothing(tmp_path: Path) -> None:
    assert write_together("", tmp_path, range(6)) == []
    state = state_of(resolve_backend(None, tmp_path), "together")
    assert len(state["runs"]) == 6 * (1 + 9)
    for number in range(6):
        assert_says_the_records(state, made_up_sweep(number))
    assert all(len(files) == 3 for files in state["files"].values())


def test_same_sweep_written_by_another_process_at_the_same_time_is_there_once(
    least: SweepRecords, quick_models: Extras, undisturbed: State, tmp_path: Path
) -> None:
    for number in (2, 3, 5, 8):
        backend = fresh(tmp_path / str(number))
        initialise(backend, "faults")
        with at_call(number, lambda backend=backend: write(least, backend, quick_models)):
            assert write(least, backend, quick_models).warning is None
        assert state_of(backend, "faults") == undisturbed


def test_experiment_that_another_process_makes_first_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = fresh(tmp_path)
    client = client_of(backend)
    find, answers = type(client).get_experiment_by_name, [None]
    monkeypatch.setattr(
        type(client), "get_experiment_by_name", lambda self, name: answers.pop() if answers else find(self, name)
    )
    number = client.create_experiment("faults")
    assert initialise(backend, "faults") == number


# ---------------------------------------------------------------- a server that fails


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with running_server(new_backend(folder).uri, folder) as running:
        yield running


@pytest.fixture
def faults(server: Server) -> Iterator[Faults]:
    with proxy_of(server.port) as proxy:
        yield proxy


def served_state(server: Server, experiment: str) -> State:
    return {**state_of(Backend(server.uri, None), experiment), "models": {}}


def send(records: SweepRecords, uri: str, experiment: str) -> Tracked:
    return write_tracking(records, Backend(uri, None), experiment, shown())


@pytest.mark.slow
def test_server_that_hangs_from_the_start_costs_seconds(least: SweepRecords, faults: Faults) -> None:
    faults.choose = lambda number, path: "hang"
    begin = time.monotonic()
    tracked = send(least, faults.uri, "never")
    assert time.monotonic() - begin < 20
    assert tracked.warning is not None
    assert f"no server answers at {faults.uri} within 5 s" in tracked.warning
    assert f"`gkd-bench report made_up --uri {faults.uri} --experiment never` sends them later" in tracked.warning
    assert len(faults.paths) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "refuse", "broken"])
def test_server_that_fails_in_the_middle_costs_seconds_and_is_brought_up_to_date_later(
    least: SweepRecords, server: Server, faults: Faults, fault: Any, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_of(Backend(server.uri, None))  # sets the patience that is usual here
    for first in (4, 9, 14):
        experiment = f"{fault}-{first}"
        before = len(faults.paths)
        faults.choose = lambda number, path, last=before + first: "pass" if number <= last else fault
        begin = time.monotonic()
        with monkeypatch.context() as patched:
            patched.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
            tracked = send(least, faults.uri, experiment)
        assert time.monotonic() - begin < 40
        assert tracked.warning is not None
        assert "gkd-bench report made_up" in tracked.warning
        assert send(least, server.uri, experiment).warning is None
        state = served_state(server, experiment)
        assert_says_the_records(state, least)
        assert set(state["files"]["made_up"]) >= {"index.html", "figures/matrix.png"}


@pytest.mark.slow
def test_requests_whose_answers_are_lost_are_sent_again_and_count_once(
    least: SweepRecords, server: Server, faults: Faults, impatient: None
) -> None:
    lost = {"/health"}

    def choose(number: int, path: str) -> Any:
        if path in lost:
            return "pass"
        lost.add(path)
        return "lose"

    faults.choose = choose
    assert send(least, faults.uri, "lost").warning is None
    assert any(path.endswith("runs/create") for path in lost)
    assert any(path.endswith("log-batch") for path in lost)
    assert_says_the_records(served_state(server, "lost"), least)


@pytest.mark.slow
def test_server_that_is_killed_in_the_middle_is_brought_up_to_date_after_its_restart(
    few: SweepRecords, tmp_path: Path, impatient: None
) -> None:
    store = new_backend(tmp_path).uri
    with running_server(store, tmp_path) as first, proxy_of(first.port) as proxy:
        proxy.choose = lambda number, path: (number == 25 and first.kill()) or "pass"
        tracked = send(few, proxy.uri, "killed")
        assert first.process.poll() is not None
        assert tracked.warning is not None
    with running_server(store, tmp_path) as again:
        assert send(few, again.uri, "killed").warning is None
        assert send(few, again.uri, "undisturbed").warning is None
        killed, undisturbed = (served_state(again, name) for name in ("killed", "undisturbed"))
    assert killed == undisturbed
    assert_says_the_records(killed, few)


def test_work_that_is_stuck_is_left_behind_and_writes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from gkd_bench.errors import GkdBenchError

    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(patience, "STALLED_SECONDS", 0.2)
    pulse, probes, went_on = patience.Pulse(), [], []

    class Slow:
        def call(self) -> None:
            time.sleep(0.6)

    def work() -> None:
        client: Any = pulse.of(Slow())  # type: ignore[arg-type]
        client.call()
        went_on.append(True)

    with pytest.raises(GkdBenchError, match="nothing happened for"):
        patience.unless_stuck(work, pulse, lambda: probes.append(1))
    assert probes
    time.sleep(0.8)
    assert not went_on


def test_slow_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(patience, "STALLED_SECONDS", 1.0)
    pulse = patience.Pulse()

    def work() -> str:
        for _ in range(6):
            time.sleep(0.25)
            pulse.felt()
        return "done"

    assert patience.unless_stuck(work, pulse, lambda: None) == "done"


# ---------------------------------------------------------------- a database that fails


@contextmanager
def locked(database: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the write lock until its input is closed."""
    words = [sys.executable, "-c", LOCKER, str(database)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen(words, env=ENVIRONMENT, text=True, **pipes)
    try:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        yield other
    finally:
        other.kill()
        other.communicate()


def test_file_that_is_locked_for_longer_than_mlflow_waits_is_tried_again(
    least: SweepRecords, quick_models: Extras, undisturbed: State, tmp_path: Path, impatient: None
) -> None:
    backend = fresh(tmp_path / "locked")
    initialise(backend, "faults")
    pauses: list[float] = []
    with locked(Path(str(backend.database))) as other, pytest.MonkeyPatch.context() as patched:

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                other.kill()
                other.wait()

        patched.setattr(patience.time, "sleep", sleep)
        assert write(least, backend, quick_models).warning is None
    assert pauses[:2] == [0.2, 0.8]
    assert state_of(backend, "faults") == undisturbed


@pytest.mark.parametrize("number", [1, 3, 9, 16, 22])
def test_file_that_stays_locked_is_a_warning_and_is_brought_up_to_date_later(
    least: SweepRecords, quick_models: Extras, undisturbed: State, tmp_path: Path, impatient: None, number: int
) -> None:
    backend = fresh(tmp_path / "locked")
    initialise(backend, "faults")
    holder = sqlite3.connect(str(backend.database), isolation_level=None, check_same_thread=False)
    begin = time.monotonic()
    with at_call(number, lambda: holder.execute("BEGIN IMMEDIATE")):
        tracked = write(least, backend, quick_models)
    assert time.monotonic() - begin < 30
    assert tracked.warning is not None
    assert "database is locked" in tracked.warning
    assert "run the same command again" in tracked.warning
    holder.execute("ROLLBACK")
    holder.close()
    assert written(least, backend, quick_models) == undisturbed


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder on a disk of three megabytes."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = Path(tempfile.mkdtemp(prefix="gkd-disk-"))
    words = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("this machine mounts no tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.parametrize("number", [2, 6, 12])
def test_full_disk_is_told_and_the_rest_is_written_when_there_is_room(
    least: SweepRecords, quick_models: Extras, undisturbed: State, small_disk: Path, number: int
) -> None:
    backend = fresh(small_disk / "results")
    initialise(backend, "faults")
    ballast = small_disk / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    with at_call(number, fill):
        tracked = write(least, backend, quick_models)
    assert tracked.warning is not None
    assert re.search("disk is full|No space left", tracked.warning)
    assert "free some disk space, then `gkd-bench report made_up" in tracked.warning
    ballast.unlink()
    assert written(least, backend, quick_models) == undisturbed


def test_disk_that_is_too_small_for_a_new_database_leaves_none(least: SweepRecords, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(2_600_000))
    tracked = write(least, resolve_backend(None, small_disk))
    assert tracked.warning is not None
    assert "disk is full" in tracked.warning
    assert not (small_disk / DATABASE).exists()
    (small_disk / "ballast").unlink()
    assert write(least, resolve_backend(None, small_disk)).warning is None


def test_file_that_is_no_database_is_told_at_once(
    least: SweepRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database at all, but longer than nothing" * 100)
    slept: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    tracked = write(least, resolve_backend(None, tmp_path))
    assert tracked.warning is not None and "not a database" in tracked.warning
    assert slept == []


def test_value_that_changed_is_shown_whatever_the_clock_says(least: SweepRecords, tmp_path: Path) -> None:
    backend, key = fresh(tmp_path), model_key("gkd", "hrf", 0)
    for value in (0.99, 0.5, 0.98):
        later = replace(least, frames={**least.frames, "candidate": least.of("candidate").assign(val_dice=value)})
        metrics = written(later, backend)["runs"][f"made_up: {key}"]
        assert metrics["latest"]["source_val/dice"] == value
    assert len(metrics["metrics"]["source_val/dice"]) == 3


# ---------------------------------------------------------------- failures of the sweep


def failure(key: str = KEY, kind: str = "distill", method: str = "kd", **changes: Any) -> Record:
    labels = {**base(kind, method, "hrf", None, 0, "train"), "key": key, "model": key, "network": None}
    cause = (
        f"{kind} hrf {method} seed 0 (key {key}) failed: StageError: {kind} hrf {method} seed 0 (key {key}): "
        f"ValueError: no weights in /data/machine/store/ab/network.safetensors (traceback: failures/{key}.txt in the store)"
    )
    return {**labels, "record": "failure", "stage": f"{kind} hrf {method} seed 0", "cause": cause, **changes}


def with_failures(records: SweepRecords, *failures: Record) -> SweepRecords:
    return replace(records, frames={**records.frames, "failure": pd.DataFrame(failures)})


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (failure()["cause"], "ValueError: no weights in network.safetensors"),
        (f"teacher hrf seed 0 (key {KEY}) failed: its input failed: semantic hrf seed 0: StageError: semantic hrf seed 0 "
         f"(key {'cd' * 12}): RuntimeError: out of memory", "its input failed: semantic hrf seed 0: RuntimeError: out of memory"),
        ("its loss is not finite", "its loss is not finite"),
        ("FileNotFoundError: [Errno 2] No such file or directory: '/home/me/a b/x.npy'",
         "FileNotFoundError: [Errno 2] No such file or directory: 'a b/x.npy'"),
        ("its worker group died 3 times (out of memory, or killed); see the workers' logs",
         "its worker group died 3 times (out of memory, or killed); see the workers' logs"),
        ("cannot read s3://bucket/store/key: 403", "cannot read s3://bucket/store/key: 403"),
        ("two\n  lines", "two lines"),
        (float("nan"), ""),
        (None, ""),
    ],
)  # fmt: skip
def test_causes_are_one_line_without_keys_tracebacks_and_folders(text: Any, plain: str) -> None:
    assert plain_cause(text) == plain


def test_failed_stages_and_trials_are_in_the_report_with_their_cause(few: SweepRecords) -> None:
    records = with_failures(few, failure())
    table = failures_table(records)
    rows = [tuple(cell.value for cell in row) for row in table.rows]
    assert rows == [
        ("stage", "distill hrf kd seed 0", "ValueError: no weights in network.safetensors"),
        ("trial", "hrf gkd, trial 2", "its loss is not finite"),
    ]
    assert table in page_tables(records)
    assert "failures" in file_tables(records)
    assert "no weights in network.safetensors" in markdown_page(records, page_tables(records), (), ())


def test_sweep_without_failures_has_no_such_table(made_up: list[Record]) -> None:
    records = SweepRecords.from_dicts([one for one in small(made_up) if one.get("state") != "failed"], make_origin())
    assert failures_of(records) == []
    assert "failures" not in file_tables(records)
    assert "failures" not in parent_tags(records, shown(), [])


def test_stage_that_another_run_finished_has_not_failed(few: SweepRecords) -> None:
    done = failure(key=model_key("gkd", "hrf", 0), method="gkd")
    assert [one.kind for one in failures_of(with_failures(few, done))] == ["trial"]


def test_causes_that_look_like_markup_or_formulas_are_only_text(few: SweepRecords) -> None:
    records = with_failures(few, failure(cause='=HYPERLINK("x") <script>alert(1)</script> 50% _a_ | b'))
    table: Table = failures_table(records)
    assert '\n"=HYPERLINK' not in to_csv(table, []) and ",=HYPERLINK" not in to_csv(table, [])
    assert r"50\%" in to_latex(table)
    assert "<script>" not in parent_note(records, shown())
    assert "<script>" not in markdown_page(records, (table,), (), ())


def test_sweeps_run_says_what_failed_and_why(few: SweepRecords) -> None:
    many = [failure(key=f"{number:024d}", stage=f"stress hrf gkd seed {number}", kind="stress") for number in range(7)]
    records = with_failures(few, *many)
    note = parent_note(records, shown())
    assert "### Failures: 7 stages, 1 trial" in note
    assert note.count("no weights in network.safetensors") == 5
    assert "and 3 more in the report" in note
    assert parent_tags(records, shown(), [])["failures"] == "7 stages, 1 trial"
    assert len(parent_note(with_failures(few, *many, *[failure(cause="x" * 9000)]), shown())) < 8000


def test_failed_training_is_a_failed_run_and_a_finished_one_once_it_was_tried_again(
    least: SweepRecords, made_up: list[Record], tmp_path: Path
) -> None:
    backend, key = fresh(tmp_path), model_key("kd", "hrf", 0)
    failed = with_failures(least, failure(key=key), failure(key="cd" * 12, kind="stress"))
    state = written(failed, backend)
    assert_says_the_records(state, failed)
    run = state["runs"][f"made_up: {key}"]
    assert (run["name"], run["status"]) == ("hrf: KD, seed 0", "FAILED")
    assert run["tags"]["cause"] == "ValueError: no weights in network.safetensors"
    assert f"made_up: {'cd' * 12}" not in state["runs"]
    assert state["runs"]["made_up: sweep"]["tags"]["failures"] == "2 stages, 1 trial"
    kept = [one for one in made_up if one.get("model") == key and one["record"] in ("cost", "epoch", "candidate")]
    kinds = ("cost", "epoch", "candidate", "trial")
    before = [{**one, "record": kind} for kind in kinds for one in least.of(kind).to_dict("records")]
    done = SweepRecords.from_dicts(
        [*({name: None if value != value else value for name, value in one.items()} for one in before), *kept],
        make_origin(),
    )
    later = written(done, backend)
    run = later["runs"][f"made_up: {key}"]
    assert run["status"] == "FINISHED"
    assert "cause" not in run["tags"]
    assert later["runs"]["made_up: sweep"]["tags"]["failures"] == "1 trial"
    assert_says_the_records(later, done)


def test_every_failed_trial_is_a_failed_run_with_its_cause(made_up: list[Record]) -> None:
    words = f"distill hrf gkd seed 0 (key {KEY}) failed: FloatingPointError: NaN (traceback: failures/{KEY}.txt in the store)"
    trials = [{**one, "cause": words} if one.get("state") == "failed" else one for one in small(made_up)]
    runs = {one.name: one for one in child_runs(SweepRecords.from_dicts(trials, make_origin()))}
    failed = runs["hrf: GKD, trial 2"]
    assert (failed.status, failed.tags["cause"]) == ("FAILED", "FloatingPointError: NaN")
    assert "traceback" not in failed.tags["mlflow.note.content"]


def test_marks_of_people_stay(least: SweepRecords, tmp_path: Path) -> None:
    backend = fresh(tmp_path)
    first = write(least, backend)
    client = client_of(backend)
    client.set_tag(first.run_id, "seen by", "me")
    client.delete_tag(first.run_id, "gkd.digest")
    assert write(least, backend).written == 1
    assert client.get_run(first.run_id).data.tags["seen by"] == "me"

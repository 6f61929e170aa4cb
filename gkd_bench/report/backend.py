"""Where MLflow keeps runs: the tracking URI, the first connection, and what a call brought about."""

from __future__ import annotations

import logging
import os
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from gkd_bench.errors import GkdBenchError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from sqlalchemy import Connection

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
SQLITE = "sqlite:///"
PROBE_SECONDS = 5
LOCK_SECONDS = 120
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it prints the URI as it is, password included
}
_IMPATIENT = {  # the defaults block a driver for minutes when the server is down
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": str(PROBE_SECONDS),
}
_SERVERS = ("http://", "https://", "databricks")
_POSTGRES = ("postgresql://", "postgresql+")
_OLD_POSTGRES = "postgres://"
_ADVISORY_LOCK = int.from_bytes(b"gkd_benc")  # any number will do that nobody else takes
_USER = re.compile(r"//(?:[^/\s]*|[^/@\s:]*:[^@\s]*)@")
_SECRET = re.compile(r"(?i)\b(\w*(?:password|passwd|secret|token)\w*=)[^&\s'\"]+")


@dataclass(frozen=True)
class Backend:
    """Where runs and their files are kept.

    Attributes:
        uri: tracking URI; an SQLite file is named by its absolute path. May hold a password, so that it is never shown.
        artifacts: URI of the folder for files of new experiments, or none when a server decides.
    """

    uri: str = field(repr=False)
    artifacts: str | None

    @property
    def served(self) -> bool:
        """Whether a server that is already running answers at the URI."""
        return self.uri.startswith(_SERVERS)

    @property
    def shown(self) -> str:
        """The URI without user and password; of an SQLite file, which has none, as it is."""
        return self.uri if self.database else without_password(self.uri)

    @property
    def has_secret(self) -> bool:
        """Whether the URI names a user or a password, so that it is told to no command line."""
        return self.shown != self.uri

    @property
    def database(self) -> Path | None:
        """The SQLite file; none for every other kind of backend."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None

    @property
    def is_postgres(self) -> bool:
        """Whether the URI names a Postgres database."""
        return self.uri.startswith(_POSTGRES)


@dataclass(frozen=True)
class Tracked:
    """What bringing MLflow up to date did.

    Attributes:
        experiment_id: id of the experiment, or none when MLflow could not be reached.
        run_id: id of the sweep's run, or none.
        written: runs that were made or changed.
        view: key of the saved comparison that the printed link opens, or none when there is none.
        models: names of the registered models that this sweep has under the alias ``selected``.
        warning: one sentence when something could not be written, with what to do.
    """

    experiment_id: str | None = None
    run_id: str | None = None
    written: int = 0
    view: str | None = None
    models: tuple[str, ...] = ()
    warning: str | None = None


def resolve_backend(uri: str | None, results: Path) -> Backend:
    """The tracking URI with absolute paths, so that it means the same wherever a process runs.

    Args:
        uri: tracking URI, or none for an SQLite file in ``results``; a relative SQLite path is relative to the working
            directory of this call.
        results: folder of results; files go to its ``mlartifacts`` unless the URI names another SQLite file, whose
            files stay beside it, or a server.
    """
    if uri is None:
        return _sqlite_backend(results.resolve() / DATABASE)
    if uri.startswith(SQLITE):
        return _sqlite_backend(Path(uri.removeprefix(SQLITE)).resolve())
    if uri.startswith(_SERVERS):
        return Backend(uri.rstrip("/"), None)
    if uri.startswith(_OLD_POSTGRES):  # what many providers hand out, and SQLAlchemy no longer reads
        uri = f"postgresql://{uri.removeprefix(_OLD_POSTGRES)}"
    return Backend(uri, (results.resolve() / ARTIFACTS).as_uri())


def initialise(backend: Backend, experiment: str) -> str:
    """Make the database and the experiment if they are not there; the experiment's id. Any number of processes may call
    it at once: MLflow's own first connections to a fresh database race, so that all but one of them wait here.

    Raises:
        GkdBenchError: the server or database does not answer, another process holds it for minutes, or the experiment
            was deleted.
    """
    if backend.served:
        check_reachable(backend)
    with _only_one(backend):
        _make_database(backend)
        return _experiment_id(backend, experiment)


def client_of(backend: Backend) -> MlflowClient:
    """A client, which opens the database. Importing MLflow takes a second and a half."""
    _prepare_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=backend.uri, registry_uri=backend.uri)


def check_reachable(backend: Backend) -> None:
    """One attempt of a few seconds, since MLflow's own take minutes to give up. Raises GkdBenchError.

    A server that takes the connection and then says nothing does not answer. Only web servers and Postgres are tried.
    """
    if backend.uri.startswith("http"):
        _check_server(backend)
    elif backend.is_postgres:
        with _connection(backend):
            pass


def without_password(text: str) -> str:
    """The text with user and password of every URI in it hidden, and everything that is called a password or a token."""
    return _SECRET.sub(r"\1***", _USER.sub("//***@", text))


# ---------------------------------------------------------------- the first connection


def _prepare_mlflow() -> None:
    """Set what MLflow reads when it is imported, where people have not set it themselves."""
    for name, value in (QUIET | _IMPATIENT).items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of points that MLflow has already, which it expects
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of errors that are told here


def _sqlite_backend(database: Path) -> Backend:
    return Backend(f"{SQLITE}{database}", (database.parent / ARTIFACTS).as_uri())


def _check_server(backend: Backend) -> None:
    import requests
    from requests.exceptions import RequestException, SSLError
    from requests.exceptions import Timeout as NoAnswer

    try:
        requests.get(f"{backend.uri}/health", timeout=PROBE_SECONDS, stream=True).close()
    except SSLError:
        return  # something answers; which certificates are good enough, MLflow's own settings say
    except NoAnswer:
        raise GkdBenchError(f"no server answers at {backend.shown} within {PROBE_SECONDS} s") from None
    except RequestException as error:
        raise GkdBenchError(f"no server answers at {backend.shown} ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    """The system's own words in an exception that wraps others, else what the exception says."""
    inner: object = error
    while isinstance(inner, BaseException):
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        nested = [getattr(inner, "reason", None), *inner.args]
        inner = next((one for one in nested if isinstance(one, BaseException)), None)
    return f"{type(error).__name__}: {without_password(str(error))}"


def _only_one(backend: Backend) -> AbstractContextManager[object]:
    """Keeps other processes of this package out while a database is made, on other machines too where it is Postgres."""
    if backend.database is not None:
        return _file_lock(backend.database)
    return _advisory_lock(backend) if backend.is_postgres else nullcontext()


@contextmanager
def _file_lock(database: Path) -> Iterator[None]:
    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{database}.lock", timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise GkdBenchError(_held(str(database))) from None


@contextmanager
def _advisory_lock(backend: Backend) -> Iterator[None]:
    """A lock of the Postgres server, which ends with the connection, whatever becomes of the process."""
    from sqlalchemy import text
    from sqlalchemy.exc import OperationalError

    with _connection(backend) as connection:
        connection.execute(text(f"SET lock_timeout = '{LOCK_SECONDS}s'"))
        try:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        except OperationalError as error:
            raise GkdBenchError(f"{_held(backend.shown)} ({_said(error)})") from None
        yield


def _held(where: str) -> str:
    return f"another process has been setting up {where} for {LOCK_SECONDS} s"


@contextmanager
def _connection(backend: Backend) -> Iterator[Connection]:
    """A connection of its own to a Postgres database, without a transaction. Raises GkdBenchError when there is none."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    try:
        engine = create_engine(
            backend.uri,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": PROBE_SECONDS},
        )
        connection = engine.connect()
    except ModuleNotFoundError as error:
        raise GkdBenchError(f"Postgres needs {error.name}: pip install 'gkd-bench[postgres]'") from None
    except SQLAlchemyError as error:
        raise GkdBenchError(f"no database answers at {backend.shown} ({_said(error)})") from None
    with connection:
        yield connection


def _said(error: Exception) -> str:
    """What the database itself said, without SQLAlchemy's words around it."""
    return without_password(" ".join(str(getattr(error, "orig", None) or error).split()))


def _make_database(backend: Backend) -> None:
    """Make an SQLite file under another name first: a process that dies halfway leaves nothing that MLflow cannot open."""
    database = backend.database
    if database is None:
        return
    if database.is_file() and database.stat().st_size:
        _check_file(database)
        return
    for left in database.parent.glob(f"{database.name}.new-*"):
        left.unlink()
    _prepare_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # never a name twice: MLflow keeps connections by name, and one of a failed attempt is to a file that is gone
    draft = database.with_name(f"{database.name}.new-{secrets.token_hex(4)}")
    try:
        store = SqlAlchemyStore(f"{SQLITE}{draft}", str(backend.artifacts))  # type: ignore[no-untyped-call]
        store.engine.dispose()
        draft.replace(database)
    finally:
        draft.unlink(missing_ok=True)


def _check_file(database: Path) -> None:
    """Raises GkdBenchError when a file is no SQLite database: MLflow would try ten times to open it."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.OperationalError:
        return  # it is locked, for example, which passes
    except sqlite3.DatabaseError as error:
        raise GkdBenchError(f"{error}; move {database.name} away, and the next report makes it again") from None


def _experiment_id(backend: Backend, name: str) -> str:
    from mlflow.exceptions import MlflowException

    client = client_of(backend)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=backend.artifacts))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        advice = f"restore it (mlflow experiments restore -x {found.experiment_id}) or set tracking.experiment"
        raise GkdBenchError(f"experiment {name!r} in {backend.shown} was deleted: {advice}")
    return str(found.experiment_id)

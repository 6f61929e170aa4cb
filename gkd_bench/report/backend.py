"""Where MLflow keeps runs: the tracking URI, the first connection, and what a call brought about."""

from __future__ import annotations

import logging
import os
import re
import socket
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from gkd_bench.errors import GkdBenchError

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
SQLITE = "sqlite:///"
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "GIT_PYTHON_REFRESH": "quiet"}
_IMPATIENT = {  # the defaults block a driver for minutes when the server is down
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_SERVERS = ("http://", "https://", "databricks")


@dataclass(frozen=True)
class Backend:
    """Where runs and their files are kept.

    Attributes:
        uri: tracking URI; an SQLite file is named by its absolute path.
        artifacts: URI of the folder for files of new experiments, or none when a server decides.
    """

    uri: str
    artifacts: str | None

    @property
    def served(self) -> bool:
        """Whether a server that is already running answers at the URI."""
        return self.uri.startswith(_SERVERS)

    @property
    def shown(self) -> str:
        """The URI without user and password."""
        return without_password(self.uri)

    @property
    def database(self) -> Path | None:
        """The SQLite file; none for every other kind of backend."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None


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
    return Backend(uri, (results.resolve() / ARTIFACTS).as_uri())


def initialise(backend: Backend, experiment: str) -> str:
    """Make the database and the experiment if they are not there; the experiment's id.

    Call it in one process before any other touches the database: MLflow's first connections race otherwise.

    Raises:
        GkdBenchError: the server does not answer, or the experiment was deleted.
    """
    check_reachable(backend)
    with _only_one(backend):
        client = client_of(backend)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return str(client.create_experiment(experiment, artifact_location=backend.artifacts))
        if found.lifecycle_stage != "active":
            advice = f"restore it (mlflow experiments restore -x {found.experiment_id}) or set tracking.experiment"
            raise GkdBenchError(f"experiment {experiment!r} in {backend.shown} was deleted: {advice}")
        return str(found.experiment_id)


def client_of(backend: Backend) -> MlflowClient:
    """A client; MLflow reads its environment when it is imported, which takes a second and a half."""
    for name, value in (QUIET | _IMPATIENT).items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=backend.uri, registry_uri=backend.uri)


def check_reachable(backend: Backend) -> None:
    """One short attempt, since MLflow's own retries take long to give up. Raises GkdBenchError."""
    parts = urlsplit(backend.uri)
    if parts.scheme not in ("http", "https"):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except OSError as error:
        raise GkdBenchError(f"no server answers at {backend.shown} ({error})") from error


def without_password(text: str) -> str:
    """The text with user and password of every URI in it hidden."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


def _sqlite_backend(database: Path) -> Backend:
    return Backend(f"{SQLITE}{database}", (database.parent / ARTIFACTS).as_uri())


def _only_one(backend: Backend) -> AbstractContextManager[object]:
    """Keeps other processes of this package out while an SQLite file is made."""
    database = backend.database
    if database is None:
        return nullcontext()
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{database}.lock", timeout=120)

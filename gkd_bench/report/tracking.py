"""Shows a sweep in MLflow: one writer, in the driver, that says what the records say and can be run again at any time.

Runs are found again by their tags; a second call with the same records writes nothing. Parameters of a run never
change, since a run stands for a content key; the sweep file, which people edit, is an artifact of the sweep's own run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.runs import (
    ChildRun,
    Point,
    Settings,
    child_runs,
    parent_metrics,
    sweep_files,
    sweep_tags,
)
from gkd_bench.report.runs import (
    Provenance as Provenance,
)
from gkd_bench.store.node import content_hash

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
PARENT_TAG = "mlflow.parentRunId"
SWEEP_TAG = "gkd.sweep"
DIGEST_TAG = "gkd.digest"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the defaults block a driver for minutes when the server is down
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_METRICS_BATCH = 900  # MLflow takes 1000 entities at once, at most 100 of them parameters
_PARAMS_BATCH = 90
_PARAM_LIMIT = 5900
_PAGE = "workflowType=machine_learning"
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


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
    def shown(self) -> str:
        """The URI without user and password."""
        return re.sub(r"//[^/@]*@", "//***@", self.uri)


@dataclass(frozen=True)
class Tracked:
    """What a call did.

    Attributes:
        experiment_id: id of the experiment, or none when MLflow could not be reached.
        run_id: id of the sweep's run, or none.
        written: runs that were made or changed.
        warning: one sentence when something could not be written, with what to do.
    """

    experiment_id: str | None = None
    run_id: str | None = None
    written: int = 0
    warning: str | None = None


@dataclass(frozen=True)
class Dashboard:
    """How to open MLflow.

    Attributes:
        command: the command line that serves it on this machine only; empty when a server already does.
        link: the runs of the experiment.
        run_link: the sweep's own run, which opens on its tables; empty when it is not known.
    """

    command: str
    link: str
    run_link: str = ""


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
    if uri.startswith("sqlite:///"):
        return _sqlite_backend(Path(uri.removeprefix("sqlite:///")).resolve())
    if uri.startswith(("http://", "https://", "databricks")):
        return Backend(uri.rstrip("/"), None)
    return Backend(uri, (results.resolve() / ARTIFACTS).as_uri())


def initialise(backend: Backend, experiment: str) -> str:
    """Make the database and the experiment if they are not there; the experiment's id.

    Call it in one process before any other touches the database: MLflow's first connections race otherwise.

    Raises:
        GkdBenchError: the server does not answer, or the experiment was deleted.
    """
    _check_reachable(backend)
    with _only_one(backend):
        client = _client(backend)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return str(client.create_experiment(experiment, artifact_location=backend.artifacts))
        if found.lifecycle_stage != "active":
            advice = f"restore it (mlflow experiments restore -x {found.experiment_id}) or set tracking.experiment"
            raise GkdBenchError(f"experiment {experiment!r} in {backend.shown} was deleted: {advice}")
        return str(found.experiment_id)


def write_tracking(
    records: SweepRecords,
    backend: Backend,
    experiment: str,
    provenance: Provenance,
    pictures: Mapping[str, bytes] | None = None,
    settings: Settings | None = None,
) -> Tracked:
    """Bring MLflow to what the records say: the sweep's run, one run per trial and per final training below it.

    Never raises for a failure of MLflow: results must not be lost because their display is not reachable.

    Args:
        records: records of the sweep.
        backend: where to write.
        experiment: name of the experiment.
        provenance: where the sweep comes from.
        pictures: name -> PNG bytes, as for ``write_report``.
        settings: content key of a stage -> its settings, shown as parameters of its run.
    """
    try:
        experiment_id = initialise(backend, experiment)
        writer = _Writer(_client(backend), experiment_id, records.sweep)
        run_id = writer.write(records, provenance, pictures or {}, settings or {})
        return Tracked(experiment_id, run_id, writer.written)
    except Exception as error:  # every tracking store raises errors of its own libraries
        cause = re.sub(r"//[^/@\s]*@", "//***@", " ".join(str(error).split()))[:300]
        warning = (
            f"MLflow at {backend.shown} was not brought up to date ({type(error).__name__}: {cause}). The tables are "
            f"complete without it; run the same command again to send them later."
        )
        _log.warning(warning)
        return Tracked(warning=warning)


def ui_command(
    backend: Backend, experiment_id: str | None = None, run_id: str | None = None, port: int = 5000
) -> Dashboard:
    """The exact command line that serves the tracking database, and links to an experiment and a sweep's run.

    Without ``workflowType`` in its links MLflow opens on a page about traces of language models.
    """
    served = backend.uri.startswith("http")
    words = [
        "mlflow",
        "ui",
        "--backend-store-uri",
        backend.uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    # The job runner starts eight more processes that nothing here uses.
    command = f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true {shlex.join(words)}"
    root = f"{backend.shown if served else f'http://127.0.0.1:{port}'}/#/experiments"
    link = f"{root}/{experiment_id}/runs?{_PAGE}" if experiment_id else root
    run_link = f"{root}/{experiment_id}/runs/{run_id}?{_PAGE}" if experiment_id and run_id else ""
    return Dashboard("" if served else command, link, run_link)


class _Writer:
    """Writes one sweep into one experiment; ``written`` counts the runs that were made or changed."""

    def __init__(self, client: MlflowClient, experiment_id: str, sweep: str) -> None:
        self.client, self.experiment_id, self.sweep, self.written = client, experiment_id, sweep, 0
        self.runs = list(self._find_runs())

    def write(
        self, records: SweepRecords, provenance: Provenance, pictures: Mapping[str, bytes], settings: Settings
    ) -> str:
        """Write everything; the id of the sweep's run. Its digest comes last, so that a broken write is done again."""
        children = child_runs(records, settings)
        files = sweep_files(records, provenance, pictures)
        hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
        digest = content_hash([hashes, [child.digest for child in children]])
        parent = self._run("gkd.role", "sweep", self.sweep, {})
        if parent.data.tags.get(DIGEST_TAG) != digest:
            for child in children:
                self._write_child(parent.info.run_id, child)
            self._write_files(parent.info.run_id, files)
            tags = sweep_tags(records, provenance, list(files))
            self.client.set_terminated(parent.info.run_id)
            self._write_run(parent, tags, {}, parent_metrics(records), (), digest=digest)
        return str(parent.info.run_id)

    def _write_child(self, parent_id: str, child: ChildRun) -> None:
        run = self._run(child.tag, child.identity, child.name, {PARENT_TAG: parent_id, **child.tags})
        if run.data.tags.get(DIGEST_TAG) == child.digest:
            return
        self._end(run, child)
        self._write_run(run, child.tags, child.params, child.finals, child.curves, digest=child.digest)

    def _write_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        with TemporaryDirectory() as folder:
            for path, content in files.items():
                target = Path(folder) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            self.client.log_artifacts(run_id, folder)

    def _find_runs(self) -> Iterator[Run]:
        token = None
        query = f"tags.`{SWEEP_TAG}` = '{self.sweep}'"
        while True:
            page = self.client.search_runs([self.experiment_id], query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _run(self, tag: str, identity: str, name: str, tags: Mapping[str, str]) -> Run:
        for run in self.runs:
            if run.data.tags.get(tag) == identity:
                return run
        labels = {SWEEP_TAG: self.sweep, tag: identity, **tags}
        run = self.client.create_run(self.experiment_id, tags=labels, run_name=name)
        self.runs.append(run)
        return run

    def _write_run(
        self,
        run: Run,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        finals: Mapping[str, float],
        curves: Sequence[Point],
        digest: str,
    ) -> None:
        """Send what the run does not say yet: MLflow refuses a changed parameter and would keep a metric twice.

        The time of a curve's point is made from the run's start: a replay sends equal points, which MLflow drops.
        """
        from mlflow.entities import Metric, Param, RunTag

        known, now, start = run.data, int(time.time() * 1000), int(run.info.start_time)
        metrics = [Metric(k, v, now, 0) for k, v in sorted(finals.items()) if known.metrics.get(k) != v]
        metrics += [Metric(point.name, point.value, start + point.epoch, point.epoch) for point in curves]
        new = [Param(k, v[:_PARAM_LIMIT]) for k, v in sorted(params.items()) if k not in known.params]
        labels = [RunTag(k, v) for k, v in {**tags, DIGEST_TAG: digest}.items() if known.tags.get(k) != v]
        for metric_part, param_part in zip_longest(_parts(metrics, _METRICS_BATCH), _parts(new, _PARAMS_BATCH)):
            self.client.log_batch(run.info.run_id, metric_part or (), param_part or ())
        self.client.log_batch(run.info.run_id, tags=labels)
        self.written += 1

    def _end(self, run: Run, child: ChildRun) -> None:
        if child.status != "RUNNING":
            end = int(run.info.start_time + child.seconds * 1000)
            self.client.set_terminated(run.info.run_id, child.status, end)


def _parts(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _sqlite_backend(database: Path) -> Backend:
    return Backend(f"sqlite:///{database}", (database.parent / ARTIFACTS).as_uri())


def _only_one(backend: Backend) -> AbstractContextManager[object]:
    """Keeps other processes of this package out while an SQLite file is made."""
    if not backend.uri.startswith("sqlite:///"):
        return nullcontext()
    database = Path(backend.uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{database}.lock", timeout=120)


def _check_reachable(backend: Backend) -> None:
    """One short attempt, since MLflow's own retries take long to give up."""
    parts = urlsplit(backend.uri)
    if parts.scheme not in ("http", "https"):
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except OSError as error:
        raise GkdBenchError(f"no server answers at {backend.shown} ({error})") from error


def _client(backend: Backend) -> MlflowClient:
    """A client; MLflow reads its environment when it is imported, which takes a second and a half."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=backend.uri)

"""Shows a sweep in MLflow: one writer, in the driver, that says what the records say and can be run again at any time.

Runs are found again by their tags; a second call with the same records writes nothing. Parameters of a run never
change, since a run stands for a content key; the sweep file, which people edit, is an artifact of the sweep's own run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from filelock import FileLock

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.render import readable_rows, to_csv
from gkd_bench.report.runs import ChildRun, Settings, child_runs, parent_metrics, parent_note
from gkd_bench.report.writer import file_tables, origin_lines, page_tables, picture_names, report_page
from gkd_bench.store.node import content_hash

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
SWEEP_TAG = "gkd.sweep"
DIGEST_TAG = "gkd.digest"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the defaults block a driver for minutes when the server is down
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
_BATCH = 900
_PARAMS_BATCH = 90
_TEXT_LIMIT = 5900
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
class Provenance:
    """Where a sweep comes from.

    Attributes:
        sweep_yaml: the sweep as YAML text, defaults included.
        command: the command that runs it again.
        machine: one line about where it ran.
        fingerprints: domain -> fingerprint of its prepared data.
    """

    sweep_yaml: str
    command: str
    machine: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict)


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
    """How to open MLflow: the command that serves it (empty when a server already does), and the link."""

    command: str
    link: str


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


def ui_command(backend: Backend, experiment_id: str | None = None, port: int = 5000) -> Dashboard:
    """The exact command line that serves the tracking database on this machine only, and the link to the experiment."""
    page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning" if experiment_id else "#/experiments"
    if backend.uri.startswith("http"):
        return Dashboard("", f"{backend.shown}/{page}")
    words = ["mlflow", "ui", "--backend-store-uri", backend.uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # The job runner starts eight more processes that nothing here uses.
    command = f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true {shlex.join(words)}"
    return Dashboard(command, f"http://127.0.0.1:{port}/{page}")


class _Writer:
    """Writes one sweep into one experiment; ``written`` counts the runs that were made or changed."""

    def __init__(self, client: MlflowClient, experiment_id: str, sweep: str) -> None:
        self.client, self.experiment_id, self.sweep, self.written = client, experiment_id, sweep, 0
        self.runs = list(self._find_runs())

    def write(
        self, records: SweepRecords, provenance: Provenance, pictures: Mapping[str, bytes], settings: Settings
    ) -> str:
        """Write everything; the id of the sweep's run."""
        children = child_runs(records, settings)
        texts = _texts(records, provenance, sorted(picture_names(pictures).values()))
        seen = {name: hashlib.sha256(content).hexdigest() for name, content in pictures.items()}
        digest = content_hash([texts, [child.digest for child in children], seen])
        parent = self._run("gkd.role", "sweep", self.sweep, {})
        if parent.data.tags.get(DIGEST_TAG) != digest:
            for child in children:
                self._write_child(parent.info.run_id, child)
            self._write_parent(parent, records, provenance, pictures, texts)
            self._finish(parent, "FINISHED", 0.0, digest)
        return str(parent.info.run_id)

    def _write_child(self, parent_id: str, child: ChildRun) -> None:
        run = self._run(child.tag, child.identity, child.name, {"mlflow.parentRunId": parent_id})
        if run.data.tags.get(DIGEST_TAG) == child.digest:
            return
        self._log(run, dict(child.tags), child.params, child.finals)
        self._log_curves(run, child)
        self._finish(run, child.status, child.seconds, child.digest)

    def _write_parent(
        self,
        parent: Run,
        records: SweepRecords,
        provenance: Provenance,
        pictures: Mapping[str, bytes],
        texts: Mapping[str, str],
    ) -> None:
        run_id = parent.info.run_id
        for name, text in texts.items():
            self.client.log_text(run_id, text, name)
        for table in page_tables(records):
            self._log_table(run_id, f"tables/{table.name}.json", readable_rows(table))
        self._log_pictures(run_id, pictures)
        tags = {f"gkd.data.{domain}": fingerprint for domain, fingerprint in provenance.fingerprints.items()}
        tags |= {"gkd.command": provenance.command, "gkd.machine": provenance.machine}
        tags["mlflow.note.content"] = parent_note(records)
        self._log(parent, tags, {}, parent_metrics(records))

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

    def _log(
        self, run: Run, tags: Mapping[str, str], params: Mapping[str, str], metrics: Mapping[str, float]
    ) -> None:
        """Log what the run does not say yet: MLflow refuses a parameter twice and would keep a metric twice."""
        from mlflow.entities import Metric, Param, RunTag

        known, now = run.data, int(time.time() * 1000)
        new_metrics = [Metric(k, v, now, 0) for k, v in sorted(metrics.items()) if known.metrics.get(k) != v]
        new_params = [Param(k, v[:_TEXT_LIMIT]) for k, v in sorted(params.items()) if k not in known.params]
        new_tags = [RunTag(k, v) for k, v in sorted(tags.items()) if known.tags.get(k) != v]
        for metric_part in _parts(new_metrics, _BATCH):
            self.client.log_batch(run.info.run_id, metrics=metric_part)
        for param_part in _parts(new_params, _PARAMS_BATCH):
            self.client.log_batch(run.info.run_id, params=param_part)
        for tag_part in _parts(new_tags, _PARAMS_BATCH):
            self.client.log_batch(run.info.run_id, tags=tag_part)

    def _log_curves(self, run: Run, child: ChildRun) -> None:
        """The time of a point is made from the run's start, so that a replay sends equal points, which MLflow drops."""
        from mlflow.entities import Metric

        start = int(run.info.start_time)
        points = [Metric(point.name, point.value, start + point.epoch, point.epoch) for point in child.curves]
        for part in _parts(points, _BATCH):
            self.client.log_batch(run.info.run_id, metrics=part)

    def _log_table(self, run_id: str, path: str, rows: Sequence[Sequence[str]]) -> None:
        """MLflow's ``log_table`` appends to a table that is there; a table that changed is written over instead."""
        import pandas as pd

        frame = pd.DataFrame(rows[1:], columns=rows[0])
        known = self.client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]")
        if any(entry.get("path") == path for entry in json.loads(known)):
            self.client.log_text(run_id, frame.to_json(orient="split", index=False), path)
        else:
            self.client.log_table(run_id, frame, path)

    def _log_pictures(self, run_id: str, pictures: Mapping[str, bytes]) -> None:
        names = picture_names(pictures)
        with TemporaryDirectory() as folder:
            for name, content in pictures.items():
                (Path(folder) / names[name]).write_bytes(content)
            self.client.log_artifacts(run_id, folder, "overlays")

    def _finish(self, run: Run, status: str, seconds: float, digest: str) -> None:
        if status != "RUNNING":
            end = int(run.info.start_time + seconds * 1000) if seconds else None
            self.client.set_terminated(run.info.run_id, status, end)
        self.client.set_tag(run.info.run_id, DIGEST_TAG, digest)
        self.written += 1


def _texts(records: SweepRecords, provenance: Provenance, pictures: Sequence[str]) -> dict[str, str]:
    """Text files of the sweep's run, by path."""
    origin = origin_lines(records, provenance.command, provenance.machine)
    page = report_page(records, [Path(name) for name in pictures], provenance.sweep_yaml, origin)
    data = {"origin": origin, "data_fingerprints": dict(provenance.fingerprints)}
    tables = {f"csv/{name}.csv": to_csv(table, origin) for name, table in file_tables(records).items()}
    provenance_text = json.dumps(data, indent=2, sort_keys=True)
    return {"report.md": page, "sweep.yaml": provenance.sweep_yaml, "provenance.json": provenance_text, **tables}


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

"""Shows a sweep in MLflow: one writer, in the driver, that says what the records say and can be run again at any time.

Runs are found again by their tags; a second call with the same records writes nothing. Parameters of a run never
change, since a run stands for a content key; the sweep file, which people edit, is an artifact of the sweep's own run.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from gkd_bench.report.backend import Backend, Tracked, client_of, initialise, without_password
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.model_card import Card
from gkd_bench.report.models import register, selected_cards
from gkd_bench.report.parent import Shown, parent_files, parent_metrics, parent_tags
from gkd_bench.report.runs import ChildRun, Point, child_runs
from gkd_bench.report.views import TAG_PREFIX, View, slug_of, supported, sweep_views, view_tags
from gkd_bench.store.node import content_hash

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT_TAG = "mlflow.parentRunId"
SWEEP_TAG = "sweep"
ID_TAG = "gkd.id"
DIGEST_TAG = "gkd.digest"
PARENT_ID = "sweep"
_METRICS_BATCH = 850  # MLflow takes 1000 entities at once, at most 100 of them parameters and 100 tags
_PARAMS_BATCH = 90
_PARAM_LIMIT = 5900
_DIGEST_LENGTH = 32
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def write_tracking(
    records: SweepRecords, backend: Backend, experiment: str, shown: Shown, extras: Extras | None = None
) -> Tracked:
    """Bring MLflow to what the records say: the sweep's run, runs of trials and trainings below it, views, models.

    Never raises for a failure of MLflow: results must not be lost because their display is not reachable.

    Args:
        records: records of the sweep, with their origin.
        backend: where to write.
        experiment: name of the experiment.
        shown: answer, tables and files of the report.
        extras: students that can be handed over; without them no model is registered.
    """
    try:
        experiment_id = initialise(backend, experiment)
        writer = _Writer(client_of(backend), experiment_id, records.sweep)
        return writer.write(records, shown, selected_cards(records, (extras or Extras()).students))
    except Exception as error:  # every tracking store raises errors of its own libraries
        warning = (
            f"MLflow at {backend.shown} was not brought up to date ({_cause(error)}). The tables are complete without it; "
            f"run the same command again to send them later."
        )
        _log.warning(warning)
        return Tracked(warning=warning)


class _Writer:
    """Writes one sweep into one experiment; ``written`` counts the runs that were made or changed."""

    def __init__(self, client: MlflowClient, experiment_id: str, sweep: str) -> None:
        self.client, self.experiment_id, self.sweep, self.written = client, experiment_id, sweep, 0
        self.runs = {run.data.tags.get(ID_TAG, ""): run for run in self._find_runs()}

    def write(self, records: SweepRecords, shown: Shown, cards: Sequence[Card]) -> Tracked:
        """Write everything; runs first, since views and models only add to them."""
        children = child_runs(records)
        parent = self._write_runs(records, shown, cards, children)
        view, problems = self._extra(lambda: self._write_views(sweep_views(self.sweep, children), parent))
        models: list[str] = []
        for card in cards:
            name, problem = self._extra(lambda card=card: self._write_model(card))  # type: ignore[misc]
            models += [name] if name else []
            problems += problem
        warning = " ".join(problems) or None
        return Tracked(self.experiment_id, str(parent.info.run_id), self.written, view, tuple(models), warning)

    def _write_runs(
        self, records: SweepRecords, shown: Shown, cards: Sequence[Card], children: Sequence[ChildRun]
    ) -> Run:
        """The sweep's run and its children. The sweep's digest comes last, so that a broken write is done again."""
        files = parent_files(records, shown, cards)
        tags, metrics = parent_tags(records, shown, cards), parent_metrics(records)
        hashes = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
        digest = content_hash([hashes, tags, metrics, [child.digest for child in children]])
        parent = self._run(PARENT_ID, self.sweep, {})
        if parent.data.tags.get(DIGEST_TAG) != digest:
            for child in children:
                self._write_child(parent.info.run_id, child)
            self._write_files(parent.info.run_id, files)
            self._write_datasets(parent.info.run_id, records)
            self.client.set_terminated(parent.info.run_id)
            self._write_run(parent, tags, {}, metrics, (), digest=digest)
        return parent

    def _write_child(self, parent_id: str, child: ChildRun) -> None:
        run = self._run(child.identity, child.name, {PARENT_TAG: parent_id, **child.tags})
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

    def _write_datasets(self, run_id: str, records: SweepRecords) -> None:
        """The domains with the fingerprints of their prepared data, as inputs of the sweep's run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(domain, fingerprint[:_DIGEST_LENGTH], "local", "{}"),
                [InputTag("mlflow.data.context", "source" if domain in records.sources else "target")],
            )
            for domain, fingerprint in records.origin.fingerprints.items()
        ]
        if inputs:
            self.client.log_inputs(run_id, inputs)

    def _write_views(self, views: Sequence[View], parent: Run) -> str | None:
        """Save the views; the key of the first one. Views of the sweep that are no more are removed."""
        from mlflow.version import VERSION

        if not views or not supported(VERSION):
            return None
        known = self.client.get_experiment(self.experiment_id).tags
        wanted = view_tags(views, int(parent.info.start_time))
        for key, value in wanted.items():
            if known.get(key) != value:
                self.client.set_experiment_tag(self.experiment_id, key, value)
        for key in known:
            if key.startswith(f"{TAG_PREFIX}{slug_of(self.sweep, '')}") and key not in wanted:
                self.client.delete_experiment_tag(self.experiment_id, key)
        return views[0].slug

    def _write_model(self, card: Card) -> str:
        run = self.runs.get(card.candidate.model)
        return register(self.client, self.experiment_id, card, str(run.info.run_id) if run else None)

    def _extra(self, step: Callable[[], _T]) -> tuple[_T | None, list[str]]:
        """The result of a step that may fail without harm to the runs, or a sentence that says so."""
        try:
            return step(), []
        except Exception as error:  # see write_tracking
            problem = (
                f"MLflow has the runs, but not everything beside them ({_cause(error)}); run the same command again."
            )
            _log.warning(problem)
            return None, [problem]

    def _find_runs(self) -> Iterator[Run]:
        token = None
        query = f"tags.`{SWEEP_TAG}` = '{self.sweep}'"
        while True:
            page = self.client.search_runs([self.experiment_id], query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _run(self, identity: str, name: str, tags: Mapping[str, str]) -> Run:
        if identity not in self.runs:
            labels = {SWEEP_TAG: self.sweep, ID_TAG: identity, **tags}
            self.runs[identity] = self.client.create_run(self.experiment_id, tags=labels, run_name=name)
        return self.runs[identity]

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

        The time of a curve's point is made from the run's start: a replay sends equal points, which MLflow drops. The
        digest is in the last request, and MLflow writes tags last.
        """
        from mlflow.entities import Metric, Param, RunTag

        known, now, start = run.data, int(time.time() * 1000), int(run.info.start_time)
        metrics = [Metric(k, v, now, 0) for k, v in sorted(finals.items()) if known.metrics.get(k) != v]
        metrics += [Metric(point.name, point.value, start + point.epoch, point.epoch) for point in curves]
        new = [Param(k, v[:_PARAM_LIMIT]) for k, v in sorted(params.items()) if k not in known.params]
        labels = [RunTag(k, v) for k, v in {**tags, DIGEST_TAG: digest}.items() if known.tags.get(k) != v]
        batches = list(zip_longest(_parts(metrics, _METRICS_BATCH), _parts(new, _PARAMS_BATCH)))
        for metric_part, param_part in batches[:-1]:
            self.client.log_batch(run.info.run_id, metric_part or (), param_part or ())
        last = batches[-1] if batches else ((), ())
        self.client.log_batch(run.info.run_id, last[0] or (), last[1] or (), labels)
        self.written += 1

    def _end(self, run: Run, child: ChildRun) -> None:
        if child.status != "RUNNING":
            end = int(run.info.start_time + child.seconds * 1000)
            self.client.set_terminated(run.info.run_id, child.status, end)


def _parts(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {without_password(' '.join(str(error).split()))[:300]}"

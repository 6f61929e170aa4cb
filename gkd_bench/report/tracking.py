"""Shows a sweep in MLflow: one writer, in the driver, that says what the records say and can be run again at any time.

Runs are found again by their tags; a second call with the same records writes nothing, and one after a broken write
sends what is missing. Parameters of a run never change, since a run stands for a content key; the sweep file, which
people edit, is an artifact of the sweep's own run. The work is done in a thread, so that a database or server that
stops answering in the middle costs seconds and not the sweep.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from gkd_bench.report.backend import Backend, Tracked, check_reachable, client_of, initialise
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.model_card import Card
from gkd_bench.report.models import register, selected_cards
from gkd_bench.report.parent import Shown, parent_files, parent_metrics, parent_tags
from gkd_bench.report.patience import Pulse, again_and_again, cause, is_full, may_pass, unless_stuck
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
_PASSING_TAGS = frozenset({"cause", "failures", "gradient", "method_kind", "port", "remedies"})
"""Tags that a run may lose again; those that people gave it by hand are never touched."""
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def write_tracking(
    records: SweepRecords, backend: Backend, experiment: str, shown: Shown, extras: Extras | None = None
) -> Tracked:
    """Bring MLflow to what the records say: the sweep's run, runs of trials and trainings below it, views, models.

    Never raises for a failure of MLflow, and never waits for one for minutes: results must not be lost because their
    display is not reachable. Errors that may pass are tried again.

    Args:
        records: records of the sweep, with their origin.
        backend: where to write.
        experiment: name of the experiment.
        shown: answer, tables and files of the report.
        extras: students that can be handed over; without them no model is registered.
    """
    pulse, writers = Pulse(), list[_Writer]()

    def attempt(last: bool) -> Tracked:
        cards = selected_cards(records, (extras or Extras()).students)
        experiment_id = initialise(backend, experiment)
        pulse.felt()
        writers.append(_Writer(pulse.of(client_of(backend)), experiment_id, records.sweep, last))
        return writers[-1].write(records, shown, cards)

    try:
        tracked = unless_stuck(lambda: again_and_again(attempt), pulse, lambda: check_reachable(backend))
    except Exception as error:  # every tracking store raises errors of its own libraries
        lost = (
            f"MLflow at {backend.shown} was not brought up to date ({cause(error)}). The tables are complete without it"
        )
        tracked = Tracked(warning=f"{lost}; {_advice(error, records.sweep, backend, experiment)}")
    if tracked.warning:
        _log.warning(tracked.warning)
    return replace(tracked, written=sum(writer.written for writer in writers))


def _advice(error: Exception, sweep: str, backend: Backend, experiment: str) -> str:
    """What to do, in one sentence."""
    place = ["--uri", backend.shown, "--experiment", experiment]
    words = shlex.join(["gkd-bench", "report", *sweep.split("+"), *place])
    room = "free some disk space, then " if is_full(error) else ""
    return f"{room}`{words}` sends them later, or run the same command again."


# ---------------------------------------------------------------- one attempt


class _Writer:
    """Writes one sweep into one experiment; ``written`` counts the runs that were made or changed.

    Args:
        client: of the tracking database.
        experiment_id: where to write.
        sweep: name of the sweep.
        last: nobody tries again: what stands beside the runs may fail without harm to them.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, sweep: str, last: bool = True) -> None:
        self.client, self.experiment_id, self.sweep, self.last = client, experiment_id, sweep, last
        self.written, self.made, self.out = 0, 0, False
        self.runs: dict[str, Run] = {}
        self._find_runs()

    def write(self, records: SweepRecords, shown: Shown, cards: Sequence[Card]) -> Tracked:
        """Write everything; runs first, since views and models only add to them."""
        children = child_runs(records)
        parent = self._write_runs(records, shown, cards, children)
        if self.made and self._find_runs():  # somebody else wrote the same sweep at the same time
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
        for child in children:
            self._write_child(parent.info.run_id, child)
        if parent.data.tags.get(DIGEST_TAG) != digest:
            self._write_files(parent.info.run_id, files)
            self._write_datasets(parent.info.run_id, records)
            self.client.set_terminated(parent.info.run_id)
            self._write_run(parent, tags, {}, metrics, (), digest=digest)
        return parent

    def _write_child(self, parent_id: str, child: ChildRun) -> None:
        tags = {**child.tags, PARENT_TAG: parent_id}
        run = self._run(child.identity, child.name, tags)
        known = run.data.tags
        if (known.get(DIGEST_TAG), known.get(PARENT_TAG)) == (child.digest, parent_id):
            return
        self._end(run, child)
        self._write_run(run, tags, child.params, child.finals, child.curves, digest=child.digest)

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
        run_id = str(run.info.run_id) if run else None
        name = register(self.client, self.experiment_id, card, run_id)
        if run_id:
            self._remove_half_models(run_id, name)
        return name

    def _remove_half_models(self, run_id: str, name: str) -> None:
        """Take away what a broken hand-over left of this training: models that are no version of the registry."""
        sources = [str(version.source) for version in self.client.search_model_versions(f"name = '{name}'")]
        mine = f"source_run_id = '{run_id}'"
        for model in self.client.search_logged_models([self.experiment_id], mine):
            if not any(model.model_id in source for source in sources):
                self.client.delete_logged_model(model.model_id)

    def _extra(self, step: Callable[[], _T]) -> tuple[_T | None, list[str]]:
        """The result of a step that may fail without harm to the runs, or a sentence that says so.

        Raises an error that may pass while there is another attempt. In the last one, steps that follow it are left out.
        """
        if self.out:
            return None, []
        try:
            return step(), []
        except Exception as error:  # see write_tracking
            self.out = may_pass(error)
            if self.out and not self.last:
                raise
            problem = (
                f"MLflow has the runs, but not everything beside them ({cause(error)}); run the same command again."
            )
            return None, [problem]

    def _find_runs(self) -> bool:
        """Look up the sweep's runs. Where there are several of one, as after a request that was sent twice, the oldest
        stays; whether there were."""
        found: dict[str, Run] = {}
        doubles = []
        for run in sorted(self._all_runs(), key=lambda run: (run.info.start_time, run.info.run_id)):
            first = found.setdefault(run.data.tags.get(ID_TAG, ""), run)
            doubles += [] if first is run else [run.info.run_id]
        for run_id in doubles:
            self.client.delete_run(run_id)
        self.runs = found
        return bool(doubles)

    def _all_runs(self) -> Iterator[Run]:
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
            self.made += 1
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

        The time of a point is made from the run's start: a replay sends equal points, which MLflow drops. The digest is in
        the last request, and MLflow writes tags last.
        """
        from mlflow.entities import Metric, Param, RunTag

        known, start = run.data, int(run.info.start_time)
        changed = {name: value for name, value in sorted(finals.items()) if known.metrics.get(name) != value}
        metrics = [Metric(name, value, self._time_of(run, name), 0) for name, value in changed.items()]
        metrics += [Metric(point.name, point.value, start + point.epoch, point.epoch) for point in curves]
        new = [Param(k, v[:_PARAM_LIMIT]) for k, v in sorted(params.items()) if k not in known.params]
        labels = [RunTag(k, v) for k, v in {**tags, DIGEST_TAG: digest}.items() if known.tags.get(k) != v]
        batches = list(zip_longest(_parts(metrics, _METRICS_BATCH), _parts(new, _PARAMS_BATCH)))
        for metric_part, param_part in batches[:-1]:
            self.client.log_batch(run.info.run_id, metric_part or (), param_part or ())
        for name in sorted(known.tags.keys() - tags.keys()):
            if name in _PASSING_TAGS or name.startswith("selected."):
                self.client.delete_tag(run.info.run_id, name)
        last = batches[-1] if batches else ((), ())
        self.client.log_batch(run.info.run_id, last[0] or (), last[1] or (), labels)
        self.written += 1

    def _time_of(self, run: Run, metric: str) -> int:
        """The time of a value without an epoch, in ms: the run's start, and later for each that follows.

        MLflow shows the value of the latest time, so that the clock, which may be set back, has no say in it.
        """
        if metric not in run.data.metrics:
            return int(run.info.start_time)
        return 1 + max(point.timestamp for point in self.client.get_metric_history(run.info.run_id, metric))

    def _end(self, run: Run, child: ChildRun) -> None:
        if child.status != "RUNNING":
            end = int(run.info.start_time + child.seconds * 1000)
            self.client.set_terminated(run.info.run_id, child.status, end)


def _parts(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    return (items[at : at + size] for at in range(0, len(items), size))

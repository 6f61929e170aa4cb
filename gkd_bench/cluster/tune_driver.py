"""The driver's side of Ray Tune: a searcher and a scheduler around the study. Import only inside an open Ray session.

The driver submits a trial's stages when it proposes the trial, and takes them back when ASHA stops it: a worker is free at
once, and a trial that Tune has not started yet loses no time. Population-based training is not offered: it needs Tune's own
checkpoints, and without them Tune does nothing and says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from gkd_bench.cluster.engine import Engine
from gkd_bench.cluster.search import Study, Trial
from gkd_bench.cluster.tune_search import Job, TrialStages, requester_name, tell_done, tell_stored
from gkd_bench.cluster.tune_trial import StageTrial
from gkd_bench.errors import GkdBenchError

MOST_DEATHS = 20
"""Trials' processes that may die one after the other without a word; after that, what kills them is taken to be the trial."""


def make_tuner(searcher: StudySearcher, broker: str, folder: str) -> tune.Tuner:
    """The Tune run of a study.

    Args:
        searcher: proposes the trials.
        broker: actor name of the broker that the trials listen to.
        folder: address for Tune's own files.
    """
    study = searcher.study
    node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    beside_driver = {f"node:{node}": 0.001}  # not on a node that may be reclaimed; no CPU, since a trial only listens
    place = tune.PlacementGroupFactory([beside_driver])
    return tune.Tuner(
        tune.with_resources(StageTrial, place),
        param_space={"broker": broker},
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=StudyScheduler(searcher),
            num_samples=-1,  # the searcher says when the study has ended
            max_concurrent_trials=study.settings.concurrency,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune-" + "".join(letter if letter.isalnum() else "-" for letter in study.name),
            storage_path=folder,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


class StudyScheduler(FIFOScheduler):
    """Stops the trials that the study stops, on the epochs of the watched stage. Ray's own ASHA forgets its rungs at a
    restart (ray#30838) and counts what happens to have arrived; the study remembers, and in fixed order decides alike.
    """

    def __init__(self, searcher: StudySearcher) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Hear an epoch before the searcher does; whether the trial goes on."""
        stop = self._searcher.stops(str(trial.trial_id), result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its settings for ``Tuner.restore``, which is never used."""
        return {"restored": False}


@dataclass(frozen=True)
class _Open:
    """A trial that Tune runs now, and what was submitted for it."""

    trial: Trial
    requester: str
    stages: TrialStages

    @property
    def keys(self) -> list[str]:
        return [node.key for node in self.stages.nodes]


class StudySearcher(Searcher):
    """Proposes the study's trials to Tune, and tells the study what became of them.

    Attributes:
        error: what ended the search, such as a store that fails. Inside of Tune it would be wrapped, or logged and forgotten.
    """

    def __init__(self, study: Study, job: Job, engine: Engine) -> None:
        """Nothing is proposed yet."""
        super().__init__()
        self.study, self.job, self._engine = study, job, engine
        self._open: dict[str, _Open] = {}
        self.error: GkdBenchError | None = None
        self._interrupted = False
        self._deaths = 0  # of trials' processes, since the last one that was heard

    def suggest(self, trial_id: str) -> Any:
        """The next trial that has to run; those whose result is in the store are told right here. None: not now."""
        proposed = None
        with self._ending_on_error():
            proposed = self._propose(trial_id)
        return proposed or (None if self._may_go_on() else Searcher.FINISHED)

    @contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        """Keep the error, take everything back and propose nothing more."""
        try:
            yield
        except GkdBenchError as error:
            self.error = self.error or error
            self._interrupted = True
            self.withdraw()

    def _propose(self, trial_id: str) -> dict[str, Any] | None:
        while not self._interrupted and (trial := self.study.ask()) is not None:
            stages = self.job.make_nodes(trial)
            if tell_stored(self.study, trial, stages, self.job):
                continue
            requester = requester_name(self.study, trial)
            self._engine.submit(stages.nodes, self.job.priority, requester)
            self._open[trial_id] = _Open(trial, requester, stages)
            return {
                "watched": stages.watched,
                "last": stages.last,
                "metric": self.job.metric,
                "seen": self._seen(trial, stages),
            }
        return None

    def _may_go_on(self) -> bool:
        """Whether there may be another trial: the next one when it is its turn, or an open one that has to be repeated."""
        return not self._interrupted and bool(self._open)

    def _seen(self, trial: Trial, stages: TrialStages) -> dict[str, float]:
        """Epochs of an interrupted run; none when its training is over, which ASHA must not stop any more."""
        if self.job.has(stages.watched):
            return {}
        return {str(epoch): value for epoch, value in trial.epochs.items()}

    def stops(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Whether an epoch, which the study may not have heard of yet, is the last one of a trial."""
        work = self._open.get(trial_id)
        if work is None or "metric" not in result or result.get("done"):
            return False
        self.on_trial_result(trial_id, result)
        return not self._interrupted and self.study.stops(work.trial.number, result["epoch"])

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """An epoch of a trial."""
        work = self._open.get(trial_id)
        self._deaths = 0
        if work is not None and "metric" in result:
            with self._ending_on_error():
                self.study.report(work.trial.number, result["epoch"], result["metric"])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """End a trial. When its last stage has not ended, the scheduler stopped it: its stages are taken back."""
        work = self._open.get(trial_id)
        if work is None:
            return
        if error and self._deaths < MOST_DEATHS:
            # What died only listened: the stages run on, and somebody else listens.
            self._deaths += 1
            del self._open[trial_id]
            self.study.repeat(work.trial.number)
            return
        result = result or {}
        self.on_trial_result(trial_id, result)
        if self._open.pop(trial_id, None) is not None:
            with self._ending_on_error():
                self._engine.cancel(work.keys, work.requester)
                self._tell(work, "died" if error else result.get("state", "cut"), result)

    def _tell(self, work: _Open, state: str, result: Mapping[str, Any]) -> None:
        study, number = self.study, work.trial.number
        if state in ("stopped", "fatal"):  # the sweep is ending; the trial stays open in the journal
            self._interrupted = True
        elif state in ("done", "cached"):
            tell_done(study, work.trial, work.stages, self.job)
        elif state == "cut":
            late = study.settings.order == "arrival"  # too late to save anything
            if not (late and tell_stored(study, work.trial, work.stages, self.job)):
                study.tell(number, "pruned")
        elif not (result.get("memory") and study.halve(number)):
            cause = result.get("cause") or "the trial's process died; see Ray's session folder"
            study.tell(number, "failed", cause=cause)

    def withdraw(self) -> None:
        """Take back the stages of trials that were cut off; they stay open in the journal."""
        for work in self._open.values():
            with suppress(GkdBenchError):  # an engine that is gone says so by itself
                self._engine.cancel(work.keys, work.requester)
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its settings for ``Tuner.restore``, which is never used."""
        return {"restored": False}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the study's memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the study's memory."""

"""The driver's side of Ray Tune: a searcher around the study, and ASHA. Import only inside an open Ray session.

The driver submits a trial's stages when it proposes the trial, and takes them back when ASHA stops it: a worker is free at
once, and a trial that Tune has not started yet loses no time. Population-based training is not offered: it needs Tune's own
checkpoints, and without them Tune does nothing and says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher

from gkd_bench.cluster.engine import Engine
from gkd_bench.cluster.search import Study, Trial
from gkd_bench.cluster.session import TRIAL_CPUS
from gkd_bench.cluster.tune_search import Job, TrialStages, requester_name
from gkd_bench.cluster.tune_trial import StageTrial


def make_tuner(searcher: StudySearcher, broker: str, folder: str) -> tune.Tuner:
    """The Tune run of a study.

    Args:
        searcher: proposes the trials.
        broker: actor name of the broker that the trials listen to.
        folder: address for Tune's own files.
    """
    study, job = searcher.study, searcher.job
    node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    beside_driver = {"CPU": TRIAL_CPUS, f"node:{node}": 0.001}  # not on a node that may be reclaimed
    place = tune.PlacementGroupFactory([beside_driver])
    return tune.Tuner(
        tune.with_resources(StageTrial, place),
        param_space={"broker": broker},
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(study, job),
            num_samples=study.remaining,
            max_concurrent_trials=study.settings.concurrency,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune-" + "".join(letter if letter.isalnum() else "-" for letter in study.name),
            storage_path=folder,
            failure_config=tune.FailureConfig(max_failures=2),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


def make_scheduler(study: Study, job: Job) -> ASHAScheduler | FIFOScheduler:
    """ASHA over epochs, its rungs filled with the trials of earlier runs; or no early stopping.

    ASHA compares ``job.metric`` of the watched stage's epochs, not the study's objectives: with several of them a trial
    that its validation Dice disqualifies is stopped, however good it might have been in the others.
    """
    settings = study.settings
    if settings.scheduler == "none" or settings.grace_epochs >= job.epochs:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric="metric",
        mode="max",
        max_t=job.epochs,
        grace_period=settings.grace_epochs,
        reduction_factor=settings.reduction,
        stop_last_trials=False,
    )
    for trial in study.finished():
        past: Any = SimpleNamespace(trial_id=f"past-{trial.number}")
        nobody: Any = None
        scheduler.on_trial_add(nobody, past)
        for epoch, value in sorted(trial.epochs.items()):
            scheduler.on_trial_result(nobody, past, {"epoch": epoch, "metric": value})
    return scheduler


@dataclass(frozen=True)
class _Open:
    """A trial that Tune runs now, and what was submitted for it."""

    trial: Trial
    requester: str
    keys: tuple[str, ...]


class StudySearcher(Searcher):
    """Proposes the study's trials to Tune, and tells the study what became of them."""

    def __init__(self, study: Study, job: Job, engine: Engine) -> None:
        """Nothing is proposed yet."""
        super().__init__()
        self.study, self.job, self._engine = study, job, engine
        self._open: dict[str, _Open] = {}
        self._interrupted = False

    def suggest(self, trial_id: str) -> Any:
        """The next trial that has to run; those whose result is in the store are told right here."""
        while not self._interrupted and (trial := self.study.ask()) is not None:
            stages = self.job.make_nodes(trial.params)
            if self.job.has(stages.last):
                self.study.tell(trial.number, "complete", self.job.final_values(stages.last))
                continue
            requester = requester_name(self.study, trial)
            self._engine.submit(stages.nodes, self.job.priority, requester)
            self._open[trial_id] = _Open(trial, requester, tuple(node.key for node in stages.nodes))
            return {
                "watched": stages.watched,
                "last": stages.last,
                "metric": self.job.metric,
                "seen": self._seen(trial, stages),
            }
        return Searcher.FINISHED

    def _seen(self, trial: Trial, stages: TrialStages) -> dict[str, float]:
        """Epochs of an interrupted run; none when its training is over, which ASHA must not stop any more."""
        if self.job.has(stages.watched):
            return {}
        return {str(epoch): value for epoch, value in trial.epochs.items() if epoch < self.job.epochs}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """An epoch of a trial."""
        work = self._open.get(trial_id)
        if work is not None and "metric" in result:
            self.study.report(work.trial.number, result["epoch"], result["metric"])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """End a trial. When its last stage has not ended, the scheduler stopped it: its stages are taken back."""
        work = self._open.get(trial_id)
        if work is None:
            return
        result = result or {}
        self.on_trial_result(trial_id, result)
        del self._open[trial_id]
        self._engine.cancel(work.keys, work.requester)
        self._tell(work, "died" if error else result.get("state", "cut"), result.get("cause", ""))

    def _tell(self, work: _Open, state: str, cause: str) -> None:
        number, last = work.trial.number, work.keys[-1]
        if state in ("done", "cached") or (state == "cut" and self.job.has(last)):  # stopped too late to save anything
            self.study.tell(number, "complete", self.job.final_values(last))
        elif state == "cut":
            self.study.tell(number, "pruned")
        elif state in ("failed", "died"):
            self.study.tell(number, "failed", cause=cause or "the trial's process died; see Ray's session folder")
        else:  # "stopped", "fatal": the sweep is ending; the trial stays open in the journal
            self._interrupted = True

    def withdraw(self) -> None:
        """Take back the stages of trials that were cut off; they stay open in the journal."""
        for work in self._open.values():
            self._engine.cancel(work.keys, work.requester)
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its settings for ``Tuner.restore``, which is never used."""
        return {"restored": False}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the study's memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the study's memory."""

"""Runs a study: on Ray Tune with ASHA, or in this process. The stages themselves run wherever the engine runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gkd_bench.cluster.engine import Engine, HasKey
from gkd_bench.cluster.search import Study, Trial, Values
from gkd_bench.errors import ClusterError, OutOfMemory, StageError
from gkd_bench.stages.monitor import Progress
from gkd_bench.store.node import StageNode

if TYPE_CHECKING:
    from gkd_bench.cluster.ray_engine import RayEngine

METRIC = "val/dice"


@dataclass(frozen=True)
class TrialStages:
    """The stages of one trial. Raises ClusterError when the watched stage is not one of them.

    Attributes:
        nodes: with everything they build on, in any order but for the last one, which gives the trial's values.
        watched: key of the stage whose epochs are reported; the last one's, or that of a training it scores.
    """

    nodes: tuple[StageNode, ...]
    watched: str

    def __post_init__(self) -> None:
        if self.watched not in (node.key for node in self.nodes):
            raise ClusterError(f"the watched stage (key {self.watched}) is not among the trial's stages; add its node")

    @property
    def last(self) -> str:
        """Key of the stage that gives the trial's values."""
        return self.nodes[-1].key


MakeStages = Callable[[Trial], TrialStages]
FinalValues = Callable[[str], Values]
History = Callable[[str], Mapping[int, float]]


@dataclass(frozen=True)
class Job:
    """What the trials of a study do.

    Attributes:
        make_nodes: trial -> its stages, by its parameters and halvings.
        final_values: key of a trial's last stage, which the store has -> objective -> value. The values of every
            complete trial come from here, so that a cached trial and a trained one count the same.
        history: key of a watched stage that the store has -> epoch -> metric.
        has: whether the store has a key.
        metric: name in the watched stage's ``Progress.metrics``; what ASHA compares, larger is better, whatever the
            study's objectives are: they are only known when a trial has ended.
        priority: of the trials' stages in the queue.
    """

    make_nodes: MakeStages
    final_values: FinalValues
    history: History
    has: HasKey
    metric: str = METRIC
    priority: int = 0


def requester_name(study: Study, trial: Trial) -> str:
    """Under which name a trial asks for its stages."""
    return f"{study.name}/trial {trial.number}"


def tell_stored(study: Study, trial: Trial, stages: TrialStages, job: Job) -> bool:
    """End a trial by what the store has of it; false when that does not suffice.

    A training that ran on for a moment after it was stopped, or that another sweep needed whole, counts as stopped all the
    same in fixed order. In order of arrival nobody can tell, and nothing that is there is thrown away.
    """
    if not job.has(stages.watched):
        return False
    epochs = job.history(stages.watched)
    stopped = study.stopped_at(trial.number, epochs) if study.settings.order == "fixed" else None
    if stopped is not None:
        study.tell(trial.number, "pruned", epochs={epoch: v for epoch, v in epochs.items() if epoch <= stopped})
    elif job.has(stages.last):
        study.tell(trial.number, "complete", job.final_values(stages.last), epochs=epochs)
    else:
        return False
    return True


def run_study_inprocess(study: Study, job: Job, engine: Engine) -> None:
    """Run a study's trials one after another on any engine, stopping them as on Ray."""
    while (trial := study.ask()) is not None:
        stages = job.make_nodes(trial)
        if not tell_stored(study, trial, stages, job):
            _run_trial(study, trial, stages, job, engine)


def tell_done(study: Study, trial: Trial, stages: TrialStages, job: Job) -> None:
    """End a trial whose stages have ended. Raises ClusterError when the store does not have what they made."""
    if not tell_stored(study, trial, stages, job):
        raise ClusterError(
            f"{requester_name(study, trial)} has ended, and its result is not in the store: it was removed meanwhile, or is "
            "not visible here yet; run the same command again to go on"
        )


def _run_trial(study: Study, trial: Trial, stages: TrialStages, job: Job, engine: Engine) -> None:
    requester, stopped = requester_name(study, trial), False

    def on_progress(key: str, progress: Progress) -> None:
        nonlocal stopped
        if key == stages.watched and job.metric in progress.metrics and not stopped:
            study.report(trial.number, progress.epoch, progress.metrics[job.metric])
            if study.stops(trial.number, progress.epoch):
                stopped = True
                engine.cancel([node.key for node in stages.nodes], requester)

    engine.submit(stages.nodes, job.priority, requester)
    results = engine.wait([stages.watched, stages.last], on_progress)
    if stopped:
        study.tell(trial.number, "pruned")
        return
    for key in (stages.watched, stages.last):  # the first that failed is the cause
        if isinstance(failure := results[key], StageError):
            memory = isinstance(failure, OutOfMemory)
            if not (memory and study.halve(trial.number)):
                study.tell(trial.number, "failed", cause=str(failure))
            return
    tell_done(study, trial, stages, job)


def run_study_on_ray(study: Study, job: Job, engine: RayEngine) -> None:
    """Run a study's trials on Ray Tune, ``study.settings.concurrency`` at once.

    Raises:
        GkdBenchError: the engine lost its workers, or the store failed. What was open stays open in the journal and goes on
            next time.
    """
    from gkd_bench.cluster.tune_driver import StudySearcher, make_tuner

    if study.remaining == 0:
        return
    searcher = StudySearcher(study, job, engine)
    try:
        make_tuner(searcher, engine.broker_name, engine.folder).fit()
    finally:
        searcher.withdraw()
    if searcher.error is not None:
        raise searcher.error
    engine.check()
    if study.remaining:
        raise ClusterError(f"search {study.name} was cut off; run the same command again to go on")

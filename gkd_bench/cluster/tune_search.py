"""Runs a study: on Ray Tune with ASHA, or in this process. The stages themselves run wherever the engine runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gkd_bench.cluster.engine import Engine, HasKey
from gkd_bench.cluster.search import Study, Trial, Value, Values
from gkd_bench.errors import ClusterError, StageError
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


MakeStages = Callable[[Mapping[str, Value]], TrialStages]
FinalValues = Callable[[str], Values]


@dataclass(frozen=True)
class Job:
    """What the trials of a study do.

    Attributes:
        make_nodes: parameters -> the trial's stages.
        final_values: key of a trial's last stage, which the store has -> objective -> value. The values of every
            complete trial come from here, so that a cached trial and a trained one count the same.
        has: whether the store has a key.
        epochs: epochs of the watched stage.
        metric: name in the watched stage's ``Progress.metrics``; what ASHA compares, larger is better, whatever the
            study's objectives are: they are only known when a trial has ended.
        priority: of the trials' stages in the queue.
    """

    make_nodes: MakeStages
    final_values: FinalValues
    has: HasKey
    epochs: int
    metric: str = METRIC
    priority: int = 0


def requester_name(study: Study, trial: Trial) -> str:
    """Under which name a trial asks for its stages."""
    return f"{study.name}/trial {trial.number}"


def run_study_inprocess(study: Study, job: Job, engine: Engine) -> None:
    """Run a study's trials one after another on any engine, without early stopping."""
    while (trial := study.ask()) is not None:
        _run_trial(study, trial, job, engine)


def _run_trial(study: Study, trial: Trial, job: Job, engine: Engine) -> None:
    stages = job.make_nodes(trial.params)

    def on_progress(key: str, progress: Progress) -> None:
        if key == stages.watched and job.metric in progress.metrics:
            study.report(trial.number, progress.epoch, progress.metrics[job.metric])

    if not job.has(stages.last):
        engine.submit(stages.nodes, job.priority, requester_name(study, trial))
        results = engine.wait([stages.watched, stages.last], on_progress)
        for key in (stages.watched, stages.last):  # the first that failed is the cause
            if isinstance(failure := results[key], StageError):
                study.tell(trial.number, "failed", cause=str(failure))
                return
    study.tell(trial.number, "complete", job.final_values(stages.last))


def run_study_on_ray(study: Study, job: Job, engine: RayEngine) -> None:
    """Run a study's trials on Ray Tune, ``study.settings.concurrency`` at once.

    Raises:
        ClusterError: the engine lost its workers. What was open stays open in the journal and goes on next time.
    """
    from gkd_bench.cluster.tune_driver import StudySearcher, make_tuner

    if study.remaining == 0:
        return
    searcher = StudySearcher(study, job, engine)
    try:
        make_tuner(searcher, engine.broker_name, engine.folder).fit()
    finally:
        searcher.withdraw()
    engine.check()

"""Runs a study: on Ray Tune with ASHA, or in this process. The stages themselves run wherever the engine runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gkd_bench.cluster.engine import Engine, HasKey
from gkd_bench.cluster.search import FinishedTrial, Study, Trial, Value
from gkd_bench.errors import StageError
from gkd_bench.stages.monitor import Progress
from gkd_bench.store.node import StageNode

if TYPE_CHECKING:
    from gkd_bench.cluster.ray_engine import RayEngine

MakeNodes = Callable[[Mapping[str, Value]], Sequence[StageNode]]
FinalValue = Callable[[str], float]

OBJECTIVE = "val/dice"


@dataclass(frozen=True)
class Job:
    """What the trials of a study do.

    Attributes:
        make_nodes: parameters -> the trial's stages with everything they build on; the last one is the one scored.
        final_value: key of a scored stage in the store -> its objective, larger is better. The value of every complete
            trial comes from here, so that a cached trial and a trained one count the same.
        has: whether the store has a key.
        epochs: epochs of the scored stage.
        objective: name in the scored stage's ``Progress.metrics``; what ASHA sees.
        priority: of the trials' stages in the queue.
    """

    make_nodes: MakeNodes
    final_value: FinalValue
    has: HasKey
    epochs: int
    objective: str = OBJECTIVE
    priority: int = 0


def requester_name(study: Study, trial: Trial) -> str:
    """Under which name a trial asks for its stages."""
    return f"{study.name}/trial {trial.number}"


def run_study_inprocess(study: Study, job: Job, engine: Engine) -> FinishedTrial | None:
    """Run a study's trials one after another on any engine, without early stopping; the best trial, or none."""
    while (trial := study.ask()) is not None:
        _run_trial(study, trial, job, engine)
    return study.best()


def _run_trial(study: Study, trial: Trial, job: Job, engine: Engine) -> None:
    def on_progress(key: str, progress: Progress) -> None:
        if job.objective in progress.metrics:
            study.report(trial.number, progress.epoch, progress.metrics[job.objective])

    nodes = list(job.make_nodes(trial.params))
    last = nodes[-1].key
    if not job.has(last):
        engine.submit(nodes, job.priority, requester_name(study, trial))
        result = engine.wait([last], on_progress)[last]
        if isinstance(result, StageError):
            study.tell(trial.number, "failed", cause=str(result))
            return
    study.tell(trial.number, "complete", job.final_value(last))


def run_study_on_ray(study: Study, job: Job, engine: RayEngine) -> FinishedTrial | None:
    """Run a study's trials on Ray Tune, ``study.settings.concurrency`` at once; the best trial, or none.

    Raises:
        ClusterError: the engine lost its workers. What was open stays open in the journal and goes on next time.
    """
    from gkd_bench.cluster.tune_driver import StudySearcher, make_tuner

    if study.remaining == 0:
        return study.best()
    searcher = StudySearcher(study, job, engine)
    try:
        make_tuner(searcher, engine.broker_name, engine.folder).fit()
    finally:
        searcher.withdraw()
    engine.check()
    return study.best()

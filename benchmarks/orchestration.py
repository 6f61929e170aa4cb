"""What orchestration costs: trials on worker groups that live as long as the sweep, beside one ``TorchTrainer`` per trial.

    python benchmarks/orchestration.py                     # 10 trials of 3 s, 3 of the other kind; about two minutes
    python benchmarks/orchestration.py --seconds 60        # one-minute trials, as in the target below

The stage only sleeps, so that all that is measured is orchestration: Ray, Tune, Optuna, the queue, the journal. Target: at most
5 % over the sum of training for one-minute trials, and at most 2 s per trial; ends with code 1 when it is missed. The one start
of the groups is given apart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gkd_bench.cluster.search import Study, Trial
from gkd_bench.cluster.session import RaySession
from gkd_bench.cluster.tune_search import Job, TrialStages, run_study_on_ray
from gkd_bench.config.schema import Compute, Pool, Range, Search
from gkd_bench.stages.monitor import Monitor, Outcome, Progress, Workplace
from gkd_bench.store.node import StageNode
from gkd_bench.store.records import RecordLog

EPOCHS = 5
COMPUTE = Compute(pools=(Pool(),))
MOST_SECONDS, MOST_SHARE = 2.0, 0.05


def execute(node: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
    """A stage of ``settings["seconds"]`` that reports every fifth of them; its artefact is an empty file."""
    for epoch in range(1, EPOCHS + 1):
        time.sleep(node.settings["seconds"] / EPOCHS)
        monitor.report(Progress(epoch, EPOCHS, {"val/dice": epoch / EPOCHS}))
    (workplace.store / node.key).touch()
    return Outcome("done")


@dataclass(frozen=True)
class Cost:
    """Wall time of some trials of equal length."""

    name: str
    trials: int
    training: float
    wall: float

    @property
    def per_trial(self) -> float:
        """Seconds of orchestration per trial."""
        return (self.wall - self.training) / self.trials

    @property
    def minute_share(self) -> float:
        """What a one-minute trial would pay, as a share of its training."""
        return self.per_trial / 60

    def row(self) -> str:
        """A Markdown row; the last column is what a one-minute trial would pay."""
        share = 100 * (self.wall / self.training - 1)
        cells = (self.name, self.trials, f"{self.training:.1f}", f"{self.wall:.1f}", f"{self.per_trial:.2f}")
        return "| " + " | ".join(map(str, (*cells, f"{share:.1f} %", f"{100 * self.minute_share:.1f} %"))) + " |"


@contextmanager
def persistent_groups(session: RaySession, store: Path) -> Iterator[Any]:
    """An engine whose one group is up; prints what that took."""
    from gkd_bench.cluster.ray_engine import Places, RayEngine

    begun = time.monotonic()
    places = Places(store, store, runner="orchestration:execute")
    with RayEngine(session, COMPUTE, places, lambda key: (store / key).exists()) as engine:
        first = StageNode("teacher", {"seconds": 0.0}, 0, {})
        engine.submit([first])
        engine.wait([first.key])
        print(f"start of the group, once a sweep: {time.monotonic() - begun:.1f} s")
        yield engine


def measure_persistent(engine: Any, store: Path, trials: int, seconds: float) -> Cost:
    """A study of random search without early stopping, two trials at once, on one group of one worker."""

    def make_nodes(trial: Trial) -> TrialStages:
        stage = StageNode("distill", {"seconds": seconds, **trial.params}, 0, {})
        return TrialStages((stage,), stage.key)

    search = Search(sampler="random", scheduler="none", trials=trials, concurrency=2)
    study = Study(f"bench-{trials}", {"w": Range(low=0.0, high=1.0)}, search, 0, RecordLog(store / f"{trials}.jsonl"))
    begun = time.monotonic()
    job = Job(make_nodes, lambda key: {"source_val": 0.0}, lambda key: {}, lambda key: (store / key).exists())
    run_study_on_ray(study, job, engine)
    return Cost("persistent group", trials, trials * seconds, time.monotonic() - begun)


def sleep_loop(config: Mapping[str, Any]) -> None:
    """Train loop of the other kind."""
    from ray import train

    for epoch in range(EPOCHS):
        time.sleep(config["seconds"] / EPOCHS)
        train.report({"epoch": epoch})


def measure_trainers(folder: Path, trials: int, seconds: float) -> Cost:
    """One ``TorchTrainer`` per trial, one after another, without Tune around it (which would add to it)."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    begun = time.monotonic()
    for number in range(trials):
        TorchTrainer(
            sleep_loop,
            train_loop_config={"seconds": seconds},
            scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1.0}),
            run_config=RunConfig(name=f"trial-{number}", storage_path=str(folder)),
        ).fit()
    return Cost("TorchTrainer per trial", trials, trials * seconds, time.monotonic() - begun)


def missed_goals(cost: Cost) -> list[str]:
    """The goals that the persistent group misses, in words."""
    missed = []
    if cost.per_trial > MOST_SECONDS:
        missed.append(f"{cost.per_trial:.2f} s per trial, not at most {MOST_SECONDS:g} s")
    if cost.minute_share > MOST_SHARE:
        missed.append(f"{100 * cost.minute_share:.1f} % of a one-minute trial, not at most {100 * MOST_SHARE:g} %")
    return missed


def main() -> int:
    """Measure both and print a Markdown table; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0, help="training per trial")
    parser.add_argument("--trainers", type=int, default=3, help="trials with a TorchTrainer each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, RaySession(COMPUTE) as session:
        with persistent_groups(session, Path(name)) as engine:
            costs = [measure_persistent(engine, Path(name), options.trials, options.seconds)]
        if options.trainers:
            costs.append(measure_trainers(session.folder, options.trainers, options.seconds))
    print("| | trials | training s | wall s | overhead s/trial | overhead | of a one-minute trial |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for cost in costs:
        print(cost.row())
    missed = missed_goals(costs[0])
    print("\n" + ("\n".join(["missed:", *missed]) if missed else "all goals reached"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

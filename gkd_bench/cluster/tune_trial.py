"""A Tune trial: a thin client that listens to one stage and hands its epochs to Tune. Imports no torch, to start fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray
from ray.tune import Trainable

from gkd_bench.cluster.broker import News, find_broker
from gkd_bench.cluster.messages import StageFailure

LISTEN_SECONDS = 30.0

Result = dict[str, Any]


class StageTrial(Trainable):
    """One Tune step is one epoch of the stage ``config["key"]``; actors are reused without any work.

    A class and not a function: between two steps nothing runs in the trial, so that stopping one needs no thread to end.
    """

    def setup(self, config: Mapping[str, Any]) -> None:
        """Start listening; ``config``: ``broker``, ``key``, ``objective``, ``seen`` (epochs of an interrupted run)."""
        broker, key = find_broker(config["broker"]), config["key"]

        def poll(since: int) -> News:
            news: News = ray.get(broker.poll.remote({key: since}, LISTEN_SECONDS))
            return news

        seen = {int(epoch): value for epoch, value in config["seen"].items()}
        self._results = stage_results(poll, key, config["objective"], seen)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Listen to another stage."""
        self.setup(new_config)
        return True

    def step(self) -> Result:
        """The next epoch, or the end."""
        return next(self._results)


def stage_results(poll: Callable[[int], News], key: str, objective: str, seen: Mapping[int, float]) -> Iterator[Result]:
    """Tune results of one stage: its epochs in order, each once even if a restarted worker repeats it, then its end.

    The last epoch is only reported together with the end (``done``, ``state``, ``cause``): a scheduler that stopped a stage
    between its last epoch and the publication of its artefact would waste the whole training.

    Args:
        poll: index of the first event wanted -> news of the stage; may block.
        key: of the stage.
        objective: metric to report; epochs without it are left out.
        seen: epochs of an interrupted run of the same trial, reported first.
    """
    result: Result = {"epoch": 0}
    for epoch in sorted(seen):
        result = {"epoch": epoch, "objective": seen[epoch]}
        yield result
    since = 0
    while True:
        news = poll(since)
        stage = news.stages[key]
        for progress in [event.progress for event in stage.events if event.progress is not None]:
            if objective in progress.metrics and progress.epoch > result["epoch"]:
                result = {"epoch": progress.epoch, "objective": progress.metrics[objective]}
                if progress.epoch < progress.epochs:
                    yield result
        if stage.settled is not None or news.fatal:
            yield {**result, **_end(news, key), "done": True}
            return
        since = stage.upto


def _end(news: News, key: str) -> Result:
    settled = news.stages[key].settled
    if settled is None:
        return {"state": "fatal", "cause": news.fatal}
    if isinstance(settled, StageFailure):
        return {"state": "failed", "cause": str(settled.error())}
    return {"state": settled.state, "cause": ""}

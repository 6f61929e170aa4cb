"""A Tune trial: a thin client that listens to two stages and hands the epochs of the first to Tune, and the end of the second.

Imports no torch, to start fast.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import ray
from ray.tune import Trainable

from gkd_bench.cluster.broker import News, find_broker
from gkd_bench.cluster.messages import StageFailure

LISTEN_SECONDS = 30.0

Result = dict[str, Any]
Poll = Callable[[str, int], News]  # (key of a stage, index of the first event wanted) -> news of it; may block


class StageTrial(Trainable):
    """One Tune step is one epoch of the stage ``config["watched"]``; actors are reused without any work.

    A class and not a function: between two steps nothing runs in the trial, so that stopping one needs no thread to end.
    """

    def setup(self, config: Mapping[str, Any]) -> None:
        """Start listening.

        ``config``: ``broker``, ``watched`` and ``last`` (keys), ``metric``, ``seen`` (epochs of an interrupted run).
        """
        broker = find_broker(config["broker"])

        def poll(key: str, since: int) -> News:
            news: News = ray.get(broker.poll.remote({key: since}, LISTEN_SECONDS))
            return news

        seen = {int(epoch): value for epoch, value in config["seen"].items()}
        self._results = trial_results(poll, config["watched"], config["last"], config["metric"], seen)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Listen to another trial's stages."""
        self.setup(new_config)
        return True

    def step(self) -> Result:
        """The next epoch, or the end."""
        return next(self._results)


def trial_results(poll: Poll, watched: str, last: str, metric: str, seen: Mapping[int, float]) -> Iterator[Result]:
    """Tune results of a trial: the watched stage's epochs in order, each once even if a restarted worker repeats it, then
    the end of the last stage.

    The last epoch is only reported together with the end (``done``, ``state``, ``cause``): a scheduler that stopped a trial
    whose training is over, before its artefact is published or before it is scored, would waste the whole training.

    Args:
        poll: where the news come from.
        watched: key of the stage whose epochs count.
        last: key of the stage that ends the trial; it may be the same.
        metric: what to report of an epoch; epochs without it are left out.
        seen: epochs of an interrupted run of the same trial, reported first.
    """
    result: Result = {"epoch": 0}
    for epoch in sorted(seen):
        result = {"epoch": epoch, "metric": seen[epoch]}
        yield result
    result, news = yield from _epochs(poll, watched, metric, result)
    ending = watched
    if last != watched and _is_stored(news, watched):
        ending, news = last, _wait(poll, last)
    yield {**result, **_end(news, ending), "done": True}


def _epochs(poll: Poll, key: str, metric: str, result: Result) -> Generator[Result, None, tuple[Result, News]]:
    """Yield the epochs after ``result`` but for the stage's last one; returns the newest, and the news of the end."""
    since = 0
    while True:
        news = poll(key, since)
        stage = news.stages[key]
        for progress in [event.progress for event in stage.events if event.progress is not None]:
            if metric in progress.metrics and progress.epoch > result["epoch"]:
                result = {"epoch": progress.epoch, "metric": progress.metrics[metric]}
                if progress.epoch < progress.epochs:
                    yield result
        if _is_over(news, key):
            return result, news
        since = stage.upto


def _wait(poll: Poll, key: str) -> News:
    """News of the end of a stage, whatever it reports on the way."""
    news = poll(key, 0)
    while not _is_over(news, key):
        news = poll(key, news.stages[key].upto)
    return news


def _is_over(news: News, key: str) -> bool:
    return news.stages[key].settled is not None or bool(news.fatal)


def _is_stored(news: News, key: str) -> bool:
    """Whether the stage has its artefact, so that what builds on it can run."""
    settled = news.stages[key].settled
    return settled is not None and not isinstance(settled, StageFailure) and settled.state != "stopped"


def _end(news: News, key: str) -> Result:
    settled = news.stages[key].settled
    if settled is None:
        return {"state": "fatal", "cause": news.fatal}
    if isinstance(settled, StageFailure):
        return {"state": "failed", "cause": str(settled.error()), "memory": settled.memory}
    return {"state": settled.state, "cause": ""}

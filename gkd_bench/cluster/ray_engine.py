"""Engine on Ray: worker groups that live as long as the sweep, one Ray Train run each, fed by the broker."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gkd_bench.cluster.broker import News, start_broker
from gkd_bench.cluster.engine import (
    DRIVER,
    STAGE_RUNNER,
    HasKey,
    OnProgress,
    public_result,
    stored_keys,
)
from gkd_bench.cluster.failures import one_line
from gkd_bench.cluster.messages import Snapshot
from gkd_bench.cluster.session import RaySession, missing_resources, needed_resources
from gkd_bench.cluster.worker import WorkerPlan, serve
from gkd_bench.config.schema import Compute, Pool
from gkd_bench.errors import ClusterError, StageError
from gkd_bench.stages.monitor import StageState
from gkd_bench.store.node import StageNode

POLL_SECONDS = 5.0
CLOSE_SECONDS = 30.0


@dataclass(frozen=True)
class Places:
    """Where every worker finds the store and the prepared domains, and the stage runner's import path. See ``Workplace``."""

    store: str | Path
    cache: str | Path | None
    runner: str = STAGE_RUNNER


class RayEngine:
    """Starts all groups of ``compute.pools`` at once, in the background: work may be submitted from the first moment."""

    def __init__(self, session: RaySession, compute: Compute, places: Places, has: HasKey) -> None:
        """Start the broker and the groups.

        Args:
            session: an open session.
            compute: pools, retries, and how long each pool may take until a group of it is up.
            places: folders and runner.
            has: whether the store has a key.
        """
        import ray
        import ray.train.torch
        import ray.tune  # both here: the group threads and a search would import them at once, and trip over each other

        self._ray: Any = ray
        self._has, self._compute = has, compute
        self.broker_name = f"broker-{uuid.uuid4().hex[:8]}"
        self.folder = session.folder
        self._broker = start_broker(self.broker_name, compute.max_failures)
        self._closed = threading.Event()
        self._last = Snapshot()
        self._groups = dict(_groups(compute))
        self._threads = {name: self._start_group(name, pool, places) for name, pool in self._groups.items()}
        threading.Thread(target=self._watch_start, args=(compute.start_minutes,), name="gkd-start", daemon=True).start()

    # ------------------------------------------------------------ groups

    def _start_group(self, name: str, pool: Pool, places: Places) -> threading.Thread:
        plan = WorkerPlan(
            broker=self.broker_name,
            group=name,
            kinds=None if pool.stages == "all" else pool.stages,
            runner=places.runner,
            store=str(places.store),
            cache=str(places.cache) if places.cache else None,
            threads=pool.cpus,
            gpus=pool.gpus,
        )
        thread = threading.Thread(target=self._keep_group, args=(plan, pool), name=f"gkd-{name}", daemon=True)
        thread.start()
        return thread

    def _keep_group(self, plan: WorkerPlan, pool: Pool) -> None:
        """Run one group until the engine closes; a group that ends before is the end of all."""
        cause = "it ended by itself; see the workers' logs in Ray's session folder"
        try:
            self._trainer(plan, pool).fit()
        except (Exception, SystemExit) as error:  # Ray exits threads that wait for a session that has ended
            cause = one_line(error)
        if not self._closed.is_set():
            self._give_up(f"worker group {plan.group} is lost: {cause}")

    def _trainer(self, plan: WorkerPlan, pool: Pool) -> Any:
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from gkd_bench.cluster.train_control import Introduction

        resources = {"CPU": float(pool.cpus), **({"GPU": pool.gpus} if pool.gpus else {})}
        run: dict[str, Any] = {
            "name": f"{self.broker_name}-{plan.group}",
            "storage_path": self.folder,
            "failure_config": FailureConfig(max_failures=-1),
            "logging_config": LoggingConfig(log_level="ERROR"),
            "callbacks": [Introduction(plan.broker, plan.group)],
        }
        return TorchTrainer(
            serve,
            train_loop_config=asdict(plan),
            scaling_config=ScalingConfig(
                num_workers=pool.workers, use_gpu=pool.gpus > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(**run),
        )

    def _watch_start(self, minutes: float) -> None:
        """Give up when some pool has no group after so long: Ray itself would try for ever."""
        if self._closed.wait(60 * minutes):
            return
        started = {group.name for group in self.snapshot().groups if group.starts}
        late = [kinds for kinds, names in self._by_pool().items() if not started & names]
        if late:
            lacking = missing_resources(needed_resources(self._compute), self._ray.cluster_resources())
            detail = "; ".join(lacking) or "the resources are there: see the workers' logs in Ray's session folder"
            self._give_up(
                f"no worker group for {', '.join(late)} came up within compute.start_minutes: {minutes:g} ({detail})"
            )

    def _by_pool(self) -> dict[str, set[str]]:
        names: dict[str, set[str]] = {}
        for name, pool in self._groups.items():
            names.setdefault(_pool_label(pool), set()).add(name)
        return names

    def _give_up(self, cause: str) -> None:
        with suppress(self._ray.exceptions.RayError):  # the session is being shut down
            self._ray.get(self._broker.give_up.remote(cause))

    # ------------------------------------------------------------ Engine

    def submit(self, nodes: Sequence[StageNode], priority: int = 0, requester: str = DRIVER) -> None:
        """Ask for stages; see ``Engine.submit``."""
        self._call("submit", list(nodes), requester, priority, stored_keys(nodes, self._has))

    def wait(self, keys: Collection[str], on_progress: OnProgress | None = None) -> dict[str, StageState | StageError]:
        """Block until these stages have ended; see ``Engine.wait``."""
        since = dict.fromkeys(keys, 0)
        results: dict[str, StageState | StageError] = {}
        while since:
            news: News = self._call("poll", since, POLL_SECONDS)
            for key, poll in news.stages.items():
                since[key] = poll.upto
                for event in poll.events:
                    if event.progress is not None and on_progress is not None:
                        on_progress(key, event.progress)
                if poll.settled is not None:
                    results[key] = public_result(poll.settled)
                    del since[key]
            if news.fatal and since:
                raise ClusterError(news.fatal)
        return {key: results[key] for key in keys}

    def cancel(self, keys: Collection[str], requester: str = DRIVER) -> None:
        """Take stages back; see ``Engine.cancel``."""
        self._call("cancel", list(keys), requester)

    def snapshot(self) -> Snapshot:
        """What is going on, or what was when the engine was closed or the broker died."""
        if not self._closed.is_set():
            with suppress(self._ray.exceptions.RayError):
                self._last = self._ray.get(self._broker.snapshot.remote(), timeout=POLL_SECONDS)
        return self._last

    def check(self) -> None:
        """Raise ClusterError when no stage can run any more."""
        news: News = self._call("poll", {}, 0.0)
        if news.fatal:
            raise ClusterError(news.fatal)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return self._ray.get(getattr(self._broker, method).remote(*arguments))
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ClusterError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayActorError as error:
            raise ClusterError(f"the broker died ({one_line(error)}); run the same command again to go on") from error

    def close(self) -> None:
        """End the groups. A stage that does not stop within ``CLOSE_SECONDS`` is cut off."""
        if self._closed.is_set():
            return
        started = {group.name for group in self.snapshot().groups if group.starts}
        self._closed.set()
        with suppress(self._ray.exceptions.RayError):  # without a broker there are no groups either
            self._ray.get(self._broker.close.remote(), timeout=CLOSE_SECONDS)
            deadline = time.monotonic() + CLOSE_SECONDS
            for name in started:
                self._threads[name].join(max(0.0, deadline - time.monotonic()))
            self._cut_off(time.monotonic() + CLOSE_SECONDS)
            self._last = self._ray.get(self._broker.snapshot.remote(), timeout=POLL_SECONDS)

    def _cut_off(self, deadline: float) -> None:
        """Kill the Ray Train runs that are left, so that no thread waits for one when the session ends."""
        while (
            left := [name for name, thread in self._threads.items() if thread.is_alive()]
        ) and time.monotonic() < deadline:
            controllers = self._ray.get(self._broker.controllers.remote(), timeout=POLL_SECONDS)
            for name in left:
                if name in controllers:
                    self._ray.kill(controllers[name])
            self._threads[left[0]].join(0.5)

    def __enter__(self) -> Self:
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """``close``."""
        self.close()


def _groups(compute: Compute) -> Iterator[tuple[str, Pool]]:
    for index, pool in enumerate(compute.pools):
        for number in range(pool.groups):
            yield f"pool{index}-group{number}", pool


def _pool_label(pool: Pool) -> str:
    return "all stages" if pool.stages == "all" else "/".join(pool.stages)

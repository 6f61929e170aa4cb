"""The stage queue as a Ray actor: one per session, on the head, without CPUs. Callers wait in it, never poll it.

``Broker`` itself knows no Ray, so that its waiting is tested without a cluster.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gkd_bench.cluster.messages import Snapshot, StageFailure, StagePoll
from gkd_bench.cluster.queue import StageQueue
from gkd_bench.stages.monitor import Outcome, Progress
from gkd_bench.store.node import StageNode

NAMESPACE = "gkd_bench"


@dataclass(frozen=True)
class Assignment:
    """What a group does next: run ``node``; with none, ask again; ``closed`` ends the group."""

    node: StageNode | None
    closed: bool = False


@dataclass(frozen=True)
class News:
    """Answer to ``Broker.poll``. ``fatal`` says why no stage can run any more; empty while all is well."""

    stages: Mapping[str, StagePoll]
    fatal: str = ""


class Broker:
    """Async shell around ``StageQueue``: the same calls, with waiting."""

    def __init__(self, max_failures: int = 2) -> None:
        """An empty queue; see ``StageQueue``."""
        self._queue = StageQueue(max_failures)
        self._pulse = asyncio.Event()
        self._closed = False
        self._fatal = ""
        self._controllers: dict[str, Any] = {}

    # ------------------------------------------------------------ for those who want stages

    async def submit(self, nodes: Sequence[StageNode], requester: str, priority: int, stored: Collection[str]) -> None:
        """See ``StageQueue.submit``."""
        self._queue.submit(nodes, requester, priority, stored)
        self._changed()

    async def cancel(self, keys: Sequence[str], requester: str) -> None:
        """See ``StageQueue.cancel``."""
        self._queue.cancel(keys, requester)
        self._changed()

    async def poll(self, since: Mapping[str, int], timeout: float) -> News:
        """News of stages, at once when there is any, else after ``timeout`` seconds at the latest.

        Args:
            since: key -> index of the first event wanted.
            timeout: seconds.
        """

        def news() -> News:
            return News({key: self._queue.poll(key, index) for key, index in since.items()}, self._fatal)

        def interesting() -> bool:
            return bool(self._fatal) or any(poll.events or poll.settled for poll in news().stages.values())

        await self._until(interesting, timeout)
        return news()

    async def snapshot(self) -> Snapshot:
        """See ``StageQueue.snapshot``."""
        return self._queue.snapshot()

    async def close(self) -> None:
        """End all groups: running stages are asked to stop, waiting groups are sent home."""
        self._closed = True
        self._queue.stop_running()
        self._changed()

    async def give_up(self, cause: str) -> None:
        """Tell everybody that no stage can run any more; the first cause stays."""
        self._fatal = self._fatal or cause
        self._changed()

    async def controllers(self) -> dict[str, Any]:
        """Group -> handle of its Ray Train controller."""
        return self._controllers

    # ------------------------------------------------------------ for worker groups

    async def introduce(self, group: str, controller: Any) -> None:
        """The Ray Train controller of a group has started."""
        self._controllers[group] = controller

    async def register(self, group: str) -> None:
        """A group has (re)started; see ``StageQueue.register_group``."""
        self._queue.register_group(group)
        self._changed()

    async def take(self, group: str, kinds: Collection[str] | None, timeout: float) -> Assignment:
        """The next stage for a group; waits up to ``timeout`` seconds for one."""
        found: list[StageNode] = []

        def ready() -> bool:
            node = None if self._closed else self._queue.take(group, kinds)
            found.extend([node] if node is not None else [])
            return bool(found) or self._closed

        await self._until(ready, timeout)
        self._changed()
        return Assignment(found[0] if found else None, self._closed)

    async def heartbeat(self, group: str, key: str, done: int, total: int) -> bool:
        """Steps done; true when the stage should stop."""
        return self._queue.heartbeat(group, key, done, total)

    async def report(self, group: str, key: str, progress: Progress) -> None:
        """A finished epoch."""
        self._queue.report(group, key, progress)
        self._changed()

    async def finish(self, group: str, key: str, result: Outcome | StageFailure) -> bool:
        """How a stage ended; see ``StageQueue.finish``."""
        known = self._queue.finish(group, key, result)
        self._changed()
        return known

    async def blame(self, group: str, key: str, cause: str) -> None:
        """See ``StageQueue.blame``."""
        self._queue.blame(group, key, cause)

    async def renew(self, group: str, key: str, lost: str) -> bool:
        """An input was damaged and is removed; see ``StageQueue.renew``."""
        known = self._queue.renew(group, key, lost)
        self._changed()
        return known

    # ------------------------------------------------------------ waiting

    def _changed(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()

    async def _until(self, condition: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            pulse, left = self._pulse, deadline - time.monotonic()
            if left <= 0:
                return
            try:
                await asyncio.wait_for(pulse.wait(), left)
            except TimeoutError:
                return


def start_broker(name: str, max_failures: int) -> Any:
    """Start the broker as a named actor on the driver's node; its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": name, "namespace": NAMESPACE, "num_cpus": 0, "max_concurrency": 10_000}
    return ray.remote(Broker).options(scheduling_strategy=here, **options).remote(max_failures)


def find_broker(name: str) -> Any:
    """Handle of the broker of that name. Raises ValueError when it is gone."""
    import ray

    return ray.get_actor(name, namespace=NAMESPACE)

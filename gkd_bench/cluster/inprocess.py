"""Engine without workers: stages run in the calling thread, inside ``wait``. For tests, debugging and small machines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

from gkd_bench.cluster.engine import DRIVER, Execute, HasKey, OnProgress, public_result, stored_keys
from gkd_bench.cluster.failures import keep_traceback, stage_failure
from gkd_bench.cluster.messages import Snapshot, StageFailure
from gkd_bench.cluster.queue import StageQueue
from gkd_bench.errors import ClusterError, LostArtefact, StageError, StoreUnavailable
from gkd_bench.stages.monitor import Outcome, Progress, StageState, Workplace
from gkd_bench.store.artefacts import open_store
from gkd_bench.store.node import StageNode

GROUP = "in-process"


class InProcessEngine:
    """Runs the stage code of the other engines, one stage at a time, lazily: only what ``wait`` needs."""

    def __init__(self, execute: Execute, workplace: Workplace, has: HasKey) -> None:
        """An engine with nothing to do.

        Args:
            execute: the stage runner.
            workplace: store, cache and device of this process; one worker.
            has: whether the store has a key.
        """
        self._execute, self._workplace, self._has = execute, workplace, has
        self._queue = StageQueue()
        self._queue.register_group(GROUP)

    def submit(self, nodes: Sequence[StageNode], priority: int = 0, requester: str = DRIVER) -> None:
        """Ask for stages; see ``Engine.submit``."""
        self._queue.submit(nodes, requester, priority, stored_keys(nodes, self._has))

    def wait(self, keys: Collection[str], on_progress: OnProgress | None = None) -> dict[str, StageState | StageError]:
        """Run what these stages need; see ``Engine.wait``."""
        needed = self._queue.ancestry(keys)
        while any(self._queue.poll(key).settled is None for key in keys):
            node = self._queue.take(GROUP, among=needed)
            if node is None:
                raise ClusterError("no stage can run although some have not ended; submit their inputs too")
            self._run(node, on_progress if node.key in keys else None)
        results = {key: self._queue.poll(key).settled for key in keys}
        return {key: public_result(result) for key, result in results.items() if result is not None}

    def _run(self, node: StageNode, on_progress: OnProgress | None) -> None:
        monitor = _QueueMonitor(self._queue, node.key, on_progress)
        try:
            result: Outcome | StageFailure = self._execute(node, self._workplace, monitor)
        except StoreUnavailable:  # not this stage's fault, and every other one would meet it too
            self._queue.release_group(GROUP)
            raise
        except Exception as error:
            store = open_store(self._workplace.store)
            if isinstance(error, LostArtefact) and error.key in node.inputs.values():
                store.discard_corrupt(error.key)
                if self._queue.renew(GROUP, node.key, error.key):
                    return
            result = stage_failure(node, error)
            keep_traceback(node.key, error, store)
        except BaseException:  # Ctrl-C: the stage goes back to the queue and continues from its checkpoint
            self._queue.release_group(GROUP)
            raise
        self._queue.finish(GROUP, node.key, result)

    def cancel(self, keys: Collection[str], requester: str = DRIVER) -> None:
        """Take stages back; see ``Engine.cancel``. May be called from ``on_progress``."""
        self._queue.cancel(keys, requester)

    def snapshot(self) -> Snapshot:
        """What is going on."""
        return self._queue.snapshot()

    def close(self) -> None:
        """Nothing to stop."""

    def __enter__(self) -> Self:
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """``close``."""
        self.close()


class _QueueMonitor:
    """Monitor of a stage that runs in the queue's own process."""

    def __init__(self, queue: StageQueue, key: str, on_progress: OnProgress | None) -> None:
        self._queue, self._key, self._on_progress = queue, key, on_progress

    def report(self, progress: Progress) -> None:
        self._queue.report(GROUP, self._key, progress)
        if self._on_progress is not None:
            self._on_progress(self._key, progress)

    def step(self, done: int, total: int) -> None:
        self._queue.heartbeat(GROUP, self._key, done, total)

    def should_stop(self) -> bool:
        return self._queue.heartbeat(GROUP, self._key)

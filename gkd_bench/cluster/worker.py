"""The train loop of a worker group that lives as long as the sweep: takes stages from the broker and runs them.

Rank 0 talks to the broker; every rank runs the stage. Each process pays its start (about 12 s) once, not once a stage.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from gkd_bench.cluster.broker import Assignment, find_broker
from gkd_bench.cluster.engine import Execute, load_runner
from gkd_bench.cluster.failures import is_lost_device, keep_traceback, one_line, stage_failure
from gkd_bench.errors import ClusterError, LostArtefact, StoreUnavailable
from gkd_bench.stages.monitor import Progress, Workplace
from gkd_bench.store.artefacts import open_store
from gkd_bench.store.node import StageNode

TAKE_SECONDS = 20.0  # well below gloo's and NCCL's time-outs: idle ranks wait in a broadcast for this long
BEAT_SECONDS = 0.5
REPORT_SECONDS = 1.0
DELIVERY_SECONDS = 30.0


@dataclass(frozen=True)
class WorkerPlan:
    """What a group's processes need to know; travels to them as JSON.

    Attributes:
        broker: actor name of the broker.
        group: name of the group, stable over restarts.
        kinds: stage kinds that the group serves; none = all.
        runner: import path of the stage runner.
        store: address of the store.
        cache: folder of prepared data on each machine; none = see ``cache_of``.
        threads: torch threads of each process.
        gpus: GPUs of each process.
    """

    broker: str
    group: str
    kinds: tuple[str, ...] | None
    runner: str
    store: str
    cache: str | None
    threads: int
    gpus: float


def serve(config: Mapping[str, Any]) -> None:
    """Ray Train's ``train_loop_per_worker``: serve stages until the broker closes (or is gone).

    Raises:
        Exception: what a stage raised, when Ray Train has to replace the group; see ``is_unusable_after_failure``.
    """
    import ray
    import torch

    plan = WorkerPlan(**config)
    torch.set_num_threads(plan.threads)
    ranks = Ranks()
    execute = _load_on_all(plan, ranks)
    if execute is None:
        return
    try:
        _serve(plan, ranks, execute)
    except (ray.exceptions.RayActorError, ValueError):
        if not _broker_is_gone(plan):
            raise


def _serve(plan: WorkerPlan, ranks: Ranks, execute: Execute) -> None:
    import ray

    broker, workplace = find_broker(plan.broker), _workplace(plan, ranks)
    if ranks.rank == 0:
        ray.get(broker.register.remote(plan.group))
    while True:
        mine = ray.get(broker.take.remote(plan.group, plan.kinds, TAKE_SECONDS)) if ranks.rank == 0 else None
        assignment: Assignment = ranks.broadcast(mine)
        if assignment.closed and assignment.node is None:
            return
        if assignment.node is not None:
            _run(assignment.node, broker, plan.group, workplace, execute)


def _run(node: StageNode, broker: Any, group: str, workplace: Workplace, execute: Execute) -> None:
    """Run one stage on this rank and tell the broker how it ended."""
    import ray

    monitor = BrokerMonitor(broker, group, node.key)
    try:
        with monitor if workplace.rank == 0 else nullcontext():
            result = execute(node, workplace, monitor)
    except StoreUnavailable as error:  # not this stage's fault, and every other one would meet it too
        ray.get(broker.give_up.remote(str(error)))
        raise
    except Exception as error:
        if is_lost_device(error):
            ray.get(broker.blame.remote(group, node.key, one_line(error)))
            raise  # the group is replaced, and its stage goes back to the queue
        _report_failure(node, error, broker, group, workplace)
        if is_unusable_after_failure(workplace):
            raise
    else:
        if workplace.rank == 0:
            ray.get(broker.finish.remote(group, node.key, result))


def _report_failure(node: StageNode, error: Exception, broker: Any, group: str, workplace: Workplace) -> None:
    """Tell the broker; a damaged input is removed, so that it is computed again, and the stage after it."""
    import ray

    store = open_store(workplace.store)
    if isinstance(error, LostArtefact) and error.key in node.inputs.values():
        store.discard_corrupt(error.key)
        if ray.get(broker.renew.remote(group, node.key, error.key)):
            return
    if ray.get(
        broker.finish.remote(group, node.key, stage_failure(node, error))
    ):  # the first rank has the cause to keep
        keep_traceback(node.key, error, store)


def is_unusable_after_failure(workplace: Workplace) -> bool:
    """Whether a group cannot serve on once a stage has raised.

    With several ranks, the others may wait in a collective for ever. On a GPU, the error may have broken the process's CUDA
    context (an illegal access, a failed assertion): every later stage of the process would fail with it.
    """
    return workplace.workers > 1 or workplace.device != "cpu"


def _load_on_all(plan: WorkerPlan, ranks: Ranks) -> Execute | None:
    """The stage runner, or none (after telling the broker) when some rank cannot import it."""
    execute, problem = None, ""
    try:
        execute = load_runner(plan.runner)
    except ClusterError as error:
        problem = f"worker group {plan.group}, rank {ranks.rank}: {error}"
    problems = [text for text in ranks.gather(problem) if text]
    if problems and ranks.rank == 0:
        import ray

        ray.get(find_broker(plan.broker).give_up.remote(problems[0]))
    return None if problems else execute


def _broker_is_gone(plan: WorkerPlan) -> bool:
    import ray

    try:
        ray.get(find_broker(plan.broker).snapshot.remote())
    except (ray.exceptions.RayActorError, ValueError):
        return True
    return False


def _workplace(plan: WorkerPlan, ranks: Ranks) -> Workplace:
    from gkd_bench.data.shelf import cache_of

    return Workplace(
        store=plan.store,
        cache=cache_of(open_store(plan.store), plan.cache),
        device=_device(plan.gpus),
        rank=ranks.rank,
        workers=ranks.count,
        threads=plan.threads,
    )


def _device(gpus: float) -> str:
    """The device that Ray Train chose for this rank. Asks CUDA itself too: Ray believes in GPUs that are only declared."""
    import torch
    from ray.train.torch import get_device

    return str(get_device()) if gpus > 0 and torch.cuda.is_available() else "cpu"


class Ranks:
    """The processes of this group, and small objects sent between them over gloo, whatever the stages' backend is."""

    def __init__(self) -> None:
        """Reads Ray Train's context; collective when there are several ranks."""
        from ray.train import get_context

        context = get_context()
        self.rank, self.count = context.get_world_rank(), context.get_world_size()
        self._group: Any = None
        if self.count > 1:
            from torch import distributed

            self._group = distributed.new_group(backend="gloo")

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.count == 1:
            return value
        from torch import distributed

        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        from torch import distributed

        values = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(values, value, group=self._group)
        return values


class BrokerMonitor:
    """A stage's link to the broker. A thread talks to the broker twice a second, so the stage never waits for it."""

    def __init__(self, broker: Any, group: str, key: str) -> None:
        """Nothing is sent before the ``with`` block, which only rank 0 enters."""
        self._broker, self._group, self._key = broker, group, key
        self._done = self._total = 0
        self._stop = False
        self._ended = threading.Event()
        self._sent: list[Any] = []
        self._thread = threading.Thread(target=self._beat, name="gkd-heartbeat", daemon=True)

    def report(self, progress: Progress) -> None:
        """Send a finished epoch. Waits a moment for its arrival (about 1 ms): a killed process takes unsent calls with it."""
        import ray

        self._sent.append(self._broker.report.remote(self._group, self._key, progress))
        ray.wait(self._sent[-1:], timeout=REPORT_SECONDS)

    def step(self, done: int, total: int) -> None:
        """Note steps done; the thread sends them."""
        self._done, self._total = done, total

    def should_stop(self) -> bool:
        """What the broker last said."""
        return self._stop

    def _beat(self) -> None:
        import ray

        while not self._ended.wait(BEAT_SECONDS):
            try:
                call = self._broker.heartbeat.remote(self._group, self._key, self._done, self._total)
                self._stop = self._stop or ray.get(call, timeout=DELIVERY_SECONDS)
            except ray.exceptions.GetTimeoutError:
                continue  # its machine is busy or cut off for a while, which Ray survives
            except ray.exceptions.RayError:
                self._stop = True  # the broker is gone: nobody waits for this stage any more

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread; wait until the broker has every report, since it drops those that come after the end."""
        import ray

        self._ended.set()
        self._thread.join(2 * DELIVERY_SECONDS)
        if self._sent:
            ray.wait(self._sent, num_returns=len(self._sent), timeout=DELIVERY_SECONDS)

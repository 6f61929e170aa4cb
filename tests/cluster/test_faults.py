"""What goes wrong below a stage: damaged inputs, a store that fails, a lost device, too little memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fake_stages import node

from gkd_bench.cluster import worker
from gkd_bench.cluster.broker import Broker
from gkd_bench.cluster.failures import is_lost_device, is_out_of_memory
from gkd_bench.cluster.inprocess import InProcessEngine
from gkd_bench.cluster.messages import StageFailure
from gkd_bench.cluster.queue import StageQueue
from gkd_bench.errors import OutOfMemory, StageError, StoreUnavailable
from gkd_bench.stages.monitor import Monitor, Outcome, Workplace
from gkd_bench.store.artefacts import Draft, LocalStore, Store, open_store
from gkd_bench.store.node import StageNode


def reading(node: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
    """A stage that reads all its inputs and publishes a file."""
    store = open_store(workplace.store)
    if store.has(node.key):
        return Outcome("cached")
    for key in node.inputs.values():
        store.get(key).bytes("weights")
    store.publish(node, Draft(files={"weights": f"weights of {node}".encode()}))
    return Outcome("done")


def damage(store: Store, key: str) -> None:
    assert isinstance(store, LocalStore)
    path = next(store.root.rglob(f"{key}/weights"))
    path.write_bytes(b"rotten")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def engine_of(store: LocalStore, execute: Any = reading) -> InProcessEngine:
    return InProcessEngine(execute, Workplace(store.root, store.root), store.has)


@pytest.mark.parametrize("how", ["damaged", "gone"])
def test_an_input_that_is_lost_is_computed_again_and_then_the_stage(store: LocalStore, how: str) -> None:
    teacher = node("teacher")
    first, second = (node("distill", {"teacher": teacher}, seed=seed) for seed in (0, 1))
    engine = engine_of(store)
    engine.submit([teacher])
    engine.wait([teacher.key])
    engine = engine_of(store)
    engine.submit([teacher, first, second])
    if how == "damaged":
        damage(store, teacher.key)
    else:
        store.delete(teacher.key)
    assert engine.wait([first.key, second.key]) == {first.key: "done", second.key: "done"}
    assert store.verify(teacher.key) == []


def test_an_input_that_nobody_here_can_make_fails_the_stage_with_its_name(store: LocalStore) -> None:
    teacher = node("teacher")
    distill = node("distill", {"teacher": teacher})
    engine_of(store).submit([teacher])
    reading(teacher, Workplace(store.root, store.root), None)  # type: ignore[arg-type]
    engine = engine_of(store)
    engine.submit([distill])
    damage(store, teacher.key)
    result = engine.wait([distill.key])[distill.key]
    assert isinstance(result, StageError) and f"artefact {teacher.key}, file weights: torn" in str(result)


def test_an_input_that_comes_out_damaged_every_time_ends_in_a_failure(store: LocalStore) -> None:
    teacher = node("teacher")
    distill = node("distill", {"teacher": teacher})

    def rotting(node: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
        outcome = reading(node, workplace, monitor)
        damage(store, node.key)
        return outcome

    engine = engine_of(store, rotting)
    engine.submit([teacher, distill])
    assert isinstance(engine.wait([distill.key])[distill.key], StageError)


def test_renewal_leaves_an_input_alone_that_is_already_being_made_again() -> None:
    teacher = node("teacher")
    first, second = (node("distill", {"teacher": teacher}, seed=seed) for seed in (0, 1))
    queue = StageQueue()
    queue.submit([teacher, first, second])
    for group in "abc":
        queue.register_group(group)
    queue.take("a")
    queue.finish("a", teacher.key, Outcome("done"))
    queue.take("a"), queue.take("b")
    assert queue.renew("a", first.key, teacher.key)
    assert queue.take("c") == teacher
    assert queue.renew("b", second.key, teacher.key)
    assert queue.take("a") is None and queue.snapshot().counts == {"running": 1, "waiting": 2}
    queue.finish("c", teacher.key, Outcome("done"))
    assert [queue.take("a"), queue.take("b")] == [first, second]
    assert not queue.renew("c", first.key, teacher.key)  # it is no longer the group's


def test_a_store_that_fails_stops_everything_and_fails_no_stage(store: LocalStore) -> None:
    stage, healthy = node("teacher"), [False]

    def unlucky(node: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
        if not healthy[0]:
            raise StoreUnavailable("store s3://bucket does not answer")
        return reading(node, workplace, monitor)

    engine = engine_of(store, unlucky)
    engine.submit([stage])
    with pytest.raises(StoreUnavailable, match="does not answer"):
        engine.wait([stage.key])
    assert engine.snapshot().failures == ()
    healthy[0] = True
    assert engine.wait([stage.key]) == {stage.key: "done"}


# ---------------------------------------------------------------- on Ray workers


class Local:
    """The broker's methods as Ray's handle has them, run here; collects what was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            return self.answers.get(name, True)

        return type("Method", (), {"remote": staticmethod(remote)})


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Local:
    import ray

    monkeypatch.setattr(ray, "get", lambda value, **_: value)
    monkeypatch.setattr(ray, "wait", lambda values, **_: (values, []))
    return Local()


def run(broker: Local, store: LocalStore, stage: StageNode, error: Exception) -> None:
    def execute(*_: object) -> Outcome:
        raise error

    worker._run(stage, broker, "g", Workplace(store.root, store.root, rank=1), execute)


def test_a_worker_whose_store_fails_ends_the_sweep_and_keeps_its_stage(broker: Local, store: LocalStore) -> None:
    with pytest.raises(StoreUnavailable):
        run(broker, store, node(), StoreUnavailable("store s3://bucket does not answer"))
    assert broker.calls == [("give_up", ("store s3://bucket does not answer",))]


def test_a_lost_device_is_no_failure_of_the_stage(broker: Local, store: LocalStore) -> None:
    lost = StageError("teacher: AcceleratorError: CUDA error: device lost")
    lost.__cause__ = torch.AcceleratorError("CUDA error: device lost") if hasattr(torch, "AcceleratorError") else None
    if lost.__cause__ is None:
        pytest.skip("this torch has no AcceleratorError")
    with pytest.raises(StageError):
        run(broker, store, node(), lost)
    cause = "StageError: teacher: AcceleratorError: CUDA error: device lost"
    # The group dies, and the queue gives the stage out again.
    assert broker.calls == [("blame", ("g", node().key, cause))]
    assert is_lost_device(lost) and not is_out_of_memory(lost)


def test_too_little_memory_is_told_apart(broker: Local, store: LocalStore) -> None:
    full = StageError("distill: OutOfMemoryError: tried to allocate 20 GiB")
    full.__cause__ = torch.OutOfMemoryError("tried to allocate 20 GiB")
    run(broker, store, node(), full)
    ((name, (_, _, failure)),) = broker.calls
    assert name == "finish" and isinstance(failure, StageFailure)
    assert failure.memory and isinstance(failure.error(), OutOfMemory)
    assert is_out_of_memory(MemoryError()) and not is_lost_device(full)
    assert not isinstance(
        failure.inherited("k", "n").error(), OutOfMemory
    )  # a smaller batch of the next stage is no help


def test_a_damaged_input_on_a_worker_is_removed_and_renewed(broker: Local, store: LocalStore) -> None:
    teacher = node("teacher")
    stage = node("distill", {"teacher": teacher})
    reading(teacher, Workplace(store.root, store.root), None)  # type: ignore[arg-type]
    damage(store, teacher.key)

    def execute(*_: object) -> Outcome:
        return reading(stage, Workplace(store.root, store.root), None)  # type: ignore[arg-type]

    worker._run(stage, broker, "g", Workplace(store.root, store.root, rank=1), execute)
    assert broker.calls == [("renew", ("g", stage.key, teacher.key))]
    assert not store.has(teacher.key)


def test_a_group_that_dies_again_and_again_may_have_had_too_little_memory() -> None:
    stage, queue = node(), StageQueue(max_failures=1)
    queue.submit([stage])
    for _ in range(2):
        queue.register_group("g")
        assert queue.take("g") == stage
    queue.register_group("g")
    settled = queue.poll(stage.key).settled
    assert isinstance(settled, StageFailure) and settled.memory and "died 2 times" in settled.cause


def test_the_broker_passes_renewals_on() -> None:
    import asyncio

    async def play() -> bool:
        broker, teacher = Broker(), node("teacher")
        stage = node("distill", {"teacher": teacher})
        await broker.submit([teacher, stage], "", 0, [teacher.key])
        await broker.register("g")
        assert (await broker.take("g", None, 1.0)).node == stage
        renewed = await broker.renew("g", stage.key, teacher.key)
        assert (await broker.take("g", None, 1.0)).node == teacher
        return renewed

    assert asyncio.run(play())

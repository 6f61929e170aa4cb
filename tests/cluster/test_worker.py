"""How a worker ends a stage, without a Ray session: the broker is a fake."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_stages import execute, node

from gkd_bench.cluster import worker
from gkd_bench.cluster.messages import StageFailure
from gkd_bench.cluster.session import prepare_environment
from gkd_bench.cluster.worker import BrokerMonitor, _run, is_unusable_after_failure
from gkd_bench.stages.monitor import Outcome, Workplace


class FakeBroker:
    """Takes ``finish``; only the first failure of a stage counts, as in the queue."""

    def __init__(self) -> None:
        self.ends: list[Outcome | StageFailure] = []
        self.finish = self

    def remote(self, group: str, key: str, result: Outcome | StageFailure) -> bool:
        self.ends.append(result)
        return len(self.ends) == 1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    prepare_environment(local=True)
    import ray

    def get(value: Any, timeout: float | None = None) -> Any:
        return value

    monkeypatch.setattr(ray, "get", get)
    return FakeBroker()


@pytest.mark.parametrize(
    ("device", "workers", "unusable"),
    [("cpu", 1, False), ("cpu", 2, True), ("cuda:0", 1, True), ("cuda:1", 2, True)],
)
def test_failure_ends_groups_of_several_ranks_and_of_gpus(
    broker: FakeBroker, tmp_path: Path, device: str, workers: int, unusable: bool
) -> None:
    place, bad = Workplace(tmp_path, tmp_path, device, workers=workers), node(fail="NaN loss")
    assert is_unusable_after_failure(place) == unusable
    if unusable:
        with pytest.raises(ValueError, match="NaN loss"):
            _run(bad, broker, "g", place, execute)
    else:
        _run(bad, broker, "g", place, execute)
    (failure,) = broker.ends
    assert isinstance(failure, StageFailure) and "NaN loss" in failure.cause


def test_success_ends_no_group(broker: FakeBroker, tmp_path: Path) -> None:
    _run(node(), broker, "g", Workplace(tmp_path, tmp_path, "cuda:0"), lambda *_: Outcome("done"))
    assert broker.ends == [Outcome("done")]


def test_traceback_of_the_first_rank_to_fail_is_kept(broker: FakeBroker, tmp_path: Path) -> None:
    bad = node(fail="NaN loss")
    for rank in (1, 0):

        def fail(*_: object, rank: int = rank) -> Outcome:
            raise RuntimeError(f"rank {rank} failed")

        with pytest.raises(RuntimeError):
            _run(bad, broker, "g", Workplace(tmp_path, tmp_path, rank=rank, workers=2), fail)
    report = tmp_path / "failures" / f"{bad.key}.txt"
    assert "rank 1 failed" in report.read_text()
    assert isinstance(broker.ends[0], StageFailure) and f"failures/{bad.key}.txt" in broker.ends[0].cause


class Late:
    """A broker whose answers to ``heartbeat`` come as ``answers`` say; an exception is raised by ``ray.get``."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers, self.asked, self.heartbeat = answers, threading.Event(), self

    def remote(self, *_: Any) -> Any:
        answer = self.answers.pop(0)
        if not self.answers:
            self.asked.set()
            self.answers.append(answer)
        return answer


@pytest.mark.parametrize(("gone", "stops"), [(False, False), (True, True)])
def test_a_stage_goes_on_while_the_broker_is_late_and_stops_when_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, gone: bool, stops: bool
) -> None:
    prepare_environment(local=True)
    import ray

    def get(value: Any, timeout: float | None = None) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.01)
    error = ray.exceptions.RayActorError() if gone else ray.exceptions.GetTimeoutError()
    late = Late([False, error, error, False])
    with BrokerMonitor(late, "g", "k") as monitor:
        assert late.asked.wait(20)
    assert monitor.should_stop() is stops


def test_a_lost_device_is_blamed_for_the_groups_death(broker: FakeBroker, tmp_path: Path) -> None:
    import torch

    blamed: list[tuple[str, ...]] = []
    broker.blame = SimpleNamespace(remote=lambda *words: blamed.append(words))  # type: ignore[attr-defined]

    def fail(*_: object) -> Outcome:
        raise torch.AcceleratorError("device-side assert triggered")

    with pytest.raises(torch.AcceleratorError):
        _run(node(), broker, "g", Workplace(tmp_path, tmp_path, "cuda:0"), fail)
    assert blamed == [("g", node().key, "AcceleratorError: device-side assert triggered")]
    assert broker.ends == []

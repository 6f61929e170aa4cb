"""How a worker ends a stage, without a Ray session: the broker is a fake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_stages import execute, node

from gkd_bench.cluster.messages import StageFailure
from gkd_bench.cluster.session import prepare_environment
from gkd_bench.cluster.worker import _run, is_unusable_after_failure
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

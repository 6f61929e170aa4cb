"""Determinism, resuming, stopping, and what one worker and two have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from gkd_bench.errors import StageError
from gkd_bench.plan import Planner
from gkd_bench.stages.monitor import Workplace
from gkd_bench.stages.run import execute
from gkd_bench.store.artefacts import Artefact
from gkd_bench.store.node import StageNode

from .lab import DOMAINS, SHORT, TINY, Lab, Recorder

SOURCE = DOMAINS[0]


def same_weights(first: Artefact, second: Artefact, name: str = "network") -> bool:
    one, two = first.tensors(name), second.tensors(name)
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def without_times(artefact: Artefact) -> list[dict[str, object]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in artefact.records()]


def test_the_same_stage_and_seed_give_bit_identical_weights_twice(empty: Lab, trained: Lab) -> None:
    for node in (empty.planner.baseline(SOURCE, 0), empty.planner.semantic(SOURCE, 0)):
        artefact, known = empty.make(node), trained.store.get(node.key)
        assert same_weights(artefact, known, "prior" if node.kind == "semantic" else "network")
        assert without_times(artefact) == without_times(known)


def test_another_seed_gives_other_weights(empty: Lab, trained: Lab) -> None:
    other = empty.make(empty.planner.baseline(SOURCE, 1))
    assert not same_weights(other, trained.store.get(trained.planner.baseline(SOURCE, 0).key))


@pytest.mark.parametrize("steps", [5, 7])
def test_a_stopped_stage_goes_on_as_if_nothing_had_happened(empty: Lab, trained: Lab, steps: int) -> None:
    node = empty.planner.baseline(SOURCE, 0)
    assert empty.run(node, Recorder(stop_after=steps)).state == "stopped"
    assert not empty.store.has(node.key)
    monitor = Recorder()
    assert empty.run(node, monitor).state == "done"
    assert monitor.steps < 8  # it did not begin anew
    resumed, known = empty.store.get(node.key), trained.store.get(node.key)
    assert same_weights(resumed, known)
    assert without_times(resumed) == without_times(known)
    assert empty.store.checkpoint_load(node.key) is None


def test_a_stage_in_two_steps_resumes_in_its_second(empty: Lab, trained: Lab) -> None:
    node = empty.planner.semantic(SOURCE, 0)
    assert empty.run(node, Recorder(stop_after=11)).state == "stopped"
    assert empty.run(node).state == "done"
    assert same_weights(empty.store.get(node.key), trained.store.get(node.key), "prior")


def test_a_finished_stage_is_not_computed_again(trained: Lab) -> None:
    monitor = Recorder()
    assert trained.run(trained.planner.teacher(SOURCE, 0), monitor).state == "cached"
    assert monitor.steps == 0


def test_every_epoch_is_reported_with_validation_dice(empty: Lab) -> None:
    monitor = Recorder()
    empty.run(empty.planner.baseline(SOURCE, 0), monitor)
    assert [(p.epoch, p.epochs) for p in monitor.progress] == [(1, 2), (2, 2)]
    assert all(0 <= p.metrics["val/dice"] <= 1 and p.metrics["loss/ce"] > 0 for p in monitor.progress)


def test_a_loss_that_is_not_finite_ends_the_stage_with_its_name(
    empty: Lab, make_planner: Callable[..., Planner]
) -> None:
    stages = {"baseline": SHORT | {"optimiser": {"lr": 1e30}}}
    with pytest.raises(StageError, match=r"baseline phantom_clear.*ce is not finite"):
        empty.run(make_planner(stages=stages).baseline(SOURCE, 0))
    assert list(empty.store.keys()) == []


def test_best_epoch_is_kept_on_request_and_the_last_otherwise(empty: Lab, make_planner: Callable[..., Planner]) -> None:
    longer = SHORT | {"epochs": 4, "optimiser": {"lr": 3e-2}}
    kept = {}
    for keep in ("best", "last"):
        node = make_planner(stages={"baseline": longer | {"keep": keep}}).baseline(SOURCE, 0)
        artefact = empty.make(node)
        dice = [r["val/dice"] for r in artefact.records() if r["record"] == "epoch"]
        kept[keep] = artefact.summary
        expected = max(range(4), key=lambda i: dice[i]) + 1 if keep == "best" else 4
        assert artefact.summary["epoch"] == expected
        assert artefact.summary["val/dice"] == dice[expected - 1]


def test_mixed_precision_trains_and_has_a_key_of_its_own(empty: Lab, make_planner: Callable[..., Planner]) -> None:
    node = make_planner(compute={"precision": "bf16"}).baseline(SOURCE, 0)
    assert node.key != empty.planner.baseline(SOURCE, 0).key
    rows = [record for record in empty.make(node).records() if record["record"] == "epoch"]
    assert all(0 < row["loss/ce"] < 2 for row in rows)
    assert all(tensor.dtype != torch.bfloat16 for tensor in empty.store.get(node.key).tensors("network").values())


# ---------------------------------------------------------------- two workers


def _rank(rank: int, node: StageNode, store: Path, cache: Path, meeting: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    execute(node, Workplace(store, cache, rank=rank, workers=2), Recorder())
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_train_like_one_on_the_same_global_batch(
    trained: Lab, tmp_path: Path, make_planner: Callable[..., Planner]
) -> None:
    """One step an epoch: the first losses are those of one forward pass, the second ones those after one update.

    More steps cannot be compared: Adam makes full steps of biases whose gradients are rounding errors.
    """
    distill = SHORT | {"epoch_steps": 1, "warmup_epochs": 0}
    one = make_planner(stages=TINY["stages"] | {"distill": distill}).distill("kd", SOURCE, 0)
    two = StageNode(**{**one.to_json(), "version": 99})  # the same work under a key of its own
    trained.run(one)
    multiprocessing.spawn(_rank, (two, trained.folder, trained.cache, tmp_path / "meeting"), nprocs=2)
    losses = [
        [(r["loss/ce"], r["loss/kd"]) for r in trained.store.get(node.key).records() if r["record"] == "epoch"]
        for node in (one, two)
    ]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    assert losses[0][1] == pytest.approx(losses[1][1], rel=2e-3)

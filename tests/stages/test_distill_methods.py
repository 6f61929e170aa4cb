"""Methods with parts of their own, in the distill stage: stopped and resumed, and on two workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor

from gkd_bench.config.schema import DistillStage
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.plan import Planner
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.distill import build_method, distill_task, initial_student
from gkd_bench.stages.loop import Loop
from gkd_bench.stages.monitor import Workplace
from gkd_bench.stages.numerics import reproducible
from gkd_bench.stages.supervised import source_sampler
from gkd_bench.store.artefacts import open_store
from gkd_bench.store.node import StageNode

from .lab import DOMAINS, Lab, Recorder

SOURCE = DOMAINS[0]
METHODS: dict[str, dict[str, Any]] = {
    "fitnet": {"taps": ("bottleneck", "deep")},  # projections
    "skd": {"holistic": 0.1},  # an opponent
    "cirkd": {"bank": 24},  # a memory that is full, and begins anew, within these few steps
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, cache: Path, make_planner: Callable[..., Planner]) -> Lab:
    """A store with teacher and baseline."""
    lab = Lab(tmp_path_factory.mktemp("methods"), cache, make_planner(methods=METHODS))
    lab.make(*lab.planner.ancestors(SOURCE, 0))
    return lab


def under_another_key(node: StageNode, version: int) -> StageNode:
    return StageNode(**{**node.to_json(), "version": version})


def own_of(context: StageContext) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train as the stage does; weights of the student, and what the method has of its own."""
    stage = context.settings("distill", DistillStage)
    student = initial_student(context, stage)
    method = build_method(context, student)
    Loop(distill_task(context, stage, student, method, source_sampler(context)), stage, context).run()
    return (
        {name: tensor.detach().clone() for name, tensor in student.state_dict().items()},
        {name: tensor.detach().clone() for name, tensor in method.own_state().items()},
    )


def context_of(node: StageNode, store: Path, cache: Path, rank: int = 0, workers: int = 1) -> StageContext:
    return StageContext(node, Workplace(store, cache, rank=rank, workers=workers), Recorder(), open_store(store))


def fresh_student(context: StageContext) -> SegmentationNetwork:
    return initial_student(context, context.settings("distill", DistillStage))


@pytest.mark.parametrize("stop", [3, 6])
@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_method_goes_on_as_if_nothing_had_happened(name: str, stop: int, lab: Lab) -> None:
    node = lab.planner.distill(name, SOURCE, 0)
    known = lab.make(node)
    again = under_another_key(node, 100 + stop)
    assert lab.run(again, Recorder(stop_after=stop)).state == "stopped"
    monitor = Recorder()
    assert lab.run(again, monitor).state == "done"
    assert monitor.steps == 8 - stop
    resumed = lab.store.get(again.key)
    saved = [{n: f for n, f in a.manifest["files"].items() if n.endswith(".safetensors")} for a in (known, resumed)]
    assert saved[0] == saved[1] and "network.safetensors" in saved[0]  # sizes and checksums
    rows = [[r for r in artefact.records() if r["record"] in ("epoch", "health")] for artefact in (known, resumed)]
    assert [{**row, "seconds": 0} for row in rows[0]] == [{**row, "seconds": 0} for row in rows[1]]


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_has_of_its_own_is_trained_and_filled(name: str, lab: Lab) -> None:
    context = context_of(lab.planner.distill(name, SOURCE, 0), lab.folder, lab.cache)
    with reproducible(context.device, 1):
        before = {k: t.detach().clone() for k, t in build_method(context, fresh_student(context)).own_state().items()}
        _, after = own_of(context)
    assert before.keys() == after.keys() and before
    unmoved = {key for key in before if torch.equal(before[key], after[key])}
    assert unmoved <= {"opponent.critic.body.3.bias"}  # an offset of all scores cancels in a difference of scores


# ---------------------------------------------------------------- two workers


def _rank(rank: int, nodes: list[StageNode], store: Path, cache: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    for node in nodes:
        context = context_of(node, store, cache, rank, 2)
        with reproducible(context.device, 1):
            torch.save(own_of(context), folder / f"{node.settings['method']}-{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of student and method on both ranks, a file each."""
    folder = tmp_path_factory.mktemp("ranks")
    nodes = [under_another_key(lab.planner.distill(name, SOURCE, 0), 200) for name in METHODS]
    multiprocessing.spawn(_rank, (nodes, lab.folder, lab.cache, folder), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_workers_agree_bit_by_bit_in_the_student_and_in_what_the_method_has_of_its_own(
    name: str, lab: Lab, ranks: Path
) -> None:
    (student, own), (other_student, other_own) = (torch.load(ranks / f"{name}-{rank}.pt") for rank in (0, 1))
    start = fresh_student(context_of(lab.planner.distill(name, SOURCE, 0), lab.folder, lab.cache)).state_dict()
    assert any(not torch.equal(student[key], start[key]) for key in student)
    for mine, theirs in ((student, other_student), (own, other_own)):
        assert mine.keys() == theirs.keys() and mine
        assert all(bool(torch.isfinite(value).all()) for value in mine.values())
        assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []

"""Batch normalisation: one worker against torch, two gloo workers against one, frozen statistics."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.build import build
from gkd_bench.networks.norm import BatchNorm2d, frozen_statistics
from gkd_bench.registry import NETWORKS

BATCH = 4
LONGEST = 150.0  # seconds, on a busy machine


def batch_of(channels: int = 1, size: int = 32) -> Tensor:
    return torch.rand(BATCH, channels, size, size, generator=torch.Generator().manual_seed(5)) + 3.0


def without_dropout(name: str, dtype: torch.dtype) -> SegmentationNetwork:
    network = build(name, 0.05, seed=0).to(dtype)
    for part in network.modules():
        if isinstance(part, nn.Dropout2d):
            part.p = 0.0
    return network


def loss_and_state(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    loss = F.cross_entropy(network(images), (images[:, 0] > 3.5).long())
    torch.autograd.backward(loss)
    plain = network.module if isinstance(network, DistributedDataParallel) else network
    found = {f"grad/{key}": p.grad for key, p in plain.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()[None], **found, **{f"state/{key}": b for key, b in plain.named_buffers()}}


def uneven_norm(rank: int | None) -> dict[str, Tensor]:
    """Output and input gradient of a lone norm; rank 0 has three samples, rank 1 one; None has all four."""
    norm = BatchNorm2d(3).double()
    images = batch_of(3).double()[{0: slice(0, 3), 1: slice(3, 4), None: slice(0, 4)}[rank]].requires_grad_()
    out = norm(images)
    torch.autograd.backward((out**3).sum())
    assert images.grad is not None
    return {"out": out.detach(), "grad": images.grad}


def share_of_one_step(rank: int, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    network = DistributedDataParallel(without_dropout(name, dtype), broadcast_buffers=False)
    found = loss_and_state(network, batch_of().to(dtype)[rank * BATCH // 2 : (rank + 1) * BATCH // 2])
    distributed.all_reduce(found["loss"])
    found["loss"] /= 2
    return found


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for dtype in (torch.float64, torch.float32):
        for name in NETWORKS:
            save_file(share_of_one_step(rank, name, dtype), f"{folder}/{name}-{dtype}-{rank}.safetensors")
    save_file(uneven_norm(rank), f"{folder}/uneven-{rank}.safetensors")
    # A DistributedDataParallel that outlives its process group joins gloo's threads while it holds the GIL they need.
    gc.collect()
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    context = spawn(worker, (str(folder),), nprocs=2, join=False)  # type: ignore[no-untyped-call]
    latest = time.monotonic() + LONGEST
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < latest, "the two workers hang"
    finally:
        for process in context.processes:
            process.kill()
    return folder


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_two_workers_compute_what_one_computes(two_workers: Path, name: str) -> None:
    expected = loss_and_state(without_dropout(name, torch.float64), batch_of().double())
    for rank in range(2):
        found = load_file(two_workers / f"{name}-{torch.float64}-{rank}.safetensors")
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_two_workers_in_float32_are_as_exact_as_one(two_workers: Path, name: str) -> None:
    exact = loss_and_state(without_dropout(name, torch.float64), batch_of().double())
    alone = loss_and_state(without_dropout(name, torch.float32), batch_of())
    together = load_file(two_workers / f"{name}-{torch.float32}-0.safetensors")
    # a batch of another size takes other kernels: the deepest network's loss differs by up to 3e-6 on some processors
    torch.testing.assert_close(together["loss"], alone["loss"], rtol=1e-5, atol=1e-6)

    def gradients(found: dict[str, Tensor]) -> Tensor:
        return torch.cat([found[key].double().flatten() for key in exact if key.startswith("grad/")])

    # Deep gradients amplify rounding, so the distance to float64 is the yardstick: 4 of it were seen, on a processor whose
    # kernels for half a batch are others; the float64 test above holds the arithmetic itself.
    rounding = (gradients(alone) - gradients(exact)).norm()
    assert (gradients(together) - gradients(exact)).norm() < 10 * rounding + 1e-6


def test_ranks_with_different_numbers_of_samples_share_one_batch(two_workers: Path) -> None:
    expected = uneven_norm(None)
    parts = [load_file(two_workers / f"uneven-{rank}.safetensors") for rank in range(2)]
    for key, value in expected.items():
        torch.testing.assert_close(torch.cat([part[key] for part in parts]), value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_one_worker_equals_torch(training: bool) -> None:
    ours, theirs = BatchNorm2d(3).train(training), nn.BatchNorm2d(3).train(training)
    for _ in range(2):
        assert torch.equal(ours(batch_of(3)), theirs(batch_of(3)))
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))


def test_frozen_statistics_normalise_by_the_batch_and_leave_buffers_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), BatchNorm2d(3))
    network(batch_of())
    before = [buffer.clone() for buffer in network.buffers()]
    with frozen_statistics(network):
        inside = network(batch_of() * 2.0)
    assert all(torch.equal(a, b) for a, b in zip(before, network.buffers(), strict=True))
    torch.testing.assert_close(inside, network(batch_of() * 2.0))
    assert not torch.equal(before[0], next(iter(network.buffers())))


def fail_inside(norm: BatchNorm2d) -> None:
    with frozen_statistics(norm):
        with frozen_statistics(norm):
            pass
        assert not norm.tracking
        raise RuntimeError("inside")


def test_frozen_statistics_end_with_the_block_even_after_an_error_and_may_nest() -> None:
    norm = BatchNorm2d(3)
    with pytest.raises(RuntimeError, match="inside"):
        fail_inside(norm)
    assert norm.tracking


def test_frozen_statistics_leave_eval_mode_alone() -> None:
    norm = BatchNorm2d(3).eval()
    with frozen_statistics(norm):
        torch.testing.assert_close(norm(batch_of(3)), batch_of(3), rtol=1e-4, atol=1e-4)


def test_single_value_per_channel_is_normalised_by_running_statistics() -> None:
    norm = BatchNorm2d(3)
    value = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(norm(value), value, rtol=1e-4, atol=1e-4)
    assert int(norm.num_batches_tracked) == 0  # type: ignore[arg-type]

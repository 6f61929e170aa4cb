"""Weight averaging against an arithmetic mean, through checkpoints, and the batch statistics that go with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from gkd_bench.errors import StageError
from gkd_bench.networks.build import build
from gkd_bench.networks.norm import BatchNorm2d
from gkd_bench.stages.averaging import WeightAverage, batch_norms, estimate_statistics, refresh_statistics
from gkd_bench.store.node import StageNode

from .lab import DOMAINS, Lab, Recorder

STEPS, START = 7, 3


def small_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(4, 2, 1), BatchNorm2d(2)
    )


def tiles(step: int, batch: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.rand(batch, 1, 12, 12, generator=generator) + torch.rand(batch, 1, 1, 1, generator=generator)


def move(network: nn.Module, step: int) -> None:
    """Something like an optimiser's step, buffers included."""
    generator = torch.Generator().manual_seed(100 + step)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor += torch.randn(tensor.shape, generator=generator).to(tensor.dtype)


def train(network: nn.Module, average: WeightAverage, steps: range) -> list[dict[str, Tensor]]:
    """Weights after every step."""
    seen = []
    for step in steps:
        move(network, step)
        average.update(step)
        seen.append({name: weight.detach().clone() for name, weight in network.named_parameters()})
    return seen


def test_average_is_the_arithmetic_mean_of_the_weights_from_the_start_step_on() -> None:
    network = small_network()
    average = WeightAverage(network, START)
    seen = train(network, average, range(STEPS))[START:]
    expected = {name: torch.stack([weights[name].double() for weights in seen]).mean(0).float() for name in seen[0]}
    torch.testing.assert_close(average.weights(), expected)
    assert average.weights().keys() == dict(network.named_parameters()).keys()  # no buffers


def test_training_goes_on_from_its_own_weights() -> None:
    alone, watched = small_network(), small_network()
    train(watched, WeightAverage(watched, START), range(STEPS))
    for step in range(STEPS):
        move(alone, step)
    assert all(
        torch.equal(a, b) for a, b in zip(alone.state_dict().values(), watched.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("stop", range(STEPS + 1))
def test_average_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path: Path, stop: int) -> None:
    whole = WeightAverage(network := small_network(), START)
    train(network, whole, range(STEPS))

    first = WeightAverage(network := small_network(), START)
    train(network, first, range(stop))
    torch.save({"kept": network.state_dict(), "average": first.state()}, tmp_path / "checkpoint")

    saved = torch.load(tmp_path / "checkpoint", weights_only=True)
    second = WeightAverage(network := small_network(seed=9), START)
    network.load_state_dict(saved["kept"])
    second.load(saved["average"])
    train(network, second, range(stop, STEPS))
    assert all(torch.equal(value, second.weights()[name]) for name, value in whole.weights().items())


def test_state_is_a_copy_that_later_steps_leave_alone() -> None:
    average = WeightAverage(network := small_network(), 0)
    train(network, average, range(2))
    state = average.state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    train(network, average, range(2, 4))
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_an_average_of_nothing_is_an_error_and_not_the_initial_weights() -> None:
    average = WeightAverage(network := small_network(), START)
    train(network, average, range(START))
    with pytest.raises(StageError, match="no weights to average before step 3"):
        average.weights()


# ---------------------------------------------------------------- batch statistics


def test_statistics_are_the_mean_over_the_batches_whatever_was_there_before() -> None:
    norm = BatchNorm2d(1)
    norm.running_mean.fill_(50.0)  # type: ignore[union-attr]
    refresh_statistics(norm, tiles, 5)
    batches = torch.stack([tiles(step).double() for step in range(5)])
    torch.testing.assert_close(norm.running_mean, batches.mean().float()[None])
    torch.testing.assert_close(norm.running_var, batches.flatten(1).var(1).mean().float()[None])
    assert norm.momentum == 0.1


def test_batches_of_different_sizes_count_by_their_images() -> None:
    norm = BatchNorm2d(1)
    parts = [tiles(0, 6), tiles(1, 2)]
    assert estimate_statistics(norm, parts) == 8
    torch.testing.assert_close(norm.running_mean, torch.cat(parts).mean()[None])


@pytest.mark.parametrize("name", ["mobile_unet", "enet"])
def test_refreshed_network_does_in_eval_mode_what_it_does_in_training_mode(name: str) -> None:
    network = build(name, 0.25, seed=0)
    for part in network.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d):
            part.p = 0.0
    draw = [torch.rand(16, 1, 64, 64, generator=torch.Generator().manual_seed(step)) for step in range(4)]
    with torch.no_grad():
        before = network.eval()(draw[0])
        expected = network.train()(draw[0])
        refresh_statistics(network, draw.__getitem__, len(draw))
        after = network(draw[0])
    assert not network.training
    change = (after - expected).abs().mean()
    assert change < 0.25 * (before - expected).abs().mean()
    assert change < 0.2 * expected.std()


def test_refreshing_leaves_weights_alone_and_drops_nothing_out() -> None:
    first, second = small_network(), small_network()
    weights = {name: weight.clone() for name, weight in first.named_parameters()}
    for network in (first, second):
        refresh_statistics(network.train(), tiles, 3)
        torch.rand(1)  # another state of the global generator: dropout would show
    assert all(torch.equal(weights[name], weight) for name, weight in first.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


def test_network_without_batch_norm_is_left_as_it_is() -> None:
    def never(step: int) -> Tensor:
        raise AssertionError

    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.InstanceNorm2d(1, affine=True))
    assert batch_norms(network) == []
    refresh_statistics(network, never, 3)
    assert not network.training


def refresh_on_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    network = small_network()
    refresh_statistics(network, lambda step: tiles(step)[rank::2], 4)
    save_file(dict(network.named_buffers()), f"{folder}/{rank}.safetensors")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_end_with_the_statistics_of_one(tmp_path: Path) -> None:
    spawn(refresh_on_rank, (str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    alone = small_network()
    refresh_statistics(alone, tiles, 4)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first, dict(alone.named_buffers()), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- in the stage


def restyled_and_averaged(lab: Lab, version: int) -> StageNode:
    """The student alone with the remedies style and swa, under a key of its own."""
    plain = lab.planner.distill("scratch", DOMAINS[0], 0)
    settings = {**plain.settings, "style": True, "swa": True}
    return StageNode(**{**plain.to_json(), "settings": settings, "version": version})


def test_a_stopped_stage_with_an_average_goes_on_as_if_nothing_had_happened(trained: Lab) -> None:
    at_once, in_parts = (restyled_and_averaged(trained, version) for version in (98, 99))
    assert trained.run(in_parts, Recorder(stop_after=6)).state == "stopped"  # in the middle of the average
    first, second = (trained.make(node).tensors("network") for node in (in_parts, at_once))
    assert all(torch.equal(first[name], second[name]) for name in first)
    plain = trained.store.get(trained.planner.distill("scratch", DOMAINS[0], 0).key).tensors("network")
    assert any(not torch.equal(first[name], plain[name]) for name in first)

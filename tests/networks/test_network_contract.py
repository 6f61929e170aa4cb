"""Conformance: what every registered network must do. A new network is tested by being registered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork, count_parameters
from gkd_bench.networks.build import build
from gkd_bench.networks.norm import BatchNorm2d
from gkd_bench.registry import NETWORKS

WIDTH = 0.1

pytestmark = pytest.mark.parametrize("name", sorted(NETWORKS))


def images(batch: int = 2, height: int = 64, width: int = 64, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def slim(name: str, seed: int = 0) -> SegmentationNetwork:
    return build(name, WIDTH, seed=seed)


def settled(name: str) -> SegmentationNetwork:
    """In eval mode, with running statistics close to those of random images."""
    network = slim(name)
    for part in network.modules():
        if isinstance(part, BatchNorm2d):
            part.momentum = 0.9
    with torch.no_grad():
        for seed in range(3):
            network(images(4, seed=seed))
    return network.eval()


def step(network: SegmentationNetwork, batch: Tensor, seed: int = 7) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of one supervised step; the seed fixes the dropout."""
    labels = (batch[:, 0] > 0.5).long()
    network.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loss = F.cross_entropy(network(batch), labels)
    torch.autograd.backward(loss)
    return loss.detach(), [p.grad.clone() for p in network.parameters() if p.grad is not None]


def largest(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.abs().max())


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def test_decoding_the_encoding_equals_forward(name: str) -> None:
    network, batch = settled(name), images(height=40, width=56)
    features = network.encode(batch)
    assert torch.equal(network.decode(features.bottleneck, features.skips).logits, network(batch))


@pytest.mark.parametrize("size", [(37, 53), (2, 3), (96, 96)])
@pytest.mark.parametrize("training", [True, False])
def test_one_sample_of_any_size_gives_finite_logits_of_that_size(
    name: str, size: tuple[int, int], training: bool
) -> None:
    logits = slim(name).train(training)(images(1, *size))
    assert logits.shape == (1, 2, *size)
    assert torch.isfinite(logits).all()


def test_bottleneck_has_the_announced_shape_and_taps_lie_at_a_quarter(name: str) -> None:
    network = slim(name).eval()
    features = network.encode(images(2, 128, 64))
    decoded = network.decode(features.bottleneck, features.skips)
    assert features.bottleneck.shape == (2, network.bottleneck_channels, 128 // network.stride, 64 // network.stride)
    assert [tuple(tap.shape[-2:]) for tap in (*features.taps, decoded.tap)] == [(32, 16), (32, 16)]


def test_decoding_leaves_taps_bottleneck_and_skips_as_they_were(name: str) -> None:
    network = slim(name)
    features = network.encode(images())
    kept = (features.bottleneck, *features.skips.maps, *features.taps)
    before = [tensor.detach().clone() for tensor in kept]
    decoded = network.decode(features.bottleneck, features.skips)
    tap = decoded.tap.detach().clone()
    torch.autograd.backward(decoded.logits.sum())
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
    assert torch.equal(decoded.tap, tap)


def test_gradients_reach_every_parameter(name: str) -> None:
    network = slim(name).double()
    step(network, images().double())
    assert [key for key, p in network.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    # A bias in front of batch normalisation has no effect, so only weights must have a gradient other than zero.
    assert [key for key, p in network.named_parameters() if p.ndim > 1 and not largest(p.grad) > 0] == []


def test_replaced_bottleneck_changes_logits_and_gets_a_gradient(name: str) -> None:
    network = settled(name)
    features = network.encode(images())
    rebuilt = features.bottleneck.detach().flip(0).requires_grad_()
    logits = network.decode(rebuilt, features.skips).logits
    own = network.decode(features.bottleneck, features.skips).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), rebuilt)
    assert (logits - own).abs().max() > 1e-3 * own.abs().max()
    assert gradient.abs().max() > 0


def test_header_exchange_reaches_the_encoder_through_float_skips(name: str) -> None:
    network = slim(name)
    features = network.encode(images())
    carried = [m for m in features.skips.maps if m.is_floating_point()]
    logits = network.decode(torch.zeros_like(features.bottleneck), features.skips).logits
    if carried:
        gradients = torch.autograd.grad(logits.square().sum(), carried)
        assert all(gradient.abs().max() > 0 for gradient in gradients)
    else:
        assert all(parameter.grad is None for parameter in network.parameters())


def test_state_survives_safetensors(name: str, tmp_path: Path) -> None:
    network = settled(name)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other = slim(name, seed=1).eval()
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other(images()), network(images()))


def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = slim(name, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other = slim(name, seed=3).state_dict(), slim(name, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_training_step_is_bit_identical_twice(name: str, layout: torch.memory_format, deterministic: None) -> None:
    batch = images(height=37).to(memory_format=layout)
    networks = [slim(name).to(memory_format=layout) for _ in range(2)]  # type: ignore[call-overload]
    (loss, gradients), (again, others) = (step(network, batch) for network in networks)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


def test_eval_logits_do_not_depend_on_batch_companions(name: str) -> None:
    network, batch = settled(name).double(), images(3).double()
    torch.testing.assert_close(network(batch)[:1], network(batch[:1]))


def test_eval_pass_changes_no_buffer(name: str) -> None:
    network = settled(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(images())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_training_step_works_in_bfloat16_autocast(name: str) -> None:
    network = slim(name)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images())
        loss = F.cross_entropy(logits.float(), torch.zeros(2, 64, 64, dtype=torch.long))
    torch.autograd.backward(loss)
    assert logits.dtype == torch.bfloat16
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_channels_last_gives_the_same_logits(name: str) -> None:
    network, batch = settled(name).double(), images().double()
    expected = network(batch)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(network(batch.to(memory_format=torch.channels_last)), expected)


def test_colour_images_and_more_classes(name: str) -> None:
    network = build(name, WIDTH, in_channels=3, classes=4, seed=0)
    assert network(images(channels=3)).shape == (2, 4, 64, 64)


def test_narrower_networks_have_fewer_parameters(name: str) -> None:
    counts = [count_parameters(build(name, width, seed=0)) for width in (0.05, 0.15, 0.25)]
    assert counts[0] < counts[1] < counts[2]


def test_learns_a_disc_from_its_brightness(name: str) -> None:
    network = slim(name)
    axis = torch.linspace(-1, 1, 32)
    disc = ((axis[:, None] ** 2 + axis**2) < 0.3).long().expand(2, -1, -1)
    batch = 0.2 * images(height=32, width=32) + 0.6 * disc[:, None]
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(30):
            loss = F.cross_entropy(network(batch), disc)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]

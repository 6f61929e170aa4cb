"""Conformance: what every registered network must do. A new network is tested by being registered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.build import build
from gkd_bench.networks.norm import BatchNorm2d
from gkd_bench.registry import NETWORKS
from gkd_bench.testing import NETWORK_CHECKS, NetworkCheck

WIDTH = 0.1
SLIM = {"little_unet": 0.5}
"""Widths of networks that a tenth of leaves too little to learn with."""

pytestmark = pytest.mark.parametrize("name", sorted(NETWORKS))


def images(batch: int = 2, height: int = 64, width: int = 64, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def slim(name: str, seed: int = 0) -> SegmentationNetwork:
    return build(name, SLIM.get(name, WIDTH), seed=seed)


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


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("check", NETWORK_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_network_passes_the_conformance_suite(name: str, check: NetworkCheck) -> None:
    check(partial(build, name), SLIM.get(name, WIDTH))


def test_taps_lie_at_a_quarter(name: str) -> None:
    network = slim(name).eval()
    features = network.encode(images(2, 128, 64))
    decoded = network.decode(features.bottleneck, features.skips)
    assert [tuple(tap.shape[-2:]) for tap in (*features.taps, decoded.tap)] == [(32, 16), (32, 16)]


def test_building_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    slim(name, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_training_step_is_bit_identical_twice(name: str, layout: torch.memory_format, deterministic: None) -> None:
    batch = images(height=37).to(memory_format=layout)
    networks = [slim(name).to(memory_format=layout) for _ in range(2)]  # type: ignore[call-overload]
    (loss, gradients), (again, others) = (step(network, batch) for network in networks)
    assert torch.equal(loss, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, others, strict=True))


def test_channels_last_gives_the_same_logits(name: str) -> None:
    network, batch = settled(name).double(), images().double()
    expected = network(batch)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(network(batch.to(memory_format=torch.channels_last)), expected)


def test_learns_a_disc_from_its_brightness(name: str) -> None:
    network = slim(name)
    axis = torch.linspace(-1, 1, 32)
    disc = ((axis[:, None] ** 2 + axis**2) < 0.3).long().expand(2, -1, -1)
    batch = 0.2 * images(height=32, width=32) + 0.6 * disc[:, None]
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(60):
            loss = F.cross_entropy(network(batch), disc)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]

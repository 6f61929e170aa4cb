"""The suite that users test their networks with: each check catches the network it was made for, and names the fault."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork, scaled
from gkd_bench.networks.contract import contract_problems
from gkd_bench.networks.norm import BatchNorm2d, synchronised
from gkd_bench.testing import NETWORK_CHECKS, check_network

Encoding = tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]


class Plain(SegmentationNetwork):
    """The smallest network that keeps the contract; every faulty one below breaks it in one place."""

    stride = 4

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        self.bottleneck_channels = scaled(16, width)
        self.first = nn.Sequential(nn.Conv2d(in_channels, self.bottleneck_channels, 4, 4), self.norm())
        self.deep = nn.Conv2d(self.bottleneck_channels, self.bottleneck_channels, 3, padding=1)
        self.head = nn.Conv2d(2 * self.bottleneck_channels, classes, 1)

    def norm(self) -> nn.Module:
        return BatchNorm2d(self.bottleneck_channels)

    def _encode(self, images: Tensor) -> Encoding:
        shallow = F.relu(self.first(images))
        return F.relu(self.deep(shallow)), (shallow,), (shallow,)

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        logits = self.head(torch.cat([bottleneck, maps[0]], dim=1))
        return F.interpolate(logits, scale_factor=4.0, mode="bilinear"), bottleneck


class WrongStride(Plain):
    stride = 8


class NoStride(Plain):
    stride = None  # type: ignore[assignment]


class ForeignNorm(Plain):
    def norm(self) -> nn.Module:
        return nn.BatchNorm2d(self.bottleneck_channels)


class NoTap(Plain):
    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return super()._decode(bottleneck, maps)[0]  # type: ignore[return-value]


class OneSize(Plain):
    def encode(self, images: Tensor):  # type: ignore[no-untyped-def]
        assert images.shape[-1] > 8, "too narrow"
        return super().encode(images)


class GreyOnly(Plain):
    def _encode(self, images: Tensor) -> Encoding:
        return super()._encode(images[:, :1])


class OneWidth(Plain):
    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(1.0, in_channels, classes)


class OtherForward(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return 2.0 * super().forward(images)


class InPlace(Plain):
    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return super()._decode(bottleneck.mul_(0.5), maps)


class DeadBottleneck(Plain):
    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return super()._decode(bottleneck * 0.0, maps)


class IdleSkip(Plain):
    def _encode(self, images: Tensor) -> Encoding:
        bottleneck, maps, taps = super()._encode(images)
        return bottleneck, (*maps, bottleneck), taps


class IdlePart(Plain):
    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        self.classifier = nn.Linear(4, 4)


class Scattered(Plain):
    def _encode(self, images: Tensor) -> Encoding:
        bottleneck, maps, taps = super()._encode(images)
        index = torch.zeros_like(bottleneck, dtype=torch.long) + torch.arange(bottleneck.shape[-1])
        return images.new_zeros(bottleneck.shape).scatter_add(3, index, bottleneck), maps, taps


class Companions(Plain):
    def _encode(self, images: Tensor) -> Encoding:
        return super()._encode(images - images.mean())


class Counting(Plain):
    passes: Tensor

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        self.register_buffer("passes", torch.zeros(1))

    def _encode(self, images: Tensor) -> Encoding:
        self.passes += 1.0
        return super()._encode(images)


class HiddenState(Plain):
    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        self.scale = torch.rand(1)

    def _encode(self, images: Tensor) -> Encoding:
        return super()._encode(images * self.scale)


class OwnRandomness(Plain):
    generator = torch.Generator().manual_seed(0)

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        nn.init.normal_(self.head.weight, generator=self.generator)


FAULTS: dict[type[SegmentationNetwork], tuple[str, str]] = {
    WrongStride: ("announced_shapes", "the bottleneck of images"),
    NoStride: ("announced_shapes", "stride must be a whole number"),
    ForeignNorm: ("announced_shapes", "synchronised"),
    NoTap: ("announced_shapes", "too many values to unpack"),
    OneSize: ("any_size", "too narrow"),
    GreyOnly: ("colour_and_classes", "expected input"),
    OneWidth: ("width", "not fewer"),
    OtherForward: ("decoding_the_encoding", "differs from forward"),
    InPlace: ("decoding_spares_its_inputs", ""),
    DeadBottleneck: ("bottleneck_matters", "gives the same logits"),
    IdleSkip: ("skips_pass_gradients", "no gradient reaches 1 of 2"),
    IdlePart: ("gradients_reach_everything", "classifier.weight"),
    Scattered: ("bfloat16", "dtype"),
    Companions: ("companions", "with its companions"),
    Counting: ("eval_changes_nothing", "passes"),
    HiddenState: ("state_round_trip", "computes other logits"),
    OwnRandomness: ("seeded_weights", "head.weight"),
}


def test_a_network_that_keeps_the_contract_passes() -> None:
    check_network(Plain)
    check_network(lambda **sizes: Plain(**sizes), width=0.5)


@pytest.mark.parametrize("network", FAULTS, ids=lambda network: network.__name__)
def test_every_fault_is_found_and_named(network: type[SegmentationNetwork]) -> None:
    check, words = FAULTS[network]
    with pytest.raises(AssertionError) as caught:
        check_network(network)
    (line,) = [line for line in str(caught.value).splitlines() if f"check_{check}:" in line]
    assert words in line


def test_every_check_has_a_network_that_it_catches() -> None:
    assert {check.__name__.removeprefix("check_") for check in NETWORK_CHECKS} == {name for name, _ in FAULTS.values()}


def test_foreign_norms_are_accepted_once_they_are_replaced() -> None:
    assert contract_problems(synchronised(ForeignNorm())) == []


def test_looking_at_a_network_leaves_it_as_it_was() -> None:
    network = Plain()
    network.first.eval()
    state, before = torch.get_rng_state(), {key: value.clone() for key, value in network.state_dict().items()}
    assert contract_problems(network) == []
    assert network.training and not network.first.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())

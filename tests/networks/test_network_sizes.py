"""Parameter counts at width 1.0 against the published ones, on the meta device: nothing is allocated."""

from __future__ import annotations

import itertools

import pytest
import torch

from gkd_bench.errors import ConfigError
from gkd_bench.networks.base import count_parameters
from gkd_bench.networks.build import build
from gkd_bench.networks.semantic import SemanticAutoencoder

PUBLISHED = {
    "fanet": 38.292e6,
    "unet": 31.04e6,
    "mobile_unet": 4.682e6,
    "enet": 0.349e6,
    "erfnet": 2.063e6,
}

BOTTLENECKS = {
    "fanet": (512, 16),
    "unet": (1024, 8),
    "mobile_unet": (1280, 4),
    "enet": (128, 16),
    "erfnet": (128, 16),
    "m2unet": (96, 8),
    "little_unet": (32, 32),
    "resenc_unet": (512, 4),
}

TAPS = {"m2unet": (24, 44), "little_unet": (32, 16), "resenc_unet": (128, 128)}
"""Channels of the encoder's and of the decoder's tap."""

COLOUR_TO_ONE_CLASS = {"m2unet": (0.55e6, 1e-3), "little_unet": (34_201, 1e-9)}
"""Parameters as published, for three input channels and one sigmoid output, and how exactly they are known."""


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_full_size_has_the_published_number_of_parameters(name: str, parameters: float) -> None:
    with torch.device("meta"):
        assert count_parameters(build(name)) == pytest.approx(parameters, rel=5e-4)


@pytest.mark.parametrize(("name", "known"), COLOUR_TO_ONE_CLASS.items())
def test_networks_published_for_colour_have_their_size_there(name: str, known: tuple[float, float]) -> None:
    with torch.device("meta"):
        assert count_parameters(build(name, in_channels=3, classes=1)) == pytest.approx(known[0], rel=known[1])


def test_resenc_unet_has_the_parameters_of_its_plan() -> None:
    """Counted from the plan alone: convolutions with biases, two numbers per normalised channel."""
    channels, blocks = (32, 64, 128, 256, 512, 512), (1, 3, 4, 6, 6, 6)

    def unit(i: int, o: int) -> int:
        return 9 * i * o + 3 * o

    total = unit(1, 32) + (32 + 1) * 2
    for i, o, n in zip((32, *channels), channels, blocks, strict=False):
        total += unit(i, o) + (2 * n - 1) * unit(o, o) + (i * o + 2 * o) * (i != o)
    for o, i in itertools.pairwise(channels):
        total += 4 * i * o + o + unit(2 * o, o)
    with torch.device("meta"):
        assert count_parameters(build("resenc_unet")) == total


def test_little_unet_is_small_enough_for_the_edge() -> None:
    with torch.device("meta"):
        assert count_parameters(build("little_unet")) < 100_000


@pytest.mark.parametrize(("name", "channels"), TAPS.items())
def test_full_size_taps_have_their_channels(name: str, channels: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = build(name).eval()
        features = network.encode(torch.rand(1, 1, 128, 128))
        decoded = network.decode(features.bottleneck, features.skips)
    assert (features.taps[0].shape[1], decoded.tap.shape[1]) == channels


@pytest.mark.parametrize(("name", "shape"), BOTTLENECKS.items())
def test_full_size_bottleneck_at_128_pixels(name: str, shape: tuple[int, int]) -> None:
    with torch.device("meta"):
        bottleneck = build(name).eval().encode(torch.rand(1, 1, 128, 128)).bottleneck
    assert bottleneck.shape == (1, shape[0], shape[1], shape[1])


def test_fanet_levels_have_the_published_sizes() -> None:
    with torch.device("meta"):
        levels = build("fanet").encoder.levels  # type: ignore[union-attr]
    counts = [count_parameters(level) / 1e6 for level in levels]  # type: ignore[union-attr]
    assert counts == pytest.approx([0.305, 1.233, 4.924, 19.678], abs=6e-4)


def test_semantic_autoencoder_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = SemanticAutoencoder()
    assert count_parameters(network) == pytest.approx(26.83e6, rel=5e-4)
    assert count_parameters(network.encoder) == pytest.approx(26.14e6, rel=5e-4)


def test_misspelt_network_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mobile_unet'"):
        build("mobil_unet")


def test_all_wrong_arguments_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build("resnet", width=0.0, classes=-1)
    assert len(caught.value.problems) == 3

"""Parameter counts at width 1.0 against the published ones, on the meta device: nothing is allocated."""

from __future__ import annotations

import pytest
import torch

from gkd_bench.errors import ConfigError
from gkd_bench.networks.base import count_parameters
from gkd_bench.networks.build import build
from gkd_bench.networks.semantic import SemanticAutoencoder

PUBLISHED = {"fanet": 38.292e6, "unet": 31.04e6, "mobile_unet": 4.682e6, "enet": 0.349e6, "erfnet": 2.063e6}

BOTTLENECKS = {
    "fanet": (512, 16),
    "unet": (1024, 8),
    "mobile_unet": (1280, 4),
    "enet": (128, 16),
    "erfnet": (128, 16),
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_full_size_has_the_published_number_of_parameters(name: str, parameters: float) -> None:
    with torch.device("meta"):
        assert count_parameters(build(name)) == pytest.approx(parameters, rel=5e-4)


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

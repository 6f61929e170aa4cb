"""The mask autoencoder and the frozen prior built on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.alignment import AlignmentNetwork
from gkd_bench.networks.build import seeded
from gkd_bench.networks.semantic import SemanticAutoencoder, SemanticPrior

WIDTH, DIM = 0.05, 32


def masks(batch: int = 3, height: int = 32, width: int = 32) -> Tensor:
    return (torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(0)) > 0.7).float()


def autoencoder(seed: int = 0) -> SemanticAutoencoder:
    with seeded(seed):
        return SemanticAutoencoder(WIDTH)


def prior(seed: int = 0) -> SemanticPrior:
    host = autoencoder(seed)
    with seeded(seed):
        return SemanticPrior(host, AlignmentNetwork(host.bottleneck_channels, (4, 4), "flat", DIM))


@pytest.mark.parametrize("size", [(32, 32), (37, 53), (8, 9)])
def test_logits_have_the_size_of_the_mask(size: tuple[int, int]) -> None:
    network, grid = autoencoder(), tuple(-(-side // 8) for side in size)
    assert network(masks(2, *size)).shape == (2, 1, *size)
    assert network.encode(masks(2, *size)).shape == (2, network.bottleneck_channels, *grid)


def test_decoder_is_linear_in_the_bottleneck() -> None:
    network = autoencoder().eval()
    first, second = (torch.randn(1, network.bottleneck_channels, 4, 4) for _ in range(2))
    between = network.decode(0.3 * first + 0.7 * second)
    torch.testing.assert_close(between, 0.3 * network.decode(first) + 0.7 * network.decode(second))


def test_autoencoder_gradients_reach_every_parameter_and_every_weight_is_saved(tmp_path: Path) -> None:
    network = autoencoder()
    torch.autograd.backward(F.binary_cross_entropy_with_logits(network(masks()), masks()))
    assert all(parameter.grad is not None for parameter in network.parameters())
    save_file(network.state_dict(), tmp_path / "latent.safetensors")
    other = autoencoder(1).eval()
    other.load_state_dict(load_file(tmp_path / "latent.safetensors"))
    assert torch.equal(other(masks()), network.eval()(masks()))


def test_prior_keeps_its_autoencoder_frozen_and_in_eval_mode() -> None:
    network = prior().train()
    before = {key: value.clone() for key, value in network.autoencoder.state_dict().items()}
    torch.autograd.backward(F.binary_cross_entropy_with_logits(network(masks()).logits, masks()))
    assert network.vector_part.training and not any(part.training for part in network.autoencoder.modules())
    assert all(parameter.grad is None for parameter in network.autoencoder.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.autoencoder.state_dict().items())


def test_reconstruction_trains_every_parameter_of_the_vector_part() -> None:
    network = prior()
    found = network(masks())
    loss = (found.rebuilt - found.bottleneck).square().mean()
    torch.autograd.backward(loss + F.binary_cross_entropy_with_logits(found.logits, masks()))
    assert not found.bottleneck.requires_grad
    assert all(parameter.grad is not None for parameter in network.vector_part.parameters())


@pytest.mark.parametrize("size", [(32, 32), (37, 53)])
def test_vector_and_mask_logits_are_the_two_halves_of_forward(size: tuple[int, int]) -> None:
    network = prior().eval()
    found = network(masks(2, *size))
    vectors = network.vector(masks(2, *size))
    torch.testing.assert_close(vectors, found.vector)
    torch.testing.assert_close(network.mask_logits(vectors, size), found.logits)


def test_frozen_prior_passes_gradients_to_vectors() -> None:
    network = prior().eval().requires_grad_(False)
    vectors = torch.zeros(2, DIM, requires_grad=True)
    (gradient,) = torch.autograd.grad(network.mask_logits(vectors, (32, 32)).square().sum(), vectors)
    assert gradient.abs().max() > 0


def test_statistics_are_those_of_the_vectors_and_travel_with_the_state() -> None:
    vectors = torch.randn(50, DIM, generator=torch.Generator().manual_seed(1)) * 2.0 + 5.0
    network = prior()
    network.fit_statistics(vectors)
    np.testing.assert_allclose(network.v_mu, vectors.numpy().mean(0), rtol=1e-5)
    np.testing.assert_allclose(network.v_sd, vectors.numpy().std(0), rtol=1e-5)
    other = prior(1)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.v_mu, network.v_mu) and torch.equal(other.v_sd, network.v_sd)


def test_entries_that_never_vary_get_a_tenth_of_the_typical_deviation() -> None:
    vectors = torch.randn(50, DIM, generator=torch.Generator().manual_seed(1))
    vectors[:, 3] = 4.0
    network = prior()
    network.fit_statistics(vectors)
    typical = vectors.double().std(0, correction=0).square().mean().sqrt()
    assert float(network.v_sd[3]) == pytest.approx(0.1 * float(typical), rel=1e-5)
    network.fit_statistics(torch.ones(5, DIM))
    assert torch.equal(network.v_sd, torch.ones(DIM))


@pytest.mark.parametrize(("width", "share"), [(1.0, 0.5), (0.25, 0.125)])
def test_head_drops_half_the_channels_at_full_size_and_fewer_in_slim_networks(width: float, share: float) -> None:
    with torch.device("meta"):
        head = SemanticAutoencoder(width).head
    assert [part.p for part in head if isinstance(part, nn.Dropout2d)] == [share]


def test_eval_mode_is_deterministic() -> None:
    network = autoencoder().eval()
    assert torch.equal(network(masks()), network(masks()))

"""Alignment networks of every kind on hosts of several shapes."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from gkd_bench.errors import ConfigError
from gkd_bench.networks.alignment import AlignmentNetwork, HeaderKind, Mixing, standardise
from gkd_bench.networks.base import count_parameters
from gkd_bench.networks.build import seeded

KINDS = get_args(HeaderKind)
HOSTS = [(8, (12, 12)), (40, (3, 3)), (32, (2, 5)), (32, (16, 16))]
DIM = 32


def aligned(
    channels: int, grid: tuple[int, int], kind: HeaderKind, mixing: Mixing = "always", dim: int = DIM, hidden: int = 8
) -> AlignmentNetwork:
    with seeded(0):
        return AlignmentNetwork(channels, grid, kind, dim, hidden, mixing)


def features(channels: int, size: tuple[int, int], batch: int = 3) -> Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mixing", get_args(Mixing))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "grid"), HOSTS)
def test_vector_has_dim_entries_and_header_rebuilds_the_hosts_shape(
    channels: int, grid: tuple[int, int], kind: HeaderKind, mixing: Mixing
) -> None:
    network = aligned(channels, grid, kind, mixing)
    vectors = network.encode(features(channels, grid))
    assert vectors.shape == (3, DIM)
    assert network.header(vectors).shape == (3, channels, *grid)


@pytest.mark.parametrize("kind", KINDS)
def test_other_sizes_are_pooled_before_and_resized_after(kind: HeaderKind) -> None:
    network = aligned(8, (6, 6), kind)
    vectors, rebuilt = network(features(8, (9, 13)))
    assert vectors.shape == (3, DIM) and rebuilt.shape == (3, 8, 9, 13)
    assert network.header(vectors, (2, 2)).shape == (3, 8, 2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_map_gives_the_same_vector_at_every_size(kind: HeaderKind) -> None:
    network = aligned(8, (4, 4), kind).eval()
    torch.testing.assert_close(network.encode(torch.ones(1, 8, 12, 8)), network.encode(torch.ones(1, 8, 4, 4)))


@pytest.mark.parametrize("mixing", get_args(Mixing))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "grid"), HOSTS)
def test_gradients_reach_every_parameter_and_the_host(
    channels: int, grid: tuple[int, int], kind: HeaderKind, mixing: Mixing
) -> None:
    network, host = aligned(channels, grid, kind, mixing).double(), features(channels, grid).double().requires_grad_()
    vectors, rebuilt = network(host)
    torch.autograd.backward(vectors.pow(3).sum() + rebuilt.pow(3).sum())
    assert host.grad is not None and host.grad.abs().max() > 0
    assert [key for key, p in network.named_parameters() if p.grad is None] == []
    assert [key for key, p in network.named_parameters() if p.ndim > 1 and (p.grad is None or not p.grad.any())] == []


@pytest.mark.parametrize(
    ("channels", "side", "parameters"),
    [(512, 16, 33_281), (1280, 4, 1_315_857), (128, 16, 166_017), (1024, 8, 1_059_649)],
)
def test_shared_mlp_with_mixing_when_needed_has_the_published_size(channels: int, side: int, parameters: int) -> None:
    network = AlignmentNetwork(channels, (side, side), "shared_mlp", 512, 64, "when_needed")
    assert count_parameters(network) == parameters


@pytest.mark.parametrize(("kind", "inside"), [("shared_mlp", DIM), ("per_channel", DIM), ("grid", 2), ("flat", 4)])
def test_mixing_when_needed_is_left_out_only_where_the_channels_already_fit(kind: HeaderKind, inside: int) -> None:
    assert isinstance(aligned(inside, (4, 4), kind, "when_needed").mix, nn.Identity)
    assert isinstance(aligned(inside, (4, 4), kind, "always").mix, nn.Sequential)
    assert isinstance(aligned(inside + 8, (4, 4), kind, "when_needed").mix, nn.Sequential)


def test_flat_stays_affordable_on_the_full_size_teacher() -> None:
    with torch.device("meta"):
        network = AlignmentNetwork(512, (16, 16), "flat", 512)
    assert count_parameters(network) < 17e6


def test_shared_mlp_treats_all_channels_alike() -> None:
    order = torch.randperm(DIM, generator=torch.Generator().manual_seed(2))
    host = features(DIM, (4, 4))
    shared, own = (aligned(DIM, (4, 4), kind, "when_needed") for kind in ("shared_mlp", "per_channel"))
    torch.testing.assert_close(shared.encode(host[:, order]), shared.encode(host)[:, order])
    assert not torch.allclose(own.encode(host[:, order]), own.encode(host)[:, order])


def test_per_channel_equals_one_small_network_for_each_channel() -> None:
    network, host = aligned(DIM, (4, 4), "per_channel", "when_needed"), features(DIM, (4, 4))
    weights = network.funnel.state_dict()
    down, up = (weights[f"{layer}.weight"].reshape(DIM, -1, size) for layer, size in ((2, 16), (4, 8)))
    hidden = nn.functional.gelu(torch.einsum("cha,nca->nch", down, host.flatten(2)) + weights["2.bias"].reshape(DIM, 8))
    expected = torch.einsum("ch,nch->nc", up[:, 0], hidden) + weights["4.bias"]
    torch.testing.assert_close(network.encode(host), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_headers_accept_each_others_vectors(kind: HeaderKind) -> None:
    teacher, student = aligned(8, (12, 12), kind), aligned(40, (3, 3), kind)
    assert teacher.header(student.encode(features(40, (3, 3)))).shape == (3, 8, 12, 12)
    assert student.header(teacher.encode(features(8, (12, 12)))).shape == (3, 40, 3, 3)


def test_flat_pair_learns_to_rebuild_a_few_maps() -> None:
    network, host = aligned(4, (4, 4), "flat", "when_needed", dim=64), features(4, (4, 4), batch=6)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(150):
        loss = (network(host)[1] - host).square().mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    assert float(loss.detach()) < 0.01


def test_grid_refuses_a_dim_that_is_no_multiple_of_sixteen() -> None:
    with pytest.raises(ConfigError, match="multiple of 16"):
        aligned(8, (4, 4), "grid", dim=20)


def test_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(ConfigError, match="shared_mlp, per_channel, grid or flat"):
        aligned(8, (4, 4), "conv")  # type: ignore[arg-type]


def test_standardised_vectors_have_mean_zero_and_deviation_one() -> None:
    vectors = features(5, (4, 4)).flatten(1) * 3.0 + 7.0
    mean, deviation = vectors.mean(0), vectors.std(0)
    result = standardise(vectors, mean, deviation)
    torch.testing.assert_close(result.mean(0), torch.zeros(80), rtol=0, atol=1e-5)
    torch.testing.assert_close(result.std(0), torch.ones(80), rtol=1e-4, atol=0)

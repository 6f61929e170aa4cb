"""Instance normalisation beside torch's, and other libraries' batch norms replaced by ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gkd_bench.networks.build import build
from gkd_bench.networks.norm import BatchNorm2d, InstanceNorm2d, synchronised


def maps(channels: int = 3, *size: int) -> Tensor:
    return 5.0 + torch.randn(4, channels, *size, generator=torch.Generator().manual_seed(0))


def spread(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for index, parameter in enumerate(norm.parameters()):
            parameter.copy_(torch.arange(1.0, len(parameter) + 1) / (index + 1))
    return norm


@pytest.mark.parametrize("training", [True, False])
def test_instance_norm_equals_torch_where_there_is_a_spread(training: bool) -> None:
    ours, theirs = spread(InstanceNorm2d(3)), spread(nn.InstanceNorm2d(3, affine=True))
    features = maps(3, 1, 2)
    assert torch.equal(ours.train(training)(features), theirs.train(training)(features))


@pytest.mark.parametrize("training", [True, False])
def test_single_position_is_only_scaled_and_shifted(training: bool) -> None:
    features = maps(3, 1, 1)
    with pytest.raises(ValueError, match="spatial"):
        nn.InstanceNorm2d(3, affine=True)(features)
    scale = torch.tensor([1.0, 2.0, 3.0])
    found = spread(InstanceNorm2d(3)).train(training)(features)
    torch.testing.assert_close(found[..., 0, 0], features[..., 0, 0] * scale + scale / 2)


def test_smallest_inputs_keep_what_they_show_in_the_bottleneck() -> None:
    network = build("resenc_unet", 0.1, seed=0)
    left, right = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    left[..., :8], right[..., 24:] = 1.0, 1.0
    one, other = network.encode(left).bottleneck, network.encode(right).bottleneck
    assert one.shape[-2:] == (1, 1)
    assert (one - other).abs().max() > 0.1 * one.abs().max()


def test_replaced_batch_norms_compute_the_same_and_learn_the_same_parameters() -> None:
    plain = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Sequential(spread(nn.BatchNorm2d(3, eps=1e-3, momentum=0.3)), nn.ReLU())
    )
    plain(maps(1, 8, 8))
    parameters, expected = list(plain.parameters()), plain.eval()(maps(1, 9, 9))
    assert synchronised(plain) is plain
    assert isinstance(plain[1][0], BatchNorm2d)  # type: ignore[index]
    assert all(a is b for a, b in zip(plain.parameters(), parameters, strict=True))
    assert torch.equal(plain(maps(1, 9, 9)), expected)
    assert (plain[1][0].eps, plain[1][0].momentum) == (1e-3, 0.3)  # type: ignore[index]


def test_norms_without_a_counterpart_stay() -> None:
    network = nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, momentum=None), nn.BatchNorm1d(3), BatchNorm2d(3)
    )
    before = list(network)
    assert all(a is b for a, b in zip(synchronised(network), before, strict=True))

"""Any two networks on common ground: shapes, projections, and class shares of coarse cells."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from gkd_bench.config.method_options import Tap
from gkd_bench.distillation.bridge import Bridge, channels, labels_at, maps_of, network_maps, same_size, teacher_maps
from gkd_bench.networks.base import Features, SegmentationNetwork
from gkd_bench.networks.build import build

TAPS: tuple[Tap, ...] = ("shallow", "bottleneck", "deep")
WIDTHS = {"fanet": 0.1, "unet": 0.05, "mobile_unet": 0.1, "enet": 0.25, "erfnet": 0.1}


def images(height: int = 32, width: int = 32, batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("teacher", ["fanet", "unet"])
@pytest.mark.parametrize("student", WIDTHS)
@pytest.mark.parametrize("size", [(32, 48), (37, 51)])
def test_a_bridge_gives_pairs_of_one_shape_with_the_teachers_channels(
    teacher: str, student: str, size: tuple[int, int]
) -> None:
    large, small = build(teacher, WIDTHS[teacher], seed=0).eval(), build(student, WIDTHS[student], seed=1).eval()
    bridge, theirs = Bridge(small, large, TAPS), teacher_maps(large, images(*size))
    for tap, (mine, other) in zip(TAPS, bridge(network_maps(small, images(*size)), theirs), strict=True):
        assert mine.shape == other.shape and mine.shape[1] == getattr(theirs, tap).shape[1]


@pytest.mark.parametrize("training", [True, False])
def test_counting_channels_leaves_the_network_as_it_was(student: SegmentationNetwork, training: bool) -> None:
    student.train(training)
    before = copy.deepcopy(student.state_dict())
    counts = channels(student, TAPS)
    assert counts == tuple(m.shape[1] for m in network_maps(student, images(batch=2)).at(TAPS))
    student.load_state_dict(before)
    channels(student, TAPS)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert student.training is training


def test_equal_networks_start_with_nothing_to_learn(student: SegmentationNetwork) -> None:
    student.eval()
    bridge, found = Bridge(student, copy.deepcopy(student), TAPS), network_maps(student, images())
    for mine, theirs in bridge(found, found):
        assert torch.equal(mine, theirs)


def test_a_projection_learns_to_find_the_teachers_channels_in_another_order(student: SegmentationNetwork) -> None:
    found = teacher_maps(student.eval(), images(batch=2))
    bridge = Bridge(student, student, ("deep",))
    turned = found._replace(deep=found.deep.flip(1))
    optimiser = torch.optim.Adam(bridge.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        ((mine, theirs),) = bridge(found, turned)
        loss = (mine - theirs).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_a_network_without_encoder_taps_is_read_at_its_bottleneck(student: SegmentationNetwork) -> None:
    features = student.eval().encode(images())
    bare = Features(features.bottleneck, features.skips, ())
    found = maps_of(bare, student.decode(features.bottleneck, features.skips))
    assert found.shallow is features.bottleneck


def test_no_gradient_reaches_the_teacher(student: SegmentationNetwork) -> None:
    assert not any(m.requires_grad for m in teacher_maps(student, images()))


def test_maps_are_averaged_down_to_the_smaller_side_of_each() -> None:
    tall, wide = torch.arange(16.0).view(1, 1, 8, 2), torch.arange(16.0).view(1, 1, 2, 8)
    first, second = same_size(tall, wide)
    assert torch.equal(first, tall.view(1, 1, 2, 4, 2).mean(3))
    assert torch.equal(second, wide.view(1, 1, 2, 2, 4).mean(4))


def test_thin_vessels_keep_their_share_of_a_coarse_cell() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.int64)
    labels[0, :, 1] = 1
    shares = labels_at(labels, (2, 2), 3)
    assert torch.equal(shares[0, 1], torch.tensor([[0.25, 0.0], [0.25, 0.0]]))
    assert torch.equal(shares.sum(1), torch.ones(1, 2, 2)) and not shares[0, 2].any()


def test_class_shares_fit_sides_that_the_grid_does_not_divide() -> None:
    labels = (images(7, 11)[0] > 0.5).long()
    shares = labels_at(labels, (3, 4), 2)
    assert shares.shape == (1, 2, 3, 4) and torch.allclose(shares.sum(1), torch.ones(1, 3, 4))

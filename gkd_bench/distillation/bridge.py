"""The one place where feature maps of any teacher and any student are brought to a common shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.config.method_options import Tap
from gkd_bench.networks.base import Decoded, Features, SegmentationNetwork
from gkd_bench.networks.norm import frozen_statistics

PROBE_SIDE = 64


class Maps(NamedTuple):
    """The maps of a network that methods compare, each (batch, channels, h, w).

    Attributes:
        shallow: encoder map, usually at a quarter of the input's side; the bottleneck for a network without encoder taps.
        bottleneck: deepest map.
        deep: decoder map, usually at a quarter of the input's side.
        logits: (batch, classes, height, width) at the input's size.
    """

    shallow: Tensor
    bottleneck: Tensor
    deep: Tensor
    logits: Tensor

    def at(self, taps: Sequence[Tap]) -> tuple[Tensor, ...]:
        """The maps of these names."""
        return tuple(getattr(self, tap) for tap in taps)


def maps_of(features: Features, decoded: Decoded) -> Maps:
    """The maps of one pass."""
    shallow = features.taps[0] if features.taps else features.bottleneck
    return Maps(shallow, features.bottleneck, decoded.tap, decoded.logits)


def network_maps(network: SegmentationNetwork, images: Tensor) -> Maps:
    """One pass of images (batch, channels, height, width); gradients flow unless the caller forbids them."""
    features = network.encode(images)
    return maps_of(features, network.decode(features.bottleneck, features.skips))


@torch.no_grad()
def teacher_maps(teacher: SegmentationNetwork, images: Tensor) -> Maps:
    """One pass of the frozen teacher, without gradients."""
    return network_maps(teacher, images)


def channels(network: SegmentationNetwork, taps: Sequence[Tap]) -> tuple[int, ...]:
    """Channel counts of a network's maps, from one small pass that leaves it as it was."""
    like = next(network.parameters())
    probe = torch.zeros(1, network.in_channels, PROBE_SIDE, PROBE_SIDE, device=like.device, dtype=like.dtype)
    was_training = network.training
    with torch.no_grad(), frozen_statistics(network):
        found = network_maps(network.eval(), probe)
    network.train(was_training)
    return tuple(m.shape[1] for m in found.at(taps))


class Bridge(nn.Module):
    """Learned 1x1 projections of a student's maps to a teacher's channels; resized to a common grid.

    The projections are trained with the student and thrown away with the teacher. A map that has the teacher's
    channels already is projected as well, since the order of channels means nothing across networks; between equal
    networks the projection starts as the identity, so that a student that equals its teacher has nothing to learn.

    Args:
        student, teacher: looked at for their shapes only.
        taps: which maps.
    """

    def __init__(self, student: SegmentationNetwork, teacher: SegmentationNetwork, taps: Sequence[Tap]) -> None:
        super().__init__()
        self.taps = tuple(taps)
        sizes = zip(channels(student, taps), channels(teacher, taps), strict=True)
        self.projections = nn.ModuleList(_projection(inputs, outputs) for inputs, outputs in sizes)

    def forward(self, student: Maps, teacher: Maps) -> list[tuple[Tensor, Tensor]]:
        """(projected student map, teacher map) of equal shape per tap, each at the smaller of the two grids."""
        pairs = zip(self.projections, student.at(self.taps), teacher.at(self.taps), strict=True)
        return [same_size(project(mine), theirs) for project, mine, theirs in pairs]


def same_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (batch, channels, h, w) averaged down to the smaller height and the smaller width of the two."""
    grid = (min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1]))
    return resized(first, grid), resized(second, grid)


def resized(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps averaged over the cells of a grid that is nowhere finer than they are."""
    return maps if maps.shape[-2:] == grid else F.adaptive_avg_pool2d(maps, grid)


def labels_at(labels: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """Class shares of every cell: labels (batch, height, width) -> (batch, classes, *grid), float32, summing to 1 per cell.

    Thin vessels vanish from nearest-neighbour labels at a quarter of the size; shares keep them.
    """
    return F.adaptive_avg_pool2d(F.one_hot(labels, classes).movedim(-1, 1).float(), grid)


def _projection(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    if inputs == outputs:
        nn.init.dirac_(conv.weight)
    else:
        nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")
    return conv

"""Slim networks with everything a method may consult, built without training."""

from __future__ import annotations

import pytest
import torch

from gkd_bench.distillation.base import Aligned, Batch, Guides
from gkd_bench.networks.alignment import AlignmentNetwork
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.build import build, seeded

TILE, DIM = 32, 32


def aligned(host: SegmentationNetwork, seed: int) -> Aligned:
    side = max(1, TILE // host.stride)
    with seeded(seed):
        network = AlignmentNetwork(host.bottleneck_channels, (side, side), "flat", DIM)
    return Aligned(network, torch.zeros(DIM), torch.ones(DIM))


@pytest.fixture
def student() -> SegmentationNetwork:
    return build("mobile_unet", 0.1, seed=1)


@pytest.fixture
def guides(student: SegmentationNetwork) -> Guides:
    teacher = build("unet", 0.05, seed=2)
    return Guides(teacher, aligned(teacher, 3), aligned(student, 4))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 1, TILE, TILE, generator=generator)
    labels = (torch.rand(4, TILE, TILE, generator=generator) > 0.8).long()
    views = torch.stack([images * 0.7, (images * 1.2).clamp(0, 1)])
    return Batch(images, labels, views)

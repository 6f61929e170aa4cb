"""ENet's deterministic unpooling against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gkd_bench.networks.enet import unpool, window_position


@pytest.mark.parametrize("size", [(2, 2), (6, 10)])
def test_unpooling_equals_max_unpool(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, *size, generator=generator)
    pooled, index = F.max_pool2d(features, 2, return_indices=True)
    values = torch.randn(pooled.shape, generator=generator)
    assert torch.equal(unpool(values, window_position(index, size[1])), F.max_unpool2d(values, index, [2, 2]))


def test_unpooling_restores_the_maxima_and_routes_gradients_to_them() -> None:
    features = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pooled, index = F.max_pool2d(features, 2, return_indices=True)
    where = window_position(index, 4)
    assert where.dtype == torch.uint8 and int(where.max()) <= 3
    assert torch.equal(F.max_pool2d(unpool(pooled, where), 2), pooled)
    assert torch.autograd.gradcheck(lambda values: unpool(values, where), pooled.clone().requires_grad_())

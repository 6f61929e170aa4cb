"""The building blocks of FANet against their formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.networks.build import seeded
from gkd_bench.networks.fanet import GatedStripAttention, SelectiveKernel, StripAttention


def maps(height: int = 10, width: int = 7) -> Tensor:
    return torch.randn(2, 8, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_selective_kernel_is_the_convex_sum_of_its_branches_per_channel() -> None:
    with seeded(0):
        block = SelectiveKernel(8).double().eval()
    wide, narrow = block.wide(maps()), block.narrow(maps())
    summary = block.squeeze(F.adaptive_avg_pool2d(wide + narrow, 1))
    # A softmax over two scores is the sigmoid of their difference.
    share = torch.sigmoid(block.scores[0](summary) - block.scores[1](summary)).detach()
    assert float(share.min()) > 0.0 and float(share.max()) < 1.0
    torch.testing.assert_close(block(maps()), share * wide + (1 - share) * narrow)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("size", [(10, 7), (2, 3), (24, 36)])
def test_strip_attention_equals_its_formula(gated: bool, size: tuple[int, int]) -> None:
    with seeded(0):
        block = (GatedStripAttention if gated else StripAttention)(8, (3, 6)).double().eval()
    x = maps(*size)

    def up(small: Tensor) -> Tensor:
        return F.interpolate(small, size=size, mode="nearest")

    a, b = block.local_in(x), block.strip_in(x)
    full = block.local(a)
    third, sixth = (up(conv(F.adaptive_avg_pool2d(a, side))) for conv, side in zip(block.pooled, (3, 6), strict=True))
    local = torch.cat([full, third, sixth], 1) if gated else full + third + sixth
    row = up(block.row(F.adaptive_avg_pool2d(b, (1, size[1]))))
    column = up(block.column(F.adaptive_avg_pool2d(b, (size[0], 1))))
    strips = block.strip_out(F.relu(row + column))
    both = torch.cat([block.local_out(F.relu(local)), strips * x if gated else strips], 1)
    torch.testing.assert_close(block(x), F.relu(x + block.fuse(both)))

"""Cosines of positions, channels and classes of feature maps: the arithmetic that relational methods share.

Everything is computed in float32 outside autocast; vectors shorter than ``SHORTEST`` are shortened further instead of
blown up, so that a dead position or channel has no say and no gradient that explodes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import ViewKind, moved_pixels
from gkd_bench.distillation.bridge import resized
from gkd_bench.distillation.divergence import softmax_divergence

LONGEST_SIDE = 16
SHORTEST = 1e-4


def on_common_grid(*maps: Tensor, longest: int = LONGEST_SIDE) -> tuple[Tensor, ...]:
    """Maps (batch, channels, h, w) in float32 on the coarsest of their grids, no side of it above ``longest``.

    Relations cost the square of the number of positions; the limit bounds it for any tile.
    """
    grid = (min(longest, *(m.shape[-2] for m in maps)), min(longest, *(m.shape[-1] for m in maps)))
    return tuple(resized(m.float(), grid) for m in maps)


def unit_positions(maps: Tensor) -> Tensor:
    """(batch, channels, h, w) -> (batch, h * w, channels): the vector of every position, of length 1."""
    return F.normalize(maps.float().flatten(2).transpose(1, 2), dim=-1, eps=SHORTEST)


def unit_channels(maps: Tensor) -> Tensor:
    """(batch, channels, h, w) -> (batch, channels, h * w): the picture of every channel, of length 1."""
    return F.normalize(maps.float().flatten(2), dim=-1, eps=SHORTEST)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Unit vectors (..., n, dim) and (..., m, dim) -> (..., n, m)."""
    return first @ second.transpose(-1, -2)


def class_means(vectors: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean vector of every class of every sample, and whether the class is there.

    Args:
        vectors: (batch, positions, dim).
        shares: (batch, classes, h, w) class shares of the positions, of ``bridge.labels_at``.

    Returns:
        (batch, classes, dim), zeros for a class that is absent, and (batch, classes) bool.
    """
    weights = shares.flatten(2)
    total = weights.sum(-1, keepdim=True)
    return weights @ vectors / total.clamp_min(1e-6), total[..., 0] > 0


def relation_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Mean over rows of KL(softmax(teacher / T) || softmax(student / T)); both (..., n), the softmax over the last dim."""
    return softmax_divergence(teacher.float(), student.float(), temperature, dim=-1).mean()


def require_aligned(kinds: Sequence[ViewKind], method: str) -> None:
    """Refuse view kinds that move pixels. Raises ValueError naming the option."""
    if wrong := moved_pixels(kinds, method):
        raise ValueError(f"methods.{method}.views: {wrong}")

"""Health checks: small measurements that show whether a stage carries information at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

THRESHOLDS = tuple(i / 20 for i in range(1, 20))


def mask_dice(probability: Tensor, truth: Tensor, threshold: float = 0.5) -> float:
    """Pooled Dice of ``probability`` >= threshold against 0/1 ``truth`` of the same shape; 1.0 when both are empty."""
    predicted, truth = probability >= threshold, truth > 0.5
    total = int(predicted.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2.0 * int((predicted & truth).sum()) / total


def best_threshold_dice(probability: Tensor, truth: Tensor) -> float:
    """Largest pooled Dice over the thresholds 0.05, 0.10, ... 0.95."""
    return max(mask_dice(probability, truth, threshold) for threshold in THRESHOLDS)


def all_foreground_dice(truth: Tensor) -> float:
    """Pooled Dice of predicting foreground everywhere."""
    return mask_dice(torch.ones_like(truth, dtype=torch.float32), truth)


def retrieval_at_1(queries: Tensor, answers: Tensor) -> float:
    """Share of rows of ``queries`` (n, dim) whose nearest row of ``answers`` (n, dim) is the one of the same index.

    Chance is 1 / n. Both should be standardised with the same mean and deviation.
    """
    nearest = torch.cdist(queries.double(), answers.double()).argmin(dim=1)
    return float((nearest == torch.arange(len(queries), device=nearest.device)).double().mean())


def effective_rank(vectors: Tensor) -> float:
    """exp(entropy of the normalised covariance eigenvalues) of (n, dim) vectors; 1 to min(n - 1, dim).

    Source: O. Roy, M. Vetterli, "The effective rank", EUSIPCO 2007, on squared singular values.
    """
    centred = vectors.double() - vectors.double().mean(dim=0)
    energy = torch.linalg.svdvals(centred).square()
    share = energy / energy.sum().clamp_min(1e-300)
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum()))


def live_channels(maps: Tensor) -> float:
    """Share of the channels of (tiles, channels, h, w) that are not the same everywhere, in [0, 1]."""
    deviation = maps.float().transpose(0, 1).flatten(1).std(dim=1)
    return float((deviation > 1e-6).float().mean())


def shuffled(items: Tensor) -> Tensor:
    """Rows moved on by one: every tile gets another tile's row, deterministically."""
    return items.roll(1, dims=0)


def batches(count: int, size: int = 32) -> Sequence[slice]:
    """Slices that cover ``count`` rows, ``size`` at a time."""
    return [slice(first, first + size) for first in range(0, count, size)]

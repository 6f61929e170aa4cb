"""Batch normalisation that sees the global batch, and a way to pass views through it without moving its statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over (batch, height, width), synchronised over all ranks of torch.distributed when training.

    With several ranks the statistics are those of the global batch, and gradients flow through them, so that ``n``
    workers with ``b / n`` samples each compute what one worker computes with ``b``; ranks may hold different numbers of
    samples. Works on any device and back end, because it is built from one differentiable all-reduce. Every rank has to
    run the same training passes; passes in eval mode need no other rank.

    Where a channel has a single value in the whole batch its variance is undefined; the running statistics stand in.

    Attributes:
        tracking: whether training passes move the running statistics; see :func:`frozen_statistics`.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.tracking = True

    def forward(self, input: Tensor) -> Tensor:
        """Features (batch, channels, height, width) -> the same, normalised per channel."""
        if not self.training:
            return super().forward(input)
        if world_size() > 1:
            return self._synchronised(input)
        if input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if not self.tracking:
            return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return super().forward(input)

    def _synchronised(self, input: Tensor) -> Tensor:
        values = input if input.dtype in (torch.float32, torch.float64) else input.float()
        mean, variance, count = _global_moments(values)
        if self.tracking:
            self._track(mean.detach(), variance.detach(), count)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        centred = values - mean[:, None, None]
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        rate = float(self.momentum or 0.0)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)
        self.num_batches_tracked.add_(1)


class InstanceNorm2d(nn.InstanceNorm2d):
    """Normalisation over the positions of each sample and channel, with scale and shift; no running statistics.

    A map of a single position has no spread: torch refuses it, and normalised it would be zero whatever the image
    shows. Such maps keep their values and are only scaled and shifted (ours).
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps, affine=True)

    def forward(self, input: Tensor) -> Tensor:
        """Features (batch, channels, height, width) -> the same, normalised per sample and channel."""
        if input.shape[-2] * input.shape[-1] > 1:
            return super().forward(input)
        return torch.addcmul(self.bias[:, None, None], input, self.weight[:, None, None]).to(input.dtype)


_Module = TypeVar("_Module", bound=nn.Module)


def synchronised(module: _Module) -> _Module:
    """Put this package's batch normalisation in the place of torch's everywhere in ``module``; returns ``module``.

    For networks built from layers of other libraries. Parameters and statistics are taken over as they are. Norms that
    have no parameters, no running statistics or no momentum have no counterpart here and stay.
    """
    for name, part in module.named_children():
        if _replaceable(part):
            setattr(module, name, _replacement(part))
        else:
            synchronised(part)
    return module


def _replaceable(part: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    if not isinstance(part, nn.BatchNorm2d) or isinstance(part, BatchNorm2d):
        return False
    return part.affine and part.track_running_stats and part.momentum is not None


def _replacement(norm: nn.BatchNorm2d) -> BatchNorm2d:
    new = BatchNorm2d(norm.num_features, norm.eps, float(norm.momentum or 0.0))
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    new.num_batches_tracked = norm.num_batches_tracked
    return new.train(norm.training)


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Let training passes inside the block use batch statistics but leave all running statistics of ``module`` alone.

    For the augmented views of DCGD: they are not what the network sees when it is deployed.
    """
    norms = [part for part in module.modules() if isinstance(part, BatchNorm2d)]
    before = [norm.tracking for norm in norms]
    try:
        for norm in norms:
            norm.tracking = False
        yield
    finally:
        for norm, tracking in zip(norms, before, strict=True):
            norm.tracking = tracking


def view_statistics(module: nn.Module, choice: str) -> AbstractContextManager[None]:
    """Whether training passes inside the block move the running statistics: ``frozen`` leaves them, ``updated`` moves them."""
    return frozen_statistics(module) if choice == "frozen" else nullcontext()


def world_size() -> int:
    """Processes that train together; 1 without torch.distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _global_moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per-channel mean and biased variance over all ranks, and the number of values behind them.

    Every rank fills its own row of a (ranks, 2 channels + 1) table of local moments, which one all-reduce completes; the
    rows are merged by the parallel-variance rule (Chan, Golub and LeVeque 1979). Sums of squares would cancel.
    """
    channels = values.shape[1]
    variance, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
    own = torch.cat([mean, variance, mean.new_full((1,), values.numel() // channels)])
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    table: Tensor = all_reduce(F.pad(own[None], (0, 0, rank, ranks - rank - 1)))  # type: ignore[no-untyped-call]
    means, variances, counts = table[:, :channels], table[:, channels:-1], table[:, -1:]
    share = counts / counts.sum()
    merged = (share * means).sum(0)
    return merged, (share * (variances + (means - merged) ** 2)).sum(0), counts.sum().detach()

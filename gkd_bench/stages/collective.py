"""What the ranks of a stage tell each other. With one worker every function is the identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from gkd_bench.networks.norm import world_size


def is_distributed() -> bool:
    """Whether several processes run this stage together."""
    return world_size() > 1


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def any_rank(flag: bool) -> bool:
    """True on all ranks when true on one."""
    if not is_distributed():
        return flag
    value = torch.tensor([float(flag)], device=_device())
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def mean_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Mean of every value over the ranks; all ranks must name the same values."""
    if not is_distributed():
        return dict(values)
    stacked = torch.tensor(list(values.values()), dtype=torch.float64, device=_device())
    dist.all_reduce(stacked)
    return dict(zip(values, (stacked / dist.get_world_size()).tolist(), strict=True))


def gather(items: Sequence[Any]) -> list[Any]:
    """The items of all ranks in rank order, on every rank."""
    if not is_distributed():
        return list(items)
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the ranks; a parameter without gradient has none on any rank."""
    if not is_distributed():
        return
    for gradient in (p.grad for p in parameters if p.grad is not None):
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()

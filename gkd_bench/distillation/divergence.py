"""Divergences between two predictions, and the precision that small differences need."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def full_precision(like: Tensor) -> torch.autocast:
    """A block without autocast on the device of a tensor.

    Edges near 1, Gram matrices and gradients of gradients differ by less than half precision can tell.
    """
    return torch.autocast(like.device.type, enabled=False)


def softmax_divergence(target: Tensor, logits: Tensor, temperature: float, dim: int) -> Tensor:
    """KL(softmax(target / T) || softmax(logits / T)) along a dimension, which the result lacks; >= 0, in nats."""
    log_p, log_q = (F.log_softmax(part / temperature, dim=dim) for part in (target, logits))
    return (log_p.exp() * (log_p - log_q)).sum(dim=dim)


def kl_divergence(target: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(target / T) || softmax(logits / T)); both (batch, classes, ...) logits; scalar >= 0 in nats."""
    return temperature**2 * softmax_divergence(target.float(), logits.float(), temperature, dim=1).mean()


def soft_cross_entropy(target: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 H(softmax(target / T), softmax(logits / T)); differs from ``kl_divergence`` by the target's entropy."""
    p = F.softmax(target.float() / temperature, dim=1)
    return -(temperature**2) * (p * F.log_softmax(logits.float() / temperature, dim=1)).sum(dim=1).mean()


def probability_mse(target: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean squared difference of softmax(target / T) and softmax(logits / T)."""
    p = F.softmax(target.float() / temperature, dim=1)
    return torch.mean((p - F.softmax(logits.float() / temperature, dim=1)) ** 2)


DIVERGENCES = {"kl": kl_divergence, "ce": soft_cross_entropy, "mse": probability_mse}

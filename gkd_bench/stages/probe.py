"""Gradient report: how strongly each loss term pulls, and in which direction, compared with the main term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def gradient_report(terms: Mapping[str, Tensor], main: str, parameters: Sequence[nn.Parameter]) -> dict[str, float]:
    """``grad_ratio/<term>`` = norm over the main term's norm, ``grad_cosine/<term>`` = cosine with the main term's.

    Args:
        terms: scalar loss terms of one batch, unweighted, sharing a graph.
        main: the term to compare with, usually cross-entropy.
        parameters: the trained parameters.
    """
    reference = _flat_gradient(terms[main], parameters)
    norm = reference.norm().clamp_min(1e-12)
    report = {}
    for name, term in terms.items():
        if name == main:
            continue
        gradient = _flat_gradient(term, parameters)
        size = gradient.norm()
        report[f"grad_ratio/{name}"] = float(size / norm)
        report[f"grad_cosine/{name}"] = float(gradient @ reference / (size.clamp_min(1e-12) * norm))
    return report


def _flat_gradient(term: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    if not term.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters), device=term.device)
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return torch.cat([g.flatten().float() for g in flat])

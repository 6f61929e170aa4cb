"""DCGD, Dual Contrastive Graph Distillation: teacher and student relate the same samples in the same way.

Reconstruction from the paper's abstract and figures (Qi et al., arXiv 2207.12995); the graphs' norm, temperature and
scope are config keys. With vectors v_{i,k} of sample i and view k (k = 0 the anchor), standardised, on the unit sphere:

* intra-coupling graph, a star per sample: a_{i,k} = cos(v_{i,0}, v_{i,k}), k = 1..K;
* inter-coupling graph, complete over the augmented vectors: G_{uw} = cos(v_u, v_w), u != w.

``mse``: mean squared difference of the two networks' edges. ``softmax_kl``: KL(teacher || student) of the row-wise
softmax of the edges at a temperature, each node's edge to itself left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.distillation.divergence import full_precision, softmax_divergence

GraphLoss = Literal["mse", "softmax_kl"]
Scope = Literal["batch", "views"]


def star_edges(vectors: Tensor) -> Tensor:
    """(views + 1, batch, dim), anchor first -> (batch, views) cosines of anchor and views."""
    with full_precision(vectors):
        unit = unit_vectors(vectors)
        return torch.einsum("bd,kbd->bk", unit[0], unit[1:])


def complete_edges(vectors: Tensor, scope: Scope = "batch") -> Tensor:
    """(views, batch, dim) -> cosines of all pairs of different nodes, the self edges left out of every row.

    ``batch``: one graph over all views of all samples, (1, n, n - 1) with n = views * batch.
    ``views``: one graph per sample, (batch, views, views - 1).
    """
    with full_precision(vectors):
        unit = unit_vectors(vectors)
        nodes = unit.flatten(0, 1)[None] if scope == "batch" else unit.transpose(0, 1)
        return without_diagonal(nodes @ nodes.transpose(1, 2))


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors of length 1 along the last dimension, at least float32."""
    return F.normalize(vectors if vectors.dtype == torch.float64 else vectors.float(), dim=-1)


def without_diagonal(square: Tensor) -> Tensor:
    """(graphs, n, n) -> (graphs, n, n - 1)."""
    graphs, n, _ = square.shape
    return square.flatten(1)[:, 1:].view(graphs, n - 1, n + 1)[..., :-1].reshape(graphs, n, n - 1)


def edge_loss(teacher: Tensor, student: Tensor, form: GraphLoss = "mse", temperature: float = 0.1) -> Tensor:
    """Disagreement of two graphs with the same rows of edges, (..., edges); a scalar, 0 for equal graphs."""
    if form == "mse":
        return F.mse_loss(student, teacher)
    return softmax_divergence(teacher, student, temperature, dim=-1).mean()


def intra_loss(teacher: Tensor, student: Tensor, form: GraphLoss = "mse", temperature: float = 0.1) -> Tensor:
    """L_intra of two networks' vectors (views + 1, batch, dim), anchor first. The two dims may differ."""
    return edge_loss(star_edges(teacher), star_edges(student), form, temperature)


def inter_loss(
    teacher: Tensor, student: Tensor, form: GraphLoss = "mse", temperature: float = 0.1, scope: Scope = "batch"
) -> Tensor:
    """L_inter of two networks' view vectors (views, batch, dim). Needs at least two nodes per graph."""
    return edge_loss(complete_edges(teacher, scope), complete_edges(student, scope), form, temperature)

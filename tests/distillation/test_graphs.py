"""DCGD's graphs: values against loops, and the properties the losses must have."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from gkd_bench.distillation.dcgd import complete_edges, inter_loss, intra_loss, star_edges

FORMS = ("mse", "softmax_kl")
SCOPES = ("batch", "views")


def vectors(views: int = 3, batch: int = 4, dim: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(views, batch, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(dim: int = 8) -> Tensor:
    matrix = torch.randn(dim, dim, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return torch.linalg.qr(matrix).Q


def cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second / (first.norm() * second.norm()))


def test_star_edges_are_cosines_of_anchor_and_views() -> None:
    v = vectors(views=4)
    edges = star_edges(v)
    assert edges.shape == (4, 3)
    for i, k in itertools.product(range(4), range(3)):
        assert edges[i, k].item() == pytest.approx(cosine(v[0, i], v[k + 1, i]))


def test_complete_edges_over_the_batch_are_all_pairs_but_a_node_with_itself() -> None:
    v = vectors(views=2, batch=3)
    nodes = v.flatten(0, 1)
    edges = complete_edges(v, "batch")
    assert edges.shape == (1, 6, 5)
    for u in range(6):
        expected = [cosine(nodes[u], nodes[w]) for w in range(6) if w != u]
        assert edges[0, u].tolist() == pytest.approx(expected)


def test_complete_edges_over_views_stay_within_a_sample() -> None:
    v = vectors(views=4, batch=2)
    edges = complete_edges(v, "views")
    assert edges.shape == (2, 4, 3)
    assert edges[1, 0].tolist() == pytest.approx([cosine(v[0, 1], v[k, 1]) for k in (1, 2, 3)])


@pytest.mark.parametrize("form", FORMS)
def test_losses_are_zero_for_equal_networks_and_positive_otherwise(form: str) -> None:
    same, other = vectors(seed=1), vectors(seed=2)
    assert intra_loss(same, same, form).item() == pytest.approx(0.0, abs=1e-12)
    assert intra_loss(same, other, form).item() > 1e-3
    for scope in SCOPES:
        assert inter_loss(same, same, form, scope=scope).item() == pytest.approx(0.0, abs=1e-12)
        assert inter_loss(same, other, form, scope=scope).item() > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_losses_do_not_change_when_a_network_rotates_its_vector_space(form: str) -> None:
    teacher, student = vectors(seed=1), vectors(seed=2)
    turned = student @ rotation()
    assert intra_loss(teacher, turned, form).item() == pytest.approx(intra_loss(teacher, student, form).item())
    for scope in SCOPES:
        plain = inter_loss(teacher, student, form, scope=scope).item()
        assert inter_loss(teacher, turned, form, scope=scope).item() == pytest.approx(plain)


def test_mse_value_matches_a_loop() -> None:
    teacher, student = vectors(seed=1), vectors(seed=2)
    pairs = [
        (cosine(teacher[0, i], teacher[k, i]), cosine(student[0, i], student[k, i])) for i in range(4) for k in (1, 2)
    ]
    expected = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    assert intra_loss(teacher, student).item() == pytest.approx(expected)


def test_softmax_kl_value_matches_torchs_kl() -> None:
    teacher, student = vectors(seed=1), vectors(seed=2)
    p, q = (torch.softmax(complete_edges(v)[0] / 0.1, dim=-1) for v in (teacher, student))
    expected = torch.nn.functional.kl_div(q.log(), p, reduction="batchmean")
    assert inter_loss(teacher, student, "softmax_kl", 0.1).item() == pytest.approx(expected.item())


def test_the_two_networks_may_have_vectors_of_different_length() -> None:
    assert inter_loss(vectors(dim=8), vectors(dim=5)).item() > 0


def test_edges_are_computed_in_full_precision_under_autocast() -> None:
    teacher = vectors(seed=1).float()
    student = teacher + 1e-3 * vectors(seed=2).float()
    exact = inter_loss(teacher, student).item(), intra_loss(teacher, student).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = inter_loss(teacher, student).item(), intra_loss(teacher, student).item()
    assert mixed == pytest.approx(exact, rel=1e-6)


def test_standardising_keeps_cosine_graphs_from_collapsing() -> None:
    """A common offset makes every cosine 1 and both losses vanish; minus mean, over deviation, they are back."""
    offset = 20.0
    teacher, student = vectors(seed=1) + offset, vectors(seed=2) + offset
    raw = inter_loss(teacher, student).item()
    centred = inter_loss(teacher - offset, student - offset).item()
    assert raw < 1e-4 < 1e-2 < centred

"""SKD, IFVD and CWD: values against loops, absent classes, and the opponent of the holistic term."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gkd_bench.config.method_options import CriticOptions, SkdOptions
from gkd_bench.distillation.base import Batch, Guides, StudentOutput
from gkd_bench.distillation.cwd import channel_divergence
from gkd_bench.distillation.ifvd import class_similarity, variation_loss
from gkd_bench.distillation.skd import StructuredDistillation, affinity, pair_loss
from gkd_bench.networks.base import SegmentationNetwork


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(first: Tensor, second: Tensor) -> float:
    return float(first @ second / (first.norm() * second.norm()))


# -- SKD


def test_affinity_is_the_cosine_of_the_mean_features_of_patches() -> None:
    features = maps(2, 3, 4, 6)
    found = affinity(features, (2, 2))
    assert found.shape == (2, 4, 4)
    for sample in range(2):
        nodes = [features[sample, :, y : y + 2, x : x + 3].mean((1, 2)) for y in (0, 2) for x in (0, 3)]
        for i, j in np.ndindex(4, 4):
            assert found[sample, i, j].item() == pytest.approx(cosine(nodes[i], nodes[j]), abs=1e-5)


def test_pair_loss_is_the_mean_squared_difference_of_affinities() -> None:
    first, second = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    first[0, 0], second[0, 0, 0, 0], second[0, 1, 0, 1] = 1.0, 1.0, 1.0  # parallel nodes, and orthogonal ones
    assert pair_loss(first, second, 2).item() == pytest.approx(2 / 4)


def test_pair_loss_compares_networks_of_other_channels_and_grids_on_the_same_nodes() -> None:
    first = maps(1, 3, 4, 4)
    finer = first.repeat_interleave(3, 2).repeat_interleave(2, 3)
    turned = torch.cat([finer, -2 * finer], dim=1)
    assert pair_loss(first, turned, 2).item() == pytest.approx(0.0, abs=1e-9)
    assert pair_loss(first, turned.flip(3), 2).item() > 1e-3


def test_a_map_smaller_than_the_wanted_nodes_gives_as_many_nodes_as_it_has_positions() -> None:
    assert pair_loss(maps(1, 3, 1, 3), maps(1, 3, 5, 5), 4).isfinite()


def test_the_holistic_term_is_minus_the_critics_score_of_the_students_prediction(
    student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    options = SkdOptions(pixel=0.0, pair=0.0, holistic=0.1, critic=CriticOptions(channels=4))
    method = StructuredDistillation(options, guides, student)
    features = student.eval().encode(batch.images)
    own = StudentOutput(features, student.decode(features.bottleneck, features.skips))
    terms = method.terms(student, own, batch)
    assert method.opponent is not None and set(terms) == {"holistic"}
    scores = method.opponent.critic(batch.images, own.decoded.logits.softmax(1))
    assert terms["holistic"].item() == pytest.approx(-scores.mean().item(), abs=1e-6)
    terms["holistic"].backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in method.opponent.parameters())


def test_without_the_holistic_term_there_is_no_opponent(student: SegmentationNetwork, guides: Guides) -> None:
    assert StructuredDistillation(SkdOptions(), guides, student).opponent is None


# -- IFVD


def test_class_similarity_is_the_cosine_with_the_class_mean_weighted_by_shares() -> None:
    features, shares = maps(2, 4, 2, 3), maps(2, 3, 2, 3, seed=1).softmax(1)
    found = class_similarity(features, shares)
    for sample, label in np.ndindex(2, 3):
        weight = shares[sample, label]
        centre = (features[sample] * weight).sum((1, 2)) / weight.sum()
        for y, x in np.ndindex(2, 3):
            expected = cosine(features[sample, :, y, x], centre)
            assert found[sample, label, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_variation_loss_of_hard_labels_compares_every_pixel_with_its_own_class_alone() -> None:
    first, second = maps(1, 3, 2, 2), maps(1, 5, 2, 2, seed=1)
    labels = torch.tensor([[[0, 0], [1, 0]]])
    shares = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    expected = 0.0
    for y, x in np.ndindex(2, 2):
        inside = labels[0] == labels[0, y, x]
        mine, theirs = (cosine(f[0, :, y, x], f[0][:, inside].mean(1)) for f in (first, second))
        expected += (mine - theirs) ** 2 / 4
    assert variation_loss(first, second, shares).item() == pytest.approx(expected, rel=1e-4)


def test_an_absent_class_adds_neither_loss_nor_nan() -> None:
    first, second = maps(2, 3, 3, 3).requires_grad_(), maps(2, 3, 3, 3, seed=1)
    two = torch.zeros(2, 2, 3, 3)
    two[:, 0] = 1.0
    loss = variation_loss(first, second, two)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(variation_loss(first, second, two[:, :1]).item())
    assert first.grad is not None and torch.isfinite(first.grad).all() and first.grad.abs().sum() > 0


# -- CWD


def test_channel_divergence_is_the_kl_over_positions_averaged_over_channels_and_samples() -> None:
    target, logits, temperature = maps(2, 3, 2, 2), maps(2, 3, 2, 2, seed=1), 4.0
    expected = 0.0
    for b, c in np.ndindex(2, 3):
        p, q = (np.exp(m[b, c].double().numpy() / temperature) for m in (target, logits))
        p, q = p / p.sum(), q / q.sum()
        expected += temperature**2 * sum(a * math.log(a / o) for a, o in zip(p.ravel(), q.ravel(), strict=True)) / 6
    assert channel_divergence(target, logits, temperature).item() == pytest.approx(expected, rel=1e-3)


def test_channel_divergence_does_not_see_a_constant_added_to_a_channel() -> None:
    target, shift = maps(1, 2, 3, 3), torch.tensor([3.0, -1.0]).view(1, 2, 1, 1)
    assert channel_divergence(target, target + shift).item() == pytest.approx(0.0, abs=1e-6)
    assert channel_divergence(target, target * 2).item() > 1e-2

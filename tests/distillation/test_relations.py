"""The arithmetic that relational methods share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gkd_bench.distillation import relations


def test_maps_of_all_grids_meet_at_the_coarsest_and_never_above_the_limit() -> None:
    maps = (torch.rand(1, 3, 40, 7), torch.rand(1, 5, 20, 9, dtype=torch.bfloat16))
    first, second = relations.on_common_grid(*maps)
    assert first.shape == (1, 3, 16, 7) and second.shape == (1, 5, 16, 7)
    assert first.dtype == second.dtype == torch.float32


def test_averaging_to_a_grid_keeps_the_mean() -> None:
    maps = torch.arange(32.0).view(1, 1, 8, 4)
    (small,) = relations.on_common_grid(maps, longest=2)
    assert small.flatten().tolist() == pytest.approx([6.5, 8.5, 22.5, 24.5])


def test_a_dead_position_has_neither_direction_nor_an_exploding_gradient() -> None:
    maps = torch.zeros(1, 3, 2, 2).requires_grad_()
    units = relations.unit_positions(maps)
    (gradient,) = torch.autograd.grad(units.sum(), maps)
    assert units.abs().max() == 0.0 and gradient.abs().max() <= 1 / relations.SHORTEST


def test_class_means_of_shares_match_a_loop_and_an_absent_class_is_told() -> None:
    vectors = torch.arange(12.0).view(1, 4, 3)
    shares = torch.tensor([[0.25, 1.0, 0.0, 0.5], [0.75, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0]]).view(1, 3, 2, 2)
    means, there = relations.class_means(vectors, shares)
    values = vectors[0].numpy()
    for number in range(2):
        expected = np.average(values, axis=0, weights=shares[0, number].flatten().numpy())
        np.testing.assert_allclose(means[0, number].numpy(), expected, rtol=1e-6)
    assert there.tolist() == [[True, True, False]] and means[0, 2].abs().max() == 0.0


def test_relation_divergence_matches_torchs_and_is_zero_for_equal_rows() -> None:
    teacher, student = torch.sin(torch.arange(12.0)).view(3, 4), torch.cos(torch.arange(12.0)).view(3, 4)
    expected = F.kl_div(F.log_softmax(student / 0.1, -1), F.softmax(teacher / 0.1, -1), reduction="batchmean")
    assert relations.relation_divergence(teacher, student, 0.1).item() == pytest.approx(expected.item(), rel=1e-5)
    assert relations.relation_divergence(teacher, teacher, 0.1).item() == 0.0


def test_views_that_move_pixels_are_refused_by_the_options_name() -> None:
    relations.require_aligned(("photometric", "noise_blur", "strong"), "diga")
    with pytest.raises(ValueError, match=r"methods\.diga\.views: hflip, rot90 moves pixels"):
        relations.require_aligned(("rot90", "strong", "hflip"), "diga")

"""FitNets, attention transfer, FSP and DSD: values against loops over positions, and what the losses must not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from gkd_bench.config.method_options import FitnetOptions
from gkd_bench.distillation.at import as_unit, attention, attention_loss
from gkd_bench.distillation.base import Batch, Guides, StudentOutput
from gkd_bench.distillation.bridge import maps_of, network_maps, teacher_maps
from gkd_bench.distillation.dsd import class_correlation, pixel_similarity_loss, residual_attention
from gkd_bench.distillation.fitnet import FitNet
from gkd_bench.distillation.fsp import flow
from gkd_bench.distillation.relative import relative_error
from gkd_bench.networks.base import SegmentationNetwork

Array = NDArray[np.float64]


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def array(tensor: Tensor) -> Array:
    return tensor.double().numpy()


def unit(vector: Array) -> Array:
    return vector / math.sqrt(float((vector**2).sum()))


# -- FitNets


def test_the_hint_is_the_squared_difference_after_projection_and_resize_relative_to_the_teacher(
    student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    method = FitNet(FitnetOptions(taps=("bottleneck", "deep")), guides, student)
    student.eval()
    features = student.encode(batch.images)
    decoded = student.decode(features.bottleneck, features.skips)
    found = method.terms(student, StudentOutput(features, decoded), batch)["hint"]
    mine, theirs = maps_of(features, decoded), teacher_maps(method.teacher, batch.images)
    expected = []
    for tap, conv in zip(("bottleneck", "deep"), method.bridge.projections, strict=True):
        first, second = array(getattr(mine, tap).detach()), array(getattr(theirs, tap))
        projected = np.einsum("oc,bchw->bohw", array(next(conv.parameters()).detach()[..., 0, 0]), first)
        one, other = halved_to(projected, second), halved_to(second, projected)
        gaps, sizes = ((a**2).sum((1, 2, 3)) for a in (one - other, other))
        expected.append(float((gaps / sizes).mean()))
    assert found.item() == pytest.approx(sum(expected) / 2, rel=1e-4)


def halved_to(larger: Array, smaller: Array) -> Array:
    """Means over the blocks of an array that is a whole multiple of another one; itself where it is not larger."""
    factor = larger.shape[-1] // smaller.shape[-1]
    if factor <= 1:
        return larger
    b, c, h, w = larger.shape
    return np.asarray(larger.reshape(b, c, h // factor, factor, w // factor, factor).mean((3, 5)))


# -- attention transfer


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_loss_is_the_squared_distance_of_unit_maps(power: float) -> None:
    first, second = maps(2, 3, 2, 4), maps(2, 5, 2, 4, seed=1)
    expected = 0.0
    for sample in range(2):
        mine = unit((np.abs(array(first[sample])) ** power).mean(0))
        theirs = unit((np.abs(array(second[sample])) ** power).mean(0))
        expected += float(((mine - theirs) ** 2).sum()) / 2
    assert attention_loss(first, second, power).item() == pytest.approx(expected, rel=1e-4)


def test_attention_loss_does_not_see_strength_sign_or_order_of_the_channels() -> None:
    first, second = maps(2, 4, 3, 5), maps(2, 6, 3, 5, seed=1)
    changed = -3.0 * first[:, torch.tensor([2, 0, 3, 1])]
    assert attention_loss(changed, second, 2.0).item() == pytest.approx(attention_loss(first, second, 2.0).item())
    assert attention_loss(first, changed, 2.0).item() == pytest.approx(0.0, abs=1e-9)


def test_attention_loss_of_maps_that_look_at_different_places_is_two() -> None:
    left, right = torch.zeros(1, 2, 1, 2), torch.zeros(1, 3, 1, 2)
    left[..., 0], right[..., 1] = 1.0, 5.0
    assert attention_loss(left, right, 2.0).item() == pytest.approx(2.0)


def test_attention_loss_has_the_same_size_for_any_number_of_positions() -> None:
    first, second = maps(1, 2, 4, 4), maps(1, 2, 4, 4, seed=1)
    tiled = attention_loss(first.tile(1, 1, 3, 3), second.tile(1, 1, 3, 3), 2.0)
    assert tiled.item() == pytest.approx(attention_loss(first, second, 2.0).item(), rel=1e-4)


def test_attention_of_a_dead_map_is_zero_with_a_finite_gradient() -> None:
    dead = torch.zeros(1, 2, 2, 2, requires_grad=True)
    as_unit(attention(dead)).sum().backward()  # type: ignore[no-untyped-call]
    assert dead.grad is not None and torch.isfinite(dead.grad).all()


# -- errors relative to the teacher


def test_a_relative_error_is_the_mean_over_samples_of_the_squared_error_over_the_teachers_square() -> None:
    student, teacher = torch.tensor([[1.0, 1.0], [0.0, 3.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert relative_error(student, teacher).item() == pytest.approx(((4 + 9) / 25 + 4 / 1) / 2)
    assert relative_error(torch.zeros(2, 2), teacher).item() == pytest.approx(1.0)


def test_a_relative_error_does_not_see_the_scale_of_the_networks() -> None:
    student, teacher = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)
    found = relative_error(30 * student, 30 * teacher).item()
    assert found == pytest.approx(relative_error(student, teacher).item(), rel=1e-5)


def test_a_teacher_of_zeros_gives_a_finite_relative_error() -> None:
    assert torch.isfinite(relative_error(maps(2, 3), torch.zeros(2, 3)))


# -- FSP


def test_flow_is_the_mean_over_positions_of_products_of_channels() -> None:
    shallow, deep = maps(2, 3, 2, 3), maps(2, 4, 2, 3, seed=1)
    expected = np.zeros((2, 3, 4))
    for b, i, j, y, x in np.ndindex(2, 3, 4, 2, 3):
        expected[b, i, j] += float(shallow[b, i, y, x] * deep[b, j, y, x]) / 6
    assert flow(shallow, deep).numpy() == pytest.approx(expected, abs=1e-5)


def test_flow_averages_the_finer_map_over_the_cells_of_the_coarser_one() -> None:
    fine, coarse = maps(1, 2, 4, 6), maps(1, 3, 2, 3, seed=1)
    pooled = fine.view(1, 2, 2, 2, 3, 2).mean((3, 5))
    assert torch.allclose(flow(fine, coarse), flow(pooled, coarse), atol=1e-6)


def test_flow_keeps_full_precision_under_autocast() -> None:
    first, second = maps(1, 3, 5, 5), maps(1, 3, 5, 5, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = flow(first, second)
    assert torch.equal(found, flow(first, second))


# -- DSD


def test_residual_attention_is_the_unit_difference_of_every_two_layers() -> None:
    layers = [maps(2, channels, 3, 4, seed=channels) for channels in (2, 3, 5)]
    found = residual_attention(layers, (3, 4))
    assert found.shape == (3, 2, 12)
    for pair, (low, high) in enumerate(((0, 1), (0, 2), (1, 2))):
        for sample in range(2):
            one, other = (unit((array(layers[i][sample]) ** 2).mean(0)) for i in (low, high))
            assert found[pair, sample].numpy() == pytest.approx(unit(other - one).ravel(), abs=1e-5)


def test_pixel_similarity_loss_of_opposite_residuals_is_four() -> None:
    near, far = maps(1, 2, 3, 3), maps(1, 2, 3, 3, seed=1)
    assert pixel_similarity_loss((near, far), (far, near)).item() == pytest.approx(4.0, rel=1e-5)


def test_pixel_similarity_loss_sees_no_difference_on_a_single_position() -> None:
    single = [maps(2, 3, 1, 1, seed=seed).requires_grad_() for seed in range(4)]
    loss = pixel_similarity_loss(single[:2], [m.detach() for m in single[2:]])
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert all(torch.isfinite(m.grad).all() for m in single[:2] if m.grad is not None)


def test_class_correlation_is_the_mean_product_of_spatial_distributions() -> None:
    logits = maps(2, 3, 2, 4)
    found = class_correlation(logits, 4.0)
    for sample in range(2):
        scores = np.exp(array(logits[sample]).reshape(3, 8) / 4)
        spread = scores / scores.sum(1, keepdims=True) * 8
        assert found[sample].numpy() == pytest.approx(spread @ spread.T / 8, rel=1e-4)


def test_class_correlation_of_flat_logits_is_one_whatever_the_size() -> None:
    for size in ((2, 3), (7, 5)):
        assert torch.allclose(class_correlation(torch.zeros(1, 2, *size), 1.0), torch.ones(1, 2, 2))


def test_class_correlation_is_large_within_a_class_and_small_between_exclusive_classes() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 0, 0, 0], logits[0, 1, 0, 3] = 30.0, 30.0
    assert class_correlation(logits, 1.0)[0].numpy() == pytest.approx(np.array([[4.0, 0.0], [0.0, 4.0]]), abs=1e-4)


def test_the_taps_of_a_network_are_the_ones_of_one_plain_pass(student: SegmentationNetwork, batch: Batch) -> None:
    student.eval()
    found, features = network_maps(student, batch.images), student.encode(batch.images)
    assert torch.equal(found.bottleneck, features.bottleneck) and torch.equal(found.logits, student(batch.images))

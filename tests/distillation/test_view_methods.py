"""XDED, CCDistill and DiGA: what is compared between a tile and its photometric views."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gkd_bench.config.method_options import METHOD_OPTIONS, CcdistillOptions, DigaOptions, XdedOptions
from gkd_bench.distillation.base import Batch, Guides, StudentOutput
from gkd_bench.distillation.ccdistill import ContentCorrelation, content_loss, style_loss, unit_gram
from gkd_bench.distillation.diga import SymmetricWarmUp
from gkd_bench.distillation.xded import CrossDomainEnsemble, ensemble_loss
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.registry import METHODS


def wave(*shape: int, step: float = 1.0) -> torch.Tensor:
    return torch.sin(step * torch.arange(1.0, 1.0 + int(np.prod(shape)))).view(shape)


def own(student: SegmentationNetwork, batch: Batch) -> StudentOutput:
    features = student.encode(batch.images)
    return StudentOutput(features, student.decode(features.bottleneck, features.skips))


@pytest.mark.parametrize("name", ["xded", "ccdistill", "diga"])
def test_geometric_views_are_refused(name: str, student: SegmentationNetwork, guides: Guides) -> None:
    options = METHOD_OPTIONS[name].model_validate({"views": ["strong", "vflip"]})
    with pytest.raises(ValueError, match=rf"methods\.{name}\.views: vflip moves pixels"):
        METHODS.load(name)(options, guides, student)


# ---------------------------------------------------------------- XDED


def test_ensemble_loss_matches_a_loop_over_classes_and_pixels() -> None:
    logits = 3 * wave(3, 4, 2, 2)
    labels = torch.tensor([0, 0, 0, 1, 1, 0, 0, 2, 0, 0, 1, 0]).view(3, 2, 2)
    pixels, classes = logits.movedim(1, -1).reshape(-1, 4), labels.flatten()
    means = []
    for number in (0, 1, 2):
        members = pixels[classes == number]
        target = F.softmax(members.mean(0) / 4, dim=0)
        means.append(np.mean([16 * (target * (target.log() - F.log_softmax(z / 4, 0))).sum().item() for z in members]))
    assert ensemble_loss(logits, labels, 4.0).item() == pytest.approx(np.mean(means), rel=1e-4)


def test_the_ensemble_is_a_constant() -> None:
    logits, labels = wave(1, 2, 1, 3).requires_grad_(), torch.tensor([[[0, 0, 1]]])
    (gradient,) = torch.autograd.grad(ensemble_loss(logits, labels, 1.0), logits)
    with torch.no_grad():
        target = F.softmax(logits[0, :, 0, :2].mean(1), 0)
        expected = (F.softmax(logits[0, :, 0, 0], 0) - target) / 2 / 2  # two pixels of the class, two classes
    assert torch.allclose(gradient[0, :, 0, 0], expected, atol=1e-6)


def test_one_prediction_per_class_is_the_minimum() -> None:
    labels = torch.tensor([[[0, 1], [1, 0]]])
    logits = torch.stack([5.0 * (labels == 0), 2.0 * (labels == 1)], dim=1)
    assert ensemble_loss(logits, labels, 4.0).item() == pytest.approx(0.0, abs=1e-6)
    logits[0, 0, 0, 0] += 3.0
    assert ensemble_loss(logits, labels, 4.0).item() > 0.01


def test_views_of_xded_are_drawn_for_the_ensemble_only(student: SegmentationNetwork, guides: Guides) -> None:
    assert CrossDomainEnsemble(XdedOptions(), guides, student).views == XdedOptions().views
    assert CrossDomainEnsemble(XdedOptions(weight=0.0), guides, student).views == ()


# ---------------------------------------------------------------- CCDistill


def test_content_loss_matches_a_loop_over_positions() -> None:
    student, teacher = (wave(1, 3, 1, 2), wave(1, 3, 1, 2, step=2.0)), (wave(1, 4, 1, 2), wave(1, 4, 1, 2, step=0.7))

    def cosine(pair: tuple[torch.Tensor, torch.Tensor], p: int, q: int) -> float:
        return F.cosine_similarity(pair[0][0, :, 0, p], pair[1][0, :, 0, q], dim=0).item()

    expected = np.mean([(cosine(student, p, q) - cosine(teacher, p, q)) ** 2 for p in (0, 1) for q in (0, 1)])
    assert content_loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_unit_gram_matches_numpy_and_style_is_the_change_of_it() -> None:
    before, after = wave(1, 3, 2, 2), wave(1, 3, 2, 2, step=0.7)
    rows = before[0].flatten(1).double().numpy()
    gram = rows @ rows.T
    np.testing.assert_allclose(unit_gram(before)[0].numpy(), gram / np.linalg.norm(gram), rtol=1e-4, atol=1e-6)
    unchanged = style_loss((before, before), (after, after))
    assert unchanged.item() == 0.0
    expected = ((unit_gram(after) - unit_gram(before)) ** 2).sum().item()
    assert style_loss((before, after), (before, before)).item() == pytest.approx(expected, rel=1e-5)


def test_ccdistill_is_zero_when_the_student_is_the_teacher(guides: Guides, batch: Batch) -> None:
    assert guides.teacher is not None
    same = copy.deepcopy(guides.teacher).eval()
    method = ContentCorrelation(CcdistillOptions(), guides, same)
    for term in method.terms(same, own(same, batch), batch).values():
        assert term.item() == pytest.approx(0.0, abs=1e-6)


# ---------------------------------------------------------------- DiGA


def test_each_view_is_taught_by_the_other(student: SegmentationNetwork, guides: Guides, batch: Batch) -> None:
    student.eval()
    method = SymmetricWarmUp(DigaOptions(), guides, student)
    terms = method.terms(student, own(student, batch), batch)

    def divergence(taught: torch.Tensor, learner: torch.Tensor) -> float:
        p, log_q = F.softmax(method.teacher(taught), 1), F.log_softmax(student(learner), 1)
        return F.kl_div(log_q, p, reduction="none").sum(1).mean().item()

    with torch.no_grad():
        forward = np.mean([divergence(batch.images, view) for view in batch.views])
        backward = np.mean([divergence(view, batch.images) for view in batch.views])
    assert terms["forward"].item() == pytest.approx(forward, rel=1e-4)
    assert terms["backward"].item() == pytest.approx(backward, rel=1e-4)


def test_diga_is_zero_for_equal_networks_on_equal_views(guides: Guides, batch: Batch) -> None:
    assert guides.teacher is not None
    same = copy.deepcopy(guides.teacher).eval()
    unchanged = batch._replace(views=batch.images[None])
    for term in SymmetricWarmUp(DigaOptions(), guides, same).terms(same, own(same, unchanged), unchanged).values():
        assert term.item() == pytest.approx(0.0, abs=1e-6)

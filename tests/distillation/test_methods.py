"""KD and GKD in particular: values against torch's own, and the directions in which GKD's terms may pull."""

from __future__ import annotations

import copy

import pytest
import torch

from gkd_bench.config.method_options import GkdOptions
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.divergence import kl_divergence, probability_mse, soft_cross_entropy
from gkd_bench.distillation.gkd import GeneralizableDistillation
from gkd_bench.networks.base import SegmentationNetwork


def own(student: SegmentationNetwork, batch: Batch) -> StudentOutput:
    features = student.encode(batch.images)
    return StudentOutput(features, student.decode(features.bottleneck, features.skips))


def build_gkd(guides: Guides, student: SegmentationNetwork, **options: float) -> Method:
    chosen = GkdOptions(views=("photometric", "noise_blur")).model_copy(update=options)
    return GeneralizableDistillation(chosen, guides, student).train()


def moved(student: SegmentationNetwork) -> set[str]:
    """Top-level parts of a network that have a gradient."""
    return {
        name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }


def test_no_views_are_drawn_when_both_graph_terms_are_off(guides: Guides, student: SegmentationNetwork) -> None:
    assert build_gkd(guides, student).views == ("photometric", "noise_blur")
    assert build_gkd(guides, student, intra=0.0, inter=0.0).views == ()


def test_kd_value_matches_torchs_kl_divergence() -> None:
    target, logits = torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 3)
    p, log_q = torch.softmax(target / 4, 1), torch.log_softmax(logits / 4, 1)
    expected = 16 * torch.nn.functional.kl_div(log_q, p, reduction="none").sum(1).mean()
    assert kl_divergence(target, logits, 4.0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_soft_cross_entropy_is_kl_plus_the_targets_entropy() -> None:
    target, logits = torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 3)
    entropy = soft_cross_entropy(target, target)
    assert soft_cross_entropy(target, logits).item() == pytest.approx(
        (kl_divergence(target, logits) + entropy).item(), rel=1e-5
    )
    assert probability_mse(target, target).item() == 0.0


# ---------------------------------------------------------------- which part of the student each path trains


def test_q1_trains_the_students_encoder_only(student: SegmentationNetwork, guides: Guides, batch: Batch) -> None:
    from gkd_bench.distillation.dicd import teacher_decodes_student

    assert guides.teacher is not None and guides.tan is not None and guides.san is not None
    build_gkd(guides, student)  # freezes the guides
    output = own(student, batch)
    features = guides.teacher.encode(batch.images)
    teacher_decodes_student(
        guides.teacher, guides.tan, guides.san.vectors(output.features.bottleneck), features
    ).sum().backward()
    encoder_only = moved(student)
    assert encoder_only and encoder_only.isdisjoint(decoder_parts(student, batch))


def decoder_parts(student: SegmentationNetwork, batch: Batch) -> set[str]:
    """Parts that the decoder uses and the encoder does not: a gradient from decode with a constant bottleneck."""
    other = copy.deepcopy(student)
    other.zero_grad()
    features = other.encode(batch.images)
    skips = features.skips._replace(maps=tuple(m.detach() for m in features.skips.maps))
    other.decode(features.bottleneck.detach(), skips).logits.square().sum().backward()
    return moved(other)


def test_q2_trains_the_students_decoder_and_never_the_vector(
    student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    from gkd_bench.distillation.dicd import student_decodes_teacher

    assert guides.teacher is not None and guides.tan is not None and guides.san is not None
    build_gkd(guides, student)
    output = own(student, batch)
    taught = guides.tan.vectors(guides.teacher.encode(batch.images).bottleneck).requires_grad_()
    student_decodes_teacher(student, guides.san, taught, output).square().sum().backward()
    assert taught.grad is None
    assert decoder_parts(student, batch) <= moved(student)


def test_dropped_teacher_skips_make_q1_depend_on_the_vector_alone(
    student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    from gkd_bench.distillation.dicd import teacher_decodes_student

    assert guides.teacher is not None and guides.tan is not None
    guides.teacher.eval()
    vectors = torch.randn(4, guides.tan.mu.shape[0])
    first, second = (guides.teacher.encode(images) for images in (batch.images, batch.images.flip(0)))
    with_skips = [teacher_decodes_student(guides.teacher, guides.tan, vectors, f, 0.0) for f in (first, second)]
    without = [teacher_decodes_student(guides.teacher, guides.tan, vectors, f, 1.0) for f in (first, second)]
    assert not torch.allclose(*with_skips)
    assert torch.allclose(*without)

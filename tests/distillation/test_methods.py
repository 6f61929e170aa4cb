"""What every method must keep to, and the directions in which GKD's terms may pull."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gkd_bench.config.schema import GkdOptions, KdOptions, Methods, ScratchOptions
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.divergence import kl_divergence, probability_mse, soft_cross_entropy
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.registry import METHODS

OPTIONS = {"scratch": ScratchOptions(), "kd": KdOptions(), "gkd": GkdOptions(views=("photometric", "noise_blur"))}


def own(student: SegmentationNetwork, batch: Batch) -> StudentOutput:
    features = student.encode(batch.images)
    return StudentOutput(features, student.decode(features.bottleneck, features.skips))


def build_method(name: str, guides: Guides, **options: object) -> Method:
    chosen = OPTIONS[name].model_copy(update=options)
    method: Method = METHODS.load(name)(chosen, guides)
    return method.train()


def moved(student: SegmentationNetwork) -> set[str]:
    """Top-level parts of a network that have a gradient."""
    return {
        name.split(".")[0] for name, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }


def test_every_registered_method_has_options_in_the_config() -> None:
    assert set(METHODS) == set(Methods.model_fields) - {"variants"} == set(OPTIONS)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_terms_are_finite_scalars_with_the_announced_names(
    name: str, precision: str, student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    method = build_method(name, guides)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        terms = method.terms(student.train(), own(student, batch), batch)
    assert set(terms) == set(method.weights())
    for term in terms.values():
        assert term.shape == () and torch.isfinite(term)
        term.backward(retain_graph=True)
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", METHODS)
def test_training_a_student_leaves_every_frozen_part_as_it_was(
    name: str, student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    method = build_method(name, guides)
    frozen = nn.ModuleList([part for part in (guides.teacher, guides.tan, guides.san) if part is not None])
    before = copy.deepcopy(frozen.state_dict())
    optimiser = torch.optim.Adam([p for p in [*student.parameters(), *method.parameters()] if p.requires_grad], lr=0.1)
    terms = method.terms(student.train(), own(student, batch), batch)
    if terms:
        sum(terms.values(), torch.zeros(())).backward()
        optimiser.step()
    assert not any(module.training for part in frozen for module in part.modules())
    assert all(torch.equal(before[key], value) for key, value in frozen.state_dict().items())


@pytest.mark.parametrize("name", ["kd", "gkd"])
def test_a_weight_of_zero_leaves_its_term_out(
    name: str, student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    for term in build_method(name, guides).weights():
        method = build_method(name, guides, **{"weight" if name == "kd" else term: 0.0})
        assert term not in method.weights()
        assert term not in method.terms(student, own(student, batch), batch)


def test_no_views_are_drawn_when_both_graph_terms_are_off(guides: Guides) -> None:
    assert build_method("gkd", guides).views == ("photometric", "noise_blur")
    assert build_method("gkd", guides, intra=0.0, inter=0.0).views == ()


def test_kd_is_zero_when_the_student_is_the_teacher(guides: Guides, batch: Batch) -> None:
    assert guides.teacher is not None
    same = copy.deepcopy(guides.teacher).eval()
    term = build_method("kd", guides).terms(same, own(same, batch), batch)["kd"]
    assert term.item() == pytest.approx(0.0, abs=1e-6)


def test_graph_terms_are_zero_when_the_student_is_the_teacher(guides: Guides, batch: Batch) -> None:
    assert guides.teacher is not None
    same = copy.deepcopy(guides.teacher).eval()
    method = build_method("gkd", Guides(guides.teacher, guides.tan, guides.tan), cross=0.0)
    for term in method.terms(same, own(same, batch), batch).values():
        assert term.item() == pytest.approx(0.0, abs=1e-6)


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
    build_method("gkd", guides)  # freezes the guides
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
    build_method("gkd", guides)
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


def test_passes_of_views_and_rebuilt_features_leave_the_running_statistics_alone_when_frozen(
    student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    def statistics_after(choice: str) -> dict[str, torch.Tensor]:
        copied = copy.deepcopy(student).train()
        build_method("gkd", guides, view_statistics=choice).terms(copied, own(copied, batch), batch)
        return {key: value for key, value in copied.state_dict().items() if "running_mean" in key}

    plain = copy.deepcopy(student).train()
    own(plain, batch)
    expected = {key: value for key, value in plain.state_dict().items() if "running_mean" in key}
    assert all(torch.equal(expected[key], value) for key, value in statistics_after("frozen").items())
    assert any(not torch.equal(expected[key], value) for key, value in statistics_after("updated").items())

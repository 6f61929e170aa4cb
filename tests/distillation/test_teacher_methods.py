"""What all methods that match a teacher's maps share: nothing to learn from itself, and a changed teacher is noticed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from gkd_bench.config.method_options import (
    AtOptions,
    CwdOptions,
    DsdOptions,
    FitnetOptions,
    FspOptions,
    IfvdOptions,
    MethodOptions,
    SkdOptions,
)
from gkd_bench.distillation.base import Batch, Guides, StudentOutput
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.norm import BatchNorm2d
from gkd_bench.registry import METHODS

ALL_TERMS: dict[str, MethodOptions] = {
    "fitnet": FitnetOptions(),
    "at": AtOptions(),
    "fsp": FspOptions(),
    "skd": SkdOptions(),
    "ifvd": IfvdOptions(pixel=1.0),
    "cwd": CwdOptions(features=1.0),
    "dsd": DsdOptions(),
}
NO_TERMS: dict[str, MethodOptions] = {
    "fitnet": FitnetOptions(weight=0.0),
    "at": AtOptions(weight=0.0),
    "fsp": FspOptions(weight=0.0),
    "skd": SkdOptions(pixel=0.0, pair=0.0),
    "ifvd": IfvdOptions(weight=0.0),
    "cwd": CwdOptions(weight=0.0),
    "dsd": DsdOptions(psd=0.0, csd=0.0),
}


def terms_of(
    name: str, options: MethodOptions, teacher: SegmentationNetwork, student: SegmentationNetwork, batch: Batch
) -> dict[str, Tensor]:
    method = METHODS.load(name)(options, Guides(teacher), student)
    features = student.eval().encode(batch.images)
    own = StudentOutput(features, student.decode(features.bottleneck, features.skips))
    found: dict[str, Tensor] = method.terms(student, own, batch)
    return found


@pytest.fixture
def changed(student: SegmentationNetwork) -> SegmentationNetwork:
    """The student with every second channel of every normalisation made stronger."""
    other = copy.deepcopy(student)
    with torch.no_grad():
        for norm in (m for m in other.modules() if isinstance(m, BatchNorm2d)):
            norm.weight[::2] *= 1.5
    return other


@pytest.mark.parametrize("name", ALL_TERMS)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(
    name: str, student: SegmentationNetwork, batch: Batch
) -> None:
    terms = terms_of(name, ALL_TERMS[name], copy.deepcopy(student), student, batch)
    assert terms and all(term.item() == pytest.approx(0.0, abs=1e-6) for term in terms.values())


@pytest.mark.parametrize("name", ALL_TERMS)
def test_a_changed_teacher_is_noticed_by_every_term_and_the_student_is_told(
    name: str, student: SegmentationNetwork, changed: SegmentationNetwork, batch: Batch
) -> None:
    terms = terms_of(name, ALL_TERMS[name], changed, student, batch)
    for term in terms.values():
        gradients = torch.autograd.grad(term, list(student.parameters()), retain_graph=True, allow_unused=True)
        assert term.item() > 1e-7
        assert max(float(g.abs().max()) for g in gradients if g is not None) > 0


@pytest.mark.parametrize("name", NO_TERMS)
def test_terms_of_weight_zero_are_not_computed(
    name: str, student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    assert guides.teacher is not None
    assert terms_of(name, NO_TERMS[name], guides.teacher, student, batch) == {}

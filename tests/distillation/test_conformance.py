"""Conformance: what every registered method must do, for every pair of networks. A new method is tested by being registered."""

from __future__ import annotations

import copy
import random
import re
from functools import cache

import pytest
import torch
from torch import Tensor

from gkd_bench.config.method_options import METHOD_OPTIONS, KdOptions, MethodOptions
from gkd_bench.config.methods import Methods
from gkd_bench.distillation.base import Aligned, Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.kd import KnowledgeDistillation
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.build import build, seeded
from gkd_bench.networks.norm import BatchNorm2d
from gkd_bench.registry import METHODS, NETWORKS
from gkd_bench.testing.methods import (
    METHOD_CHECKS,
    TILE,
    MethodCase,
    MethodCheck,
    check_method,
    gradients_of,
    guides_of,
    method_terms,
    require_sound,
)

TEACHERS = ("fanet", "unet", "resenc_unet")
STUDENTS = tuple(name for name in NETWORKS if NETWORKS.is_built_in(name) and name not in TEACHERS)
WIDTHS = {"fanet": 0.05, "unet": 0.05, "resenc_unet": 0.05, "little_unet": 0.5}
TEACHING = tuple(name for name, options in METHOD_OPTIONS.items() if options.terms)
ADVERSARIAL = {("skd", "holistic"), ("coco", "adversarial"), ("graph_flow", "adversarial")}
"""Terms without a minimum of their own: a critic's score has no bounds."""
AGAINST_LABELS = {("xded", "ensemble")}
"""Terms that ask for more than a student which equals its teacher; each has a test of its own."""
ACROSS_VIEWS = {("diga", "forward"), ("diga", "backward"), ("gkd", "cross")}


@cache
def slim(name: str, classes: int = 2) -> SegmentationNetwork:
    """Shared by all tests, none of which changes it; with running statistics like those of tiles, as after training."""
    network = build(name, WIDTHS.get(name, 0.1), classes=classes, seed=len(name))
    norms = [part for part in network.modules() if isinstance(part, BatchNorm2d)]
    with torch.no_grad(), seeded(0):
        for norm in norms:
            norm.momentum = 1.0
        network(torch.rand(8, 1, TILE, TILE))
    for norm in norms:
        norm.momentum = 0.1
    return network


@cache
def case_of(name: str, teacher: str, student: str, classes: int = 2) -> MethodCase:
    guides = guides_of(slim(teacher, classes), slim(student, classes))
    return MethodCase(METHODS.load(name), METHOD_OPTIONS[name](), guides, slim(student, classes))


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", METHODS)
def test_a_method_conforms(name: str, check: MethodCheck) -> None:
    check(case_of(name, "unet", "m2unet"))


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("teacher", TEACHERS)
def test_every_method_teaches_every_student_of_every_teacher(teacher: str, student: str) -> None:
    silent = []
    for name in METHODS:
        case = case_of(name, teacher, student)
        method = case.complete()
        terms = method_terms(method, case.student, case.tiles(method))
        silent += [f"{name}.{term}" for term, value in terms.items() if not pulls(value, case.student)]
        require_sound(method, terms, case.student, f"{name}, {teacher} -> {student}")
    assert silent == []


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_more_than_two_classes(name: str) -> None:
    case = case_of(name, "unet", "m2unet", classes=3)
    method = case.complete()
    for seed in range(2):
        batch = case.tiles(method, seed=seed)
        assert set(batch.labels.unique().tolist()) == {0, 1, 2}
        require_sound(method, method_terms(method, case.student, batch), case.student, "with three classes")


def pulls(term: Tensor, student: SegmentationNetwork) -> bool:
    if not term.requires_grad:
        return False
    gradients = torch.autograd.grad(term, list(student.parameters()), retain_graph=True, allow_unused=True)
    return any(float(g.abs().max()) > 0 for g in gradients if g is not None)


# ---------------------------------------------------------------- minima


def taught_by_itself(name: str, noise: float = 0.0) -> MethodCase:
    """A student that equals its teacher, in eval mode, so that both normalise alike; or one that differs by noise."""
    teacher, student = copy.deepcopy(slim("unet")), copy.deepcopy(slim("unet")).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    guides = guides_of(teacher, teacher)
    same = Guides(guides.teacher, guides.tan, guides.tan)
    return MethodCase(METHODS.load(name), METHOD_OPTIONS[name](), same, student)


def values(case: MethodCase, method: Method, batch: Batch) -> dict[str, float]:
    return {name: term.item() for name, term in method_terms(method, case.student, batch).items()}


@pytest.mark.parametrize("name", TEACHING)
def test_terms_are_zero_with_finite_gradients_when_the_student_is_the_teacher_and_positive_otherwise(name: str) -> None:
    case, other = taught_by_itself(name), taught_by_itself(name, noise=0.1)
    method, elsewhere = case.complete(), other.complete()
    batch = case.tiles(method)
    terms = method_terms(method, case.student, batch)
    assert all(bool(torch.isfinite(g).all()) for g in gradients_of(terms, list(case.student.parameters())))
    compared = {term for term in terms if (name, term) not in ADVERSARIAL | AGAINST_LABELS | ACROSS_VIEWS}
    found, moved = values(case, method, batch), values(other, elsewhere, batch)
    assert {term: found[term] for term in compared} == pytest.approx(dict.fromkeys(compared, 0.0), abs=2e-6)
    assert all(moved[term] > 1e-5 for term in compared), moved


def test_symmetric_distillation_is_zero_for_an_equal_student_and_views_that_change_nothing() -> None:
    case = taught_by_itself("diga")
    method = case.complete()
    batch = case.tiles(method)
    assert all(value > 1e-6 for value in values(case, method, batch).values())
    plain = batch._replace(views=batch.images[None])
    assert values(case, method, plain) == pytest.approx({"forward": 0.0, "backward": 0.0}, abs=1e-6)


def test_the_ensemble_is_reached_by_one_prediction_per_class_and_by_nothing_else() -> None:
    case = taught_by_itself("xded")
    method = case.alone("ensemble")
    batch = case.tiles(method)
    assert values(case, method, batch)["ensemble"] > 1e-6
    with torch.no_grad():
        for parameter in case.student.parameters():
            parameter.zero_()
    assert values(case, method, batch)["ensemble"] == pytest.approx(0.0, abs=1e-6)


class Lossless(Aligned):
    """An alignment network that forgets nothing: the vector is the bottleneck."""

    def vectors(self, bottleneck: Tensor, standardised: bool = False) -> Tensor:
        self.shape = bottleneck.shape[1:]
        return bottleneck.flatten(1)

    def rebuild(self, vectors: Tensor, size: tuple[int, int]) -> Tensor:
        return vectors.view(-1, *self.shape)


def test_the_cross_term_is_zero_for_an_equal_student_behind_lossless_alignment() -> None:
    case = taught_by_itself("gkd")
    assert case.guides.teacher is not None and case.guides.tan is not None
    lossless = Lossless(case.guides.tan.network, torch.zeros(1), torch.ones(1))
    guides = Guides(case.guides.teacher, lossless, lossless)
    exact = MethodCase(case.kind, case.options, guides, case.student)
    for candidate, expected in ((case, False), (exact, True)):
        method = candidate.alone("cross")
        assert (values(candidate, method, candidate.tiles(method))["cross"] < 1e-6) is expected


# ---------------------------------------------------------------- options


def test_registry_options_and_configuration_name_the_same_methods_in_the_same_order() -> None:
    others = {"controls", "variants"}
    assert list(METHODS) == list(METHOD_OPTIONS) == [name for name in Methods.model_fields if name not in others]
    for name, options in METHOD_OPTIONS.items():
        field = Methods.model_fields[name].annotation
        assert field in (options, options | None)


@pytest.mark.parametrize(("name", "kind"), METHOD_OPTIONS.items())
def test_options_say_what_they_are_and_refuse_negative_weights(name: str, kind: type[MethodOptions]) -> None:
    assert kind.title and kind.__doc__ and kind.__doc__ != MethodOptions.__doc__
    assert METHODS.load(name).__doc__ != Method.__doc__
    assert bool(kind.terms) == bool(kind.guides) == bool(kind.paper)
    assert set(kind.terms.values()) <= set(kind.model_fields)
    for option in kind.terms.values():
        with pytest.raises(ValueError, match=option):
            kind.model_validate({option: -1.0})
    if kind.terms:
        assert kind.default_from
        assert any(getattr(kind(), option) > 0 for option in kind.terms.values())


def test_titles_are_told_apart() -> None:
    titles = [options.title for options in METHOD_OPTIONS.values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", ["coco", "xded", "ccdistill", "diga", "gkd"])
def test_methods_of_another_setting_and_reconstructions_say_so(name: str) -> None:
    assert len(METHOD_OPTIONS[name].port) > 20


@pytest.mark.parametrize("name", TEACHING)
def test_a_method_without_its_guides_says_which(name: str) -> None:
    kind = METHOD_OPTIONS[name]
    with pytest.raises(ValueError, match=rf"{METHODS.load(name).__name__} needs {' and '.join(kind.guides)}"):
        METHODS.load(name)(kind(), Guides(), slim("m2unet"))


@pytest.mark.parametrize("name", ["xded", "ccdistill", "diga"])
def test_views_that_move_pixels_are_refused_where_pixels_are_compared(name: str) -> None:
    case = case_of(name, "unet", "m2unet")
    with pytest.raises(ValueError, match=f"{name}.views"):
        case.made({"views": ("hflip",)})


# ---------------------------------------------------------------- the suite itself


class Broken(KnowledgeDistillation):
    """KD with a mistake; subclasses say which."""

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        return {name: self.spoiled(term, student, batch) for name, term in super().terms(student, own, batch).items()}

    def spoiled(self, term: Tensor, student: SegmentationNetwork, batch: Batch) -> Tensor:
        raise NotImplementedError


class Misnaming(Broken):
    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        return {"another": KnowledgeDistillation.terms(self, student, own, batch)["kd"]}


class Unreduced(Broken):
    def spoiled(self, term: Tensor, student: SegmentationNetwork, batch: Batch) -> Tensor:
        return term.expand(len(batch.images))


class Silent(Broken):
    def spoiled(self, term: Tensor, student: SegmentationNetwork, batch: Batch) -> Tensor:
        return term.detach()


class NeedsVessels(Broken):
    def spoiled(self, term: Tensor, student: SegmentationNetwork, batch: Batch) -> Tensor:
        foreground = batch.labels.float()
        return term * (foreground.sum() / foreground.sum())


class WakesTheTeacher(Broken):
    def spoiled(self, term: Tensor, student: SegmentationNetwork, batch: Batch) -> Tensor:
        self.teacher.train()(batch.images)
        return term


class MovesStatistics(Broken):
    def spoiled(self, term: Tensor, student: SegmentationNetwork, batch: Batch) -> Tensor:
        student(batch.images.flip(-1))
        return term


class CountsInPrivate(Broken):
    steps = 0

    def spoiled(self, term: Tensor, student: SegmentationNetwork, batch: Batch) -> Tensor:
        self.steps += 1
        return self.steps * term


class KeepsTheStudent(Broken):
    def __init__(self, options: KdOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.kept = copy.deepcopy(student).requires_grad_(False)

    def spoiled(self, term: Tensor, student: SegmentationNetwork, batch: Batch) -> Tensor:
        return term


class RollsDice(Broken):
    def spoiled(self, term: Tensor, student: SegmentationNetwork, batch: Batch) -> Tensor:
        return term * random.random()


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (Misnaming, "terms: in float32: terms {'another'}, weights {'kd'}"),
        (Unreduced, "terms: in float32: kd is torch.float32 (4,)"),
        (Silent, "each_term_alone: no gradient in 3 passes: kd"),
        (NeedsVessels, "awkward_tiles: on background only: kd is nan"),
        (WakesTheTeacher, "frozen_parts: frozen parts change"),
        (MovesStatistics, "view_statistics: view_statistics frozen"),
        (CountsInPrivate, "own_state: other values the second time: kd"),
        (KeepsTheStudent, "own_state: own_state holds weights of the frozen networks or the student: kept."),
        (RollsDice, "repeatable: other values the second time: kd"),
    ],
)
def test_a_mistake_is_found_by_the_suite(kind: type[Broken], check: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(f"  check_{check}")):
        check_method(kind, KdOptions(), copy.deepcopy(slim("unet")), copy.deepcopy(slim("m2unet")))


def test_a_sound_method_passes_and_the_networks_stay_as_they_were() -> None:
    teacher, student = copy.deepcopy(slim("unet")), copy.deepcopy(slim("m2unet"))
    check_method(KnowledgeDistillation, KdOptions(), teacher, student)
    for network, before in ((teacher, slim("unet")), (student, slim("m2unet"))):
        assert all(torch.equal(value, before.state_dict()[key]) for key, value in network.state_dict().items())

"""The conformance suite of distillation methods: ``check_method``.

To see every check by itself, parametrise over ``METHOD_CHECKS``. The methods that come with this package pass the same
suite on all pairs of teachers and students.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import MethodOptions
from gkd_bench.data.augment import make_views
from gkd_bench.distillation.base import Aligned, Batch, Guides, Method, StudentOutput
from gkd_bench.networks.alignment import AlignmentNetwork
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.build import seeded
from gkd_bench.networks.norm import frozen_statistics
from gkd_bench.testing.run import run_checks

TILE, VECTOR = 32, 32
"""Side of the square tiles, and length of the alignment networks' vectors."""
PASSES = 3
"""Passes until a term must have a gradient: what compares with remembered batches is silent in the first."""


@dataclass(frozen=True)
class MethodCase:
    """A method and the networks it is examined on; checks leave weights, buffers and gradients of all of them alone.

    Attributes:
        kind: class of the method.
        options: its options; some checks change the weights of its terms.
        guides: the frozen networks it may consult.
        student: the network it trains, in training mode.
    """

    kind: Callable[[MethodOptions, Guides, SegmentationNetwork], Method]
    options: MethodOptions
    guides: Guides
    student: SegmentationNetwork

    def made(self, changes: Mapping[str, object] | None = None, seed: int = 0) -> Method:
        """A fresh method in training mode, with some options changed."""
        with seeded(seed):
            return self.kind(self.options.model_copy(update=changes), self.guides, self.student).train()

    def alone(self, term: str) -> Method:
        """A fresh method with nothing but this term, at weight 1."""
        return self.made({option: float(name == term) for name, option in self.options.terms.items()})

    def complete(self, seed: int = 0) -> Method:
        """A fresh method with all its terms; those of weight 0 get weight 1."""
        weights = {option: getattr(self.options, option) or 1.0 for option in self.options.terms.values()}
        return self.made(weights, seed)

    def tiles(self, method: Method, size: tuple[int, int] = (TILE, TILE), batch: int = 4, seed: int = 0) -> Batch:
        """Noise with brighter blobs, the blobs as labels, and the views the method asks for."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(batch, self.student.in_channels, *size, generator=generator)
        smooth = F.avg_pool2d(torch.rand(batch, 1, *size, generator=generator), 5, 1, 2)[:, 0]
        labels = (smooth.argsort(dim=-1).argsort(dim=-1) * self.student.classes) // size[1]
        images = 0.4 * noise + 0.6 * labels[:, None] / (self.student.classes - 1)
        views = make_views(images, method.views, generator) if method.views else images.new_empty(0)
        return Batch(images, labels, views)


def check_method(
    kind: Callable[..., Method], options: MethodOptions, teacher: SegmentationNetwork, student: SegmentationNetwork
) -> None:
    """Everything a distillation method must do, on a few tiles of 32 x 32: a second or two for slim networks.

    Args:
        kind: class of the method.
        options: its options, with the defaults or others.
        teacher: a network with any weights, frozen here.
        student: another one, put into training mode.

    Raises:
        AssertionError: one line for each check that failed.
    """
    case = MethodCase(kind, options, guides_of(teacher, student), student.train())
    run_checks(METHOD_CHECKS, case)


def guides_of(teacher: SegmentationNetwork, student: SegmentationNetwork) -> Guides:
    """Every frozen network a method may ask for, the alignment networks untrained."""
    return Guides(teacher.requires_grad_(False).eval(), _aligned(teacher, 1), _aligned(student, 2))


# ---------------------------------------------------------------- checks


def check_terms(case: MethodCase) -> None:
    """Terms are finite float32 scalars with the names of ``weights``, and so are all gradients, in float32 and bfloat16."""
    for mixed in (False, True):
        method, where = case.complete(), "in bfloat16" if mixed else "in float32"
        for index in range(PASSES):
            batch = case.tiles(method, seed=index)
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                terms = method_terms(method, case.student, batch)
            require_sound(method, terms, case.student, where)


def check_each_term_alone(case: MethodCase) -> None:
    """A term computes without the others, moves the student, and is left out at weight 0."""
    asked = {term for term, option in case.options.terms.items() if getattr(case.options, option)}
    for method, names in [(case.made(), asked), *((case.alone(term), {term}) for term in case.options.terms)]:
        found, announced = set(method_terms(method, case.student, case.tiles(method))), set(method.weights())
        _require(found == announced == names, f"with weights for {names}: terms {found}, weights {announced}")
    silent = [term for term in case.options.terms if not any(_pulls(case, case.alone(term)))]
    _require(not silent, f"no gradient in {PASSES} passes: {', '.join(silent)}")


def check_awkward_tiles(case: MethodCase) -> None:
    """One tile, tiles that are not square or odd, a class that is absent: all finite, one after the other."""
    method = case.complete()
    usual = case.tiles(method)
    nothing = torch.zeros_like(usual.labels)
    awkward: Mapping[str, Batch] = {
        "tiles of 32 x 48": case.tiles(method, (32, 48)),
        "tiles of 37 x 51": case.tiles(method, (37, 51)),
        "a batch of one": case.tiles(method, batch=1),
        "background only": usual._replace(labels=nothing),
        "foreground only": usual._replace(labels=nothing + case.student.classes - 1),
        "a tile without foreground": usual._replace(labels=torch.cat([nothing[:1], usual.labels[1:]])),
        "usual tiles after awkward ones": usual,
    }
    for where, batch in awkward.items():
        require_sound(method, method_terms(method, case.student, batch), case.student, f"on {where}")


def check_frozen_parts(case: MethodCase) -> None:
    """Training the student leaves weights, buffers and eval mode of everything frozen; ``terms`` moves no weight itself."""
    method, student = case.complete(), copy.deepcopy(case.student)
    student.zero_grad(set_to_none=True)
    frozen, weights = copy.deepcopy(method.frozen.state_dict()), copy.deepcopy(dict(student.named_parameters()))
    terms = method_terms(method, student, case.tiles(method))
    moved = [key for key, p in student.named_parameters() if not torch.equal(p, weights[key]) or p.grad is not None]
    _require(not moved, f"terms itself changes or fills the gradients of {', '.join(moved[:5])}")
    trained = [p for p in [*student.parameters(), *method.parameters()] if p.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=0.1)
    if terms:
        torch.autograd.backward(_sum(terms))
        optimiser.step()
    changed = [key for key, value in method.frozen.state_dict().items() if not torch.equal(value, frozen[key])]
    _require(not changed, f"frozen parts change: {', '.join(changed[:5])}")
    awake = [key for key, part in method.frozen.named_modules() if part.training]
    _require(not awake, f"frozen parts leave eval mode: {', '.join(awake[:5])}")


def check_view_statistics(case: MethodCase) -> None:
    """Passes of views leave the student's running statistics, unless ``view_statistics`` says ``updated``."""
    if not case.options.terms:
        return  # a control may pass views to no other end
    for choice in ("frozen", "updated") if hasattr(case.options, "view_statistics") else ("frozen",):
        student = copy.deepcopy(case.student)
        method = case.made({"view_statistics": choice} if hasattr(case.options, "view_statistics") else None)
        batch = case.tiles(method)
        own = _own(student, batch)
        before = copy.deepcopy(dict(student.named_buffers()))
        with seeded(7):
            method.terms(student, own, batch)
        moved = [key for key, value in student.named_buffers() if not torch.equal(value, before[key])]
        expected = choice == "updated" and bool(before)
        _require(bool(moved) == expected, f"view_statistics {choice}: {len(moved)} running statistics moved")


def check_own_state(case: MethodCase) -> None:
    """``own_state`` is all a method remembers: copied into a method of another seed it gives equal terms."""
    first, second = case.complete(seed=0), case.complete(seed=1)
    for index in range(2):
        method_terms(first, case.student, case.tiles(first, seed=index))
    state = first.own_state()
    for name, tensor in second.own_state().items():
        tensor.data.copy_(state[name])
    for index in range(2, 4):
        batch = case.tiles(first, seed=index)
        _require_equal(*(method_terms(method, case.student, batch) for method in (first, second)))
    outside = [*first.frozen.state_dict().values(), *case.student.state_dict().values()]
    copied = [name for name, tensor in state.items() if any(_same_weights(tensor, other) for other in outside)]
    _require(not copied, f"own_state holds weights of the frozen networks or the student: {', '.join(copied[:5])}")


def check_repeatable(case: MethodCase) -> None:
    """Under the same seeds the same batches give the same terms, bit by bit, whatever torch's generator did before."""
    runs = []
    for noise in (1, 2):
        torch.rand(noise)
        method = case.complete()
        runs.append([method_terms(method, case.student, case.tiles(method, seed=index)) for index in range(2)])
    for first, second in zip(*runs, strict=True):
        _require_equal(first, second)


MethodCheck = Callable[[MethodCase], None]
METHOD_CHECKS: tuple[MethodCheck, ...] = (
    check_terms,
    check_each_term_alone,
    check_awkward_tiles,
    check_frozen_parts,
    check_view_statistics,
    check_own_state,
    check_repeatable,
)
"""Each raises AssertionError that says what is wrong."""


# ---------------------------------------------------------------- helpers


def method_terms(method: Method, student: SegmentationNetwork, batch: Batch, seed: int = 7) -> dict[str, Tensor]:
    """One pass of student and method; the seed fixes dropout and all draws. Running statistics stay as they are."""
    with seeded(seed), frozen_statistics(student):
        return method.terms(student, _own(student, batch), batch)


def require_sound(method: Method, terms: Mapping[str, Tensor], student: SegmentationNetwork, where: str) -> None:
    """Raise AssertionError unless the terms are those announced, finite float32 scalars, with finite gradients."""
    _require(set(terms) == set(method.weights()), f"{where}: terms {set(terms)}, weights {set(method.weights())}")
    for name, term in terms.items():
        scalar = term.shape == () and term.dtype == torch.float32
        _require(scalar, f"{where}: {name} is {term.dtype} {tuple(term.shape)}")
        _require(bool(torch.isfinite(term)), f"{where}: {name} is {term.item()}")
    trained = [*student.parameters(), *(p for p in method.parameters() if p.requires_grad)]
    finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients_of(terms, trained))
    _require(finite, f"{where}: gradients are not finite")


def gradients_of(terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of the sum of the terms in those parameters that it depends on."""
    total = _sum(terms)
    if not total.requires_grad:
        return []
    return [g for g in torch.autograd.grad(total, parameters, allow_unused=True) if g is not None]


def _pulls(case: MethodCase, method: Method) -> Iterator[bool]:
    """Pass by pass: whether the student has a gradient."""
    for index in range(PASSES):
        terms = method_terms(method, case.student, case.tiles(method, seed=index))
        yield any(float(gradient.abs().max()) > 0 for gradient in gradients_of(terms, [*case.student.parameters()]))


def _own(student: SegmentationNetwork, batch: Batch) -> StudentOutput:
    features = student.encode(batch.images)
    return StudentOutput(features, student.decode(features.bottleneck, features.skips))


def _aligned(host: SegmentationNetwork, seed: int) -> Aligned:
    side = max(1, TILE // host.stride)
    with seeded(seed):
        network = AlignmentNetwork(host.bottleneck_channels, (side, side), "flat", VECTOR)
    return Aligned(network, torch.zeros(VECTOR), torch.ones(VECTOR))


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    return sum(terms.values(), torch.zeros(()))


def _same_weights(own: Tensor, other: Tensor) -> bool:
    """Equal, and not by chance or initialisation: more than one number, and not all the same."""
    return (
        own.shape == other.shape
        and own.numel() > 1
        and bool((own != own.flatten()[0]).any())
        and torch.equal(own, other)
    )


def _require_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    differ = [name for name, term in first.items() if not torch.equal(term, second[name])]
    _require(not differ, f"other values the second time: {', '.join(differ)}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)

"""The conformance suite of segmentation networks, for tests of networks that live in packages of their own.

One line is a test: ``check_network(MyNetwork)``. To see every check by itself, parametrise over ``NETWORK_CHECKS``. The
networks that come with this package pass the same suite.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from gkd_bench.networks.base import SegmentationNetwork, count_parameters
from gkd_bench.networks.build import seeded
from gkd_bench.networks.contract import contract_problems
from gkd_bench.testing.run import run_checks

SIZES = ((37, 53), (2, 3), (96, 96))
"""(height, width) of the images every network must take: odd ones, tiny ones, and a usual tile."""


class Build(Protocol):
    """What makes the network under test: its class, or any function with these arguments."""

    def __call__(self, *, width: float, in_channels: int, classes: int) -> SegmentationNetwork:
        """A network with fresh weights from torch's global generator, on the CPU, in training mode."""
        ...


NetworkCheck = Callable[[Build, float], None]
"""Takes a way to build the network and the width to build it at; raises AssertionError that says what is wrong."""


def check_network(build: Build, width: float = 1.0) -> None:
    """Everything a segmentation network must do, on small random images: seconds for a slim network.

    Args:
        build: the class of the network, or a function that takes ``width``, ``in_channels`` and ``classes``.
        width: multiplier to test at; a small one makes the test fast.

    Raises:
        AssertionError: one line for each check that failed.
    """
    run_checks(NETWORK_CHECKS, build, width)


# ---------------------------------------------------------------- shapes


def check_announced_shapes(build: Build, width: float) -> None:
    """Bottleneck, logits and taps have the shapes that ``stride``, ``bottleneck_channels`` and ``classes`` announce."""
    problems = contract_problems(_made(build, width))
    _require(not problems, "; ".join(problems))


def check_any_size(build: Build, width: float) -> None:
    """One image of any size gives finite logits of that size, in training and in eval mode."""
    for size, training in itertools.product(SIZES, (True, False)):
        logits = _made(build, width).train(training)(_images(1, *size))
        where = f"one image of {size} in {'training' if training else 'eval'} mode gives logits"
        _require(tuple(logits.shape) == (1, 2, *size), f"{where} of {tuple(logits.shape)}")
        _require(bool(torch.isfinite(logits).all()), f"{where} that are not finite")


def check_colour_and_classes(build: Build, width: float) -> None:
    """``in_channels`` and ``classes`` are honoured."""
    with seeded(0):
        network = build(width=width, in_channels=3, classes=4)
    shape = tuple(network(_images(channels=3)).shape)
    _require(shape == (2, 4, 64, 64), f"3 channels and 4 classes give logits {shape}, not (2, 4, 64, 64)")


def check_width(build: Build, width: float) -> None:
    """``width`` makes the network narrower: half of it has fewer parameters."""
    slim, wide = (count_parameters(_made(build, w)) for w in (width / 2, width))
    _require(slim < wide, f"width {width / 2:g} has {slim} parameters, width {width:g} has {wide}: not fewer")


# ---------------------------------------------------------------- encode and decode


def check_decoding_the_encoding(build: Build, width: float) -> None:
    """``decode(*encode(x))`` is ``forward(x)``, bit for bit, in eval mode."""
    network, images = _settled(build, width), _images(height=40, width=56)
    features = network.encode(images)
    logits = network.decode(features.bottleneck, features.skips).logits
    _require(torch.equal(logits, network(images)), "decode(*encode(x)) differs from forward(x)")


def check_decoding_spares_its_inputs(build: Build, width: float) -> None:
    """Decoding and its backward pass write into none of the tensors that encoding gave, nor into the tap."""
    network = _made(build, width)
    features = network.encode(_images())
    kept = (features.bottleneck, *features.skips.maps, *features.taps)
    before = [tensor.detach().clone() for tensor in kept]
    decoded = network.decode(features.bottleneck, features.skips)
    tap = decoded.tap.detach().clone()
    torch.autograd.backward(decoded.logits.sum())
    same = all(torch.equal(a, b) for a, b in zip(kept, before, strict=True)) and torch.equal(decoded.tap, tap)
    _require(same, "decoding changes its inputs or its tap in place; clone first, or use layers without inplace=True")


def check_bottleneck_matters(build: Build, width: float) -> None:
    """Header exchange: decoding a foreign bottleneck of the same shape changes the logits, and gradients reach it."""
    network = _settled(build, width)
    features = network.encode(_images())
    foreign = features.bottleneck.detach().flip(0).requires_grad_()
    logits = network.decode(foreign, features.skips).logits
    own = network.decode(features.bottleneck, features.skips).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), foreign)
    _require(bool((logits - own).abs().max() > 1e-3 * own.abs().max()), "another bottleneck gives the same logits")
    _require(_largest(gradient) > 0, "no gradient reaches the bottleneck that decode is given")


def check_skips_pass_gradients(build: Build, width: float) -> None:
    """Header exchange: behind an empty bottleneck gradients still reach all floating-point skips, if there are any."""
    network = _made(build, width)
    with torch.no_grad():
        features = network.encode(_images())
    maps = tuple(m.detach().requires_grad_(m.is_floating_point()) for m in features.skips.maps)
    carried = [m for m in maps if m.requires_grad]
    if not carried:
        return
    logits = network.decode(torch.zeros_like(features.bottleneck), features.skips._replace(maps=maps)).logits
    reached = torch.autograd.grad(logits.square().sum(), carried, allow_unused=True)
    idle = [index for index, gradient in enumerate(reached) if not _largest(gradient) > 0]
    _require(not idle, f"no gradient reaches {len(idle)} of {len(carried)} skip maps; hand on only what decode uses")


# ---------------------------------------------------------------- training


def check_gradients_reach_everything(build: Build, width: float) -> None:
    """One step gives every parameter a finite gradient, and every weight one that is not zero."""
    network = _shaken(_made(build, width).double())
    _backward(network, _images().double())
    broken = [key for key, p in network.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    _require(not broken, f"no gradient, or one that is not finite: {', '.join(broken[:5])}")
    # A bias in front of a norm has no effect, so only weights must have a gradient other than zero.
    idle = [key for key, p in network.named_parameters() if p.ndim > 1 and not _largest(p.grad) > 0]
    _require(not idle, f"the gradient is zero everywhere: {', '.join(idle[:5])}")


def check_bfloat16(build: Build, width: float) -> None:
    """A training step works in bfloat16 autocast, with finite gradients."""
    network = _made(build, width)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(network(_images()).float(), torch.zeros(2, 64, 64, dtype=torch.long))
    torch.autograd.backward(loss)
    broken = [key for key, p in network.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    _require(not broken, f"no finite gradient in bfloat16: {', '.join(broken[:5])}")


def check_companions(build: Build, width: float) -> None:
    """In eval mode the logits of an image do not depend on the rest of its batch."""
    network, images = _settled(build, width).double(), _images(3).double()
    with torch.no_grad():
        apart = float((network(images)[:1] - network(images[:1])).abs().max())
    _require(apart < 1e-6, f"logits of an image move by {apart:.2g} with its companions")


def check_eval_changes_nothing(build: Build, width: float) -> None:
    """A pass in eval mode changes no parameter and no buffer."""
    network = _settled(build, width)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(_images())
    moved = [key for key, value in network.state_dict().items() if not torch.equal(value, before[key])]
    _require(not moved, f"a pass in eval mode changes {', '.join(moved[:5])}")


# ---------------------------------------------------------------- weights


def check_state_round_trip(build: Build, width: float) -> None:
    """The state dict survives safetensors, and another network with it computes the same."""
    network = _settled(build, width)
    other = _made(build, width, seed=1).eval()
    other.load_state_dict(load(save(network.state_dict())))
    _require(
        torch.equal(other(_images()), network(_images())), "a network with the same state dict computes other logits"
    )


def check_seeded_weights(build: Build, width: float) -> None:
    """Initial weights depend on torch's seed, and on nothing else."""
    first, again, other = (_made(build, width, seed).state_dict() for seed in (3, 3, 4))
    moved = [key for key in first if not torch.equal(first[key], again[key])]
    _require(not moved, f"the same seed gives other weights: {', '.join(moved[:5])}")
    _require(any(not torch.equal(first[key], other[key]) for key in first), "another seed gives the same weights")


NETWORK_CHECKS: tuple[NetworkCheck, ...] = (
    check_announced_shapes,
    check_any_size,
    check_colour_and_classes,
    check_width,
    check_decoding_the_encoding,
    check_decoding_spares_its_inputs,
    check_bottleneck_matters,
    check_skips_pass_gradients,
    check_gradients_reach_everything,
    check_bfloat16,
    check_companions,
    check_eval_changes_nothing,
    check_state_round_trip,
    check_seeded_weights,
)


# ---------------------------------------------------------------- helpers


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _images(batch: int = 2, height: int = 64, width: int = 64, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def _made(build: Build, width: float, seed: int = 0) -> SegmentationNetwork:
    with seeded(seed):
        return build(width=width, in_channels=1, classes=2)


def _settled(build: Build, width: float) -> SegmentationNetwork:
    """In eval mode, with running statistics close to those of random images."""
    network = _made(build, width)
    for part in network.modules():
        if isinstance(part, _BatchNorm):
            part.momentum = 0.9
    with torch.no_grad(), seeded(0):
        for seed in range(3):
            network(_images(4, seed=seed))
    return network.eval()


def _shaken(network: SegmentationNetwork) -> SegmentationNetwork:
    """With scales and shifts moved a little: a branch that begins at zero passes no gradient in the first step."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return network


def _backward(network: SegmentationNetwork, images: Tensor) -> None:
    with seeded(7):
        loss = F.cross_entropy(network(images), (images[:, 0] > 0.5).long())
    torch.autograd.backward(loss)


def _largest(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.abs().max())

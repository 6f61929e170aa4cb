"""Networks by name, with weights that depend on nothing but a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import torch

from gkd_bench.errors import ConfigError
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.contract import contract_problems
from gkd_bench.registry import NETWORKS


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Run the block with torch's CPU generator at ``seed`` and put its state back afterwards; None changes nothing.

    For building modules (segmentation, semantic and alignment networks alike): build on the CPU, then move.
    """
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def build(
    name: str, width: float = 1.0, in_channels: int = 1, classes: int = 2, seed: int | None = None
) -> SegmentationNetwork:
    """A registered segmentation network on the CPU, in training mode; one of another package is looked at first.

    Args:
        name: a name of ``gkd_bench.registry.NETWORKS``.
        width: multiplier of all channel counts, 1.0 = the published size.
        in_channels: channels of the images.
        classes: classes of the logits.
        seed: seed of the initial weights; the same seed gives the same weights and leaves global randomness untouched.
            None draws from the global generator, for networks whose weights are loaded right after.

    Raises:
        ConfigError: the name is not registered, or width, in_channels or classes are not positive; or the network comes
            from another package and cannot be made or breaks the contract (all that is wrong is listed).
    """
    _check(name, width, in_channels, classes)
    made = NETWORKS.load(name)
    with seeded(seed):
        if NETWORKS.is_built_in(name):
            network: SegmentationNetwork = made(width=width, in_channels=in_channels, classes=classes)
        else:
            network = _from_elsewhere(name, made, width, in_channels, classes)
    return network


def _from_elsewhere(name: str, made: object, width: float, in_channels: int, classes: int) -> SegmentationNetwork:
    who = f"network {name!r} of {NETWORKS.provider(name)} ({NETWORKS[name]})"
    if not (isinstance(made, type) and issubclass(made, SegmentationNetwork)):
        raise ConfigError(
            [f"{who} is no subclass of gkd_bench.networks.base.SegmentationNetwork; see docs/extending.md"]
        )
    try:
        network = made(width=width, in_channels=in_channels, classes=classes)
    except Exception as error:
        sizes = f"width={width:g}, in_channels={in_channels}, classes={classes}"
        raise ConfigError([f"{who} cannot be made with {sizes}: {type(error).__name__}: {error}"]) from error
    problems = contract_problems(network)
    if problems:
        raise ConfigError([f"{who}: {problem}" for problem in problems])
    return network


def _check(name: str, width: float, in_channels: int, classes: int) -> None:
    problems = []
    if name not in NETWORKS:
        near = get_close_matches(name, NETWORKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(NETWORKS)}"
        problems.append(f"network: {name!r} is not registered; {hint}")
    sizes = (("width", width), ("in_channels", in_channels), ("classes", classes))
    problems += [f"{key}: {value} must be positive" for key, value in sizes if value <= 0]
    if problems:
        raise ConfigError(problems)

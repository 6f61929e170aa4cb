"""Networks by name, with weights that depend on nothing but a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import torch

from gkd_bench.errors import ConfigError
from gkd_bench.networks.base import SegmentationNetwork
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
    """A registered segmentation network on the CPU, in training mode.

    Args:
        name: a name of ``gkd_bench.registry.NETWORKS``.
        width: multiplier of all channel counts, 1.0 = the published size.
        in_channels: channels of the images.
        classes: classes of the logits.
        seed: seed of the initial weights; the same seed gives the same weights and leaves global randomness untouched.
            None draws from the global generator, for networks whose weights are loaded right after.

    Raises:
        ConfigError: the name is not registered, or width, in_channels or classes are not positive.
    """
    _check(name, width, in_channels, classes)
    with seeded(seed):
        network: SegmentationNetwork = NETWORKS.load(name)(width=width, in_channels=in_channels, classes=classes)
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

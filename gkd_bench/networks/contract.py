"""What the contract of segmentation networks asks, looked at in one small pass: for networks of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gkd_bench.networks.base import Decoded, Features, SegmentationNetwork
from gkd_bench.networks.norm import BatchNorm2d


def contract_problems(network: SegmentationNetwork) -> list[str]:
    """What a network breaks of the contract, one line each; empty if it keeps it.

    Looks at its attributes, its norms, and the shapes of one pass in eval mode without gradients, which leaves weights,
    buffers, modes and torch's random state as they were. ``gkd_bench.testing`` examines a network thoroughly.
    """
    problems = [*_attributes(network), *_norms(network)]
    return problems or list(_shapes(network))


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """All parts of ``module`` in eval mode inside the block, and afterwards in the modes they had."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training


def _attributes(network: SegmentationNetwork) -> Iterator[str]:
    for name in ("stride", "bottleneck_channels", "in_channels", "classes"):
        value = getattr(network, name, None)
        if not isinstance(value, int) or value < 1:
            yield f"{name} must be a whole number above 0, found {value!r}"
    if next(network.parameters(), None) is None:
        yield "has no parameters to train"


def _norms(network: SegmentationNetwork) -> Iterator[str]:
    foreign = [
        key
        for key, part in network.named_modules()
        if isinstance(part, _BatchNorm) and not isinstance(part, BatchNorm2d)
    ]
    if foreign:
        yield (
            f"{len(foreign)} batch norms ({foreign[0]} …) are not gkd_bench.networks.norm.BatchNorm2d, so workers would not "
            "share their statistics and methods could not hold them still; end __init__ with "
            "gkd_bench.networks.norm.synchronised(self)"
        )


def _shapes(network: SegmentationNetwork) -> Iterator[str]:
    stride = network.stride
    like = next(network.parameters())
    images = torch.zeros(3, network.in_channels, 2 * stride + 1, 3 * stride, device=like.device, dtype=like.dtype)
    shape = tuple(images.shape)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), eval_mode(network):
            features = network.encode(images)
            decoded = network.decode(features.bottleneck, features.skips)
    except Exception as error:
        yield f"encoding and decoding images of {shape} failed: {type(error).__name__}: {error}"
        return
    yield from _compare(network, images, features, decoded)


def _compare(network: SegmentationNetwork, images: Tensor, features: Features, decoded: Decoded) -> Iterator[str]:
    batch, _, height, width = images.shape
    grid = (-(-height // network.stride), -(-width // network.stride))
    expected = {
        "the bottleneck": (features.bottleneck, (batch, network.bottleneck_channels, *grid)),
        "the logits": (decoded.logits, (batch, network.classes, height, width)),
    }
    for what, (found, shape) in expected.items():
        if tuple(found.shape) != shape:
            yield f"{what} of images {tuple(images.shape)} must be {shape}, found {tuple(found.shape)}"
    for tap in (*features.taps, decoded.tap):
        if tap.ndim != 4 or len(tap) != batch:
            yield f"taps must be maps (batch, channels, h, w), found {tuple(tap.shape)}"

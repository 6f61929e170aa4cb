"""The one contract of every segmentation network: ``forward(x) == decode(*encode(x)[:2]).logits``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Skips(NamedTuple):
    """What the decoder needs besides the bottleneck.

    Attributes:
        maps: tensors handed from encoder to decoder (feature maps, or pooling indices for ENet).
        size: (height, width) of the input before padding; the decoder crops its logits to it.
    """

    maps: tuple[Tensor, ...]
    size: tuple[int, int]


class Features(NamedTuple):
    """Result of ``encode``.

    Attributes:
        bottleneck: (batch, channels, h, w), what alignment networks read and DICD replaces.
        skips: handed to ``decode``.
        taps: encoder maps for feature distillation, shallow first.
    """

    bottleneck: Tensor
    skips: Skips
    taps: tuple[Tensor, ...]


class Decoded(NamedTuple):
    """Result of ``decode``.

    Attributes:
        logits: (batch, classes, height, width) at the size of the input.
        tap: mid-decoder map for feature distillation and ACT's reconstruction term.
    """

    logits: Tensor
    tap: Tensor


class SegmentationNetwork(nn.Module, ABC):
    """Base of all segmentation networks; takes (batch, in_channels, height, width) float32 in [0, 1].

    ``encode`` pads the input (replicate) to a multiple of ``stride``, so any size of at least 2 pixels works; ``decode``
    crops back. Subclasses write ``_encode`` and ``_decode`` for padded sizes only.

    Attributes:
        stride: input pixels per bottleneck position.
        bottleneck_channels: channels of the bottleneck.
    """

    stride: int
    bottleneck_channels: int

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__()
        self.width, self.in_channels, self.classes = width, in_channels, classes

    @abstractmethod
    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(bottleneck, skip maps, taps) of images whose sides are multiples of ``stride``."""

    @abstractmethod
    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """(logits at the padded input size, tap)."""

    def encode(self, images: Tensor) -> Features:
        """Images (batch, in_channels, height, width) -> bottleneck, skips, taps."""
        height, width = images.shape[-2:]
        pad = (-width % self.stride, -height % self.stride)
        padded = F.pad(images, (0, pad[0], 0, pad[1]), mode="replicate") if any(pad) else images
        bottleneck, maps, taps = self._encode(padded)
        return Features(bottleneck, Skips(maps, (height, width)), taps)

    def decode(self, bottleneck: Tensor, skips: Skips) -> Decoded:
        """Bottleneck (own or rebuilt) and skips -> logits at the input size, and the mid-decoder tap."""
        logits, tap = self._decode(bottleneck, skips.maps)
        return Decoded(logits[..., : skips.size[0], : skips.size[1]], tap)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes, height, width)."""
        features = self.encode(images)
        return self.decode(features.bottleneck, features.skips).logits


def scaled(channels: int, width: float, multiple: int = 1) -> int:
    """``channels`` times the width multiplier, rounded to a multiple, at least one multiple."""
    return max(multiple, round(channels * width / multiple) * multiple)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def foreground_probability(logits: Tensor) -> Tensor:
    """(batch, classes, ...) logits -> (batch, ...) probability of class 1."""
    return torch.softmax(logits.float(), dim=1)[:, 1]


def class_probabilities(logits: Tensor) -> Tensor:
    """(batch, classes, ...) logits -> (batch, classes - 1, ...) probabilities of the foreground classes."""
    return torch.softmax(logits.float(), dim=1)[:, 1:]

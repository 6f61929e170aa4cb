"""Photometric changes and views of a batch of tiles, on any device, with random parameters per sample.

Parameters are drawn on the CPU for the whole global batch and then cut to the rows of this process, so that two
workers together see exactly the batch of one. The ranges are this project's choice; no source gives them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.schema import ViewKind

Level = Literal["none", "light", "strong", "photometric", "noise_blur"]

FIELD_CELLS = (4, 4)


@dataclass(frozen=True)
class Rows:
    """Rows ``rank::workers`` of a global batch."""

    batch: int
    rank: int = 0
    workers: int = 1

    def of(self, values: Tensor) -> Tensor:
        """The rows of ``values``, whose first dimension is the global batch."""
        return values[self.rank :: self.workers]


@dataclass(frozen=True)
class Strength:
    """Ranges of photometric parameters.

    Attributes:
        gamma: largest absolute logarithm of the exponent.
        contrast: largest change of contrast about mid-grey.
        brightness: largest shift, in units of full scale.
        noise: largest standard deviation of pixel noise, in units of full scale.
        blur: largest standard deviation of the blur, pixels.
        field: largest relative change of a smooth illumination field.
    """

    gamma: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    field: float = 0.0


STRENGTHS: dict[Level, Strength] = {
    "none": Strength(),
    "light": Strength(gamma=0.25, contrast=0.15, brightness=0.06, noise=0.02, blur=0.6, field=0.1),
    "strong": Strength(gamma=0.6, contrast=0.4, brightness=0.15, noise=0.06, blur=1.2, field=0.3),
    "photometric": Strength(gamma=0.4, contrast=0.3, brightness=0.1, field=0.2),
    "noise_blur": Strength(noise=0.05, blur=1.2),
}


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """A CPU generator that is a pure function of (seed, step, stream); streams of one step are independent."""
    state = int(np.random.SeedSequence((seed, step, stream)).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state & (2**63 - 1))


def photometric(images: Tensor, level: Level, generator: torch.Generator, rows: Rows | None = None) -> Tensor:
    """Gamma, illumination, contrast, brightness, blur and noise, each with its own random strength per sample.

    Args:
        images: (batch, channels, height, width) float32 in [0, 1].
        level: ``none``, ``light``, ``strong``, ``photometric`` (no noise, no blur) or ``noise_blur`` (nothing else).
        generator: CPU generator of the parameters.
        rows: which rows of the global batch ``images`` are; default all.

    Returns:
        (batch, channels, height, width) float32 in [0, 1]. Noise differs between kinds of device, nothing else does.
    """
    rows = rows or Rows(len(images))
    strength, device = STRENGTHS[level], images.device

    def draw(limit: float, *shape: int) -> Tensor:
        """Uniform in [-limit, limit], (rows, 1, ...), on the CPU."""
        return rows.of((torch.rand((rows.batch, 1, *(shape or (1, 1))), generator=generator) * 2 - 1) * limit)

    gamma, contrast, brightness = draw(strength.gamma), draw(strength.contrast), draw(strength.brightness)
    noise, blur, field = draw(strength.noise).abs(), draw(strength.blur).abs(), draw(strength.field, *FIELD_CELLS)
    noise_seed = int(torch.randint(2**62, (1,), generator=generator))

    out = images
    if strength.gamma:
        out = out.clamp_min(1e-4) ** _exp(gamma).to(device)
    if strength.field:
        out = out * (1 + F.interpolate(field.to(device), images.shape[-2:], mode="bilinear", align_corners=True))
    if strength.contrast or strength.brightness:
        out = (out - 0.5) * (1 + contrast.to(device)) + 0.5 + brightness.to(device)
    if strength.blur:
        out = gaussian_blur(out, blur)
    if strength.noise:
        out = out + noise.to(device) * _noise(images, rows, noise_seed)
    return out.clamp(0, 1)


def gaussian_blur(images: Tensor, deviation: Tensor) -> Tensor:
    """Blur with one standard deviation per sample, cut at two pixels and mirrored at borders; 0 leaves the image as it is.

    Args:
        images: (batch, channels, height, width).
        deviation: (batch, 1, 1, 1), pixels, on the CPU.
    """
    offsets = torch.arange(-2, 3).view(-1, 1, 1, 1, 1)
    weights = _exp(-(offsets**2) / (2 * deviation.clamp_min(1e-3) ** 2))
    weights = (weights / _sum(list(weights))).to(images.device)
    for dim, pad in ((-1, (2, 2, 0, 0)), (-2, (0, 0, 2, 2))):
        padded = F.pad(images, pad, mode="reflect")
        length = images.shape[dim]
        images = _sum([weights[i] * padded.narrow(dim, i, length) for i in range(5)])
    return images


def make_views(
    images: Tensor, kinds: Sequence[ViewKind], generator: torch.Generator, rows: Rows | None = None
) -> Tensor:
    """K augmented views of a batch, one per kind.

    Args:
        images: (batch, channels, side, side) float32 in [0, 1].
        kinds: kind of each view.
        generator: CPU generator of the parameters.
        rows: which rows of the global batch ``images`` are; default all.

    Returns:
        (K, batch, channels, side, side) float32 in [0, 1].
    """
    return torch.stack([_view(images, kind, generator, rows) for kind in kinds])


def _view(images: Tensor, kind: ViewKind, generator: torch.Generator, rows: Rows | None) -> Tensor:
    if kind == "hflip":
        return images.flip(-1)
    if kind == "vflip":
        return images.flip(-2)
    if kind == "rot90":
        return images.rot90(1, (-2, -1))
    return photometric(images, kind, generator, rows)


def _noise(images: Tensor, rows: Rows, seed: int) -> Tensor:
    """Standard normal noise like ``images``, drawn on their device: too much to move, unlike the parameters."""
    generator = torch.Generator(device=images.device).manual_seed(seed)
    noise = torch.randn((rows.batch, *images.shape[1:]), generator=generator, device=images.device)
    return rows.of(noise)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """Sum from first to last; ``Tensor.sum`` chooses its order by the size of the batch, which workers would see."""
    return functools.reduce(torch.add, terms)


def _exp(values: Tensor) -> Tensor:
    """Exponential by way of float64: in float32 its last bit depends on how many values share the call."""
    return values.double().exp().float()

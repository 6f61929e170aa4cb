"""Random styles of training tiles: intensity curves, random convolutions and borrowed statistics. Geometry stays.

One strong recipe of the literature on generalisation from a single source. Each sample that is not left clean takes all
three steps, each with a strength of its own:

* a monotone Bezier intensity curve: Z. Zhou et al., "Models Genesis", MedIA 2021; as the global change of Z. Su et al.,
  "Rethinking Data Augmentation for Single-Source Domain Generalization" (SLAug), AAAI 2023;
* a shallow convolutional network of random weights, mixed with the image: Z. Xu et al., "Robust and Generalizable Visual
  Representation Learning via Random Convolutions", ICLR 2021; mixed and rescaled as in C. Ouyang et al., "Causality-inspired
  Single-source Domain Generalization for Medical Image Segmentation" (GIN), TMI 2022, see :func:`random_convolution`;
* mean and deviation mixed with those of another tile: K. Zhou et al., "Domain Generalization with MixStyle", ICLR 2021, here
  of the image, not of feature maps.

Parameters are drawn on the CPU for the whole global batch and cut to the rows of this process, as in
:mod:`gkd_bench.data.augment`; only the partners of the last step are tiles of the same process.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.data.augment import Rows

CLEAN_SHARE = 0.25
CURVE_POINTS = 512
CURVE_LEVELS = 256
CHANNELS = (1, 2, 1)
SLOPE = 0.2
MIX_SHAPE = 0.1  # MixStyle's Beta(0.1, 0.1)
FLAT = 1e-3  # deviation below which a tile has no style to speak of


class RandomLayer(NamedTuple):
    """Weights of one layer of every sample's own random network.

    Attributes:
        kernel: (batch, outputs, inputs, 3, 3); a kernel of size one has zeros around its centre.
        shift: (batch, outputs, 1, 1).
    """

    kernel: Tensor
    shift: Tensor


def restyle(images: Tensor, generator: torch.Generator, rows: Rows | None = None) -> Tensor:
    """Tiles in random styles; about ``CLEAN_SHARE`` of them come back as they are.

    Args:
        images: (rows, channels, height, width) float32 in [0, 1]; the channels of an image are changed alike.
        generator: CPU generator of the parameters.
        rows: which rows of the global batch ``images`` are; default all.

    Returns:
        (rows, channels, height, width) float32 in [0, 1].
    """
    rows, device = rows or Rows(len(images)), images.device

    def draw() -> Tensor:
        """Uniform in [0, 1), (rows, 1, 1, 1), on the CPU."""
        return rows.of(torch.rand((rows.batch, 1, 1, 1), generator=generator))

    clean = draw() < CLEAN_SHARE
    curves = rows.of(bezier_curves(torch.rand((rows.batch, 2, 2), generator=generator, dtype=torch.float64)))
    layers = [RandomLayer(*map(rows.of, layer)) for layer in random_layers(rows.batch, generator)]
    share, own, order = draw(), _beta(draw()), draw().flatten().argsort()

    channels = images.shape[1]

    def each(values: Tensor) -> Tensor:
        """The parameters of a sample for every one of its channels, on the device."""
        return values.to(device).repeat_interleave(channels, dim=0)

    planes = images.flatten(0, 1)[:, None]
    partners = each(order * channels) + torch.arange(channels, device=device).repeat(len(images))
    out = apply_curves(planes, each(curves))
    out = random_convolution(out, [RandomLayer(*map(each, layer)) for layer in layers], each(share))
    out = mix_statistics(out, partners, each(own)).view_as(images)
    return torch.where(clean.to(device), images, out.clamp(0, 1))


# ---------------------------------------------------------------- intensity curves


def bezier_curves(inner: Tensor) -> Tensor:
    """Monotone cubic Bezier curves from (0, 0) to (1, 1) as tables.

    Args:
        inner: (batch, 2, 2) float64 in [0, 1]: x and y of two inner control points. Each is sorted, which makes the curve rise.

    Returns:
        (batch, CURVE_LEVELS) float32 in [0, 1], values at evenly spaced inputs from 0 to 1; never falling.
    """
    ends = inner.new_tensor([0.0, 1.0]).expand(len(inner), 2, 2)
    points = torch.cat([ends[..., :1], inner.transpose(1, 2).sort(dim=-1).values, ends[..., 1:]], dim=-1)
    t = torch.linspace(0, 1, CURVE_POINTS, dtype=inner.dtype)
    basis = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    x, y = (points @ basis).unbind(1)
    wanted = torch.linspace(0, 1, CURVE_LEVELS, dtype=inner.dtype).expand(len(inner), -1).contiguous()
    right = torch.searchsorted(x.contiguous(), wanted).clamp(1, CURVE_POINTS - 1)
    x0, x1, y0, y1 = x.gather(1, right - 1), x.gather(1, right), y.gather(1, right - 1), y.gather(1, right)
    place = ((wanted - x0) / (x1 - x0).clamp_min(1e-12)).clamp(0, 1)
    return (y0 + place * (y1 - y0)).clamp(0, 1).float()


def apply_curves(images: Tensor, curves: Tensor) -> Tensor:
    """Images (batch, 1, height, width) in [0, 1] through tables (batch, levels), linear between their values."""
    last = curves.shape[1] - 1
    position = images.flatten(1) * last
    below = position.floor().clamp(0, last - 1)
    low = below.long()
    out = torch.lerp(curves.gather(1, low), curves.gather(1, low + 1), position - below)
    return out.view_as(images)


# ---------------------------------------------------------------- random convolutions


def random_layers(batch: int, generator: torch.Generator) -> list[RandomLayer]:
    """Standard normal weights of a random network per sample; every layer's kernel is of size one or three, by chance."""
    layers = []
    centre = F.pad(torch.ones(1, 1), (1, 1, 1, 1)).bool()
    for inputs, outputs in itertools.pairwise(CHANNELS):
        kernel = torch.randn((batch, outputs, inputs, 3, 3), generator=generator)
        wide = torch.rand((batch, 1, 1, 1, 1), generator=generator) < 0.5
        layers.append(RandomLayer(kernel * (wide | centre), torch.randn((batch, outputs, 1, 1), generator=generator)))
    return layers


def random_convolution(images: Tensor, layers: list[RandomLayer], share: Tensor) -> Tensor:
    """Each image mixed with what its own random network makes of it.

    With ``x`` the image at mean 0 and deviation 1, as GIN's inputs are, and ``g`` its random network:
    ``y = share * g(x) + (1 - share) * x``, ``y ||x|| / ||y||`` (Frobenius norms), back to the mean and deviation of the image.

    Milder than GIN, so that thin structures survive (ours): two layers, not four; ``g(x)`` at mean 0 and deviation 1 too, and
    with the sign that correlates with ``x``. GIN's own took more than half of the vessels' contrast to the noise around them in
    a quarter of the tiles of CHASE_DB1, this one in a hundredth.

    Args:
        images: (batch, 1, height, width).
        layers: one network per image.
        share: (batch, 1, 1, 1) in [0, 1]; 0 leaves the image as it is.

    Returns:
        (batch, 1, height, width), not clipped.
    """
    mean, deviation = _statistics(images)
    plain = (images - mean) / deviation
    mixed = share * _like(plain, _through(plain, layers)) + (1 - share) * plain
    norms = [part.square().mean((1, 2, 3), keepdim=True).sqrt() for part in (plain, mixed)]
    return mixed * (norms[0] / norms[1].clamp_min(1e-6)) * deviation + mean


def _through(images: Tensor, layers: list[RandomLayer]) -> Tensor:
    """(batch, 1, height, width) through every sample's own network, as one grouped convolution a layer."""
    batch, _, height, width = images.shape
    maps = images
    for number, (kernel, shift) in enumerate(layers):
        if number:
            maps = F.leaky_relu(maps, SLOPE)
        padded = F.pad(maps, (1, 1, 1, 1), mode="replicate").view(1, -1, height + 2, width + 2)
        maps = F.conv2d(padded, kernel.flatten(0, 1), groups=batch).view(batch, -1, height, width) + shift
    return maps


def _like(images: Tensor, maps: Tensor) -> Tensor:
    """Maps (batch, 1, height, width) at mean 0 and deviation 1, turned over where they run against ``images``."""
    mean, deviation = _statistics(maps)
    maps = (maps - mean) / deviation
    against = (maps * images).mean((1, 2, 3), keepdim=True) < 0
    return torch.where(against, -maps, maps)


# ---------------------------------------------------------------- style mixing


def mix_statistics(images: Tensor, partners: Tensor, own: Tensor) -> Tensor:
    """Each image with its mean and deviation moved towards those of another one.

    Args:
        images: (batch, 1, height, width).
        partners: (batch,) int64, row of the other image.
        own: (batch, 1, 1, 1) in [0, 1], share of the image's own mean and deviation; 1 leaves it as it is.
    """
    mean, deviation = _statistics(images)
    new_mean = torch.lerp(mean[partners], mean, own)
    new_deviation = torch.lerp(deviation[partners], deviation, own)
    return (images - mean) / deviation * new_deviation + new_mean


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every image, (batch, 1, 1, 1) each."""
    variance, mean = torch.var_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    return mean, variance.sqrt().clamp_min(FLAT)


def _beta(uniform: Tensor) -> Tensor:
    """Beta(MIX_SHAPE, MIX_SHAPE) by its inverse distribution function: torch's own takes no generator."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(MIX_SHAPE, MIX_SHAPE, uniform.double().numpy())).float()

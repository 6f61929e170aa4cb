"""Layers that more than one network is built from."""

from __future__ import annotations

from torch import nn

from gkd_bench.networks.norm import BatchNorm2d

Size = int | tuple[int, int]


def same_padding(kernel: Size, dilation: Size = 1) -> tuple[int, int]:
    """Padding that keeps the size of a map under an odd kernel with stride 1."""
    kernels = (kernel, kernel) if isinstance(kernel, int) else kernel
    dilations = (dilation, dilation) if isinstance(dilation, int) else dilation
    return kernels[0] // 2 * dilations[0], kernels[1] // 2 * dilations[1]


def conv_norm(inputs: int, outputs: int, kernel: Size = 3, *, bias: bool = False, dilation: Size = 1) -> nn.Sequential:
    """Size-keeping convolution and batch normalisation."""
    padding = same_padding(kernel, dilation)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=bias)
    return nn.Sequential(conv, BatchNorm2d(outputs))


def conv_norm_relu(inputs: int, outputs: int, kernel: Size = 3, *, bias: bool = False) -> nn.Sequential:
    """Size-keeping convolution, batch normalisation, ReLU."""
    return nn.Sequential(*conv_norm(inputs, outputs, kernel, bias=bias), nn.ReLU(inplace=True))


def dropped_head(inputs: int, classes: int) -> nn.Sequential:
    """Dropout2d and a 1x1 convolution: (batch, inputs, h, w) -> logits (batch, classes, h, w).

    The published 0.5 belongs to 64 inputs. Slim networks drop in proportion: half of eight channels is too much to learn.
    """
    return nn.Sequential(nn.Dropout2d(0.5 * min(1.0, inputs / 64)), nn.Conv2d(inputs, classes, 1))

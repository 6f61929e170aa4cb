"""The parts of MobileNetV2 (Sandler et al., CVPR 2018) that light networks are built from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from gkd_bench.networks.base import scaled
from gkd_bench.networks.blocks import same_padding
from gkd_bench.networks.norm import BatchNorm2d

Group = tuple[int, int, int, int]
"""Expansion, channels, blocks, and the stride of the first block."""

LEVELS: tuple[tuple[Group, ...], ...] = (
    ((1, 16, 1, 1),),
    ((6, 24, 2, 2),),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)
"""The published encoder, grouped by the skip each level ends in (MobileNetV2, table 2)."""


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection; identity shortcut where the shape is kept.

    An expansion below 1 contracts instead, as in the decoder of M2U-Net; at 1 there is no first convolution.
    """

    def __init__(self, inputs: int, outputs: int, expansion: float, stride: int = 1) -> None:
        super().__init__()
        hidden = max(1, round(inputs * expansion))
        self.shortcut = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *([conv_norm_relu6(inputs, hidden, 1)] if expansion != 1 else []),
            conv_norm_relu6(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            BatchNorm2d(outputs),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        out: Tensor = self.body(features)
        return features + out if self.shortcut else out


def encoder_levels(
    in_channels: int, width: float, levels: Sequence[Sequence[Group]] = LEVELS
) -> tuple[list[nn.Sequential], list[int]]:
    """One sequence of inverted residuals per level, the first behind the stem, and the channels each level ends with.

    The stem and every level but the first halve the map. Channels are rounded to multiples of 4.
    """
    stem = scaled(32, width, 4)
    parts, widths, inputs = [], [], stem
    for groups in levels:
        blocks: list[nn.Module] = []
        for expansion, channels, repeats, stride in groups:
            outputs = scaled(channels, width, 4)
            for step in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, expansion, stride if step == 0 else 1))
                inputs = outputs
        parts.append(nn.Sequential(*blocks))
        widths.append(inputs)
    parts[0].insert(0, conv_norm_relu6(in_channels, stem, 3, stride=2))
    return parts, widths


def conv_norm_relu6(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution padded to keep the size (before the stride), batch normalisation, ReLU6."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, same_padding(kernel), groups=groups, bias=False)
    return nn.Sequential(conv, BatchNorm2d(outputs), nn.ReLU6(inplace=True))


def initialise(module: nn.Module) -> None:
    """Normal weights with deviation sqrt(2 / (kernel area x outputs)), for ``Module.apply``."""
    if isinstance(module, nn.Conv2d):
        area = module.kernel_size[0] * module.kernel_size[1]
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / (area * module.out_channels)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)

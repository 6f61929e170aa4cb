"""Mobile U-Net: MobileNetV2 (Sandler et al., CVPR 2018) as the encoder of a U-Net. The main student."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork, scaled
from gkd_bench.networks.blocks import same_padding
from gkd_bench.networks.norm import BatchNorm2d

# (expansion, channels, blocks, stride of the first block) of each level, grouped by the skip they end in.
_LEVELS = (
    ((1, 16, 1, 1),),
    ((6, 24, 2, 2),),
    ((6, 32, 3, 2),),
    ((6, 64, 4, 2), (6, 96, 3, 1)),
    ((6, 160, 3, 2), (6, 320, 1, 1)),
)


class MobileUNet(SegmentationNetwork):
    """MobileNetV2 encoder and a decoder of transposed convolutions and inverted residuals; 4.68 M parameters.

    At 128x128 and width 1.0: skips 16x64x64, 24x32x32, 32x16x16, 96x8x8; bottleneck 1280x4x4; tap of the encoder
    24x32x32, of the decoder 24x32x32. Other widths round channels to multiples of 4. The logits leave the network at
    half size and are enlarged bilinearly.
    """

    stride = 32

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        stem, last = scaled(32, width, 4), scaled(1280, width, 4)
        self.bottleneck_channels = last
        levels, widths = _encoder(stem, width)
        levels[0].insert(0, _conv_norm_relu6(in_channels, stem, 3, stride=2))
        levels[-1].append(_conv_norm_relu6(widths[-1], last, 1))
        self.levels = nn.ModuleList(levels)
        skips = widths[-2::-1]
        sources = [last, *skips[:-1]]
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1) for i, o in zip(sources, skips, strict=True))
        self.merge = nn.ModuleList(InvertedResidual(2 * o, o, 6) for o in skips)
        self.head = nn.Sequential(nn.Conv2d(skips[-1], 3, 1), nn.Conv2d(3, classes, 1))
        self.apply(_initialise)

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        maps = [images]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps[-1], tuple(maps[1:-1]), (maps[2],)

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        features = [bottleneck]
        for up, merge, skip in zip(self.up, self.merge, reversed(maps), strict=True):
            features.append(merge(torch.cat([skip, up(features[-1])], dim=1)))
        half = self.head(features[-1])
        return F.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False), features[3]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection; identity shortcut where the shape is kept."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int = 1) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *([_conv_norm_relu6(inputs, hidden, 1)] if expansion > 1 else []),
            _conv_norm_relu6(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            BatchNorm2d(outputs),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        out: Tensor = self.body(features)
        return features + out if self.shortcut else out


def _encoder(stem: int, width: float) -> tuple[list[nn.Sequential], list[int]]:
    """One sequence of inverted residuals per level, and the channels each level ends with."""
    levels, widths, inputs = [], [], stem
    for groups in _LEVELS:
        blocks: list[nn.Module] = []
        for expansion, channels, repeats, stride in groups:
            outputs = scaled(channels, width, 4)
            for step in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, expansion, stride if step == 0 else 1))
                inputs = outputs
        levels.append(nn.Sequential(*blocks))
        widths.append(inputs)
    return levels, widths


def _conv_norm_relu6(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, same_padding(kernel), groups=groups, bias=False)
    return nn.Sequential(conv, BatchNorm2d(outputs), nn.ReLU6(inplace=True))


def _initialise(module: nn.Module) -> None:
    """Normal weights with deviation sqrt(2 / (kernel area x outputs)), as in the authors' student."""
    if isinstance(module, nn.Conv2d):
        area = module.kernel_size[0] * module.kernel_size[1]
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / (area * module.out_channels)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)

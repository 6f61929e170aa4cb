"""M2U-Net (Laibacher, Weyde and Jalali, CVPR workshops 2019, arXiv 1811.07738): a student of half a million parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.mobilenet import LEVELS, InvertedResidual, encoder_levels, initialise

_CONTRACTION = 0.15


class M2UNet(SegmentationNetwork):
    """MobileNetV2 cut behind its 96-channel blocks; a decoder of contracting inverted residuals; 0.549 M parameters.

    Each step of the decoder enlarges bilinearly, joins the skip, and halves the channels through an inverted residual
    that contracts to 0.15 of them; the last step joins the image itself. At 128x128 and width 1.0: skips 1x128x128,
    16x64x64, 24x32x32, 32x16x16; bottleneck 96x8x8; tap of the encoder 24x32x32, of the decoder 44x32x32. Other widths
    round the encoder's channels to multiples of 4.

    Published with an encoder trained on ImageNet, three input channels and one sigmoid output; here all weights begin at
    random and the last projection has one output per class.
    """

    stride = 16

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        levels, widths = encoder_levels(in_channels, width, LEVELS[:4])
        self.bottleneck_channels = widths[-1]
        self.levels = nn.ModuleList(levels)
        merges, below = [], widths[-1]
        for skip in widths[-2::-1]:
            merges.append(InvertedResidual(below + skip, (below + skip) // 2, _CONTRACTION))
            below = (below + skip) // 2
        self.merge = nn.ModuleList([*merges, InvertedResidual(below + in_channels, classes, _CONTRACTION)])
        self.apply(initialise)

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        maps = [images]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps[-1], tuple(maps[:-1]), (maps[2],)

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        features = [bottleneck]
        for merge, skip in zip(self.merge, reversed(maps), strict=True):
            up = F.interpolate(features[-1], scale_factor=2, mode="bilinear", align_corners=False)
            features.append(merge(torch.cat([up, skip], dim=1)))
        return features[-1], features[2]

"""Mobile U-Net: MobileNetV2 (Sandler et al., CVPR 2018) as the encoder of a U-Net. The main student."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork, scaled
from gkd_bench.networks.mobilenet import InvertedResidual, conv_norm_relu6, encoder_levels, initialise


class MobileUNet(SegmentationNetwork):
    """MobileNetV2 encoder and a decoder of transposed convolutions and inverted residuals; 4.68 M parameters.

    At 128x128 and width 1.0: skips 16x64x64, 24x32x32, 32x16x16, 96x8x8; bottleneck 1280x4x4; tap of the encoder
    24x32x32, of the decoder 24x32x32. Other widths round channels to multiples of 4. The logits leave the network at
    half size and are enlarged bilinearly.
    """

    stride = 32

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        last = scaled(1280, width, 4)
        self.bottleneck_channels = last
        levels, widths = encoder_levels(in_channels, width)
        levels[-1].append(conv_norm_relu6(widths[-1], last, 1))
        self.levels = nn.ModuleList(levels)
        skips = widths[-2::-1]
        sources = [last, *skips[:-1]]
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 4, 2, 1) for i, o in zip(sources, skips, strict=True))
        self.merge = nn.ModuleList(InvertedResidual(2 * o, o, 6) for o in skips)
        self.head = nn.Sequential(nn.Conv2d(skips[-1], 3, 1), nn.Conv2d(3, classes, 1))
        self.apply(initialise)

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

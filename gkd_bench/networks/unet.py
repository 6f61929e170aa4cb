"""U-Net (Ronneberger, Fischer and Brox, MICCAI 2015) with batch normalisation: the plain teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork, scaled
from gkd_bench.networks.blocks import conv_norm_relu, dropped_head


class UNet(SegmentationNetwork):
    """Five levels of 64-128-256-512-1024 channels, transposed convolutions, Dropout2d(0.5) head; 31.04 M parameters.

    At 128x128 and width 1.0: bottleneck 1024x8x8; tap of the encoder 256x32x32, of the decoder 256x32x32.
    """

    stride = 16

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        levels = [scaled(channels, width, 4) for channels in (64, 128, 256, 512, 1024)]
        self.bottleneck_channels = levels[-1]
        self.down = nn.ModuleList(_double(i, o) for i, o in zip([in_channels, *levels], levels, strict=False))
        steps = list(zip(levels[:0:-1], levels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in steps)
        self.merge = nn.ModuleList(_double(2 * o, o) for _, o in steps)
        self.head = dropped_head(levels[0], classes)

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        maps = [self.down[0](images)]
        for level in self.down[1:]:
            maps.append(level(F.max_pool2d(maps[-1], 2)))
        return maps[-1], tuple(maps[:-1]), (maps[2],)

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        features = [bottleneck]
        for up, merge, skip in zip(self.up, self.merge, reversed(maps), strict=True):
            features.append(merge(torch.cat([skip, up(features[-1])], dim=1)))
        return self.head(features[-1]), features[2]


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(conv_norm_relu(inputs, outputs), conv_norm_relu(outputs, outputs))

"""The minimal U-Net of Galdran et al. (Scientific Reports 12:6174, 2022): three levels, 34 thousand parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork, scaled
from gkd_bench.networks.norm import BatchNorm2d


class LittleUNet(SegmentationNetwork):
    """Levels of 8-16-32 channels with 1x1 shortcuts, convolved skips, transposed convolutions; 34 thousand parameters.

    At 128x128 and width 1.0: skips 8x128x128, 16x64x64; bottleneck 32x32x32; tap of the encoder 32x32x32, which is the
    bottleneck itself; tap of the decoder 16x32x32. Other widths round channels to multiples of 2.

    Known: channels, shortcuts, and that one such network has about 34 thousand parameters. The order inside a block
    (convolution, leaky ReLU, normalisation) and the convolution on each skip follow the authors' public code. Ours: the
    decoder has no map at a quarter of the input's side, so its tap is the one at half the side, averaged over 2x2.
    """

    stride = 4

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        levels = [scaled(channels, width, 2) for channels in (8, 16, 32)]
        self.bottleneck_channels = levels[-1]
        self.down = nn.ModuleList(ShortcutBlock(i, o) for i, o in zip([in_channels, *levels], levels, strict=False))
        steps = list(zip(levels[:0:-1], levels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in steps)
        self.bridge = nn.ModuleList(nn.Sequential(*_conv_relu_norm(o, o)) for _, o in steps)
        self.merge = nn.ModuleList(ShortcutBlock(2 * o, o) for _, o in steps)
        self.apply(_initialise)
        self.head = nn.Conv2d(levels[0], classes, 1)

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        maps = [self.down[0](images)]
        for level in self.down[1:]:
            maps.append(level(F.max_pool2d(maps[-1], 2)))
        return maps[-1], tuple(maps[:-1]), (maps[-1],)

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        features = [bottleneck]
        for up, bridge, merge, skip in zip(self.up, self.bridge, self.merge, reversed(maps), strict=True):
            features.append(merge(torch.cat([up(features[-1]), bridge(skip)], dim=1)))
        return self.head(features[-1]), F.avg_pool2d(features[1], 2)


class ShortcutBlock(nn.Module):
    """Two 3x3 convolutions, each followed by leaky ReLU and normalisation, beside a normalised 1x1 shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv_relu_norm(inputs, outputs), *_conv_relu_norm(outputs, outputs))
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h, w)."""
        out: Tensor = self.body(features) + self.shortcut(features)
        return out


def _conv_relu_norm(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.LeakyReLU(), BatchNorm2d(outputs)


def _initialise(module: nn.Module) -> None:
    """He's normal weights, scaled by the outputs; biases as torch draws them, and all of the head, as the authors do."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

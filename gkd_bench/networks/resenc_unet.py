"""Residual encoder U-Net of nnU-Net (Isensee et al., "nnU-Net Revisited", MICCAI 2024), in 2-D: the strong modern teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork, scaled
from gkd_bench.networks.norm import InstanceNorm2d

_CHANNELS = (32, 64, 128, 256, 512, 512)
_BLOCKS = (1, 3, 4, 6, 6, 6)
_SLOPE = 0.01


class ResEncUNet(SegmentationNetwork):
    """Six stages of residual blocks, a plain decoder of one convolution per stage, instance norm; 71.8 M parameters.

    At 128x128 and width 1.0: skips 32x128x128, 64x64x64, 128x32x32, 256x16x16, 512x8x8; bottleneck 512x4x4; taps of the
    encoder and of the decoder 128x32x32. Other widths round channels to multiples of 4.

    Blocks, channels and initialisation are nnU-Net's. Ours: nnU-Net plans the number of stages for each data set, here
    it is six, which fits tiles of 96 to 256 pixels; there is no deep supervision. Inputs of 32x32 pixels and less leave
    one position in the bottleneck, which :class:`gkd_bench.networks.norm.InstanceNorm2d` does not normalise.
    """

    stride = 32

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        levels = [scaled(channels, width, 4) for channels in _CHANNELS]
        self.bottleneck_channels = levels[-1]
        self.stem = _conv_norm_relu(in_channels, levels[0])
        steps = zip([levels[0], *levels], levels, _BLOCKS, strict=False)
        self.down = nn.ModuleList(_stage(i, o, blocks, 1 + (k > 0)) for k, (i, o, blocks) in enumerate(steps))
        back = list(zip(levels[:0:-1], levels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in back)
        self.merge = nn.ModuleList(_conv_norm_relu(2 * o, o) for _, o in back)
        self.head = nn.Conv2d(levels[0], classes, 1)
        self.apply(_initialise)

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        maps = [self.stem(images)]
        for stage in self.down:
            maps.append(stage(maps[-1]))
        return maps[-1], tuple(maps[1:-1]), (maps[3],)

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        features = [bottleneck]
        for up, merge, skip in zip(self.up, self.merge, reversed(maps), strict=True):
            features.append(merge(torch.cat([up(features[-1]), skip], dim=1)))
        return self.head(features[-1]), features[3]


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut that averages and projects where the shape changes (ResNet-D).

    The branch begins at zero, so that a deep stack of blocks begins as its shortcuts.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_norm_relu(inputs, outputs, stride)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm = InstanceNorm2d(outputs)
        pool = [nn.AvgPool2d(stride)] if stride > 1 else []
        project = [nn.Conv2d(inputs, outputs, 1, bias=False), InstanceNorm2d(outputs)] if inputs != outputs else []
        self.shortcut = nn.Sequential(*pool, *project)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        branch = self.norm(self.second(self.first(features)))
        return F.leaky_relu(branch + self.shortcut(features), _SLOPE)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Residual(inputs, outputs, stride), *(Residual(outputs, outputs, 1) for _ in range(blocks - 1)))


def _conv_norm_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
    return nn.Sequential(conv, InstanceNorm2d(outputs), nn.LeakyReLU(_SLOPE, inplace=True))


def _initialise(module: nn.Module) -> None:
    """He's normal weights for the leaky ReLU and zero biases; the last norm of a residual branch at zero."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, a=_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Residual):
        nn.init.zeros_(module.norm.weight)

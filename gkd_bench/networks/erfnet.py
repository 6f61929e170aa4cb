"""ERFNet (Romera, Alvarez, Bergasa and Arroyo, IEEE T-ITS 2018): factorised residual layers, no skips."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork, scaled
from gkd_bench.networks.norm import BatchNorm2d

_EPS = 1e-3
_DILATIONS = (2, 4, 8, 16, 2, 4, 8, 16)


class ERFNet(SegmentationNetwork):
    """Three downsamplers, thirteen factorised residual layers, a light decoder; 2.063 M parameters.

    At 128x128 and width 1.0: bottleneck 128x16x16; taps 64x32x32 (after the second downsampler, and after the first three
    layers of the decoder). There are no skips: the bottleneck is all the decoder has. Other widths round channels to
    multiples of 4.
    """

    stride = 8

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        first = max(scaled(16, width, 4), in_channels + 1)
        second = max(scaled(64, width, 4), first + 1)
        third = max(scaled(128, width, 4), second + 1)
        self.bottleneck_channels = third
        self.shallow = nn.Sequential(Downsampler(in_channels, first), Downsampler(first, second))
        self.deep = nn.Sequential(
            *(Factorised(second, dropout=0.03) for _ in range(5)),
            Downsampler(second, third),
            *(Factorised(third, dilation, dropout=0.3) for dilation in _DILATIONS),
        )
        self.up1 = nn.Sequential(_upsampler(third, second), Factorised(second), Factorised(second))
        self.up2 = nn.Sequential(_upsampler(second, first), Factorised(first), Factorised(first))
        self.head = nn.ConvTranspose2d(first, classes, 2, stride=2)

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        shallow = self.shallow(images)
        return self.deep(shallow), (), (shallow,)

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        tap = self.up1(bottleneck)
        return self.head(self.up2(tap)), tap


class Downsampler(nn.Module):
    """3x3 convolution with stride 2 beside 2x2 max pooling, concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, 2, 1)
        self.norm = BatchNorm2d(outputs, eps=_EPS)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / 2, w / 2)."""
        return F.relu(self.norm(torch.cat([self.conv(features), F.max_pool2d(features, 2)], dim=1)))


class Factorised(nn.Module):
    """Residual layer of two 3x1-1x3 pairs ("non-bottleneck-1D"), the second pair dilated."""

    def __init__(self, channels: int, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_pair(channels, 1),
            nn.ReLU(inplace=True),
            *_pair(channels, dilation),
            nn.Dropout2d(dropout),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same shape."""
        return F.relu(features + self.body(features))


def _pair(channels: int, dilation: int) -> tuple[nn.Module, ...]:
    column = nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))
    row = nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation))
    return column, nn.ReLU(inplace=True), row, BatchNorm2d(channels, eps=_EPS)


def _upsampler(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1)
    return nn.Sequential(conv, BatchNorm2d(outputs, eps=_EPS), nn.ReLU())

"""ENet (Paszke, Chaurasia, Kim and Culurciello, arXiv 1606.02147): the lightest student."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork, scaled
from gkd_bench.networks.blocks import Size, same_padding
from gkd_bench.networks.norm import BatchNorm2d

_Activation = type[nn.PReLU] | type[nn.ReLU]

# (kernel, dilation, asymmetric) of the eight bottlenecks that stages 2 and 3 share.
_CONTEXT = (
    (3, 1, False), (3, 2, False), (5, 1, True), (3, 4, False), (3, 1, False), (3, 8, False), (5, 1, True), (3, 16, False),
)  # fmt: skip


class ENet(SegmentationNetwork):
    """PReLU encoder with dilated and asymmetric bottlenecks, ReLU decoder that unpools; 0.349 M parameters.

    At 128x128 and width 1.0: bottleneck 128x16x16 (end of stage 3); taps 64x32x32 (ends of stage 1 and of stage 4). The
    skips are the positions of the pooled maxima, uint8 0-3 within each 2x2 window, so they carry no gradient. Other
    widths round channels to multiples of 4.
    """

    stride = 8

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        first = max(scaled(16, width, 4), in_channels + 1)
        second, third = scaled(64, width, 4), scaled(128, width, 4)
        self.bottleneck_channels = third
        self.initial = Initial(in_channels, first)
        self.down1, self.down2 = Downsampling(first, second, 0.01), Downsampling(second, third, 0.1)
        self.stage1 = nn.Sequential(*(Regular(second, dropout=0.01) for _ in range(4)))
        self.stage2, self.stage3 = _context(third), _context(third)
        self.up4, self.up5 = Upsampling(third, second), Upsampling(second, first)
        self.stage4 = nn.Sequential(*(Regular(second, activation=nn.ReLU) for _ in range(2)))
        self.stage5 = Regular(first, activation=nn.ReLU)
        self.head = nn.ConvTranspose2d(first, classes, 3, 2, 1, output_padding=1, bias=False)

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        features, where1 = self.down1(self.initial(images))
        shallow = self.stage1(features)
        features, where2 = self.down2(shallow)
        return self.stage3(self.stage2(features)), (where1, where2), (shallow,)

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        where1, where2 = maps
        deep = self.stage4(self.up4(bottleneck, where2))
        return self.head(self.stage5(self.up5(deep, where1))), deep


class Initial(nn.Module):
    """3x3 convolution with stride 2 beside max pooling of the image, concatenated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, 2, 1, bias=False)
        self.finish = nn.Sequential(BatchNorm2d(outputs), nn.PReLU())

    def forward(self, images: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / 2, w / 2)."""
        out: Tensor = self.finish(torch.cat([self.conv(images), F.max_pool2d(images, 3, 2, 1)], dim=1))
        return out


class Regular(nn.Module):
    """Residual bottleneck that keeps the shape; a quarter of the channels inside."""

    def __init__(
        self,
        channels: int,
        kernel: int = 3,
        dilation: int = 1,
        asymmetric: bool = False,
        dropout: float = 0.1,
        activation: _Activation = nn.PReLU,
    ) -> None:
        super().__init__()
        inner = max(1, channels // 4)
        kernels: list[Size] = [(kernel, 1), (1, kernel)] if asymmetric else [kernel]
        self.body = nn.Sequential(
            _conv(channels, inner, 1, activation),
            *(_conv(inner, inner, size, activation, dilation) for size in kernels),
            _conv(inner, channels, 1, activation),
            nn.Dropout2d(dropout),
        )
        self.out = activation()

    def forward(self, features: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same shape."""
        out: Tensor = self.out(features + self.body(features))
        return out


class Downsampling(nn.Module):
    """Bottleneck that halves the map; its shortcut is max pooling, padded with zero channels."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        inner = max(1, inputs // 4)
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(inputs, inner, 2, 2, bias=False), BatchNorm2d(inner), nn.PReLU()),
            _conv(inner, inner, 3, nn.PReLU),
            _conv(inner, outputs, 1, nn.PReLU),
            nn.Dropout2d(dropout),
        )
        self.out = nn.PReLU()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, inputs, h, w) -> (batch, outputs, h / 2, w / 2) and the positions of the pooled maxima."""
        pooled, index = F.max_pool2d(features, 2, return_indices=True)
        body = self.body(features)
        missing = body.shape[1] - pooled.shape[1]
        padded = F.pad(pooled, (0, 0, 0, 0, 0, missing)) if missing > 0 else pooled[:, : body.shape[1]]
        return self.out(padded + body), window_position(index, features.shape[-1])


class Upsampling(nn.Module):
    """Bottleneck that doubles the map; its shortcut puts values back where the maxima were."""

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        inner = max(1, inputs // 4)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), BatchNorm2d(outputs))
        self.body = nn.Sequential(
            _conv(inputs, inner, 1, nn.ReLU),
            nn.Sequential(nn.ConvTranspose2d(inner, inner, 2, 2, bias=False), BatchNorm2d(inner), nn.ReLU()),
            _conv(inner, outputs, 1, nn.ReLU),
            nn.Dropout2d(dropout),
        )

    def forward(self, features: Tensor, where: Tensor) -> Tensor:
        """(batch, inputs, h, w) and positions (batch, outputs, h, w) -> (batch, outputs, 2 h, 2 w)."""
        return F.relu(unpool(self.shortcut(features), where) + self.body(features))


def window_position(index: Tensor, width: int) -> Tensor:
    """Flat positions in a map of the given width -> position 0-3 (row by row) in their 2x2 window, uint8."""
    row, column = torch.div(index, width, rounding_mode="floor"), index % width
    return (row % 2 * 2 + column % 2).to(torch.uint8)


def unpool(features: Tensor, where: Tensor) -> Tensor:
    """Undo 2x2 max pooling: (batch, c, h, w) -> (batch, c, 2 h, 2 w), zero except at ``where`` in each window.

    ``F.max_unpool2d`` computes the same but has no deterministic version; a one-hot product and a pixel shuffle have.
    """
    batch, channels, height, width = features.shape
    corners = torch.arange(4, dtype=where.dtype, device=where.device)[:, None, None]
    spread = features[:, :, None] * (where[:, :, None] == corners)
    return F.pixel_shuffle(spread.reshape(batch, 4 * channels, height, width), 2)


def _conv(inputs: int, outputs: int, kernel: Size, activation: _Activation, dilation: int = 1) -> nn.Sequential:
    padding = same_padding(kernel, dilation)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, BatchNorm2d(outputs), activation())


def _context(channels: int) -> nn.Sequential:
    return nn.Sequential(*(Regular(channels, kernel, dilation, strips) for kernel, dilation, strips in _CONTEXT))

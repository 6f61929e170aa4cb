"""FANet (Li, Qi, Luo, Yao, Zhou and Sun, JBHI 2020, doi 10.1109/JBHI.2020.3028180): the teacher.

A U-Net of selective-kernel blocks (SKNet, Li et al., CVPR 2019) with strip-pooling attention (SPNet, Hou et al., CVPR
2020) in the decoder (reconstruction, see docs/method.md). The published model declares a second head that nothing reads;
it is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.base import SegmentationNetwork, scaled
from gkd_bench.networks.blocks import conv_norm, conv_norm_relu, dropped_head
from gkd_bench.networks.norm import BatchNorm2d


class FANet(SegmentationNetwork):
    """Four levels of 64-128-256-512 channels; 38.29 M parameters.

    At 128x128 and width 1.0: bottleneck 512x16x16; tap of the encoder 256x32x32 (third level), of the decoder 256x32x32
    (first transposed convolution). Other widths round channels to multiples of 4.
    """

    stride = 8

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        self.encoder = SelectiveKernelEncoder(width, in_channels)
        first, second, third, fourth = self.encoder.channels
        self.bottleneck_channels = fourth
        steps = ((fourth, third), (third, second), (second, first))
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in steps)
        self.merge = nn.ModuleList(double_selective(2 * o, o) for _, o in steps)
        self.attention = nn.ModuleList(
            [StripAttention(third, (3, 6)), StripAttention(second, (12, 18)), GatedStripAttention(first, (3, 6))]
        )
        self.head = dropped_head(first, classes)
        self.apply(xavier_convolutions)

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        maps = self.encoder(images)
        return maps[-1], maps[:-1], (maps[2],)

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        features, enlarged = bottleneck, []
        for up, merge, attention, skip in zip(self.up, self.merge, self.attention, reversed(maps), strict=True):
            enlarged.append(up(features))
            features = attention(merge(torch.cat([enlarged[-1], skip], dim=1)))
        return self.head(features), enlarged[0]


class SelectiveKernelEncoder(nn.Module):
    """Four levels of selective-kernel blocks, halved by max pooling; also the encoder of the semantic autoencoder.

    Attributes:
        channels: channels of the four levels.
    """

    def __init__(self, width: float = 1.0, in_channels: int = 1) -> None:
        super().__init__()
        self.channels = tuple(scaled(channels, width, 4) for channels in (64, 128, 256, 512))
        inputs = (in_channels, *self.channels[:-1])
        self.levels = nn.ModuleList(double_selective(i, o) for i, o in zip(inputs, self.channels, strict=True))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(batch, in_channels, h, w) -> maps at h, h/2, h/4 and h/8; h and w are multiples of 8."""
        maps = [self.levels[0](images)]
        for level in self.levels[1:]:
            maps.append(level(F.max_pool2d(maps[-1], 2)))
        return tuple(maps)


class SelectiveKernel(nn.Module):
    """5x5 and 3x3 branches, weighted per channel by a softmax over the two that reads their pooled sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = max(1, channels // 2)
        self.wide = conv_norm_relu(channels, channels, 5, bias=True)
        self.narrow = conv_norm_relu(channels, channels, 3, bias=True)
        self.squeeze = conv_norm_relu(channels, reduced, 1, bias=True)
        self.scores = nn.ModuleList(nn.Conv2d(reduced, channels, 1) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same shape."""
        wide, narrow = self.wide(features), self.narrow(features)
        summary = self.squeeze((wide + narrow).mean(dim=(2, 3), keepdim=True))
        weights = torch.softmax(torch.stack([score(summary) for score in self.scores]), dim=0)
        out: Tensor = weights[0] * wide + weights[1] * narrow
        return out


class SelectiveBlock(nn.Module):
    """Residual block around a selective kernel: 1x1, selective kernel, 1x1, shortcut, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, project: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm_relu(inputs, outputs, 1),
            SelectiveKernel(outputs),
            BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            conv_norm(outputs, outputs, 1),
        )
        self.shortcut = conv_norm(inputs, outputs, 1) if project else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h, w)."""
        return F.relu(self.body(features) + self.shortcut(features))


def double_selective(inputs: int, outputs: int) -> nn.Sequential:
    """A selective block with a projected shortcut, then one with an identity shortcut."""
    return nn.Sequential(SelectiveBlock(inputs, outputs, project=True), SelectiveBlock(outputs, outputs, project=False))


class StripAttention(nn.Module):
    """Dual-direction attention: one path pools to square grids, the other to a row and a column.

    Args:
        channels: channels in and out.
        grids: sides of the two square grids; any map size works, smaller maps than the grid included.
    """

    def __init__(self, channels: int, grids: tuple[int, int]) -> None:
        super().__init__()
        self.grids = grids
        self.local_in = conv_norm_relu(channels, channels, 1)
        self.strip_in = conv_norm_relu(channels, channels, 1)
        self.local = conv_norm(channels, channels, 3)
        self.pooled = nn.ModuleList(conv_norm(channels, self.pooled_channels(channels), 3) for _ in grids)
        self.local_out = conv_norm_relu(self.gathered_channels(channels), channels, 3)
        self.row, self.column = conv_norm(channels, channels, (1, 3)), conv_norm(channels, channels, (3, 1))
        self.strip_out = conv_norm_relu(channels, channels, 3)
        self.fuse = conv_norm(2 * channels, channels, 1)

    def pooled_channels(self, channels: int) -> int:
        """Channels of each pooled branch."""
        return channels

    def gathered_channels(self, channels: int) -> int:
        """Channels of the gathered local path."""
        return channels

    def gather(self, full: Tensor, pooled: list[Tensor]) -> Tensor:
        """Join the unpooled and the enlarged pooled branches of the local path."""
        return full + pooled[0] + pooled[1]

    def gate(self, strips: Tensor, features: Tensor) -> Tensor:
        """What the strip path hands to the fusion."""
        return strips

    def forward(self, features: Tensor) -> Tensor:
        """(batch, channels, h, w) -> the same shape."""
        paths = [self._local_path(features), self.gate(self._strip_path(features), features)]
        return F.relu(features + self.fuse(torch.cat(paths, dim=1)))

    def _local_path(self, features: Tensor) -> Tensor:
        entered = self.local_in(features)
        small = [conv(F.adaptive_avg_pool2d(entered, grid)) for conv, grid in zip(self.pooled, self.grids, strict=True)]
        size = entered.shape[-2:]
        gathered = self.gather(self.local(entered), [F.interpolate(part, size=size) for part in small])
        out: Tensor = self.local_out(F.relu(gathered))
        return out

    def _strip_path(self, features: Tensor) -> Tensor:
        entered = self.strip_in(features)
        row = self.row(entered.mean(dim=2, keepdim=True))
        column = self.column(entered.mean(dim=3, keepdim=True))
        # The sum broadcasts, which is what nearest enlargement of a one-pixel strip does.
        out: Tensor = self.strip_out(F.relu(row + column))
        return out


class GatedStripAttention(StripAttention):
    """Second variant, used at full resolution: pooled branches of half the channels are concatenated, strips gate."""

    def pooled_channels(self, channels: int) -> int:
        """Half the channels."""
        return channels // 2

    def gathered_channels(self, channels: int) -> int:
        """Channels of the concatenation."""
        return channels + 2 * (channels // 2)

    def gather(self, full: Tensor, pooled: list[Tensor]) -> Tensor:
        """Concatenate the three branches."""
        return torch.cat([full, *pooled], dim=1)

    def gate(self, strips: Tensor, features: Tensor) -> Tensor:
        """The strip path weighs the features."""
        return strips * features


def xavier_convolutions(module: nn.Module) -> None:
    """Xavier uniform weights for every convolution, as in the authors' teacher; to be used with ``Module.apply``."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)

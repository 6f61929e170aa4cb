"""Alignment networks: the bottleneck of a host to a semantic vector (encoder) and back (header).

One class serves as TAN (host = teacher), as SAN (host = student) and as the vector part of P-SAE (host = the mask
autoencoder). The paper's figure draws a funnel at the bottleneck; ``shared_mlp`` follows the authors' code of the P-SAE
funnel, the other kinds and the mixing convolutions are our reconstruction, see docs/method.md.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.errors import ConfigError
from gkd_bench.networks.norm import BatchNorm2d

HeaderKind = Literal["shared_mlp", "per_channel", "grid", "flat"]
Mixing = Literal["always", "when_needed"]

_GRID_SIDE = 4
_FLAT_SHARE = 8


class AlignmentNetwork(nn.Module):
    """Bottleneck (batch, channels, h, w) <-> vector (batch, dim).

    A 1x1 convolution and batch normalisation mix the host's channels to ``mixed`` ones, a funnel makes the vector; the
    header mirrors both. Kinds, for a nominal grid of h x w:

    * ``shared_mlp``: ``mixed = dim``; one MLP h*w -> hidden -> 1 for all channels gives one number per channel.
    * ``per_channel``: the same with weights of its own for every channel.
    * ``grid``: ``mixed = dim / 16``; average pooling to 4x4, flattened. Mirrored by bilinear enlargement.
    * ``flat``: ``mixed = min(channels, dim / 8)``; one linear map of all values. The cap keeps a 512x16x16 bottleneck with
      dim 512 at 8.4 M weights each way instead of 67 M.

    Maps of another size than the nominal grid are average-pooled to it, and rebuilt maps are resized bilinearly.

    Args:
        channels: channels of the host's bottleneck.
        grid: nominal (h, w) of the host's bottleneck, that of the training tiles.
        kind: see above.
        dim: length of the vector, the same for all networks that exchange vectors.
        hidden: hidden units of the MLPs.
        mixing: ``always``, or ``when_needed``: only where ``channels != mixed``, as in the authors' code.

    Raises:
        ConfigError: the kind does not exist, or ``grid`` with a ``dim`` that is not a multiple of 16.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        kind: HeaderKind = "flat",
        dim: int = 512,
        hidden: int = 64,
        mixing: Mixing = "always",
    ) -> None:
        super().__init__()
        self.channels, self.grid, self.kind, self.dim = channels, (int(grid[0]), int(grid[1])), kind, dim
        mixed, self.funnel, self.mirror = _funnel(kind, channels, self.grid, dim, hidden)
        mixes = mixing == "always" or channels != mixed
        self.mix = nn.Sequential(nn.Conv2d(channels, mixed, 1), BatchNorm2d(mixed)) if mixes else nn.Identity()
        self.unmix = nn.Conv2d(mixed, channels, 1) if mixes else nn.Identity()

    def encode(self, features: Tensor) -> Tensor:
        """Bottleneck (batch, channels, any h, any w) -> vector (batch, dim)."""
        if features.shape[-2:] != self.grid:
            features = F.adaptive_avg_pool2d(features, self.grid)
        vectors: Tensor = self.funnel(self.mix(features))
        return vectors

    def header(self, vectors: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Vector (batch, dim) -> bottleneck (batch, channels, h, w) at ``size``, by default the nominal grid."""
        features: Tensor = self.unmix(self.mirror(vectors))
        if size is not None and tuple(size) != self.grid:
            features = F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)
        return features

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Bottleneck -> (vector, bottleneck rebuilt from it at the same size)."""
        vectors = self.encode(features)
        return vectors, self.header(vectors, (features.shape[-2], features.shape[-1]))


def standardise(vectors: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """(vectors - mean) / deviation: (..., dim), (dim,), (dim,) -> (..., dim)."""
    return (vectors - mean) / deviation


class _Funnel(NamedTuple):
    """Mixed channels; (batch, mixed, h, w) -> (batch, dim); (batch, dim) -> (batch, mixed, h, w)."""

    mixed: int
    encoder: nn.Module
    header: nn.Module


def _funnel(kind: HeaderKind, channels: int, grid: tuple[int, int], dim: int, hidden: int) -> _Funnel:
    if kind == "shared_mlp":
        return _shared_mlp(grid, dim, hidden)
    if kind == "per_channel":
        return _per_channel(grid, dim, hidden)
    if kind == "grid":
        return _grid(grid, dim)
    if kind == "flat":
        return _flat(channels, grid, dim)
    raise ConfigError([f"header.kind: {kind!r} does not exist; use shared_mlp, per_channel, grid or flat"])


def _shared_mlp(grid: tuple[int, int], dim: int, hidden: int) -> _Funnel:
    area = grid[0] * grid[1]
    encoder = (nn.Flatten(2), nn.Linear(area, hidden), nn.GELU(), nn.Linear(hidden, 1), nn.Flatten(1))
    header = (
        nn.Unflatten(1, (dim, 1)),
        nn.Linear(1, hidden),
        nn.GELU(),
        nn.Linear(hidden, area),
        nn.Unflatten(2, grid),
    )
    return _Funnel(dim, nn.Sequential(*encoder), nn.Sequential(*header))


def _per_channel(grid: tuple[int, int], dim: int, hidden: int) -> _Funnel:
    area = grid[0] * grid[1]

    def grouped(inputs: int, outputs: int) -> nn.Conv1d:
        return nn.Conv1d(dim * inputs, dim * outputs, 1, groups=dim)

    shape = nn.Unflatten(1, (dim * area, 1))
    encoder = (nn.Flatten(1), shape, grouped(area, hidden), nn.GELU(), grouped(hidden, 1), nn.Flatten(1))
    back = (nn.Flatten(1), nn.Unflatten(1, (dim, *grid)))
    header = (nn.Unflatten(1, (dim, 1)), grouped(1, hidden), nn.GELU(), grouped(hidden, area), *back)
    return _Funnel(dim, nn.Sequential(*encoder), nn.Sequential(*header))


def _grid(grid: tuple[int, int], dim: int) -> _Funnel:
    mixed, rest = divmod(dim, _GRID_SIDE**2)
    if rest or not mixed:
        raise ConfigError([f"header.dim: {dim} is not a multiple of {_GRID_SIDE**2}, which header.kind grid needs"])
    enlarge = nn.Upsample(size=grid, mode="bilinear", align_corners=False)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(_GRID_SIDE), nn.Flatten(1))
    return _Funnel(mixed, encoder, nn.Sequential(nn.Unflatten(1, (mixed, _GRID_SIDE, _GRID_SIDE)), enlarge))


def _flat(channels: int, grid: tuple[int, int], dim: int) -> _Funnel:
    mixed = min(channels, max(1, dim // _FLAT_SHARE))
    size = mixed * grid[0] * grid[1]
    encoder = nn.Sequential(nn.Flatten(1), nn.Linear(size, dim))
    return _Funnel(mixed, encoder, nn.Sequential(nn.Linear(dim, size), nn.Unflatten(1, (mixed, *grid))))

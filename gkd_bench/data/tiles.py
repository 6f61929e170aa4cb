"""Training tiles drawn in batches on the device: every batch is a pure function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gkd_bench.config.schema import Augment
from gkd_bench.data.augment import Rows, photometric, step_generator
from gkd_bench.data.cache import AnyImages, SourceImages, TestImages, TestSplit
from gkd_bench.data.style import restyle
from gkd_bench.errors import DataError, LeakError

LABEL_BIT, FOV_BIT = 256, 512
TILES, LABELS = 0, 1  # random streams of one step


class TileBatch(NamedTuple):
    """Tiles of a batch.

    Attributes:
        images: (batch, 1, tile, tile) float32 in [0, 1].
        labels: (batch, tile, tile) int64, 1 on vessels.
        fov: (batch, tile, tile) bool, true inside the field of view.
    """

    images: Tensor
    labels: Tensor
    fov: Tensor


@dataclass(frozen=True, eq=False)
class GridTiles:
    """All tiles of a non-overlapping grid.

    Attributes:
        images: (tiles, 1, tile, tile) float32 in [0, 1].
        labels: (tiles, tile, tile) int64.
        index: (tiles,) int64, the image that each tile is from.
    """

    images: Tensor
    labels: Tensor
    index: Tensor


@dataclass(frozen=True)
class _Places:
    """Where tiles lie: image, first row and column, and which of the eight symmetries of the square; all (batch,)."""

    image: Tensor
    top: Tensor
    left: Tensor
    flip_rows: Tensor
    flip_columns: Tensor
    transpose: Tensor

    def to(self, device: torch.device) -> _Places:
        return _Places(*(value.to(device) for value in vars(self).values()))

    def rows(self, rows: Rows) -> _Places:
        return _Places(*(rows.of(value) for value in vars(self).values()))


class TileSampler:
    """Draws tiles of a source domain's images, all of which it holds on the device.

    Tile centres are uniform over the pixels inside the field of view. Beyond the border of an image its pixels are
    mirrored, so images may be smaller than a tile.

    Args:
        images: training or validation images. Test images are refused.
        tile: side of a tile, pixels.
        device: where images live and batches appear.
        augment: flips, quarter rotations and photometric changes.
        style: whether the style of most tiles is changed as well; see :func:`gkd_bench.data.style.restyle`.
        seed: seed of places and augmentation.

    Raises:
        LeakError: handed images of a test split.
        DataError: no pixel to centre a tile on.
    """

    def __init__(
        self,
        images: SourceImages,
        tile: int,
        device: torch.device | str = "cpu",
        *,
        augment: Augment | None = None,
        style: bool = False,
        seed: int = 0,
    ) -> None:
        _refuse_leak(images)
        self.tile, self.style, self.seed = tile, style, seed
        self.augment = augment or Augment()
        self.device = torch.device(device)
        packed, self._sizes = _pack(images)
        self._inside = _pixels(packed, FOV_BIT, images.domain, "inside the field of view")
        self._vessel = _pixels(packed, FOV_BIT | LABEL_BIT, images.domain, "on a vessel inside the field of view")
        self._shape = packed.shape[1:]
        self._packed = torch.from_numpy(packed).to(self.device)

    def draw(self, step: int, batch: int, rank: int = 0, workers: int = 1) -> TileBatch:
        """Rows ``rank::workers`` of the global batch of a step.

        Args:
            step: counter of the training step; the same step always gives the same batch.
            batch: tiles in the global batch.
            rank: this process.
            workers: processes that share the batch.
        """
        rows = Rows(batch, rank, workers)
        generator = step_generator(self.seed, step, TILES)
        torch.rand(batch, generator=generator)  # keeps the batches that stored stages were trained on
        anywhere = torch.zeros(batch, dtype=torch.bool)
        tiles = self._gather(self._places(anywhere, generator).rows(rows))
        images = tiles.images
        if self.augment.photometric != "none":
            images = photometric(images, self.augment.photometric, generator, rows)
        return tiles._replace(images=restyle(images, generator, rows) if self.style else images)

    def draw_labels(self, step: int, batch: int, empty_share: float = 1.0, rank: int = 0, workers: int = 1) -> Tensor:
        """Labels only, (rows, tile, tile) int64, at most ``empty_share`` of the global batch without foreground."""
        generator = step_generator(self.seed, step, LABELS)
        vessel = torch.arange(batch) >= int(empty_share * batch)
        return self._gather(self._places(vessel, generator).rows(Rows(batch, rank, workers))).labels

    def _places(self, vessel: Tensor, generator: torch.Generator) -> _Places:
        """Places of tiles centred inside the field of view, on a vessel where ``vessel`` (batch,) is true."""
        batch = len(vessel)
        fraction = torch.rand(batch, generator=generator, dtype=torch.float64)
        inside = self._inside[(fraction * len(self._inside)).long()].long()
        on_vessel = self._vessel[(fraction * len(self._vessel)).long()].long()
        centre = torch.where(vessel, on_vessel, inside)
        height, width = self._shape
        quarters = torch.randint(4, (batch,), generator=generator) * self.augment.rotations
        flips = torch.randint(2, (2, batch), generator=generator).bool() & self.augment.flips
        return _Places(
            image=centre // (height * width),
            top=centre // width % height - self.tile // 2,
            left=centre % width - self.tile // 2,
            flip_rows=flips[0] ^ (quarters == 1) ^ (quarters == 2),  # a quarter turn is a transposition and one flip
            flip_columns=flips[1] ^ (quarters == 2) ^ (quarters == 3),
            transpose=quarters % 2 == 1,
        )

    def _gather(self, places: _Places) -> TileBatch:
        sizes = self._sizes[places.image].to(self.device)
        return _unpack(_gather(self._packed, sizes, places.to(self.device), self.tile))


def grid_tiles(images: AnyImages, tile: int, device: torch.device | str = "cpu") -> GridTiles:
    """All tiles of a non-overlapping grid, centred on each image, that lie at least half inside the field of view.

    Works for source and test images alike: for measuring, never for training.
    """
    packed, sizes = _pack(images)
    corners = [(i, *corner) for i in range(len(images)) for corner in _grid_corners(images.size(i), tile)]
    image, top, left = torch.tensor(corners, dtype=torch.int64).T
    upright = torch.zeros(len(corners), dtype=torch.bool)
    places = _Places(image, top, left, upright, upright, upright)
    tiles = _unpack(_gather(torch.from_numpy(packed), sizes[image], places, tile))
    keep = tiles.fov.float().mean((1, 2)) >= 0.5
    return GridTiles(tiles.images[keep].to(device), tiles.labels[keep].to(device), image[keep].to(device))


def _refuse_leak(images: object) -> None:
    if isinstance(images, TestImages | TestSplit):
        raise LeakError("training tiles were asked of a test split; pass source_splits().train or .val instead")
    if not isinstance(images, SourceImages):
        raise TypeError(f"tiles are drawn from SourceImages, not from {type(images).__name__}")


def _pack(images: AnyImages) -> tuple[NDArray[np.int16], Tensor]:
    """(N, height, width) int16 with grey level, label bit and field-of-view bit, and the (N, 2) true sizes.

    One array, so that a batch costs one gather.
    """
    sizes = torch.tensor([images.size(i) for i in range(len(images))], dtype=torch.int64).reshape(-1, 2)
    height, width = (int(side) for side in sizes.max(0).values)
    packed = np.zeros((len(images), height, width), dtype=np.int16)
    for i in range(len(images)):
        rows, columns = images.size(i)
        bits = images.image(i).astype(np.int16) + LABEL_BIT * images.label(i).astype(np.int16)
        packed[i, :rows, :columns] = bits + FOV_BIT * images.fov(i).astype(np.int16)
    return packed, sizes


def _pixels(packed: NDArray[np.int16], bits: int, domain: str, words: str) -> Tensor:
    """Flat positions, int32 or int64, of the pixels that have all ``bits``."""
    found = np.flatnonzero((packed & bits) == bits)
    if not found.size:
        raise DataError([f"no pixel {words} in any image"], domain, "Run the data check and look at its pictures.")
    return torch.from_numpy(found.astype(np.int32 if packed.size < 2**31 else np.int64))


def _gather(packed: Tensor, sizes: Tensor, places: _Places, tile: int) -> Tensor:
    """(batch, tile, tile) packed pixels; symmetries and mirroring at borders are part of the index."""
    line = torch.arange(tile, device=packed.device)
    down, across = line.view(1, -1, 1), line.view(1, 1, -1)
    swap = places.transpose.view(-1, 1, 1)
    u, v = torch.where(swap, across, down), torch.where(swap, down, across)
    u = torch.where(places.flip_rows.view(-1, 1, 1), tile - 1 - u, u)
    v = torch.where(places.flip_columns.view(-1, 1, 1), tile - 1 - v, v)
    rows = _mirror(u + places.top.view(-1, 1, 1), sizes[:, 0].view(-1, 1, 1))
    columns = _mirror(v + places.left.view(-1, 1, 1), sizes[:, 1].view(-1, 1, 1))
    height, width = packed.shape[1:]
    return packed.reshape(-1)[(places.image.view(-1, 1, 1) * height + rows) * width + columns]


def _mirror(index: Tensor, size: Tensor) -> Tensor:
    """Index of the pixel that a position shows when the image is mirrored at its borders, however far away."""
    period = (2 * size - 2).clamp_min(1)
    index = index % period
    return torch.where(index < size, index, period - index)


def _unpack(packed: Tensor) -> TileBatch:
    images = (packed & 255).unsqueeze(1).float() / 255.0
    return TileBatch(images, (packed & LABEL_BIT).bool().long(), (packed & FOV_BIT).bool())


def _grid_corners(size: tuple[int, int], tile: int) -> list[tuple[int, int]]:
    lines = [[(side - -(-side // tile) * tile) // 2 + tile * i for i in range(-(-side // tile))] for side in size]
    return [(top, left) for top in lines[0] for left in lines[1]]

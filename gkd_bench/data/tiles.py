"""Training tiles drawn in batches on the device: every batch is a pure function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gkd_bench.config.schema import Augment, Sampling
from gkd_bench.data.augment import Rows, photometric, step_generator
from gkd_bench.data.cache import AnyImages, SourceImages, TestImages, TestSplit
from gkd_bench.data.style import restyle
from gkd_bench.errors import DataError, LeakError

TILES, LABELS = 0, 1  # random streams of one step
MOST_PLACES = 2**26
"""Pixels that are remembered as centres of tiles; of more, an evenly spaced choice."""


Packed = NDArray[Any]
"""int16 or int32, see :class:`_Pack`."""


class TileBatch(NamedTuple):
    """Tiles of a batch.

    Attributes:
        images: (batch, channels, tile, tile) float32 in [0, 1].
        labels: (batch, tile, tile) int64 class numbers.
        fov: (batch, tile, tile) bool, true inside the field of view.
    """

    images: Tensor
    labels: Tensor
    fov: Tensor


@dataclass(frozen=True, eq=False)
class GridTiles:
    """All tiles of a non-overlapping grid.

    Attributes:
        images: (tiles, channels, tile, tile) float32 in [0, 1].
        labels: (tiles, tile, tile) int64 class numbers.
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

    Beyond the border of an image its pixels are mirrored, so images may be smaller than a tile.

    Args:
        images: training or validation images. Test images are refused.
        tile: side of a tile, pixels.
        device: where images live and batches appear.
        augment: flips, quarter rotations and photometric changes.
        style: whether the style of most tiles is changed as well; see :func:`gkd_bench.data.style.restyle`.
        seed: seed of places and augmentation.
        sampling: where tiles lie: ``centred`` anywhere in the field of view, mirrored at borders; ``inside`` the image,
            so that a tile as large as the image is the image; or on the cells of a ``grid`` that does not overlap.

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
        sampling: Sampling = "centred",
    ) -> None:
        _refuse_leak(images)
        self.tile, self.style, self.seed, self.sampling = tile, style, seed, sampling
        self.augment = augment or Augment()
        self.device = torch.device(device)
        pack = _pack(images)
        self._pack, self._sizes = pack, pack.sizes
        self._inside = _pixels(pack, pack.fov_bit, images.domain, "inside the field of view")
        self._vessel = _pixels(
            pack, pack.fov_bit, images.domain, "of the foreground inside the field of view", labelled=True
        )
        self._shape = pack.array.shape[1:]
        self._packed = torch.from_numpy(pack.array).to(self.device)

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
        """Places of tiles, on the foreground where ``vessel`` (batch,) is true."""
        batch = len(vessel)
        fraction = torch.rand(batch, generator=generator, dtype=torch.float64)
        inside = self._inside[(fraction * len(self._inside)).long()].long()
        on_vessel = self._vessel[(fraction * len(self._vessel)).long()].long()
        centre = torch.where(vessel, on_vessel, inside)
        height, width = self._shape
        quarters = torch.randint(4, (batch,), generator=generator) * self.augment.rotations
        flips = torch.randint(2, (2, batch), generator=generator).bool() & self.augment.flips
        image = centre // (height * width)
        return _Places(
            image=image,
            top=self._start(centre // width % height, self._sizes[image, 0]),
            left=self._start(centre % width, self._sizes[image, 1]),
            flip_rows=flips[0] ^ (quarters == 1) ^ (quarters == 2),  # a quarter turn is a transposition and one flip
            flip_columns=flips[1] ^ (quarters == 2) ^ (quarters == 3),
            transpose=quarters % 2 == 1,
        )

    def _start(self, centre: Tensor, size: Tensor) -> Tensor:
        """First row (or column) of tiles around ``centre`` in images of ``size``, both (batch,)."""
        if self.sampling == "centred":
            return centre - self.tile // 2
        room = size - self.tile
        if self.sampling == "inside":
            start = torch.minimum((centre - self.tile // 2).clamp_min(0), room)
        else:
            first = (size - -(-size // self.tile) * self.tile) // 2
            start = first + (centre - first) // self.tile * self.tile
        return torch.where(room > 0, start, torch.div(room, 2, rounding_mode="floor"))  # a small image in its middle

    def _gather(self, places: _Places) -> TileBatch:
        sizes = self._sizes[places.image].to(self.device)
        return self._pack.unpacked(_gather(self._packed, sizes, places.to(self.device), self.tile))


def grid_tiles(images: AnyImages, tile: int, device: torch.device | str = "cpu", most: int | None = None) -> GridTiles:
    """Tiles of a non-overlapping grid, centred on each image, that lie at least half inside the field of view.

    Works for source and test images alike: for measuring, never for training.

    Args:
        images: what to cover.
        tile: side of a tile, pixels.
        device: where tiles appear.
        most: largest number of tiles, evenly spaced over all; none = all.
    """
    chosen = images if most is None else images.subset(spread_rows(len(images), most).tolist())
    pack = _pack(chosen)
    corners = [(i, *corner) for i in range(len(chosen)) for corner in _grid_corners(chosen.size(i), tile)]
    image, top, left = torch.tensor(corners, dtype=torch.int64).T
    upright = torch.zeros(len(corners), dtype=torch.bool)
    places = _Places(image, top, left, upright, upright, upright)
    tiles = pack.unpacked(_gather(torch.from_numpy(pack.array), pack.sizes[image], places, tile))
    keep = torch.nonzero(tiles.fov.float().mean((1, 2)) >= 0.5).flatten()
    if most is not None:
        keep = keep[spread_rows(len(keep), most)]
    return GridTiles(tiles.images[keep].to(device), tiles.labels[keep].to(device), image[keep].to(device))


def spread_rows(count: int, most: int) -> Tensor:
    """``most`` row numbers, evenly spaced from 0 to ``count`` - 1; all when there are no more."""
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).round().long()


def _refuse_leak(images: object) -> None:
    if isinstance(images, TestImages | TestSplit):
        raise LeakError("training tiles were asked of a test split; pass source_splits().train or .val instead")
    if not isinstance(images, SourceImages):
        raise TypeError(f"tiles are drawn from SourceImages, not from {type(images).__name__}")


@dataclass(frozen=True, eq=False)
class _Pack:
    """Images, labels and fields of view in one integer per pixel, so that a batch costs one gather.

    Attributes:
        array: (N, height, width) int16, of colour images int32: 8 or 24 bits of image, 6 of label, 1 of field of view.
        sizes: (N, 2) int64, true sizes.
        channels: of the images.
    """

    array: Packed
    sizes: Tensor
    channels: int

    @property
    def label_shift(self) -> int:
        """Bits of the image, below those of the label."""
        return 8 * self.channels

    @property
    def fov_bit(self) -> int:
        """The bit of the field of view."""
        return 1 << (self.label_shift + LABEL_BITS)

    def unpacked(self, packed: Tensor) -> TileBatch:
        """Tiles of gathered pixels (batch, tile, tile)."""
        levels = [(packed >> (8 * channel)) & 255 for channel in range(self.channels)]
        images = torch.stack(levels, dim=1).float() / 255.0
        labels = ((packed >> self.label_shift) & LABEL_MASK).long()
        return TileBatch(images, labels, (packed & self.fov_bit).bool())


LABEL_BITS = 6
LABEL_MASK = (1 << LABEL_BITS) - 1


def _pack(images: AnyImages) -> _Pack:
    sizes = torch.tensor([images.size(i) for i in range(len(images))], dtype=torch.int64).reshape(-1, 2)
    height, width = (int(side) for side in sizes.max(0).values)
    channels = images.channels
    kind: Any = np.int16 if channels == 1 else np.int32
    pack = _Pack(np.zeros((len(images), height, width), dtype=kind), sizes, channels)
    for i in range(len(images)):
        rows, columns = images.size(i)
        image, label, fov = (values(i).astype(kind) for values in (images.image, images.label, images.fov))
        levels = image if channels == 1 else image @ np.asarray([1, 1 << 8, 1 << 16], kind)
        bits = levels | (label << pack.label_shift) | (fov << (pack.label_shift + LABEL_BITS))
        pack.array[i, :rows, :columns] = bits
    return pack


def _pixels(pack: _Pack, bits: int, domain: str, words: str, labelled: bool = False) -> Tensor:
    """Flat positions, int32 or int64, of the pixels inside the field of view, ``labelled``: those of the foreground.

    Found image by image, and thinned out evenly where they would be too many to keep.
    """
    area, label = pack.array[0].size, LABEL_MASK << pack.label_shift

    def wanted(image: Packed) -> NDArray[np.int64]:
        flat = image.reshape(-1)
        mask = (flat & bits) == bits
        return np.flatnonzero(mask & ((flat & label) > 0) if labelled else mask)

    total = sum(len(wanted(image)) for image in pack.array)
    if not total:
        raise DataError([f"no pixel {words} in any image"], domain, "Run the data check and look at its pictures.")
    step = -(-total // MOST_PLACES)
    kind = np.int32 if pack.array.size < 2**31 else np.int64
    found = [(wanted(image)[::step] + i * area).astype(kind) for i, image in enumerate(pack.array)]
    return torch.from_numpy(np.concatenate(found))


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


def _grid_corners(size: tuple[int, int], tile: int) -> list[tuple[int, int]]:
    lines = [[(side - -(-side // tile) * tile) // 2 + tile * i for i in range(-(-side // tile))] for side in size]
    return [(top, left) for top in lines[0] for left in lines[1]]

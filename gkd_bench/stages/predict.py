"""Sliding-window prediction of whole images and of stacks of slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gkd_bench.data.windows import Blend, Floats, blend_weights, reflected, weight_sum, window_corners
from gkd_bench.networks.base import SegmentationNetwork, class_probabilities

Bytes = NDArray[np.uint8]

_SLICES = 64  # on the device at a time, whatever the batch
_CPU_SLICES = 8  # so many slices' sums stay in a processor's cache


@torch.no_grad()
def predict_slices(
    network: SegmentationNetwork,
    slices: Bytes,
    tile: int,
    device: torch.device,
    overlap: float = 0.5,
    batch: int = 32,
    blend: Blend = "uniform",
) -> Floats:
    """Probabilities of the foreground classes of a stack of slices, averaged over overlapping tiles of reflected slices.

    Windows are where ``gkd_bench.data.windows.slide`` has them. At most 64 slices are on the device at a time.

    Args:
        network: in eval mode, on ``device``.
        slices: (n, height, width) or (n, height, width, channels) uint8, prepared; may be a memory map.
        tile: side of the window in pixels.
        device: where the network is.
        overlap: smallest share of a window that its neighbour covers as well, in [0, 1).
        batch: windows per forward pass.
        blend: how overlapping windows are averaged.

    Returns:
        (n, classes - 1, height, width) float32; background, class 0, is left out.
    """
    height, width = slices.shape[1:3]
    result = np.empty((len(slices), network.classes - 1, height, width), np.float32)
    size = (max(height, tile), max(width, tile))
    windows = _Windows.over(size, tile, device, overlap, blend)
    step = min(batch, _CPU_SLICES if device.type == "cpu" else _SLICES)
    for first in range(0, len(slices), step):
        chunk = np.array(slices[first : first + step])  # reads a memory map once, and torch wants memory it may write
        planes = chunk[:, None] if chunk.ndim == 3 else chunk.transpose(0, 3, 1, 2)
        pixels = torch.from_numpy(reflected(planes, tile)).to(device)
        found = windows.blended(network, pixels, batch)[..., :height, :width]
        result[first : first + step] = found.cpu().numpy()
    return result


@dataclass(frozen=True)
class _Windows:
    """Where the windows of slices of one size lie, and how they are weighted.

    Attributes:
        corners: upper left (y, x) of each.
        weights: (tile, tile), of the pixels of a window.
        total: (height, width), the weights of all windows over a pixel.
    """

    corners: list[tuple[int, int]]
    weights: Tensor
    total: Tensor

    @classmethod
    def over(cls, size: tuple[int, int], tile: int, device: torch.device, overlap: float, blend: Blend) -> _Windows:
        corners, weights = window_corners(size, tile, overlap), blend_weights(tile, blend)
        total = weight_sum(size, corners, weights)
        return cls(corners, torch.from_numpy(weights).to(device), torch.from_numpy(total).to(device))

    def blended(self, network: SegmentationNetwork, pixels: Tensor, batch: int) -> Tensor:
        """Slices (n, channels, height, width) uint8, n <= batch -> (n, classes - 1, height, width) probabilities.

        A forward pass takes one position of all slices, or several where the slices are few; each is added at once.
        """
        count, tile = len(pixels), len(self.weights)
        summed = torch.zeros((count, network.classes - 1, *pixels.shape[2:]), device=pixels.device)
        together = max(1, batch // count)
        tiles = _tiles_buffer((min(together, len(self.corners)) * count, pixels.shape[1], tile, tile), pixels.device)
        for first in range(0, len(self.corners), together):
            chosen = self.corners[first : first + together]
            filled = tiles[: len(chosen) * count]
            for (y, x), part in zip(chosen, torch.split(filled, count), strict=True):
                part.copy_(pixels[..., y : y + tile, x : x + tile])
            found = class_probabilities(_logits(network, filled.div_(255.0)))
            for (y, x), part in zip(chosen, torch.split(found, count), strict=True):
                summed[..., y : y + tile, x : x + tile].addcmul_(part, self.weights)
        return summed.div_(self.total)


def _tiles_buffer(shape: tuple[int, int, int, int], device: torch.device) -> Tensor:
    """Room for (n, channels, tile, tile) float32; on a CPU with the channels last, which convolutions there are faster with.

    ``empty`` sets the strides of a single channel too, which ``contiguous`` leaves alone; the maps of all layers follow.
    """
    layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return torch.empty(shape, device=device, memory_format=layout)


def _logits(network: SegmentationNetwork, tiles: Tensor) -> Tensor:
    """The network's logits; a network whose ``view`` wants channels first gets them so."""
    try:
        found: Tensor = network(tiles)
    except RuntimeError:
        if tiles.device.type != "cpu":
            raise
        found = network(torch.empty_like(tiles, memory_format=torch.contiguous_format).copy_(tiles))
    return found

"""Whether an exported file computes what the network computes: largest difference on real tiles of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gkd_bench.data.cache import SourceImages, require_source
from gkd_bench.data.windows import Floats
from gkd_bench.errors import GkdBenchError
from gkd_bench.networks.base import SegmentationNetwork, class_probabilities
from gkd_bench.stages.scoring import class_map

Run = Callable[[Floats], Floats]
"""(batch, channels, height, width) images -> (batch, foreground classes, height, width) probabilities."""
_SEED = 0
_ODD = (13, 7)  # added to the tile's sides, so that no side is a multiple of a stride


@dataclass(frozen=True)
class Difference:
    """How far one format is from the network.

    Attributes:
        format: ``onnx`` or ``pt2``.
        largest: largest absolute difference of a probability.
        flipped: pixels that get another class.
        pixels: pixels compared.
    """

    format: str
    largest: float
    flipped: int
    pixels: int

    def __str__(self) -> str:
        return (
            f"{self.format}: largest difference from the torch model {self.largest:.2g} over {self.pixels} pixels, "
            f"{self.flipped} of them with another class"
        )


def real_batches(images: SourceImages, tile: int, count: int) -> list[Floats]:
    """Batches of real pixels: all tiles, one tile, two larger windows of odd sides, and a whole image.

    Args:
        images: the source's validation images.
        tile: side of a tile, pixels.
        count: number of tiles, at least 1.

    Raises:
        LeakError: images of a test split.
    """
    require_source(images)
    rng = np.random.default_rng(_SEED)
    wanted = max(count, 2)
    shown = [images.image(number * len(images) // wanted) for number in range(wanted)]  # ends of volumes show little
    tiles = np.stack([_cut(image, (tile, tile), rng) for image in shown[:count]])
    odd = np.stack([_cut(image, (tile + _ODD[0], tile + _ODD[1]), rng) for image in shown[:2]])
    return [_ready(batch) for batch in (tiles, tiles[:1], odd, shown[0][None])]


def differences(
    network: SegmentationNetwork, runs: Mapping[str, Run], batches: Sequence[Floats], threshold: float
) -> list[Difference]:
    """How far every format is from the network, over all batches; a value that is not finite counts as infinitely far."""
    expected = [_probability(network, batch) for batch in batches]
    return [_difference(name, run, batches, expected, threshold) for name, run in runs.items()]


def require_close(found: Sequence[Difference], tolerance: float) -> None:
    """Raise GkdBenchError when a format is further from the network than ``tolerance``."""
    far = [str(one) for one in found if not one.largest <= tolerance]
    if far:
        raise GkdBenchError(
            "\n".join(
                [
                    f"nothing was exported, a file does not compute what the network computes (tolerance {tolerance:g}):",
                    *(f"  {line}" for line in far),
                    "leave that format out (--formats), or raise --tolerance if you can live with it",
                ]
            )
        )


@torch.no_grad()
def _probability(network: SegmentationNetwork, images: Floats) -> Floats:
    found: Floats = class_probabilities(network(torch.from_numpy(images))).numpy()
    return found


def _difference(
    name: str, run: Run, batches: Sequence[Floats], expected: Sequence[Floats], threshold: float
) -> Difference:
    largest, flipped, pixels = 0.0, 0, 0
    for batch, right in zip(batches, expected, strict=True):
        found, count = run(batch), right[:, 0].size
        pixels += count
        if found.shape != right.shape:
            largest, flipped = float("inf"), flipped + count
            continue
        distance = float(np.abs(found - right).max())
        largest = max(largest, distance if np.isfinite(distance) else float("inf"))
        pairs = zip(found, right, strict=True)
        flipped += sum(int((class_map(one, threshold) != class_map(other, threshold)).sum()) for one, other in pairs)
    return Difference(name, largest, flipped, pixels)


def _cut(image: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A window somewhere in the image, which is reflected where it is too small."""
    missing = [(0, max(0, wanted - length)) for wanted, length in zip(size, image.shape[:2], strict=True)]
    padded = np.pad(image, missing + [(0, 0)] * (image.ndim - 2), mode="reflect")
    y, x = (int(rng.integers(length - wanted + 1)) for wanted, length in zip(size, padded.shape[:2], strict=True))
    return padded[y : y + size[0], x : x + size[1]]


def _ready(images: NDArray[np.uint8]) -> Floats:
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(planes, dtype=np.float32) / np.float32(255.0)

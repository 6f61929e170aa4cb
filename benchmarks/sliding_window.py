"""Time of a stack of slices through sliding windows, beside MONAI's ``sliding_window_inference``, interleaved in one run.

Run: ``OMP_NUM_THREADS=1 python benchmarks/sliding_window.py``. Needs MONAI (``pip install 'gkd-bench[bench]'``).
Ends with code 1 when a goal is missed: in every row ours takes no more time than MONAI, and probabilities are MONAI's to 1e-5. Every
way gets the same uint8 stack, network, windows, windows per forward pass, softmax and Gaussian weights, and gives numpy probabilities.
MONAI gets the whole stack as the batch dimension of one call. The network ``per pixel`` does next to nothing, so that what is around a
network shows.

``channels last`` is MONAI with the network's weights laid out so beforehand, which MONAI does not do by itself; ours lays out the windows
so and leaves the network alone. There nearly all of both is the same arithmetic: the share is printed, to be about 1, and is no goal.
It is what probabilities are compared with, since another layout adds up in another order: the last column, how far MONAI is off without
it, is the network's own rounding in float32 (an untrained M2U-Net is off its result in float64 by as much in either layout).

Windows lie at the same places only where whole steps end at the border, (length - tile) % step == 0, as in all sizes here: elsewhere
ours are spread evenly, while MONAI's last window is pushed back; and ours reflects slices smaller than a tile at their lower and right
border, MONAI at all four. One thread; CPU time, which other processes disturb least, of the fastest of several rounds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gkd_bench.networks.base import SegmentationNetwork, class_probabilities
from gkd_bench.networks.m2unet import M2UNet
from gkd_bench.networks.unet import UNet
from gkd_bench.stages.predict import predict_slices

Stack = NDArray[np.uint8]
Floats = NDArray[np.float32]
Way = Callable[[], Floats]

OURS, MONAI, MONAI_LAST = "gkd_bench", "MONAI", "MONAI, channels last"
TILE, OVERLAP = 128, 0.5
PRECISION = 1e-5
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """A network, and slices of side ``size`` to put through it; ``rounds`` times the usual number."""

    title: str
    make: Callable[[], SegmentationNetwork]
    slices: int
    size: int
    rounds: int = 1


class PerPixel(SegmentationNetwork):
    """Logits that are multiples of each pixel: a 1x1 convolution without a convolution's overhead."""

    stride, bottleneck_channels = 1, 1

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        self.slope = nn.Parameter(torch.linspace(-2, 2, classes)[:, None, None])

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        return images, (), ()

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return bottleneck * self.slope, bottleneck


ROWS = (
    Row("per pixel", PerPixel, 64, 256, 8),
    Row("per pixel", PerPixel, 16, 512, 8),
    Row("per pixel, one image", PerPixel, 1, 512, 16),
    Row("per pixel, 4 classes", lambda: PerPixel(classes=4), 64, 256, 4),
    Row("M2U-Net x 0.25", lambda: M2UNet(0.25), 64, 256),
    Row("M2U-Net x 0.25", lambda: M2UNet(0.25), 16, 512),
    Row("U-Net x 0.1", lambda: UNet(0.1), 32, 256),
    Row("U-Net x 0.1", lambda: UNet(0.1), 8, 512),
)


def anatomy(count: int, size: int) -> Stack:
    """Slices of blurred noise on black, (count, size, size)."""
    noise = torch.rand((count, 1, size // 16, size // 16), generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(noise, size=(size, size), mode="bilinear")[:, 0]
    return np.asarray((smooth * 400 - 100).clamp(0, 255).to(torch.uint8).numpy())


@torch.no_grad()
def settled(network: SegmentationNetwork, stack: Stack) -> SegmentationNetwork:
    """The network with the statistics of some tiles: without them an untrained one answers 0.5 everywhere."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(torch.from_numpy(stack[:8, None, :TILE, :TILE]).float() / 255)
    return network.eval()


def our_way(network: SegmentationNetwork, stack: Stack, batch: int) -> Way:
    return lambda: predict_slices(network, stack, TILE, CPU, OVERLAP, batch, "gaussian")


def monai_way(network: SegmentationNetwork, stack: Stack, batch: int) -> Way:
    """One call for the stack, as the batch dimension."""
    warnings.simplefilter("ignore")
    from monai.inferers.utils import sliding_window_inference

    def predictor(tiles: Tensor) -> Tensor:
        return class_probabilities(network(tiles))

    @torch.no_grad()
    def way() -> Floats:
        images = torch.from_numpy(stack)[:, None].float().div_(255.0)
        found = sliding_window_inference(images, TILE, batch, predictor, OVERLAP, "gaussian")
        assert isinstance(found, Tensor)
        return np.asarray(found.numpy())

    return way


def all_ways(row: Row, batch: int) -> dict[str, Way]:
    """Ours first, then MONAI's, each with a network of the same weights."""
    stack = anatomy(row.slices, row.size)
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(settled(row.make(), stack))
    plain, last = networks
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
    return {
        OURS: our_way(plain, stack, batch),
        MONAI: monai_way(plain, stack, batch),
        MONAI_LAST: monai_way(last, stack, batch),
    }


def differences(ways: dict[str, Way]) -> dict[str, float]:
    """Largest difference of the probabilities of each of the others from ours."""
    ours, *others = [way() for way in ways.values()]
    return {name: float(np.abs(ours - other).max()) for name, other in zip(list(ways)[1:], others, strict=True)}


def time_ways(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Fastest CPU seconds of each way, all of them in every round."""
    fastest = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            fastest[name] = min(fastest[name], time.process_time() - start)
    return fastest


def measure(row: Row, batch: int, rounds: int) -> list[str]:
    """Print one row; the goals that it misses."""
    ways = all_ways(row, batch)
    off, fastest = differences(ways), time_ways(ways, rounds * row.rounds)
    stack, shares = f"{row.slices} x {row.size}^2", {name: fastest[OURS] / seconds for name, seconds in fastest.items()}
    times = f"{fastest[OURS] * 1e3:>10.1f}{shares[MONAI]:>10.2f}{shares[MONAI_LAST]:>18.2f}"
    print(f"{row.title:<24}{stack:>12}{batch:>7}{times}{off[MONAI_LAST]:>10.1e}{off[MONAI]:>14.1e}", flush=True)
    missed = [f"{shares[MONAI]:.2f} of MONAI's time"] if shares[MONAI] > 1 else []
    missed += [f"off by {off[MONAI_LAST]:.1e}"] if off[MONAI_LAST] > PRECISION else []
    return [f"{row.title}, {stack}, batch {batch}: {what}" for what in missed]


def main() -> int:
    """Time every row; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description="time of sliding windows beside MONAI's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose network's name begins so")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32], help="windows per forward pass")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(
        f"{'network':<24}{'stack':>12}{'batch':>7}{'ms':>10}{'/ MONAI':>10}{'/ channels last':>18}{'off':>10}{'other layout':>14}"
    )
    rows = [row for row in ROWS if row.title.startswith(options.only)]
    missed = [what for row in rows for batch in options.batch for what in measure(row, batch, options.rounds)]
    print("\n" + ("\n".join(["missed:", *missed]) if missed else "all goals reached"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

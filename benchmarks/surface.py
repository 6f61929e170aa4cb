"""Time of HD95, and of HD95, ASSD and NSD together, beside MONAI's HD95 on the same vessel-like masks, interleaved in one run.

Run: ``OMP_NUM_THREADS=1 python benchmarks/surface.py``. Needs MONAI (``pip install 'gkd-bench[bench]'``).
Ends with code 1 when a goal is missed: at 584 x 565 a prediction like a network's is measured at least 5 times faster than by MONAI's
HD95, and every value is MONAI's to 1e-6. Ways are compared by their fastest calls, which a busy machine disturbs least. MONAI takes its
percentile in float32, whose rounding of the rank (not of the distances) can show in the fifth digit; so values are compared with
the float64 percentile of MONAI's own distances, and what MONAI's final number differs by is printed beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.metrics.surface import hausdorff95, surface_metrics
from gkd_bench.metrics.topology import topology_metrics

Mask = NDArray[np.bool_]
Way = Callable[[Mask, Mask], float]

HD95, ALL_THREE, MONAI = "gkd_bench HD95", "gkd_bench HD95, ASSD, NSD", "MONAI HD95"
SIZES = ((584, 565), (2336, 3504))
GOAL = 5.0
PRECISION = 1e-6


@dataclass(frozen=True)
class Timing:
    """Median and fastest seconds of one way on one pair of masks, and the value it gave."""

    way: str
    median: float
    fastest: float
    value: float


def vessels(size: tuple[int, int], seed: int, count: int = 40) -> Mask:
    """Wandering lines of one to a few pixels in width that cover about a seventh of the image."""
    generator, (height, width) = np.random.default_rng(seed), size
    canvas = np.zeros(size, np.uint8)
    for _ in range(count):
        turns = generator.uniform(0, 2 * np.pi) + generator.normal(scale=0.3, size=60).cumsum()
        steps = max(size) / 60 * np.stack([np.cos(turns), np.sin(turns)], 1)
        path = np.round(generator.uniform(0, (width, height)) + steps.cumsum(axis=0)).astype(np.int32)
        cv2.polylines(canvas, [path], False, 1, int(generator.integers(1, max(2, height // 80))))
    return canvas > 0


def prediction(label: Mask, seed: int) -> Mask:
    """The label one pixel lower, with holes, a tenth of it missed, a few vessels and some specks invented."""
    generator, (height, width) = np.random.default_rng(seed), label.shape
    found = np.roll(label, 1, axis=0) & (generator.random(label.shape) > 0.02)
    found[: height // 4, : width // 3] = False
    specks = cv2.dilate((generator.random(label.shape) > 0.9999).astype(np.uint8), np.ones((4, 4), np.uint8)) > 0
    return found | specks | vessels((height, width), seed, count=3)


def monai_way() -> tuple[Way, Way]:
    """MONAI's HD95, and the float64 percentile of its distances."""
    import torch

    warnings.simplefilter("ignore")
    from monai.metrics import compute_hausdorff_distance
    from monai.metrics.utils import get_edge_surface_distance

    def distance(found: Mask, truth: Mask) -> float:
        pair = (torch.from_numpy(mask)[None, None] for mask in (found, truth))
        return float(compute_hausdorff_distance(*pair, percentile=95, include_background=True))

    def exact(found: Mask, truth: Mask) -> float:
        pair = (torch.from_numpy(mask) for mask in (found, truth))
        _, ways, _ = get_edge_surface_distance(*pair, symmetric=True)
        return max(float(np.percentile(way.numpy().astype(np.float64), 95)) for way in ways)

    return distance, exact


def time_ways(ways: dict[str, Way], found: Mask, truth: Mask, rounds: int) -> list[Timing]:
    """Time every way once in every round, after one call each, so that a busy moment of the machine meets all of them."""
    values = {name: way(found, truth) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way(found, truth)
            seconds[name].append(time.perf_counter() - start)
    return [Timing(name, statistics.median(taken), min(taken), values[name]) for name, taken in seconds.items()]


def show(title: str, timings: list[Timing]) -> None:
    """Print one table; the last column is how often each way fits into one call of MONAI."""
    reference = timings[-1]
    print(f"\n{title}\n{'way':<28}{'median ms':>12}{'fastest ms':>12}{'faster than MONAI':>20}{'value':>14}")
    for t in timings:
        times = reference.fastest / t.fastest
        print(f"{t.way:<28}{t.median * 1e3:>12.2f}{t.fastest * 1e3:>12.2f}{times:>20.1f}{t.value:>14.6f}")


def show_topology(title: str, found: Mask, truth: Mask) -> None:
    """Print the time of centre-line Dice and component error."""
    start = time.perf_counter()
    topology_metrics(found, truth)
    print(f"{title}: clDice and component error {(time.perf_counter() - start) * 1e3:.0f} ms")


def main() -> int:
    """Time two pairs of masks at both sizes; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description="time of surface distances beside MONAI's")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    monai, exact = monai_way()
    ways: dict[str, Way] = {HD95: hausdorff95, ALL_THREE: lambda a, b: surface_metrics(a, b)["hd95"], MONAI: monai}
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    print(f"numpy {np.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, OMP_NUM_THREADS={threads}")
    missed = []
    for size in SIZES:
        truth = vessels(size, 0)
        for kind, found in (("a prediction", prediction(truth, 1)), ("another image's vessels", vessels(size, 9))):
            title = f"{size[0]} x {size[1]}, {kind}"
            timings = time_ways(ways, found, truth, rounds if size == SIZES[0] else max(3, rounds // 5))
            show(title, timings)
            ours, expected, factor = timings[0], exact(found, truth), timings[-1].fastest / timings[0].fastest
            error = abs(ours.value - expected) / max(1.0, expected)
            print(
                f"off MONAI's distances by {error:.1e}, MONAI's float32 percentile by {timings[-1].value - expected:+.1e}"
            )
            show_topology(title, found, truth)
            missed += [f"{title}: off by {error:.1e}"] if error > PRECISION else []
            if size == SIZES[0] and kind == "a prediction" and factor < GOAL:
                missed.append(f"{title}: {factor:.1f} times faster, not {GOAL:.0f}")
    print("\n" + ("\n".join(["missed:", *missed]) if missed else "all goals reached"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

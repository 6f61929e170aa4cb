"""Time of one Frechet distance, from vectors to value, beside scipy's and torchmetrics' ways, interleaved in one run.

Run: ``OMP_NUM_THREADS=1 python benchmarks/frechet.py``, and once more without the variable (all cores).
Needs scipy; torchmetrics (``pip install 'gkd-bench[bench]'``) is left out with a note when absent.
Ends with code 1 when a goal is missed: n = 40, d = 1024 in < 5 ms and > 100 times faster than ``sqrtm``; n = 2000, d = 512 no slower than
any other way. Ways are compared by their fastest calls, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from gkd_bench.metrics.frechet import frechet_distance, frechet_report

Vectors = NDArray[np.float64]
Way = Callable[[Vectors, Vectors], float]

OURS = "gkd_bench"
SQRTM = "scipy sqrtm"
TURN = 0.2


@dataclass(frozen=True)
class Timing:
    """Median and fastest seconds of one way on one size, and the value it gave."""

    way: str
    median: float
    fastest: float
    value: float


def _gaussians(a: Vectors, b: Vectors) -> tuple[float, Vectors, Vectors]:
    """Squared step plus traces, and both covariances."""
    step = a.mean(axis=0) - b.mean(axis=0)
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return float(step @ step + np.trace(first + second)), first, second


def scipy_sqrtm(a: Vectors, b: Vectors) -> float:
    """The usual way of FID codes: a general matrix square root of the product."""
    rest, first, second = _gaussians(a, b)
    return rest - 2.0 * float(np.trace(scipy.linalg.sqrtm(first @ second)).real)


def scipy_eigvals(a: Vectors, b: Vectors) -> float:
    """Roots of the general eigenvalues of the product."""
    rest, first, second = _gaussians(a, b)
    return rest - 2.0 * float(np.sqrt(scipy.linalg.eigvals(first @ second)).real.sum())


def scipy_svd(a: Vectors, b: Vectors) -> float:
    """Singular values of the product of both symmetric roots."""
    rest, first, second = _gaussians(a, b)
    roots = []
    for covariance in (first, second):
        values, axes = scipy.linalg.eigh(covariance)
        roots.append((axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T)
    return rest - 2.0 * float(scipy.linalg.svdvals(roots[0] @ roots[1]).sum())


def torchmetrics_way() -> Way | None:
    """Torchmetrics' FID on given vectors; None when it is not installed."""
    try:
        import torch
        from torchmetrics.image.fid import _compute_fid
    except ImportError:
        return None

    def distance(a: Vectors, b: Vectors) -> float:
        first, second = torch.from_numpy(a), torch.from_numpy(b)
        return float(_compute_fid(first.mean(0), torch.cov(first.T), second.mean(0), torch.cov(second.T)))

    return distance


def all_ways() -> dict[str, Way]:
    """Ours first, then every other way that is installed."""
    ways: dict[str, Way] = {OURS: frechet_distance, SQRTM: scipy_sqrtm}
    ways |= {"scipy eigvals": scipy_eigvals, "scipy eigh + svd": scipy_svd}
    other = torchmetrics_way()
    if other is None:
        print("torchmetrics is not installed: left out")
    return ways if other is None else {**ways, "torchmetrics _compute_fid": other}


def time_ways(ways: dict[str, Way], count: int, dim: int, rounds: int) -> list[Timing]:
    """Time every way in every round, so that a busy moment of the machine meets all of them.

    A way gets ``TURN`` seconds a turn, at least one call: short calls are repeated, since their first call after another way's
    waits for the processor caches and for the threads that the other library left spinning.
    """
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(count, dim)), 1.3 * generator.normal(size=(count, dim)) + 0.1
    values = {name: way(a, b) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name] += _turn(way, a, b)
    return [Timing(name, statistics.median(taken), min(taken), values[name]) for name, taken in seconds.items()]


def _turn(way: Way, a: Vectors, b: Vectors) -> list[float]:
    end = time.perf_counter() + TURN
    taken: list[float] = []
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        way(a, b)
        taken.append(time.perf_counter() - start)
    return taken


def show(title: str, timings: list[Timing]) -> None:
    """Print one table."""
    ours = timings[0].fastest
    print(f"\n{title}\n{'way':<28}{'median ms':>12}{'fastest ms':>12}{'x ours':>10}{'value':>18}")
    for t in timings:
        print(f"{t.way:<28}{t.median * 1e3:>12.2f}{t.fastest * 1e3:>12.2f}{t.fastest / ours:>10.1f}{t.value:>18.6f}")


def show_reports() -> None:
    """Print the time of whole reports."""
    for count, dim in ((40, 1024), (2000, 512)):
        vectors = np.random.default_rng(1).normal(size=(2, count, dim))
        start = time.perf_counter()
        frechet_report(vectors[0], vectors[1])
        print(
            f"\nreport with 200 replicates and 20 halves, n = {count}, d = {dim}: {time.perf_counter() - start:.2f} s"
        )


def missed_goals(small: list[Timing], large: list[Timing]) -> list[str]:
    """The goals that these timings miss, in words."""
    by_name = {t.way: t for t in small}
    ours, sqrtm = by_name[OURS], by_name[SQRTM].fastest / by_name[OURS].fastest
    missed = []
    if ours.median >= 5e-3:
        missed.append(f"n = 40, d = 1024 took {ours.median * 1e3:.1f} ms, not < 5 ms")
    if sqrtm <= 100:
        missed.append(f"n = 40, d = 1024 is {sqrtm:.0f} times faster than sqrtm, not > 100 times")
    faster = [t for t in large[1:] if t.fastest < large[0].fastest]
    missed += [f"n = 2000, d = 512: {t.way} is faster, {t.fastest * 1e3:.0f} ms" for t in faster]
    return missed


def main() -> int:
    """Time both sizes; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description="time of one Frechet distance beside other ways")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    ways = all_ways()
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"
    print(f"numpy {np.__version__}, scipy {scipy.__version__}, {machine}")
    small, large = time_ways(ways, 40, 1024, rounds), time_ways(ways, 2000, 512, rounds)
    show("n = 40, d = 1024", small)
    show("n = 2000, d = 512", large)
    show_reports()
    missed = missed_goals(small, large)
    print("\n" + ("\n".join(["missed:", *missed]) if missed else "all goals reached"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

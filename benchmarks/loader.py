"""What drawing tiles costs: the same training step with fresh batches and with one constant batch, side by side.

Run: ``python benchmarks/loader.py [--photometric light]``. The two kinds of step alternate in one process, so that a
busy machine slows both alike. Ends with code 1 when the ratio of their median wall times is below 0.95.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from gkd_bench.config.schema import Augment
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.prepare import prepare_domain
from gkd_bench.data.tiles import TileBatch, TileSampler
from gkd_bench.networks.base import count_parameters
from gkd_bench.networks.unet import UNet

TARGET = 0.95
Times = list[tuple[float, float]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domain", default="phantom_clear")
    parser.add_argument("--root", type=Path, help="data root, for real data sets")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tile", type=int, default=96)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--width", type=float, default=0.125, help="width of the U-Net; 0.125 has 0.5 M parameters")
    parser.add_argument("--photometric", choices=("none", "light", "strong"), default="strong")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def train_step(network: UNet, optimiser: torch.optim.Optimizer, batch: TileBatch) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss = F.cross_entropy(network(batch.images), batch.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    loss.item()  # waits for the device


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """(wall, processor) seconds; the second does not count the time that other programs took from this one."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def prepared_sampler(options: argparse.Namespace) -> TileSampler:
    with tempfile.TemporaryDirectory() as cache:
        domain = prepare_domain(options.domain, Catalogue(options.root), Path(cache))
        augment = Augment(photometric=options.photometric)
        return TileSampler(domain.source_splits().train, options.tile, options.device, augment=augment)


def speed_kept(fresh: Times, same: Times, clock: int) -> float:
    """Ratio of the median times of both kinds of step; ``clock`` 0 is the wall's, 1 the processor's."""
    a, b = (statistics.median(row[clock] for row in rows) for rows in (fresh, same))
    return b / a


def measure(options: argparse.Namespace) -> tuple[Times, Times]:
    """Times of steps with fresh batches and with one constant batch; the first two of each, which warm up, are left out."""
    torch.manual_seed(0)
    sampler = prepared_sampler(options)
    network = UNet(options.width).to(options.device)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    constant = sampler.draw(0, options.batch)
    fresh: Times = []
    same: Times = []
    for step in range(options.steps + 2):
        fresh.append(timed(lambda step=step: train_step(network, optimiser, sampler.draw(step, options.batch))))  # type: ignore[misc]
        same.append(timed(lambda: train_step(network, optimiser, constant)))
    size = count_parameters(network) / 1e6
    print(
        f"U-Net of {size:.2f} M parameters, batch {options.batch}, tile {options.tile}, {options.photometric}, {options.device}"
    )
    return fresh[2:], same[2:]


def main() -> int:
    """Print both clocks; 1 when the target is missed."""
    fresh, same = measure(parse())
    for clock, name in enumerate(("wall", "processor")):
        a, b = (1e3 * statistics.median(row[clock] for row in rows) for rows in (fresh, same))
        print(f"{name:>10} ms: fresh {a:7.1f}   constant {b:7.1f}   speed kept {speed_kept(fresh, same, clock):.3f}")
    missed = speed_kept(fresh, same, 0) < TARGET
    print(
        f"missed: the wall clock's speed kept is below {TARGET}" if missed else f"at least {TARGET} of the speed kept"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

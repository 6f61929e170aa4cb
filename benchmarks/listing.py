"""Time of ``gkd-bench store list`` and of a look at all keys, with up to 100,000 artefacts in a folder.

Run: ``OMP_NUM_THREADS=1 python benchmarks/listing.py``; ``--artefacts`` says how many. The artefacts are made up, of two stages with
three files each, and published as stages publish theirs. Whole processes are timed, with their imports, the files in the page cache.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from gkd_bench.store.artefacts import Draft, LocalStore
from gkd_bench.store.listing import published
from gkd_bench.store.node import StageNode

KINDS = ("distill", "evaluate")


def fill(store: LocalStore, begin: int, end: int) -> None:
    """Publish artefacts of these numbers."""
    for number in range(begin, end):
        node = StageNode(KINDS[number % 2], {"number": number}, 0, {}, labels={"source": "phantom_clear"})
        store.publish(node, Draft(files={"note": b"x" * 100}, records=[{"record": "cost", "seconds": 1.0}]))


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> int:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artefacts", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    options = parser.parse_args()
    print(
        "| artefacts | publishing one, ms | all keys, s | `store list`, s | `store list --json`, s |\n|---:|---:|---:|---:|---:|"
    )
    with TemporaryDirectory(prefix="gkd_listing_") as folder:
        store, there = LocalStore(Path(folder)), 0
        for wanted in sorted(options.artefacts):
            filling = seconds(lambda begin=there, end=wanted: fill(store, begin, end))  # type: ignore[misc]
            published_ms, there = 1000 * filling / (wanted - there), wanted
            keys = seconds(lambda: published(store))
            command = [sys.executable, "-m", "gkd_bench.cli", "store", "list", "--store", folder]
            shown = [
                seconds(lambda c=c: subprocess.run(c, check=True, stdout=subprocess.DEVNULL))
                for c in (command, [*command, "--json"])
            ]  # type: ignore[misc]
            print(f"| {there} | {published_ms:.2f} | {keys:.2f} | {shown[0]:.2f} | {shown[1]:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

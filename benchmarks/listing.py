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
from functools import partial
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
    print("| artefacts | publishing one, ms | all keys, s | `store list`, s | `store list --json`, s |")
    print("|---:|---:|---:|---:|---:|")
    with TemporaryDirectory(prefix="gkd_listing_") as folder:
        store, there = LocalStore(Path(folder)), 0
        command = [sys.executable, "-m", "gkd_bench.cli", "store", "list", "--store", folder]
        run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
        for wanted in sorted(options.artefacts):
            filling = 1000 * seconds(partial(fill, store, there, wanted)) / (wanted - there)
            there = wanted
            keys, table, lines = map(
                seconds, (partial(published, store), partial(run, command), partial(run, [*command, "--json"]))
            )
            print(f"| {there} | {filling:.2f} | {keys:.2f} | {table:.2f} | {lines:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

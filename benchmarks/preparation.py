"""Preparation of CT volumes: slices per second and peak memory, in one process and on Ray, interrupted and gone on with.

Run: ``OMP_NUM_THREADS=1 python benchmarks/preparation.py`` on a quiet machine; ``--volumes`` and ``--slices`` scale it. The volumes
are made up (512 x 512 voxels, noise on tissue, so that gzip has to work as hard as on real ones), written as LiTS has them.
Memory is the peak resident size of the process that prepares, its imports (about 250 MB) included; on Ray that of the largest
worker. What the whole data set would take is the rate, not a run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np

LITS_SLICES = 58_638
LIMIT_MB = 2048
CHILD = """
import json, resource, sys, time
from pathlib import Path
from gkd_bench.cluster.preparation import stack_mapper
from gkd_bench.config.schema import Compute, Pool
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.prepare import prepare_domain

if __name__ == "__main__":
    root, cache, engine, groups = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    compute = Compute(engine=engine, pools=(Pool(groups=groups),))
    seen = []
    begun = time.perf_counter()
    report = lambda done, of, slices: seen.append((time.perf_counter() - begun, slices))
    place = Catalogue(root, classes=("liver",))
    prepare_domain("lits", place, cache, mapper=stack_mapper(compute, worth=0), report=report)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seen = seen or [(0.0, 0), (1.0, 0)]  # nothing was left to do
    print(json.dumps({"begin": seen[0][0], "end": seen[-1][0], "slices": seen[-1][1], "memory": memory}))
"""


def write_volume(folder: Path, number: int, slices: int) -> None:
    """One made-up abdomen of 512 x 512 x ``slices`` voxels with its liver, gzipped."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:512, :512]
    body = ((y - 256) / 180) ** 2 + ((x - 256) / 230) ** 2 < 1
    spine = ((y - 380) ** 2 + (x - 256) ** 2) < 30**2
    liver = ((y - 240) / 90) ** 2 + ((x - 170) / 90) ** 2 < 1
    plain = np.where(body, 40, -1000).astype(np.int16)
    plain[spine], plain[liver] = 600, 110
    values = np.empty((512, 512, slices), np.int16, order="F")
    label = np.zeros(values.shape, np.uint8, order="F")
    for z in range(slices):
        values[..., z] = (plain + rng.integers(-24, 25, plain.shape, np.int16)).T
        if slices // 4 < z < 3 * slices // 4:
            label[..., z] = liver.T
    affine = np.diag([-0.8, -0.8, 1.5, 1.0])
    for name, array in (("volume", values), ("segmentation", label)):
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}-{number}.nii.gz")  # type: ignore[no-untyped-call]


def largest_worker(stop: threading.Event, found: list[float]) -> None:
    """Peak resident size, in MB, of any Ray worker that prepares a stack, looked at ten times a second."""
    while not stop.wait(0.1):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if not (folder / "cmdline").read_bytes().startswith(b"ray::prepare_stack"):
                    continue
                status = (folder / "status").read_text()
            except OSError:
                continue
            found.append(float(status.split("VmHWM:")[1].split()[0]) / 1024)


def measured(root: Path, cache: Path, engine: str, groups: int) -> dict[str, float]:
    """Rate and memory of one run in a process of its own."""
    stop, workers = threading.Event(), [0.0]
    watcher = threading.Thread(target=largest_worker, args=(stop, workers))
    watcher.start()
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), str(cache), engine, str(groups)], capture_output=True, text=True
    )
    seconds = time.perf_counter() - begun
    stop.set()
    watcher.join()
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    memory = max(workers) if engine == "ray" else found["memory"]
    return found | {"whole": seconds, "memory": memory, "rate": found["slices"] / (found["end"] - found["begin"])}


def main() -> int:
    """Print the table; 1 when more memory was needed than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--slices", type=int, default=400, help="of each volume; LiTS has 74 to 987")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with TemporaryDirectory(prefix="gkd_bench_preparation_") as name:
        folder = Path(name)
        data = folder / "raw" / "LiTS" / "Training Batch 1"
        data.mkdir(parents=True)
        for number in range(options.volumes):
            write_volume(data, number, options.slices)
        size = sum(path.stat().st_size for path in data.iterdir()) / 1e6
        print(f"{options.volumes} volumes of {options.slices} slices, {size:.0f} MB gzipped")
        rows = {}
        for title, engine, groups in (
            ("one process", "inprocess", 1),
            (f"Ray, {options.workers} CPUs", "ray", options.workers),
        ):
            cache = folder / engine
            rows[title] = measured(folder / "raw", cache, engine, groups)
            last = sorted(cache.glob("lits/*/*-images.npy"))[-1]
            again = time.perf_counter()
            measured(folder / "raw", cache, engine, groups)
            rows[title]["again"] = time.perf_counter() - again
            assert last.is_file()
            shutil.rmtree(cache)
    print(f"{'':<16}{'slices/s':>9}{'peak MB':>9}{'whole s':>9}{'again s':>9}{'58,638 slices':>15}")
    for title, row in rows.items():
        hours = LITS_SLICES / row["rate"] / 3600
        print(
            f"{title:<16}{row['rate']:>9.0f}{row['memory']:>9.0f}{row['whole']:>9.1f}{row['again']:>9.1f}{hours:>13.2f} h"
        )
    return int(any(row["memory"] > LIMIT_MB for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())

"""Time and memory of ``gkd-bench report`` without figures, from 100,000 records, alone and beside ten other sweeps.

Run: ``OMP_NUM_THREADS=1 python benchmarks/report.py`` on a quiet machine; ``--subjects`` scales the number of records.
Records are made up: five domains, six methods, five seeds, a search, and a stress bank of seven corruptions at three strengths.
Everything is counted: the interpreter, imports, reading, tables, CSV, LaTeX, Markdown and the page. Ends with code 1 at 5 s or more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gkd_bench.report.archive import SavedSweep, save_sweep
from gkd_bench.report.frame import Origin
from gkd_bench.store.artefacts import LocalStore

GOAL = 5.0
OPTIONS = ("--no-figures", "--no-mlflow")
CHILD = """
import resource, sys
from gkd_bench import cli
code = cli.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
DOMAINS = tuple(f"domain_{letter}" for letter in "abcde")
METHODS = {"teacher": 0.8, "baseline": 0.69, "scratch": 0.7, "kd": 0.71, "gkd": 0.74, "gkd_intra": 0.72}
SEEDS, TRIALS, VALIDATION = range(5), range(20), 4
CORRUPTIONS = ("gamma", "contrast", "colour_cast", "blur", "noise", "resolution", "illumination")
CONDITIONS = (("none", 0), *product(CORRUPTIONS, (1, 2, 3)))
SHARES = ("dice", "iou", "sensitivity", "specificity", "accuracy", "auc", "ece", "brier")
INSIDE = ("hd95", "assd", "nsd", "cldice", "components")
SPACES = ("aligned", "aligned_own", "random_header", "bottleneck")
Record = dict[str, Any]
Model = tuple[str, str, int]


def make_records(subjects: int, seed: int = 0) -> list[Record]:
    """Records of a finished sweep; no number means anything."""
    rng = np.random.default_rng(seed)
    records: list[Record] = []
    for model in product(METHODS, DOMAINS, SEEDS):
        for variant in ("best", "last") if model[0] not in ("teacher", "baseline") else ("best",):
            records += tests_of(rng, model, variant, subjects)
            records += stresses_of(rng, model, variant)
        records += training_of(model)
    return [*records, *search()]


def base(kind: str, model: Model, split: str, target: str | None = None) -> Record:
    method, source, seed = model
    key = f"{kind} {method} {source} {seed} {target}"
    labels = {
        "schema": 1,
        "sweep": "benchmark",
        "key": key,
        "model": f"{method} {source} {seed}",
        "kind": kind,
        "task": "vessel",
    }
    return {**labels, "source": source, "target": target, "split": split, "method": method, "network": "n", "seed": seed, "trial": None}  # fmt: skip


def tests_of(rng: np.random.Generator, model: Model, variant: str, subjects: int) -> Iterator[Record]:
    names = [*SHARES, *(f"{name}_fov" for name in (*SHARES, *INSIDE))]
    for target in DOMAINS:
        labels = base("evaluate", model, "test", target) | {"variant": variant}
        level = METHODS[model[0]] - 0.1 * (target != model[1])
        for number, values in enumerate(rng.normal(level, 0.03, (2 * subjects, len(names))).tolist()):
            who = {"subject": f"s{number // 2}", "image": f"i{number}"}
            yield {**labels, "record": "image", **who, **dict(zip(names, values, strict=True))}
        pooled = dict(zip(names, rng.normal(level, 0.01, len(names)).tolist(), strict=True))
        yield {**labels, "record": "pooled", "subjects": subjects, "images": 2 * subjects, **pooled}
        sizes = {"n_a": 400, "n_b": 400, "dim": 64, "low": 0.1, "high": 0.9, "floor": 0.1, "floor_high": 0.2}
        for space, value in zip(SPACES, rng.normal(2, 0.3, len(SPACES)).tolist(), strict=True):
            yield {**labels, "record": "fsd", "use": "domain", "space": space, "value": value, **sizes}


def stresses_of(rng: np.random.Generator, model: Model, variant: str) -> Iterator[Record]:
    labels = base("stress", model, "val") | {"variant": variant}
    for corruption, strength in CONDITIONS:
        here = {**labels, "corruption": corruption, "strength": strength}
        for number, dice in enumerate(rng.normal(0.7 - 0.05 * strength, 0.02, VALIDATION).tolist()):
            yield {**here, "record": "stress", "subject": f"v{number}", "image": f"v{number}", "dice": dice}
        for space in ("aligned_own", "bottleneck"):
            value = 2 + strength + float(rng.normal(0, 0.1))
            yield {**here, "record": "stress_fsd", "space": space, "value": value, "n_a": 400, "n_b": 60, "dim": 64}
    score = float(rng.normal(0.7, 0.02))
    facts = {
        "epoch": 3,
        "val_dice": score,
        "val_dice_stressed": score - 0.1,
        "stress_fsd": 3.0,
        "macs": 2e6,
    }
    yield {**labels, "record": "candidate", **facts}


def training_of(model: Model, epochs: int = 20) -> Iterator[Record]:
    labels = base("distill", model, "val")
    for epoch in range(epochs):
        yield {**labels, "record": "epoch", "epoch": epoch, "val/dice": 0.7, "loss/ce": 0.1}
    spent = {"seconds": 10.0, "steps": 100, "device": "cpu", "threads": 1, "parameters": 17_000, "versions": "{}"}
    yield {**labels, "record": "cost", **spent}


def search() -> Iterator[Record]:
    for source, number in product(DOMAINS, TRIALS):
        params = json.dumps({"intra": 0.1 * (number + 1), "inter": 1.0 / (number + 1)})
        found = json.dumps({"source_val": 0.6 + 0.01 * (number % 7), "stress_fsd": 3.0 - 0.1 * (number % 5)})
        labels = base("distill", ("gkd", source, 0), "val") | {"trial": number}
        yield {**labels, "record": "trial", "study": f"{source} gkd", "number": number, "params": params,
               "state": "complete", "value": 0.6, "cause": "", "objectives": found}  # fmt: skip


def store_sweeps(store: Path, records: list[Record], copies: int) -> int:
    """Save the sweep, and others of the same size beside it; the number of its records."""
    origin = Origin(sweep_yaml="name: benchmark\n", command="python benchmarks/report.py")
    save_sweep(SavedSweep("benchmark", tuple(records), origin, ()), LocalStore(store))
    for number in range(copies):
        shutil.copytree(store / "sweeps" / "benchmark", store / "sweeps" / f"other-{number}")
    return len(records)


def report_in_a_process(store: Path, results: Path) -> tuple[float, float]:
    """Wall seconds and peak memory (MB) of ``gkd-bench report`` in a process of its own, interpreter and imports included."""
    command = [sys.executable, "-c", CHILD, "report", "benchmark", "--store", str(store), "--results", str(results)]
    begun = time.perf_counter()
    done = subprocess.run([*command, *OPTIONS], capture_output=True, text=True, check=True)
    return time.perf_counter() - begun, int(done.stderr.split()[-1]) / 1024


def main() -> int:
    """Time the command; 1 when it misses the goal."""
    parser = argparse.ArgumentParser(description="time and memory of a report from records")
    parser.add_argument("--subjects", type=int, default=23)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    records, walls = make_records(options.subjects), []
    for others in (0, 10):
        with TemporaryDirectory() as folder:
            count = store_sweeps(Path(folder), records, others)
            runs = [report_in_a_process(Path(folder), Path(folder) / "results") for _ in range(options.repeats)]
            files = sum(path.is_file() for path in (Path(folder) / "results").rglob("*"))
        seconds, memory = min(run[0] for run in runs), max(run[1] for run in runs)
        walls.append(seconds)
        print(
            f"{count} records, {others:2d} other sweeps in the store: {seconds:.2f} s, peak memory {memory:.0f} MB, {files} files"
        )
    print(f"goal: {GOAL:g} s; load of the machine {os.getloadavg()[0]:.1f}")
    return int(max(walls) >= GOAL)


if __name__ == "__main__":
    sys.exit(main())

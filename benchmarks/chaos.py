"""A small sweep killed with SIGKILL at seeded random moments, its driver, a trial and a worker in turn, and started again each
time; then compared, record by record, with a run that nobody disturbed.

    python benchmarks/chaos.py                         100 kills on Ray, about 40 minutes on two cores
    python benchmarks/chaos.py --kills 6 --engine inprocess

A sweep that ends before enough kills is done again from an empty store. Ends with code 1 when anything differs. *Extra work*
are optimiser steps done more often than once, in per cent of those of the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gkd_bench.stages.monitor import Monitor, Outcome, Progress, Workplace
from gkd_bench.stages.run import execute
from gkd_bench.store.artefacts import LocalStore
from gkd_bench.store.node import StageNode

TOKEN, STEPS = "GKD_CHAOS_TOKEN", "GKD_CHAOS_STEPS"
TITLES = {"trial": "ray::StageTrial", "worker": "ray::RayTrainWorker"}
AT_WORK = 0.75  # of the kills wait for a training step first: the others hit the start of Ray and of the sweep, too
TABLES = ("triple.csv", "scores.csv", "fsd.csv", "trials.csv", "health.csv", "search.csv")
SHORT = {"epochs": 4, "epoch_steps": 12, "batch": 8}
SWEEP: dict[str, Any] = {
    "name": "chaos",
    "data": {
        "domains": ["phantom_clear", "phantom_dim"],
        "tile": 32,
        "prepare": {"scale": {"rule": "fov_width", "value": 96}},
        "stress": {"corruptions": ["gamma", "noise"], "strengths": [1, 3]},
    },
    "pairs": {"sources": ["phantom_clear"], "targets": "all"},
    "networks": {
        "teacher": {"name": "unet", "width": 0.1},
        "student": {"name": "mobile_unet", "width": 0.1},
        "semantic_width": 0.05,
        "header": {"dim": 32},
    },
    "stages": {
        "teacher": SHORT,
        "baseline": SHORT,
        "semantic": {"autoencoder": SHORT, "vector": SHORT},
        "alignment": SHORT,
        "distill": {**SHORT, "warmup_epochs": 1},
        "stress": {"fsd_tiles": 40},
        "evaluate": {"overlap": 0.0, "overlays": 1, "fixed_pictures": 1, "fsd_tiles": 40, "fsd_bootstrap": 5},
        "efficiency": {"warmup": 1, "repeats": 3},
    },
    "methods": {"kd": {}, "gkd": {"views": ["photometric", "noise_blur"]}, "controls": []},
    "search": {
        "trials": 6,
        "concurrency": 2,
        "startup_trials": 2,
        "reduction": 2,
        "spaces": {"gkd": {"methods.gkd.cross": {"low": 0.05, "high": 1.0, "log": True}}},
    },
    "seeds": [0, 1],
    "compute": {"max_failures": 1000, "pools": [{"groups": 2}]},
    "tracking": {"enabled": False},
}
DRIVER = """
import functools, sys
import gkd_bench.cluster.ray_engine as engine
engine.Places = functools.partial(engine.Places, runner="chaos:counted")
from gkd_bench.sweep import main
sys.exit(main(sys.argv[1:]))
"""


def counted(node: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
    """The stage runner, which notes every optimiser step in a file: one byte each, so that a kill loses none."""
    return execute(node, workplace, _Counting(monitor, os.environ[STEPS]))


class _Counting:
    """A monitor that writes a byte for every step."""

    def __init__(self, monitor: Monitor, path: str) -> None:
        self._monitor = monitor
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def report(self, progress: Progress) -> None:
        self._monitor.report(progress)

    def step(self, done: int, total: int) -> None:
        os.write(self._file, b".")
        self._monitor.step(done, total)

    def should_stop(self) -> bool:
        return self._monitor.should_stop()


@dataclass
class Round:
    """One sweep from an empty store to its end."""

    folder: Path
    engine: str
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        settings = {**SWEEP, "compute": {**SWEEP["compute"], "engine": self.engine}}
        (self.folder / "chaos.yaml").write_text(yaml.safe_dump(settings))
        self.token = uuid.uuid4().hex

    def start(self) -> subprocess.Popen[bytes]:
        """The sweep's command, once more."""
        self.starts += 1
        paths = [str(Path(__file__).parent), *sys.path]
        environment = {
            **os.environ,
            TOKEN: self.token,
            STEPS: str(self.folder / "steps"),
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
        }
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", DRIVER, "chaos.yaml"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def processes(self, title: str = "") -> list[int]:
        """Processes of this round, by the token in their environment, whose command begins so."""
        return [pid for pid in all_processes() if has_token(pid, self.token) and command_of(pid).startswith(title)]

    def end_all(self) -> None:
        """End what is left of a driver that was killed: Ray's own processes notice it within seconds."""
        deadline = time.monotonic() + 20
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def steps(self) -> int:
        """Optimiser steps done so far, repeated ones included."""
        steps = self.folder / "steps"
        return steps.stat().st_size if steps.exists() else 0

    def records(self) -> bytes:
        return (self.folder / ".gkd_store" / "sweeps" / "chaos" / "records.jsonl").read_bytes()

    def artefacts(self) -> dict[str, dict[str, str]]:
        """Key -> checksums of its tensors."""
        store = LocalStore(self.folder / ".gkd_store")
        manifests = {key: store.get(key).manifest for key in store.keys()}  # noqa: SIM118 - a store is no dict
        return {
            key: {name: one["sha256"] for name, one in manifest["files"].items() if name.endswith(".safetensors")}
            for key, manifest in manifests.items()
        }

    def tables(self) -> dict[str, bytes]:
        out = self.folder / "results" / "chaos"
        return {name: (out / name).read_bytes() for name in TABLES if (out / name).exists()}


def all_processes() -> Iterator[int]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            yield int(path.name)


def has_token(pid: int, token: str) -> bool:
    try:
        return f"{TOKEN}={token}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def disturb(one: Round, kills: int, draws: random.Random, longest: float, say: bool = True) -> None:
    """Run a round to its end, with up to so many kills."""
    kinds = ["driver", "trial", "worker"] if one.engine == "ray" else ["driver"]
    driver = one.start()
    turn = 0
    while sum(one.kills.values()) < kills:
        wanted = kinds[turn % len(kinds)]
        turn += 1
        if draws.random() < AT_WORK and not at_work(one, driver):
            break
        if waited(driver, draws.uniform(0.0, longest)):
            break
        victim = driver.pid if wanted == "driver" else found(one, driver, wanted, draws)
        if victim is None:
            break
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            one.kills[wanted] += 1
            if say:
                print(f"  kill {sum(one.kills.values())}: {wanted}, after {one.steps} steps", flush=True)
        if wanted == "driver":
            driver.wait()
            one.end_all()
            driver = one.start()
    if driver.wait() != 0:
        raise SystemExit(f"the sweep ended with code {driver.returncode}; see {one.folder / 'log'}")
    one.end_all()


def at_work(one: Round, driver: subprocess.Popen[bytes]) -> bool:
    """Wait until a training has gone on by a step; false when the sweep has ended before."""
    before = one.steps
    while one.steps == before:
        if waited(driver, 0.1):
            return False
    return True


def waited(driver: subprocess.Popen[bytes], seconds: float) -> bool:
    """Let the sweep run; whether it ended meanwhile."""
    with suppress(subprocess.TimeoutExpired):
        driver.wait(seconds)
        return True
    return False


def found(one: Round, driver: subprocess.Popen[bytes], kind: str, draws: random.Random) -> int | None:
    """A process to kill, of this kind if there is one within a while, else any worker; none when the sweep has ended."""
    for patience, title in ((10.0, TITLES[kind]), (60.0, TITLES["worker"])):
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if pids := sorted(one.processes(title)):
                return draws.choice(pids)
            if waited(driver, 0.3):
                return None
    return None


def differences(disturbed: Round, calm: Round) -> list[str]:
    """What is not equal byte for byte."""
    lines = list(zip(disturbed.records().splitlines(), calm.records().splitlines(), strict=False))
    found = [f"record {number}: {a!r} / {b!r}" for number, (a, b) in enumerate(lines) if a != b]
    if disturbed.records().count(b"\n") != calm.records().count(b"\n"):
        found.append("another number of records")
    mine, theirs = disturbed.artefacts(), calm.artefacts()
    found += [f"artefact {key}: other weights" for key in mine.keys() & theirs.keys() if mine[key] != theirs[key]]
    found += [f"artefact {key} is missing" for key in theirs.keys() - mine.keys()]
    tables, calm_tables = disturbed.tables(), calm.tables()
    return found + [f"table {name}" for name in calm_tables if tables.get(name) != calm_tables[name]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["ray", "inprocess"], default="ray")
    parser.add_argument("--longest", type=float, default=8.0, help="longest time to the next kill, seconds")
    parser.add_argument("--folder", type=Path, help="where to run and leave everything (default: a temporary folder)")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="gkd_chaos_"))
    draws, begun = random.Random(options.seed), time.monotonic()
    try:
        calm = Round(folder / "calm", options.engine)
        disturb(calm, 0, draws, options.longest)
        records, needed = calm.records().count(b"\n"), calm.steps
        print(f"undisturbed: {time.monotonic() - begun:.0f} s, {records} records, {needed} optimiser steps", flush=True)
        kills, done, starts, problems, rounds = Counter[str](), 0, 0, list[str](), 0
        while kills.total() < options.kills:
            one = Round(folder / f"round-{rounds}", options.engine)
            disturb(one, options.kills - kills.total(), draws, options.longest)
            new = differences(one, calm)
            kills, done, starts, rounds = kills + one.kills, done + one.steps, starts + one.starts, rounds + 1
            problems += [f"round {rounds}: {line}" for line in new]
            print(f"round {rounds}: {dict(one.kills)}, {one.starts} starts, {len(new)} differences", flush=True)
        extra = 100 * (done / (needed * rounds) - 1)
        killed = ", ".join(f"{count} {kind}s" for kind, count in sorted(kills.items()))
        summary = {
            "kills": dict(kills),
            "rounds": rounds,
            "starts": starts,
            "records": records,
            "differences": len(problems),
            "extra_work_percent": round(extra, 1),
            "minutes": round((time.monotonic() - begun) / 60, 1),
        }
        print(f"{kills.total()} kills ({killed}) in {rounds} sweeps of {records} records: {len(problems)} differences")
        print(f"extra work: {extra:.1f} % of {needed * rounds} optimiser steps; {json.dumps(summary)}")
        print(*problems[:20], sep="\n")
        return 1 if problems else 0
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

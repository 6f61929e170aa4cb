"""docs/cluster/slurm.sh with stand-ins for Slurm's own commands: a real Ray, all of whose nodes are this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "cluster" / "slurm.sh"
SHIMS = Path(__file__).parent / "data" / "slurm"
JOB = f"{os.getpid()}"
COUNT = """
import os, ray, sys
ray.init(logging_level="ERROR")
print("nodes", sum(node["Alive"] for node in ray.nodes()), "cpus", ray.cluster_resources()["CPU"])
print("answer", ray.get(ray.remote(lambda: 6 * 7).remote()))
print("mode", os.environ["RAY_AUTH_MODE"], oct(os.stat(os.environ["RAY_AUTH_TOKEN_PATH"]).st_mode & 0o777))
os.environ["RAY_AUTH_TOKEN_PATH"] = sys.argv[1]
"""
STRANGER = """
import ray
try:
    ray.init(logging_level="ERROR")
except Exception as error:
    print("refused", type(error).__name__)
else:
    print("let in")
"""
WAIT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("stopped cleanly", flush=True), sys.exit(130)))
print("ready", flush=True)
time.sleep(600)
"""

pytestmark = [pytest.mark.slow, pytest.mark.ray]


class Job:
    """A batch job: ``run`` waits for its end, ``start`` does not."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "slurm.log"
        self.log.touch()

    def start(self, *command: str, nodes: str = "n1,n2", **environment: str) -> subprocess.Popen[str]:
        own = {
            "SLURM_JOB_ID": JOB,
            "SLURM_JOB_NODELIST": nodes,
            "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_CPUS_PER_TASK": "1",
            "SHIM_LOG": str(self.log),
            "GKD_VENV": sys.prefix,
            "GKD_HEAD_IP": "127.0.0.1",
            "PATH": f"{SHIMS}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "GKD_"))
        }
        return subprocess.Popen(
            ["bash", str(SCRIPT), *command],
            env={**inherited, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def asked(self) -> list[list[str]]:
        """What Slurm was asked for: words of each line."""
        return [line.split() for line in self.log.read_text().splitlines()]

    def processes(self) -> list[int]:
        """All that the job started and that runs."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = (process / "environ").read_bytes().split(b"\0")
                running = (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if f"SLURM_SUBMIT_DIR={self.folder}".encode() in environment and running:
                    found.append(int(process.name))
        return found

    def leftovers(self) -> list[str]:
        return [str(path) for path in [*Path("/tmp").glob(f"gkd-{JOB}-*"), *self.folder.glob("*.token")]]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    for number in job.processes():
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


@pytest.mark.timeout(600)
def test_a_command_finds_all_nodes_and_nothing_is_left_when_it_ends(job: Job, tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(COUNT)
    (tmp_path / "stranger.py").write_text(STRANGER)
    (tmp_path / "other").write_text("0" * 64)
    both = f"python {tmp_path}/count.py {tmp_path}/other && RAY_AUTH_TOKEN_PATH={tmp_path}/other timeout 60 python {tmp_path}/stranger.py; exit 7"
    running = job.start("bash", "-c", both)
    output, errors = running.communicate(timeout=560)
    ray_log = "".join(path.read_text() for path in tmp_path.glob("*.ray.log"))
    assert "nodes 2 cpus 2.0\nanswer 42\nmode token 0o600\n" in output, errors + ray_log
    assert "let in" not in output
    assert running.returncode == 7, "the job ends as its command did"
    assert job.processes() == [] and job.leftovers() == []
    steps = [words[1:2] + words[3:5] for words in job.asked()]
    assert steps[-2:] == [["n1", "rm", "-rf"], ["n2", "rm", "-rf"]]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)], ids=["time is up", "cancelled"]
)
def test_a_job_stops_cleanly_and_goes_into_the_queue_again_only_when_its_time_was_up(
    job: Job, number: signal.Signals, again: bool
) -> None:
    running = job.start("python", "-c", WAIT, nodes="n1", GKD_REQUEUE="1")
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n", running.communicate()[1]
    running.send_signal(number)
    output, _ = running.communicate(timeout=120)
    assert output == "stopped cleanly\n" and running.returncode == 130
    assert (["scontrol", "requeue", JOB] in job.asked()) is again
    assert job.processes() == [] and job.leftovers() == []


@pytest.mark.timeout(300)
def test_a_head_that_does_not_start_ends_the_job(job: Job, tmp_path: Path) -> None:
    broken = tmp_path / "venv" / "bin"
    broken.mkdir(parents=True)
    (broken / "python").symlink_to(sys.executable)
    (broken / "ray").write_text("#!/bin/sh\necho no ray here\nexit 3\n")
    (broken / "ray").chmod(0o755)
    begin = time.monotonic()
    running = job.start("true", nodes="n1", GKD_VENV=str(tmp_path / "venv"))
    _, errors = running.communicate(timeout=280)
    assert running.returncode == 1 and "Ray has ended on a node" in errors and time.monotonic() - begin < 200
    assert job.processes() == [] and job.leftovers() == []


def test_without_a_command_or_a_job_it_says_what_it_is_for(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"]}
    for arguments, word in (([], "usage: sbatch"), (["true"], "sbatch")):
        done = subprocess.run(["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode != 0 and word in done.stderr

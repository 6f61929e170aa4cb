"""docs/cluster/slurm.sh with stand-ins for Slurm's commands: once with a real Ray, all of whose nodes are this machine."""

from __future__ import annotations

import os
import shutil
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

    def fake_ray(self, start: str) -> str:
        """A virtual environment whose ``ray`` is a shell command, and a node is there once that has begun; its folder."""
        programs = self.folder / "venv" / "bin"
        programs.mkdir(parents=True)
        python = f'#!/bin/bash\ncase "$2" in *ray.nodes*) ls "$SHIM_LOG".up.* | wc -l ;; *) exec {sys.executable} "$@" ;; esac\n'
        for name, text in (("python", python), ("ray", f'#!/bin/bash\ntouch "$SHIM_LOG.up.$$"\n{start}\n')):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        return str(programs.parent)

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

    def soon_idle(self, seconds: float = 30.0) -> bool:
        """Whether nothing of it runs any more. Ray's agents end by themselves, seconds after the node they served."""
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def leftovers(self) -> list[str]:
        return [str(path) for path in [*Path("/tmp").glob(f"gkd-{JOB}-*"), *self.folder.glob("*.token")]]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    for number in job.processes():
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    for path in job.leftovers():
        shutil.rmtree(path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_command_finds_all_nodes_and_nothing_is_left_when_it_ends(job: Job, tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(COUNT)
    (tmp_path / "stranger.py").write_text(STRANGER)
    (tmp_path / "other").write_text("0" * 64)
    count = f"python {tmp_path}/count.py"
    stranger = f"RAY_AUTH_TOKEN_PATH={tmp_path}/other timeout 60 python {tmp_path}/stranger.py"
    for _ in range(
        4
    ):  # Ray gives up when it has not started in 30 s, which no option makes longer and a busy machine may need
        running = job.start("bash", "-c", f"{count} && {stranger}; exit 7")
        output, errors = running.communicate()
        errors += "".join(path.read_text() for path in tmp_path.glob("*.ray.log"))
        assert job.soon_idle(), [Path(f"/proc/{one}/cmdline").read_bytes() for one in job.processes()]
        assert job.leftovers() == []
        if output or "imed out" not in errors:
            break
    assert output.startswith("nodes 2 cpus 2.0\nanswer 42\nmode token 0o600\n"), errors
    assert "let in" not in output
    assert running.returncode == 7, "the job ends as its command did"


@pytest.mark.parametrize(
    ("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)], ids=["time is up", "cancelled"]
)
def test_a_job_stops_cleanly_and_goes_into_the_queue_again_only_when_its_time_was_up(
    job: Job, number: signal.Signals, again: bool
) -> None:
    venv = job.fake_ray("exec sleep 600")
    running = job.start("python", "-c", WAIT, GKD_VENV=venv, GKD_REQUEUE="1")
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n", running.communicate()[1]
    if number == signal.SIGTERM:  # Slurm tells every process of a job that is cancelled
        lines = {one: Path(f"/proc/{one}/cmdline").read_bytes() for one in job.processes()}
        (command,) = [one for one, line in lines.items() if b"stopped cleanly" in line and b"slurm.sh" not in line]
        os.kill(command, number)
    running.send_signal(number)
    output, _ = running.communicate(timeout=60)
    assert output == "stopped cleanly\n" and running.returncode == 130
    assert (["scontrol", "requeue", JOB] in job.asked()) is again
    assert job.processes() == [] and job.leftovers() == []


def test_slurm_is_asked_for_one_head_and_one_worker_on_each_other_node(job: Job) -> None:
    venv = job.fake_ray('echo "$@" >>"$SHIM_LOG.ray"; mkdir "$GKD_RAY_FOLDER/of-$SLURMD_NODENAME"; exec sleep 600')
    all_three = 'until (($(wc -l <"$SHIM_LOG.ray") == 3)); do sleep 0.1; done; echo "$RAY_ADDRESS"'
    running = job.start("bash", "-c", all_three, nodes="n1,n2,n3", GKD_VENV=venv, SLURM_GPUS_ON_NODE="2")
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    steps = [words[1] for words in job.asked() if words[3] == "bash"]
    assert steps[0] == "n1" and sorted(steps) == ["n1", "n2", "n3"]
    started = sorted((job.folder / "slurm.log.ray").read_text().splitlines(), key=lambda line: "--head" not in line)
    address = output.strip()
    assert f"--port={address.partition(':')[2]} " in started[0] and "--dashboard-host=127.0.0.1" in started[0]
    assert len(started) == 3 and all(f"--address={address} " in line for line in started[1:])
    for line in started:
        assert "--node-ip-address=127.0.0.1 " in line and "--num-cpus=1 " in line and "--num-gpus=2 " in line
        assert f"--temp-dir=/tmp/gkd-{JOB}-" in line
    assert job.processes() == [] and job.leftovers() == []


def test_a_head_that_does_not_start_ends_the_job(job: Job) -> None:
    venv = job.fake_ray("echo no ray here; exit 3")
    (Path(venv) / "bin" / "python").unlink()
    (Path(venv) / "bin" / "python").symlink_to(sys.executable)
    running = job.start("true", nodes="n1", GKD_VENV=venv)
    output, errors = running.communicate(timeout=250)
    assert running.returncode == 1 and "Ray has ended on a node" in errors and output == ""
    assert job.processes() == [] and job.leftovers() == []


def test_without_a_command_or_a_job_it_says_what_it_is_for(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"]}
    for arguments, word in (([], "usage: sbatch"), (["true"], "sbatch")):
        done = subprocess.run(["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode != 0 and word in done.stderr

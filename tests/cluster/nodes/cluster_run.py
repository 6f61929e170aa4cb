"""A sweep on a cluster that `ray up` made of three machines, one of which is lost in the middle; with the log of it.

``python tests/cluster/nodes/cluster_run.py FILE.md`` writes the log.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from equality import different_records, different_tables
from hosts import Host, Network, network

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
ON_PREMISES = Path("docs/cluster/onprem.yaml")
BIN = Path(sys.executable).parent
NAMES = ("head", "worker1", "worker2")
TRIALS = 3  # of ``ray up``: Ray gives a node half a minute to start, which a machine busy with other work may not keep

RAY_OPTIONS = {"head": "--num-cpus=0", "worker1": "--num-cpus=2", "worker2": "--num-cpus=2"}
"""``~/ray_options`` of each machine. No CPU on the head keeps worker groups off it; each worker could hold both groups."""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "RAY_health_check_period_ms": "1000",  # a lost machine is noticed in about ten seconds, by default in a minute
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",  # workers end that long after the head has ended, by default 60
    "PYTHONDONTWRITEBYTECODE": "1",
}

SMALL = (
    "data.domains=[phantom_clear, phantom_dim]",
    "data.stress={corruptions: [gamma], strengths: [1], images: 1}",
    "pairs.sources=[phantom_clear]",
    "seeds=[0]",
    "methods.controls=[]",
    "stages.teacher.epochs=8",
    "stages.teacher.epoch_steps=6",
    "stages.teacher.batch=8",
    "stages.baseline.epochs=8",
    "stages.baseline.epoch_steps=6",
    "stages.baseline.batch=8",
    "stages.baseline.optimiser.lr=0.01",
    "stages.semantic.autoencoder={epochs: 1, epoch_steps: 6, batch: 8}",
    "stages.semantic.vector={epochs: 1, epoch_steps: 6, batch: 8}",
    "stages.alignment={epochs: 2, epoch_steps: 6, batch: 8, cached_tiles: 32}",
    "stages.distill.epochs=2",
    "stages.distill.epoch_steps=6",
    "stages.stress.fsd_tiles=20",
    "stages.evaluate={overlap: 0.0, overlays: 1, fixed_pictures: 1, fsd_tiles: 20, fsd_bootstrap: 2, vectors: 16}",
    "stages.efficiency.repeats=3",
    "search.trials=2",
    "search.order=fixed",
    "tracking.enabled=false",
)
"""The quickstart sweep made so small that it takes a minute of one core."""


@dataclass
class Report:
    """What happened.

    Attributes:
        folder: of the network, removed since.
        cluster: the cluster file, as given to ``ray up``.
        commands: (command, exit code, seconds) of what was run on the laptop.
        states: lines of ``watch.py``.
        moments: (seconds since ``ray up``, what happened), oldest first.
        compared: records of the sweep on one machine.
        lost: address of the lost machine.
        exit: exit code of the sweep.
        output: its output.
        records, tables: what differs from the sweep on one machine.
        left: machine -> command lines of Ray's processes after ``ray down``.
    """

    folder: str = ""
    cluster: str = ""
    commands: list[tuple[str, int, float]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    moments: list[tuple[float, str]] = field(default_factory=list)
    lost: str = ""
    exit: int | None = None
    output: str = ""
    compared: int = 0
    records: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)


class ClusterRun:
    """The run, step by step."""

    def __init__(self, net: Network) -> None:
        self.net, self.report = net, Report(str(net.shared.parent))
        self.head, self.workers = net.hosts[0], net.hosts[1:]
        self.begin = time.time()
        self.file = net.laptop.home / "cluster.yaml"

    # ------------------------------------------------------------ steps

    def prepare(self) -> None:
        """What the top of the cluster file asks for, on the laptop and on every machine."""
        token = self.net.laptop.home / ".ray" / "auth_token"
        token.parent.mkdir()
        token.write_text(os.urandom(32).hex())
        token.chmod(0o600)
        for host in self.net.hosts:
            (host.home / "gkd_venv").symlink_to(BIN.parent)
            (host.home / "ray_options").write_text(f"{RAY_OPTIONS[host.name]} --object-store-memory=100000000")
        self.report.cluster = cluster_file(self.head, self.workers, self.net.key)
        self.file.write_text(self.report.cluster)

    def up(self) -> None:
        """``ray up``, and wait until every machine has joined."""
        for trials_left in reversed(range(TRIALS)):
            try:
                self.on_laptop(f"ray up --yes {self.file}")
                break
            except subprocess.CalledProcessError:
                if not trials_left:
                    raise
        self.note("ray up has returned")
        words = [
            str(BIN / "python"),
            str(self.head.home / "gkd_bench" / HERE.relative_to(REPOSITORY) / "watch.py"),
            "600",
        ]
        self.watch = self.head.start(*words, log=self.net.shared / "watch.jsonl")
        self.wait_for("all machines have joined", lambda state: sum(state["nodes"].values()) == len(NAMES), 300)

    def start_sweep(self) -> None:
        """The sweep, as the top of the cluster file says."""
        words = shlex.join(sweep_words(self.net.shared / "store", self.net.shared / "results"))
        command = f"cd ~/gkd_bench && RAY_ADDRESS=auto gkd-bench sweep {words}"
        self.sweep_command = f"ray exec {self.file} {shlex.quote(command)}"
        self.sweep = self.net.laptop.start(
            "sh", "-c", self.local(self.sweep_command), log=self.net.shared / "sweep.log"
        )
        self.sweep_begin = time.time()
        self.note("the sweep is started with ray exec")

    def lose_a_machine(self) -> None:
        """Kill every process of a worker machine while all groups are in the middle of a stage."""

        def busy(state: dict[str, Any]) -> bool:
            epochs = [epoch for _, epoch, _ in state["running"].values()]
            return len(epochs) == len(state["groups"]) == 2 and min(epochs) >= 1 and len(state["workers"]) == 2

        state = self.wait_for("both groups have finished an epoch of a stage", busy, 600)
        self.report.lost = state["workers"][0]
        lost = next(host for host in self.workers if host.address == self.report.lost)
        doing = "; ".join(f"{group}: {name}, epoch {epoch}" for group, (name, epoch, _) in state["running"].items())
        where = " and ".join(sorted(set(state["workers"])))
        self.note(f"running on {where}: {doing}")
        lost.kill()
        self.note(f"{lost.name} ({lost.address}) is killed")

    def end(self) -> None:
        """Wait for the lost machine to be noticed, for the groups to be back, and for the end of the sweep."""
        lost = self.report.lost
        self.wait_for(f"Ray says that {lost} is dead", lambda state: not state["nodes"][lost], 120)

        def back(state: dict[str, Any]) -> bool:
            again = max(state["groups"].values(), default=0) == 2  # a new process counts once its torch is loaded
            return again and len(state["workers"]) == 2 and lost not in state["workers"]

        state = self.wait_for("every group is up again", back, 300)
        starts = ", ".join(f"{group} {count}" for group, count in sorted(state["groups"].items()))
        self.note(f"starts of the groups so far: {starts}; both on {state['workers'][0]}")
        self.report.exit = self.sweep.wait(900)
        self.report.commands.append((self.sweep_command, self.report.exit, time.time() - self.sweep_begin))
        self.note(f"the sweep has ended with exit code {self.report.exit}")
        self.watch.wait(60)

    def down(self) -> None:
        """``ray down``, and what is left on the machines once their Rays have had time to end."""
        self.on_laptop(f"ray down --yes {self.file}")
        self.note("ray down has returned")
        deadline = time.monotonic() + 120
        while any(self.rays().values()) and time.monotonic() < deadline:
            time.sleep(0.5)
        self.report.left = self.rays()
        self.note("no Ray process is left on any machine" if not any(self.report.left.values()) else "Ray is left")

    def rays(self) -> dict[str, list[str]]:
        """Machine -> command lines, of everything that runs there besides its first process and sshd."""
        return {
            host.name: [line for line in host.processes().values() if "sshd" not in line and "/boot " not in line]
            for host in self.net.hosts
        }

    # ------------------------------------------------------------ means

    def local(self, command: str) -> str:
        """A command line of the laptop, where the environment is active and the repository is the current folder."""
        return f"cd {shlex.quote(str(REPOSITORY))} && PATH={BIN}:$PATH {command}"

    def on_laptop(self, command: str) -> None:
        """Run a command on the laptop; its exit code is kept, its output raised when it fails."""
        start = time.time()
        self.net.laptop.run("sh", "-c", self.local(command), seconds=600)
        self.report.commands.append((command, 0, time.time() - start))

    def note(self, event: str, when: float | None = None) -> None:
        """Add to the moments."""
        self.report.moments.append(((when or time.time()) - self.begin, event))

    def wait_for(self, event: str, condition: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        """Wait for a line of ``watch.py``, of those not looked at yet, that fits; note its time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            lines = (self.net.shared / "watch.jsonl").read_text().splitlines()
            for line in lines[len(self.report.states) :]:
                with suppress(ValueError):
                    state = json.loads(line)
                    self.report.states.append(state)
                    if condition(state):
                        self.note(event, state["time"])
                        return state
            if self.watch.poll() is not None:
                break
            time.sleep(0.2)
        raise AssertionError(f"not within {seconds:g} s: {event}\n{self.logs()}")

    def logs(self) -> str:
        """The end of everything that was written, for an error message."""
        ends = []
        for name in ("watch.jsonl", "sweep.log"):
            path = self.net.shared / name
            ends.append(f"--- {name}\n" + (path.read_text(errors="replace")[-3000:] if path.exists() else ""))
        return "\n".join(ends)


def cluster_file(head: Host, workers: Sequence[Host], key: Path) -> str:
    """The shipped cluster file for machines at hand, its lines marked CHANGE changed, and nothing installed."""
    text = (REPOSITORY / ON_PREMISES).read_text().replace("10.0.0.10", head.address)
    settings = yaml.safe_load(text)
    settings["provider"]["worker_ips"] = [worker.address for worker in workers]
    settings["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    settings["setup_commands"] = [line for line in settings["setup_commands"] if "pip install" not in line]
    return yaml.safe_dump(settings, sort_keys=False, width=200)


def sweep_words(store: Path, results: Path) -> list[str]:
    """Arguments of the sweep."""
    places = (f"storage.root={store}", f"storage.results={results}")
    return ["sweeps/quickstart.yaml", *(word for one in (*SMALL, *places) for word in ("--set", one))]


def start_on_one_machine(folder: Path) -> subprocess.Popen[bytes]:
    """The same sweep in one process on this machine."""
    words = [*sweep_words(folder / "store", folder / "results"), "--set", "compute.engine=inprocess"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = ["nice", "-n", "10", sys.executable, "-m", "gkd_bench.sweep", *words]  # the cluster comes first
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)


def run_with_a_lost_machine() -> Report:
    """Everything."""
    with (
        tempfile.TemporaryDirectory(prefix="gkd_one_machine_") as name,
        network(NAMES, environment(), visible()) as net,
    ):
        folder, run = Path(name), ClusterRun(net)
        run.prepare()
        run.up()
        alone = start_on_one_machine(folder)
        try:
            run.start_sweep()
            run.lose_a_machine()
            run.end()
            run.report.output = (net.shared / "sweep.log").read_text(errors="replace")
            run.down()
            assert alone.wait(900) == 0, (folder / "log").read_text()[-3000:]
            compare(run.report, folder, net.shared)
        finally:
            alone.kill()
            alone.wait()
    return run.report


def compare(report: Report, one: Path, other: Path) -> None:
    """Enter what differs between the sweep on one machine and the one on the cluster."""
    records, results = Path("store/sweeps/quickstart/records.jsonl"), Path("results/quickstart")
    report.compared = len((one / records).read_text().splitlines())
    report.records = different_records(one / records, other / records)
    report.tables = different_tables(one / results, other / results)


def environment() -> dict[str, str]:
    """Of all machines; the code is what ``ray up`` has copied to them."""
    return {**ENVIRONMENT, "PYTHONPATH": "{home}/gkd_bench"}


def visible() -> list[Path]:
    """What the machines need of this one's files."""
    return [REPOSITORY, BIN.parent, Path(sys.base_prefix)]


# ---------------------------------------------------------------- the log


def markdown(report: Report, folder: str) -> str:
    """The log of a run; ``folder`` is what stands for <tmp> in it."""
    commands = "\n".join(
        f"$ {command}\n  exit code {code}, {seconds:.0f} s" for command, code, seconds in report.commands
    )
    moments = "\n".join(f"| {seconds:.1f} | {event} |" for seconds, event in sorted(report.moments))
    options = "\n".join(f"{name}: {text}" for name, text in RAY_OPTIONS.items())
    settings = "\n".join(f"{name}={ENVIRONMENT[name]}" for name in sorted(ENVIRONMENT) if name.startswith("RAY_"))
    left = sum(len(lines) for lines in report.left.values())
    text = f"""# A lost machine

The log of one run of `tests/cluster/nodes/cluster_run.py`, which wrote it. Three machines, each a set of Linux namespaces with its own address, processes,
`/tmp`, home and sshd, on one computer with {os.cpu_count()} CPU cores; a fourth one is the laptop. They see one shared folder and each other, and nothing else.

## Commands, on the laptop

```text
{commands}
```

## What happened

| seconds | |
| ---: | :--- |
{moments}

## Compared with the same sweep in one process

* {report.compared} records of `records.jsonl`, byte for byte: {len(report.records)} differ.
* Tables (CSV and LaTeX, but for seconds and latencies): {len(report.tables)} differ.
* Ray processes on the machines after `ray down`: {left}.

## Cluster file

[`onprem.yaml`](onprem.yaml) with its lines marked CHANGE changed, and without the step that installs packages, since the machines see the same installation:

```yaml
{report.cluster.rstrip()}
```

`~/ray_options` of the machines, and what their shells export:

```text
{options}

{settings}
```
"""
    for path, name in ((folder, "<tmp>"), (str(REPOSITORY), "<repository>"), (str(BIN.parent), "<venv>")):
        text = text.replace(path, name)
    return text


if __name__ == "__main__":
    written = run_with_a_lost_machine()
    Path(sys.argv[1]).write_text(markdown(written, written.folder))
    sys.exit(bool(written.exit or written.records or written.tables or any(written.left.values())))

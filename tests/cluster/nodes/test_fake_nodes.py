"""Machines with a GPU that come when a trial waits for one and go when the sweep has ended, on Ray's fake provider."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_cloud import FakeCloud

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

GPU_TYPE = {"gpu": {"resources": {"CPU": 2, "GPU": 1}, "labels": {"pool": "gpu"}, "max_workers": 2}}

SWEEP = """
import json, sys, threading, time
from pathlib import Path
from fake_stages import artefact, final_values, history, node
from gkd_bench.cluster.broker import NAMESPACE
from gkd_bench.cluster.ray_engine import Places, RayEngine
from gkd_bench.cluster.search import Study
from gkd_bench.cluster.session import RaySession
from gkd_bench.cluster.tune_search import Job, TrialStages, run_study_on_ray
from gkd_bench.config.schema import Choice, Compute, Pool, Search
from gkd_bench.store.records import RecordLog
import ray
from ray.train.torch import TorchConfig

address, store = sys.argv[1], Path(sys.argv[2])
compute = Compute(address=address, pools=(Pool(cpus=1, gpus=1, groups=2),))
has = lambda key: artefact(store, key).exists()
search = Search(sampler="grid", trials=4, concurrency=2, scheduler="none")
space = {"value": Choice(choice=(0.3, 0.4, 0.5, 0.6))}
study = Study("s", space, search, 0, RecordLog(store / "study.jsonl"), {"value": 0.3})

def make(trial):
    training = node(epochs=2, seconds=0.5, **trial.params)
    return TrialStages((training,), training.key)

class GlooEngine(RayEngine):  # Ray Train takes NCCL where it is given a GPU, and these GPUs are only declared
    def _trainer(self, plan, pool):
        trainer = super()._trainer(plan, pool)
        trainer.backend_config = TorchConfig(backend="gloo")
        return trainer

def gpus():
    return sum(node["Alive"] and "GPU" in node["Resources"] for node in ray.nodes())

def say(event, **more):
    print(json.dumps({"time": time.time(), "event": event, "gpu_nodes": gpus(), **more}), flush=True)

def watch(wanted, seconds):
    deadline = time.monotonic() + seconds
    while gpus() != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    say(f"{gpus()} GPU nodes")

with RaySession(compute, store=store) as session:
    say("joined")
    with GlooEngine(session, compute, Places(str(store), store, runner="fake_stages:execute"), has) as engine:
        watcher = threading.Thread(target=watch, args=(2, 300))
        watcher.start()
        run_study_on_ray(study, Job(make, lambda k: final_values(store, k), lambda k: history(store, k), has), engine)
        watcher.join()
        nodes = {node["NodeID"]: node for node in ray.nodes()}
        from ray.util.state import list_actors
        workers = list_actors(address=address, filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")])
        labels = sorted(nodes[worker.node_id]["Labels"].get("pool", "") for worker in workers)
        say("trials have ended", workers=labels, states=[trial.state for trial in study.finished()])
    say("groups have ended")
    watch(0, 300)
"""


@pytest.fixture
def cloud(tmp_path: Path) -> FakeCloud:
    return FakeCloud(tmp_path, GPU_TYPE, idle_seconds=5)


def sweep(cloud: FakeCloud, store: Path) -> list[dict[str, Any]]:
    """The events that the sweep prints."""
    command = [sys.executable, "-c", SWEEP, cloud.address, str(store)]
    done = subprocess.run(command, env=cloud.environment, capture_output=True, text=True, timeout=700)
    assert done.returncode == 0, done.stdout + done.stderr + cloud.log()
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"time"')]


def test_gpu_machines_come_for_waiting_trials_and_go_after_the_sweep(cloud: FakeCloud, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with cloud:
        events = sweep(cloud, tmp_path / "store")
        heard = [(event["event"], event["gpu_nodes"]) for event in events]
        assert heard == [
            ("joined", 0),
            ("2 GPU nodes", 2),
            ("trials have ended", 2),
            ("groups have ended", 2),
            ("0 GPU nodes", 0),
        ]
        ended = events[2]
        assert ended["states"] == ["complete"] * 4
        assert ended["workers"] == ["gpu", "gpu"]
    assert not cloud.processes()

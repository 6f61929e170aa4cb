"""Ctrl-C, or SIGTERM, for which Ray has a handler of its own, in the middle of a study on Ray, and the same command again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_stages import node, runs

from gkd_bench.store.records import RecordLog

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SWEEP = """
import sys
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children without
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the main job does
from pathlib import Path
from fake_stages import artefact, final_values, history, node
from gkd_bench.cluster.ray_engine import Places, RayEngine
from gkd_bench.cluster.search import Study
from gkd_bench.cluster.session import RaySession
from gkd_bench.cluster.tune_search import Job, TrialStages, run_study_on_ray
from gkd_bench.config.schema import Choice, Compute, Search
from gkd_bench.store.records import RecordLog

store, compute = Path(sys.argv[1]), Compute()
has = lambda key: artefact(store, key).exists()
search = Search(sampler="grid", trials=2, scheduler="none")
study = Study("s", {"value": Choice(choice=(0.5, 0.6))}, search, 0, RecordLog(store / "study.jsonl"), {"value": 0.5})
def make(trial):
    training = node(epochs=4, seconds=0.75, **trial.params)
    return TrialStages((training,), training.key)
with RaySession(compute) as session:
    with RayEngine(session, compute, Places(store, store, runner="fake_stages:execute"), has) as engine:
        try:
            run_study_on_ray(study, Job(make, lambda key: final_values(store, key), lambda key: history(store, key), has), engine)
        except KeyboardInterrupt:
            print("interrupted")
            raise SystemExit(3)
"""


def start(store: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SWEEP, str(store)]
    with (store / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_soon_keeps_the_checkpoint_and_the_next_run_goes_on(tmp_path: Path, number: int) -> None:
    first = node(epochs=4, seconds=0.75, value=0.5)
    checkpoint = tmp_path / f"{first.key}.checkpoint"
    sweep = start(tmp_path)
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and sweep.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    sweep.send_signal(number)
    assert sweep.wait(60) == 3, (tmp_path / "log").read_text()
    assert 1 <= int(checkpoint.read_text()) < 4
    assert start(tmp_path).wait(120) == 0, (tmp_path / "log").read_text()
    ends = [r for r in RecordLog(tmp_path / "study.jsonl").read() if r["record"] == "trial_end"]
    assert [(r["number"], r["state"], r["value/source_val"]) for r in ends] == [
        (0, "complete", 0.5),
        (1, "complete", 0.6),
    ]
    assert runs(tmp_path, first.key) == 2

from __future__ import annotations

from pathlib import Path

import pytest
from fake_stages import node

from gkd_bench.cluster import launch
from gkd_bench.cluster.launch import open_engine
from gkd_bench.cluster.ray_engine import Places
from gkd_bench.config.schema import Compute, Pool
from gkd_bench.stages.monitor import Monitor, Outcome, Workplace
from gkd_bench.store.node import StageNode


def test_stages_in_process_get_the_threads_of_their_own_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools = (
        Pool(stages=("evaluate", "semantic"), cpus=1),
        Pool(stages=("teacher", "baseline", "efficiency"), cpus=3),
        Pool(stages=("alignment", "distill", "stress"), cpus=2),
    )
    threads: dict[str, int] = {}

    def execute(stage: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
        threads[stage.kind] = workplace.threads
        assert (workplace.store, workplace.device) == (tmp_path, "cpu")
        return Outcome("done")

    monkeypatch.setattr(launch, "load_runner", lambda path: execute)
    compute = Compute(engine="inprocess", pools=pools)
    stages = [node(kind) for kind in ("teacher", "distill", "evaluate")]
    with open_engine(compute, Places(tmp_path, tmp_path), lambda key: False) as (engine, _):
        engine.submit(stages)
        engine.wait([stage.key for stage in stages])
    assert threads == {"teacher": 3, "distill": 2, "evaluate": 1}

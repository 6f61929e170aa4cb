"""Opens the engine that a sweep asks for, with its way to run a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from gkd_bench.cluster.engine import Engine, Execute, HasKey, load_runner
from gkd_bench.cluster.inprocess import InProcessEngine
from gkd_bench.cluster.ray_engine import Places
from gkd_bench.cluster.search import Study
from gkd_bench.cluster.tune_search import Job, run_study_inprocess, run_study_on_ray
from gkd_bench.config.schema import Compute, StageKind
from gkd_bench.stages.monitor import Monitor, Outcome, Workplace
from gkd_bench.store.artefacts import open_store
from gkd_bench.store.node import StageNode

RunStudy = Callable[[Study, Job, Any], None]


@contextmanager
def open_engine(compute: Compute, places: Places, has: HasKey) -> Iterator[tuple[Engine, RunStudy]]:
    """The engine named by ``compute.engine``, closed at the end; with it, what runs a study on it.

    Args:
        compute: engine, pools, retries.
        places: folders and stage runner.
        has: whether the store has a key.
    """
    if compute.engine == "inprocess":
        execute = with_pool_threads(load_runner(places.runner), compute)
        with InProcessEngine(execute, _workplace(places), has) as engine:
            yield engine, run_study_inprocess
        return
    from gkd_bench.cluster.ray_engine import RayEngine
    from gkd_bench.cluster.session import RaySession

    with (
        RaySession(compute, store=places.store) as session,
        RayEngine(session, compute, places, has) as ray_engine,
    ):
        yield ray_engine, run_study_on_ray


def _workplace(places: Places) -> Workplace:
    from gkd_bench.data.shelf import cache_of

    return Workplace(places.store, cache_of(open_store(places.store), places.cache))


def with_pool_threads(execute: Execute, compute: Compute) -> Execute:
    """The runner with as many threads for each stage as its pool has CPUs: the number is part of the stage's key."""

    def run(node: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
        threads = compute.pool_of(cast(StageKind, node.kind)).cpus
        return execute(node, replace(workplace, threads=threads), monitor)

    return run

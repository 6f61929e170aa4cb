"""Preparation of large sets of volumes on Ray: one task a volume, as many at once as there are CPUs.

Tasks run on the driver's machine: raw files and the cache need not be anywhere else. They ask Ray for no CPU, which a head may
have none of, and no stage runs beside them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gkd_bench.config.schema import Compute
from gkd_bench.data.stacks import Mapper, StackJob, StackNote, in_turn
from gkd_bench.errors import ClusterError

WORTH_BYTES = 256 * 2**20
"""Below this the start of a Ray session takes longer than it saves."""


def stack_mapper(compute: Compute, worth: int = WORTH_BYTES) -> Mapper:
    """In this process for what is small or with engine ``inprocess``; else tasks on the sweep's Ray, which is opened when the
    first job is there.

    Args:
        compute: engine and address of the sweep.
        worth: bytes of raw files from which Ray is used.
    """

    def run(function: Callable[[StackJob], StackNote], jobs: Sequence[StackJob]) -> Iterable[StackNote]:
        if compute.engine == "inprocess" or len(jobs) < 2 or raw_bytes(jobs) < worth:
            return in_turn(function, jobs)
        return _on_ray(compute, function, jobs)

    return run


def raw_bytes(jobs: Sequence[StackJob]) -> int:
    """Size of the files that jobs of one domain read."""
    raws = jobs[0].catalogue.open(jobs[0].domain).images()
    files = (path for job in jobs for path in raws[job.number].files())
    return sum(path.stat().st_size for path in files if path.is_file())


def _on_ray(
    compute: Compute, function: Callable[[StackJob], StackNote], jobs: Sequence[StackJob]
) -> Iterator[StackNote]:
    from gkd_bench.cluster.session import RaySession

    with RaySession(compute):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options: Any = {"num_cpus": 0, "max_retries": 2, "scheduling_strategy": here}
        task: Any = ray.remote(**options)(function)
        most = os.cpu_count() or 1
        waiting, pending = list(reversed(jobs)), list[Any]()
        while waiting or pending:
            while waiting and len(pending) < most:
                pending.append(task.remote(waiting.pop()))
            done, pending = ray.wait(pending, num_returns=1)
            try:
                notes = ray.get(done)
            except ray.exceptions.RayError as error:
                raise ClusterError(
                    f"preparing a volume failed: {error}; run the same command again to go on"
                ) from error
            yield from notes

"""Run one stage: skip what the store has, compute, publish on rank 0, drop the checkpoint. The door of this room."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch.distributed as dist

from gkd_bench.errors import GkdBenchError, StageError
from gkd_bench.stages.alignment import run_alignment
from gkd_bench.stages.collective import is_distributed
from gkd_bench.stages.context import StageContext, StageStopped
from gkd_bench.stages.distill import run_distill
from gkd_bench.stages.efficiency import run_efficiency
from gkd_bench.stages.evaluate import run_evaluate
from gkd_bench.stages.monitor import Monitor, Outcome, Workplace
from gkd_bench.stages.numerics import reproducible
from gkd_bench.stages.semantic import run_semantic
from gkd_bench.stages.stress import run_stress
from gkd_bench.stages.supervised import run_supervised
from gkd_bench.store.artefacts import Draft, Store, open_store
from gkd_bench.store.node import StageNode

STAGES: dict[str, Callable[[StageContext], Draft]] = {
    "teacher": run_supervised,
    "baseline": run_supervised,
    "semantic": run_semantic,
    "alignment": run_alignment,
    "distill": run_distill,
    "stress": run_stress,
    "evaluate": run_evaluate,
    "efficiency": run_efficiency,
}
CHECKPOINT_SUFFIXES = ("", "-autoencoder", "-vector")


def execute(node: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
    """Compute a stage unless the store has it.

    All ranks of a worker group call this together; rank 0 publishes. A stage that is asked to stop keeps its checkpoint
    and continues from it when it is asked for again.

    Raises:
        StageError: the stage failed; names the stage and the cause. Other package errors pass through.
    """
    store = open_store(workplace.store)
    context = StageContext(node, workplace, monitor, store)
    if store.has(node.key):
        return Outcome("cached", context.elapsed())
    try:
        with reproducible(context.device, workplace.threads):
            draft = STAGES[node.kind](context)
    except StageStopped:
        return Outcome("stopped", context.elapsed())
    except GkdBenchError:
        raise
    except Exception as error:
        raise StageError(f"{node} (key {node.key}): {type(error).__name__}: {error}") from error
    _publish(context, store, draft)
    return Outcome("done", context.elapsed())


def _publish(context: StageContext, store: Store, draft: Draft) -> None:
    if context.is_main:
        store.publish(context.node, draft)
        for suffix in CHECKPOINT_SUFFIXES:
            store.checkpoint_drop(context.node.key + suffix)
    if is_distributed():
        gc.collect()  # a DDP object that outlives its process group can hang the interpreter's exit
        dist.barrier()

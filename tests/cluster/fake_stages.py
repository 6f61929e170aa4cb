"""A stage runner for tests: sleeps, reports epochs, writes one marker file; crashes, kills itself or hangs when told to.

Settings: ``epochs``, ``seconds`` (each epoch), ``value`` (metric of the last epoch), ``scores`` (what it leaves as values of
a trial; without them ``value`` as ``source_val``), ``fail`` (message), ``kill_at`` (epoch before which this process kills
itself, once), ``gather`` (collective every epoch), ``until`` (file that every epoch waits for).
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from gkd_bench.stages.monitor import Monitor, Outcome, Progress, Workplace
from gkd_bench.store.node import StageNode


def node(
    kind: str = "distill", inputs: dict[str, StageNode] | None = None, seed: int = 0, **settings: Any
) -> StageNode:
    """A small stage."""
    return StageNode(kind, settings, seed, {}, {role: above.key for role, above in (inputs or {}).items()})


def artefact(store: Path, key: str) -> Path:
    """The marker file of a finished stage."""
    return store / key


def runs(store: Path, key: str) -> int:
    """How often a stage was begun."""
    log = store / f"{key}.runs"
    return len(log.read_text().splitlines()) if log.exists() else 0


def final_values(store: Path, key: str) -> dict[str, float]:
    """The values that a finished stage left."""
    scores: dict[str, float] = json.loads(artefact(store, key).read_text())["scores"]
    return scores


def history(store: Path, key: str) -> dict[int, float]:
    """The epochs of a finished stage."""
    epochs: dict[str, float] = json.loads(artefact(store, key).read_text())["epochs"]
    return {int(epoch): value for epoch, value in epochs.items()}


def execute(node: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
    """Run one fake stage; see the module's text."""
    store, settings = Path(workplace.store), node.settings
    if artefact(store, node.key).exists():
        return Outcome("cached")
    if workplace.rank == 0:
        with (store / f"{node.key}.runs").open("a") as log:
            log.write(f"{os.getpid()}\n")
    missing = [role for role, key in node.inputs.items() if not artefact(store, key).exists()]
    if missing or ("fail" in settings and settings.get("fail_rank", workplace.rank) == workplace.rank):
        raise ValueError(settings.get("fail", f"inputs missing: {missing}"))
    return _train(node, workplace, monitor)


def _train(node: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
    settings, checkpoint = node.settings, Path(workplace.store) / f"{node.key}.checkpoint"
    epochs, value = settings.get("epochs", 1), settings.get("value", 0.5)
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    for epoch in range(first + 1, epochs + 1):
        _maybe_die(node, workplace, epoch)
        stop = _sleep(settings.get("seconds", 0.0), monitor, epoch, epochs, settings.get("until", ""))
        if _any_rank(stop, workplace):
            return Outcome("stopped")
        if workplace.rank == 0:
            checkpoint.write_text(str(epoch))
            monitor.report(Progress(epoch, epochs, {"val/dice": value * epoch / epochs}, 0.0))
    if workplace.rank == 0:
        told = {str(epoch): value * epoch / epochs for epoch in range(1, epochs + 1)}
        left = {"scores": settings.get("scores", {"source_val": value}), "epochs": told}
        artefact(Path(workplace.store), node.key).write_text(json.dumps(left))
    return Outcome("done")


def _sleep(seconds: float, monitor: Monitor, epoch: int, epochs: int, until: str = "") -> bool:
    end = time.monotonic() + seconds
    while (time.monotonic() < end or (until and not Path(until).exists())) and not monitor.should_stop():
        monitor.step(100 * epoch, 100 * epochs)
        time.sleep(min(0.02, seconds))
    return monitor.should_stop()


def _any_rank(stop: bool, workplace: Workplace) -> bool:
    if workplace.workers == 1:
        return stop
    import torch
    from torch import distributed

    flag = torch.tensor([float(stop), 1.0])
    distributed.all_reduce(flag)
    assert flag[1] == workplace.workers
    return bool(flag[0])


def _maybe_die(node: StageNode, workplace: Workplace, epoch: int) -> None:
    marker = Path(workplace.store) / f"{node.key}.killed"
    if node.settings.get("kill_at") == epoch and not marker.exists():
        marker.write_text("")
        os.kill(os.getpid(), signal.SIGKILL)

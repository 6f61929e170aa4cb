"""What a running stage may ask of whoever runs it, and how it ends. No Ray, no MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

StageState = Literal["done", "cached", "stopped"]


@dataclass(frozen=True)
class Progress:
    """One validation of a running stage.

    Attributes:
        epoch: epochs finished, counted from 1 over the whole stage, resumed runs included.
        epochs: epochs the stage will have at its end.
        metrics: plain floats; ``val/...`` on the source's validation subjects.
        seconds: wall time since the stage began on this worker.
    """

    epoch: int
    epochs: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class Monitor(Protocol):
    """Link from a running stage to its engine. Called on rank 0 only."""

    def report(self, progress: Progress) -> None:
        """Tell about a finished epoch. Must not block for long."""

    def step(self, done: int, total: int) -> None:
        """Tell about steps done of the stage; called often, must cost microseconds."""

    def should_stop(self) -> bool:
        """True once somebody asked this stage to stop; called every few steps, must cost microseconds."""


@dataclass(frozen=True)
class Workplace:
    """Where a stage runs: the same for all stages of a worker group.

    Attributes:
        store: address of the artefact store, see ``open_store``.
        cache: root folder of the prepared domains, on this machine.
        device: torch device string.
        rank: rank of this process in its group.
        workers: processes of the group; torch.distributed is initialised when more than one.
        threads: torch threads of this process.
    """

    store: str | Path
    cache: Path
    device: str = "cpu"
    rank: int = 0
    workers: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """How a stage ended; failures are raised, not returned."""

    state: StageState
    seconds: float = 0.0

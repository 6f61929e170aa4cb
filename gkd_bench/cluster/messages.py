"""What the queue, the engines and the live view tell each other: frozen values, no behaviour, no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gkd_bench.errors import OutOfMemory, StageError
from gkd_bench.stages.monitor import Outcome, Progress

EventKind = Literal["queued", "started", "progress", "requeued", "settled"]
StageStatus = Literal["waiting", "ready", "running", "done", "cached", "stopped", "failed"]


@dataclass(frozen=True)
class StageFailure:
    """Why a stage has no artefact.

    Attributes:
        name: the stage in words.
        cause: one line, fit for a table; names the file of the traceback when the stage raised.
        attempts: times the stage was begun.
        origin: name of the failed stage that this one builds on; empty when the stage failed itself.
        memory: whether a smaller batch may help: out of memory, or the worker group died of whatever it was.
    """

    key: str
    name: str
    cause: str
    attempts: int = 0
    origin: str = ""
    memory: bool = False

    def inherited(self, key: str, name: str) -> StageFailure:
        """The failure of a stage that builds on this one; however long the chain, it names the first cause."""
        origin = self.origin or self.name
        cause = self.cause if self.origin else f"its input failed: {origin}: {self.cause}"
        return StageFailure(key, name, cause, origin=origin)

    def error(self) -> StageError:
        """The failure as an exception."""
        kind = OutOfMemory if self.memory else StageError
        return kind(f"{self.name} (key {self.key}) failed: {self.cause}")


@dataclass(frozen=True)
class StageEvent:
    """One thing that happened to a stage; ``progress`` belongs to kind ``progress`` only."""

    kind: EventKind
    progress: Progress | None = None


@dataclass(frozen=True)
class StagePoll:
    """Events of one stage from some index on.

    Attributes:
        events: oldest first.
        upto: index to ask for next time.
        settled: how the stage ended, or none while it may still run.
    """

    events: tuple[StageEvent, ...]
    upto: int
    settled: Outcome | StageFailure | None


@dataclass(frozen=True)
class RunningStage:
    """A stage that a group works on now.

    Attributes:
        done: steps finished, resumed ones included; ``total`` steps of the stage, 0 while unknown.
        rate: steps per second since the group took the stage, 0.0 while unknown.
        seconds: since the group took the stage.
        metrics: of the last validation.
    """

    key: str
    name: str
    kind: str
    group: str
    epoch: int = 0
    epochs: int = 0
    done: int = 0
    total: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupState:
    """A worker group: times it started, the stage it holds."""

    name: str
    starts: int
    key: str | None


@dataclass(frozen=True)
class Snapshot:
    """The whole queue at one moment, for the live view and the summary at the end."""

    counts: Mapping[StageStatus, int] = field(default_factory=dict)
    running: tuple[RunningStage, ...] = ()
    groups: tuple[GroupState, ...] = ()
    failures: tuple[StageFailure, ...] = ()

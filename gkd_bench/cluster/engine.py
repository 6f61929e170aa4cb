"""What every engine offers, and how it finds the stage code. No Ray here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from types import TracebackType
from typing import Protocol, Self, cast

from gkd_bench.cluster.messages import Snapshot, StageFailure
from gkd_bench.errors import ClusterError, StageError
from gkd_bench.stages.monitor import Monitor, Outcome, Progress, StageState, Workplace
from gkd_bench.store.node import StageNode

Execute = Callable[[StageNode, Workplace, Monitor], Outcome]
OnProgress = Callable[[str, Progress], None]
HasKey = Callable[[str], bool]

DRIVER = "driver"
STAGE_RUNNER = "gkd_bench.stages.run:execute"


class Engine(Protocol):
    """Runs stages. A context manager: leaving it stops its workers and keeps what was computed."""

    def submit(self, nodes: Sequence[StageNode], priority: int = 0, requester: str = DRIVER) -> None:
        """Ask for stages, in any order, each with its inputs (unless the store has them). Returns at once.

        ``priority``: lower runs first. ``requester``: who may cancel them. Raises ClusterError for unknown inputs.
        """

    def wait(self, keys: Collection[str], on_progress: OnProgress | None = None) -> dict[str, StageState | StageError]:
        """Block until all these stages have ended; how each ended.

        ``on_progress`` is called in the caller's thread with (key, progress) for every epoch of these stages.
        Raises ClusterError when a key was never submitted or no worker group is left to run it.
        """

    def cancel(self, keys: Collection[str], requester: str = DRIVER) -> None:
        """Take stages back: they stop once nobody else wants them."""

    def snapshot(self) -> Snapshot:
        """What is going on; safe to call from another thread."""

    def close(self) -> None:
        """Stop all workers. Running stages are asked to stop, and continue from their checkpoint next time."""

    def __enter__(self) -> Self:
        """The engine itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """``close``."""


def load_runner(path: str) -> Execute:
    """The stage runner at ``module:function``. Raises ClusterError when it cannot be imported."""
    module, _, name = path.partition(":")
    try:
        return cast(Execute, getattr(import_module(module), name))
    except Exception as error:
        raise ClusterError(f"stage runner {path} cannot be imported: {type(error).__name__}: {error}") from error


def stored_keys(nodes: Sequence[StageNode], has: HasKey) -> frozenset[str]:
    """Which of the stages and of their inputs the store has; each key is looked up once."""
    keys = {node.key for node in nodes} | {key for node in nodes for key in node.inputs.values()}
    return frozenset(key for key in keys if has(key))


def public_result(result: Outcome | StageFailure) -> StageState | StageError:
    """How a stage ended, as ``Engine.wait`` tells it."""
    return result.error() if isinstance(result, StageFailure) else result.state

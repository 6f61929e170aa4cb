"""The stage queue: which stage may run now, who runs it, who still wants it. Pure, synchronous, thread-safe, no Ray.

Rules: a stage runs when all its inputs are in the store; lower priority numbers first, then order of submission; a stage
that several ask for runs once; it is dropped only when nobody wants it any more; the stage of a dead group goes back to the
queue, at most ``max_failures`` times; a failure is passed on to everything that builds on it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gkd_bench.cluster.messages import (
    EventKind,
    GroupState,
    RunningStage,
    Snapshot,
    StageEvent,
    StageFailure,
    StagePoll,
    StageStatus,
)
from gkd_bench.errors import ClusterError
from gkd_bench.stages.monitor import Outcome, Progress
from gkd_bench.store.node import StageNode

REMEMBERED = 100  # stages that ended last, whose epochs can still be polled: the others' are in their artefacts


@dataclass
class _Item:
    """A stage and everything the queue knows about it; ``missing`` are inputs that are not in the store yet."""

    node: StageNode
    order: int
    priority: int
    status: Literal["waiting", "ready", "running", "settled"] = "waiting"
    requesters: set[str] = field(default_factory=set)
    dependants: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    attempts: int = 0
    blamed: str = ""
    stop: bool = False
    result: Outcome | StageFailure | None = None
    events: list[StageEvent] = field(default_factory=list)
    running: RunningStage | None = None
    taken: float = 0.0
    first_beat: tuple[float, int] | None = None

    def note(self, kind: EventKind, progress: Progress | None = None) -> None:
        self.events.append(StageEvent(kind, progress))

    def forget_epochs(self) -> None:
        if self.status == "settled":
            self.events = [event for event in self.events if event.progress is None]

    def in_store(self) -> bool:
        return isinstance(self.result, Outcome) and self.result.state != "stopped"

    def was_dropped(self) -> bool:
        return isinstance(self.result, Outcome) and self.result.state == "stopped"

    def public_status(self) -> StageStatus:
        if isinstance(self.result, StageFailure):
            return "failed"
        if self.result is not None:
            return self.result.state
        return self.status if self.status != "settled" else "stopped"


@dataclass
class _Group:
    """A worker group as the queue sees it; ``key`` is the stage it holds."""

    starts: int = 0
    key: str | None = None


class StageQueue:
    """The queue. Every method is one short critical section; nothing here waits."""

    def __init__(self, max_failures: int = 2, clock: Callable[[], float] = time.monotonic) -> None:
        """An empty queue.

        Args:
            max_failures: how often a stage is given out again after the group that held it died.
            clock: seconds, never going back; for rates and durations only.
        """
        self._max_failures = max_failures
        self._clock = clock
        self._items: dict[str, _Item] = {}
        self._ready: dict[str, _Item] = {}
        self._groups: dict[str, _Group] = {}
        self._ended: deque[_Item] = deque()
        self._lock = threading.RLock()

    # ------------------------------------------------------------ asking for stages

    def submit(
        self, nodes: Sequence[StageNode], requester: str = "", priority: int = 0, stored: Collection[str] = ()
    ) -> None:
        """Ask for stages, in any order. Stages already known are joined, stopped ones are asked for again.

        Args:
            nodes: stages; their inputs are among them, known already, or in ``stored``.
            requester: who asks; ``cancel`` needs the same name.
            priority: lower runs first; what a stage builds on gets at least its priority.
            stored: keys that the artefact store has; such stages settle as ``cached`` at once.

        Raises:
            ClusterError: inputs that nobody asked for and the store does not have.
        """
        with self._lock:
            named = {node.key: node for node in nodes}
            self._check_inputs(named, stored)
            fresh = [item for node in named.values() if (item := self._join(node, priority, stored)) is not None]
            for key in named:
                self._items[key].requesters.add(requester)
                self._lift(self._items[key], priority)
            for item in fresh:
                self._arm(item)

    def _check_inputs(self, named: Mapping[str, StageNode], stored: Collection[str]) -> None:
        known = (named, self._items, stored)
        lost = [
            f"  {node}: its input {role} (key {key})"
            for node in named.values()
            for role, key in node.inputs.items()
            if node.key not in stored and not any(key in keys for keys in known)
        ]
        if lost:
            lines = "\n".join(lost)
            raise ClusterError(f"inputs neither submitted nor in the store; submit them with the stage:\n{lines}")

    def _join(self, node: StageNode, priority: int, stored: Collection[str]) -> _Item | None:
        """Enter a stage into the books; returns it when it has to be armed."""
        item = self._items.get(node.key)
        if item is not None:
            return self._revive(item)
        item = self._items[node.key] = _Item(node, len(self._items), priority)
        if node.key in stored:
            self._settle(item, Outcome("cached"))
            return None
        item.note("queued")
        item.missing = {key for key in node.inputs.values() if key not in stored or key in self._items}
        return item

    def _revive(self, item: _Item) -> _Item | None:
        if not item.was_dropped():
            return None
        item.result, item.status, item.stop = None, "waiting", False
        item.missing = {key for key in item.node.inputs.values() if key in self._items}
        item.note("queued")
        return item

    def _arm(self, item: _Item) -> None:
        """Link a new stage to its inputs; make it ready, or fail it, when that is already decided."""
        for key in sorted(item.missing):
            above = self._items[key]
            above.dependants.add(item.node.key)
            if self._revive(above) is not None:
                self._arm(above)
            if isinstance(above.result, StageFailure):
                return self._settle(item, above.result.inherited(item.node.key, str(item.node)))
            if above.in_store():
                item.missing.discard(key)
        self._make_ready(item)

    def _make_ready(self, item: _Item) -> None:
        if item.status == "waiting" and not item.missing:
            item.status = "ready"
            self._ready[item.node.key] = item

    def _lift(self, item: _Item, priority: int) -> None:
        """Give a stage and everything it waits for at least this priority."""
        item.priority = min(item.priority, priority)
        for key in item.node.inputs.values():
            above = self._items.get(key)
            if above is not None and above.status != "settled" and above.priority > priority:
                self._lift(above, priority)

    def cancel(self, keys: Iterable[str], requester: str = "") -> None:
        """Take back what ``requester`` asked for. A stage stops when neither a requester nor a dependant wants it."""
        with self._lock:
            items = [self._items[key] for key in keys if key in self._items]
            for item in items:
                item.requesters.discard(requester)
            for item in items:
                self._drop_unwanted(item)

    def stop_running(self) -> None:
        """Ask every running stage to stop; those that somebody still wants go back to the queue."""
        with self._lock:
            for item in self._items.values():
                item.stop = item.stop or item.status == "running"

    def _drop_unwanted(self, item: _Item) -> None:
        if item.status == "settled" or self._wanted(item):
            return
        if item.status == "running":
            item.stop = True
            return
        self._settle(item, Outcome("stopped"))
        for key in item.node.inputs.values():
            if key in self._items:
                self._drop_unwanted(self._items[key])

    def _wanted(self, item: _Item) -> bool:
        below = (self._items[key] for key in item.dependants)
        return bool(item.requesters) or any(other.status != "settled" and self._wanted(other) for other in below)

    # ------------------------------------------------------------ worker groups

    def register_group(self, group: str) -> None:
        """A group has (re)started: what it held goes back to the queue."""
        with self._lock:
            self.release_group(group)
            self._groups[group].starts += 1

    def release_group(self, group: str) -> str | None:
        """Take back the stage of a group that died; the key, or none. The stage fails after ``max_failures`` retries."""
        with self._lock:
            state = self._group(group)
            key, state.key = state.key, None
            if key is not None:
                self._requeue_after_death(self._items[key])
            return key

    def _requeue_after_death(self, item: _Item) -> None:
        item.running = None
        if not self._wanted(item):
            self._settle(item, Outcome("stopped"))
        elif item.attempts > self._max_failures:
            why, memory = item.blamed or "out of memory, or killed; see the workers' logs", not item.blamed
            cause = f"its worker group died {item.attempts} times ({why})"
            self._settle(item, StageFailure(item.node.key, str(item.node), cause, item.attempts, memory=memory))
        else:
            self._requeue(item)

    def _requeue(self, item: _Item) -> None:
        item.status, item.stop, item.running = "ready", False, None
        item.note("requeued")
        self._ready[item.node.key] = item

    def take(
        self, group: str, kinds: Collection[str] | None = None, among: Collection[str] | None = None
    ) -> StageNode | None:
        """The next stage for a group, or none. ``kinds``, ``among``: only these stage kinds, only these keys.

        Raises:
            ClusterError: the group still holds a stage.
        """
        with self._lock:
            state = self._group(group)
            if state.key is not None:
                raise ClusterError(f"group {group} asks for work while it holds {self._items[state.key].node}")
            fit = [
                item
                for key, item in self._ready.items()
                if (kinds is None or item.node.kind in kinds) and (among is None or key in among)
            ]
            if not fit:
                return None
            return self._give(min(fit, key=lambda item: (item.priority, item.order)), group, state)

    def _give(self, item: _Item, group: str, state: _Group) -> StageNode:
        node = item.node
        del self._ready[node.key]
        state.key, item.status = node.key, "running"
        item.attempts, item.blamed = item.attempts + 1, ""
        item.taken, item.first_beat = self._clock(), None
        item.running = RunningStage(node.key, str(node), node.kind, group)
        item.note("started")
        return node

    def heartbeat(self, group: str, key: str, done: int = 0, total: int = 0) -> bool:
        """Steps done of a running stage; true when the stage should stop (also when it is no longer the group's)."""
        with self._lock:
            item = self._held(group, key)
            if item is None or item.running is None:
                return True
            if total:
                now = self._clock()
                item.first_beat = item.first_beat or (now, done)
                elapsed, steps = now - item.first_beat[0], done - item.first_beat[1]
                rate = steps / elapsed if elapsed > 0 else 0.0
                item.running = replace(item.running, done=done, total=total, rate=rate)
            return item.stop

    def report(self, group: str, key: str, progress: Progress) -> None:
        """A finished epoch of a running stage; ignored when the stage is no longer the group's."""
        with self._lock:
            item = self._held(group, key)
            if item is not None and item.running is not None:
                item.note("progress", progress)
                epoch, epochs, metrics = progress.epoch, progress.epochs, dict(progress.metrics)
                item.running = replace(item.running, epoch=epoch, epochs=epochs, metrics=metrics)

    def finish(self, group: str, key: str, result: Outcome | StageFailure) -> bool:
        """How a running stage ended; false (and ignored) when the stage is no longer the group's."""
        with self._lock:
            item = self._held(group, key)
            if item is None:
                return False
            self._groups[group].key = None
            if isinstance(result, StageFailure):
                self._settle(item, replace(result, attempts=item.attempts))
            elif result.state != "stopped" or not self._wanted(item):
                self._settle(item, result)
            elif item.stop:
                self._requeue(item)
            else:
                self._settle(item, StageFailure(key, str(item.node), "it stopped without being asked to"))
            return True

    def blame(self, group: str, key: str, cause: str) -> None:
        """Why a group is about to die of its stage, as far as it knows."""
        with self._lock:
            item = self._held(group, key)
            if item is not None:
                item.blamed = cause

    def renew(self, group: str, key: str, lost: str) -> bool:
        """A running stage found an input damaged or gone: compute the input again, then the stage.

        Returns:
            whether that is so; false when the stage is no longer the group's, when nobody here knows how to make the
            input, or when it was tried often enough.
        """
        with self._lock:
            item, above = self._held(group, key), self._items.get(lost)
            if item is None or above is None or item.attempts > self._max_failures:
                return False
            self._groups[group].key = None
            idle = [self._items[name] for name in above.dependants if self._items[name].status == "ready"]
            for one in [item, *idle, *([above] if above.status == "settled" else [])]:
                self._ready.pop(one.node.key, None)
                one.status, one.result, one.running = "waiting", None, None
                one.missing = {name for name in one.node.inputs.values() if name in self._items}
                one.note("requeued")
            for one in (above, item, *idle):
                if one.status == "waiting":
                    self._arm(one)
            return True

    def _group(self, group: str) -> _Group:
        return self._groups.setdefault(group, _Group())

    def _held(self, group: str, key: str) -> _Item | None:
        return self._items[key] if self._group(group).key == key else None

    def _settle(self, item: _Item, result: Outcome | StageFailure) -> None:
        """End a stage and tell those that wait for it."""
        key = item.node.key
        item.status, item.result, item.running = "settled", result, None
        self._ready.pop(key, None)
        item.note("settled")
        self._ended.append(item)
        if len(self._ended) > REMEMBERED:
            self._ended.popleft().forget_epochs()
        for below in [self._items[other] for other in sorted(item.dependants)]:
            if below.status == "settled":
                continue
            if isinstance(result, StageFailure):
                self._settle(below, result.inherited(below.node.key, str(below.node)))
            elif item.in_store():
                below.missing.discard(key)
                self._make_ready(below)

    # ------------------------------------------------------------ looking

    def poll(self, key: str, since: int = 0) -> StagePoll:
        """Events of a stage from index ``since`` on. Raises ClusterError for a key that nobody submitted.

        Of a stage that ended long ago only the end is left; see ``REMEMBERED``.
        """
        with self._lock:
            if key not in self._items:
                raise ClusterError(f"stage {key} was never submitted; submit it before waiting for it")
            item = self._items[key]
            return StagePoll(tuple(item.events[since:]), len(item.events), item.result)

    def ancestry(self, keys: Iterable[str]) -> frozenset[str]:
        """The keys and everything submitted that they build on."""
        with self._lock:
            seen: set[str] = set()
            stack = list(keys)
            while stack:
                key = stack.pop()
                if key in self._items and key not in seen:
                    seen.add(key)
                    stack.extend(self._items[key].node.inputs.values())
            return frozenset(seen)

    def snapshot(self) -> Snapshot:
        """Counts by status, running stages, groups and failures."""
        with self._lock:
            now = self._clock()
            items = self._items.values()
            return Snapshot(
                counts=Counter(item.public_status() for item in items),
                running=tuple(self._running(now)),
                groups=tuple(GroupState(name, group.starts, group.key) for name, group in self._groups.items()),
                failures=tuple(item.result for item in items if isinstance(item.result, StageFailure)),
            )

    def _running(self, now: float) -> Iterator[RunningStage]:
        for item in self._items.values():
            if item.running is not None:
                yield replace(item.running, seconds=now - item.taken)

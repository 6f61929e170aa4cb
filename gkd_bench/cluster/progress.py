"""The live view of a sweep: one panel that redraws itself, or a plain line now and then when nobody watches a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gkd_bench.cluster.messages import RunningStage, Snapshot

DRAW_SECONDS = 1.0
LINE_SECONDS = 60.0
_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


@dataclass(frozen=True)
class SearchStatus:
    """Where the search is: trials ended and planned over all studies, and the best value of an objective so far, if any."""

    done: int = 0
    total: int = 0
    best: float | None = None
    objective: str = ""


class LiveView:
    """Draws what the engine does, from a thread of its own. A context manager."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        search: Callable[[], SearchStatus] = SearchStatus,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is drawn before the ``with`` block.

        Args:
            snapshot: of an engine; called about once a second.
            search: where the search is; called as often.
            console: where to draw; none = standard output.
            clock: seconds.
        """
        self._snapshot, self._search, self._clock = snapshot, search, clock
        self._console = console or Console()
        self._begun = clock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="gkd-progress", daemon=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        """Start drawing."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing and leave the terminal as it was."""
        self._ended.set()
        self._thread.join(5 * DRAW_SECONDS)

    def _loop(self) -> None:
        if self._console.is_terminal:
            with self._live:
                self._repeat(DRAW_SECONDS, lambda: self._live.update(self.render(), refresh=True))
        else:
            self._repeat(LINE_SECONDS, lambda: self._console.print(self.line(), highlight=False, soft_wrap=True))

    def _repeat(self, seconds: float, draw: Callable[[], None]) -> None:
        while not self._ended.wait(seconds):
            with suppress(Exception):  # the view is an ornament: an engine that is closing must not end it
                draw()

    def line(self) -> str:
        """Everything in one line."""
        snapshot, search = self._snapshot(), self._search()
        stages = [_stage_line(stage) for stage in snapshot.running]
        return " | ".join([*self._headline(snapshot, search), *stages])

    def render(self) -> RenderableType:
        """The panel: headline, then one row per running stage."""
        snapshot, search = self._snapshot(), self._search()
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("stage", "epoch", "steps/s", "left", "last validation"):
            table.add_column(title, justify="left" if title in ("stage", "last validation") else "right")
        for stage in snapshot.running:
            table.add_row(*_cells(stage))
        return Group(Text(" | ".join(self._headline(snapshot, search)), style="bold"), table)

    def _headline(self, snapshot: Snapshot, search: SearchStatus) -> list[str]:
        counts = snapshot.counts
        ended = counts.get("done", 0) + counts.get("cached", 0)
        waiting = counts.get("waiting", 0) + counts.get("ready", 0)
        alive = sum(group.starts > 0 for group in snapshot.groups)
        stages = f"stages {ended} done, {len(snapshot.running)} running, {waiting} waiting"
        parts = [duration(self._clock() - self._begun), stages]
        if counts.get("failed"):
            parts.append(f"{counts['failed']} failed")
        if search.total:
            parts.append(f"trials {search.done}/{search.total}")
        if search.best is not None:
            parts.append(" ".join(filter(None, ["best", search.objective, _number(search.best)])))
        return [*parts, f"groups {alive}" if alive else "worker groups are starting"]


class StackProgress:
    """How far the preparation of a domain's volumes is: a bar on a terminal, else a line every few seconds. A context manager.

    Shows nothing while everything is there already.
    """

    def __init__(self, domain: str, console: Console, seconds: float = 10.0) -> None:
        """Nothing is shown before the first report of work.

        Args:
            domain: name of the domain.
            console: where to show it.
            seconds: between lines where the console is no terminal.
        """
        self._domain, self._console, self._seconds = domain, console, seconds
        self._bar: Progress | None = None
        self._begun = self._last = time.monotonic()
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Ready for reports."""
        return self

    def report(self, done: int, total: int, slices: int) -> None:
        """Stacks done of all, and slices done in this run."""
        if self._bar is None:
            if done == total and not slices:
                return
            self._bar = Progress(
                *_COLUMNS, console=self._console, transient=True, disable=not self._console.is_terminal
            )
            self._bar.start()
            self._task = self._bar.add_task(f"preparing {self._domain}", total=total)
        now = time.monotonic()
        rate = slices / max(now - self._begun, 1e-6)
        assert self._task is not None
        self._bar.update(self._task, completed=done, description=f"preparing {self._domain}, {rate:.0f} slices/s")
        if done == total or (not self._console.is_terminal and now - self._last > self._seconds):
            self._last = now
            words = (
                f"prepared {self._domain}: {done} of {total} stacks, {slices} slices in {duration(now - self._begun)}"
            )
            self._console.print(f"{words} ({rate:.0f}/s)", highlight=False)

    def __exit__(self, *_: object) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()


def duration(seconds: float) -> str:
    """``59 s``, ``12:05`` (minutes), ``3:07:00`` (hours)."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def seconds_left(stage: RunningStage) -> float | None:
    """Seconds until the stage ends at its present rate, or none while that is unknown."""
    return (stage.total - stage.done) / stage.rate if stage.rate > 0 else None


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def _cells(stage: RunningStage) -> tuple[str, str, str, str, str]:
    left = seconds_left(stage)
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in list(stage.metrics.items())[:3])
    epoch = f"{stage.epoch}/{stage.epochs}" if stage.epochs else ""
    return stage.name, epoch, f"{stage.rate:.1f}" if stage.rate else "", "" if left is None else duration(left), metrics


def _stage_line(stage: RunningStage) -> str:
    name, epoch, rate, left, metrics = _cells(stage)
    parts = {"epoch {}": epoch, "{} steps/s": rate, "{} left": left, "{}": metrics}
    return ", ".join([name, *(text.format(part) for text, part in parts.items() if part)])

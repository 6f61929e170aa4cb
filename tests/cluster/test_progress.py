from __future__ import annotations

import io
import time
from contextlib import suppress

import pytest
from rich.console import Console

from gkd_bench.cluster import progress
from gkd_bench.cluster.messages import GroupState, RunningStage, Snapshot
from gkd_bench.cluster.progress import LiveView, SearchStatus, StackProgress, duration, seconds_left

STAGE = RunningStage(
    "k", "distill chase_db1 gkd seed 0", "distill", "g", 3, 10, 30, 100, 3.5, 12.0, {"val/dice": 0.71234}
)
SNAPSHOT = Snapshot(
    {"done": 4, "cached": 2, "running": 1, "waiting": 3, "failed": 1}, (STAGE,), (GroupState("g", 1, "k"),)
)
SEARCH = SearchStatus(done=5, total=20, best=0.7421)


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=160), text


def test_panel_and_line_say_what_runs_how_fast_and_how_long() -> None:
    view = LiveView(lambda: SNAPSHOT, lambda: SEARCH)
    out, text = console(False)
    out.print(view.render())
    for shown in (text.getvalue(), view.line()):
        for part in ("distill chase_db1 gkd seed 0", "3/10", "3.5", "20 s", "val/dice 0.7123"):
            assert part in shown
        for part in ("6 done, 1 running, 3 waiting", "1 failed", "trials 5/20", "best 0.7421", "groups 1"):
            assert part in shown


@pytest.mark.parametrize(
    ("search", "text"),
    [
        (SearchStatus(1, 2, 0.7421, "source_val"), "best source_val 0.7421"),
        (SearchStatus(1, 2, 0.0312, "stress_fsd"), "best stress_fsd 0.0312"),
        (SearchStatus(1, 2, 41_600_000.0, "student_macs"), "best student_macs 4.16e+07"),
        (SearchStatus(1, 2, None, "source_val"), "trials 1/2 | groups 1"),
    ],
)
def test_best_value_is_named_and_fits_its_size(search: SearchStatus, text: str) -> None:
    assert text in LiveView(lambda: SNAPSHOT, lambda: search).line()


def test_groups_that_are_not_up_yet_are_said_to_start() -> None:
    assert "worker groups are starting" in LiveView(Snapshot).line()


def test_time_left_is_unknown_without_a_rate() -> None:
    assert seconds_left(STAGE) == pytest.approx(20.0)
    assert seconds_left(RunningStage("k", "n", "distill", "g")) is None


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (725, "12:05"), (11220, "3:07:00")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("terminal", [True, False])
def test_view_draws_in_its_own_thread_and_ends_with_the_block(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DRAW_SECONDS", 0.02)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    out, text = console(terminal)
    with suppress(KeyboardInterrupt), LiveView(lambda: SNAPSHOT, lambda: SEARCH, out):
        time.sleep(0.2)
        raise KeyboardInterrupt
    drawn = text.getvalue()
    assert "distill chase_db1" in drawn
    assert ("\x1b[" in drawn) == terminal
    time.sleep(0.1)
    assert text.getvalue() == drawn


def test_a_snapshot_that_fails_once_does_not_end_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    answers = iter([ConnectionError("gone")])

    def snapshot() -> Snapshot:
        for error in answers:
            raise error
        return SNAPSHOT

    out, text = console(False)
    with LiveView(snapshot, SearchStatus, out):
        time.sleep(0.2)
    assert "distill" in text.getvalue()


def test_preparation_says_how_far_it_is_and_nothing_when_there_is_nothing_to_do() -> None:
    out, text = console(terminal=False)
    with StackProgress("lits", out, seconds=0.0) as view:
        view.report(3, 3, 0)  # all was there
    assert text.getvalue() == ""
    with StackProgress("lits", out, seconds=0.0) as view:
        for done in range(3):
            view.report(done, 2, 100 * done)
    lines = text.getvalue().splitlines()
    assert "1 of 2 stacks, 100 slices" in lines[-2] and "prepared lits: 2 of 2 stacks, 200 slices" in lines[-1]


def test_preparation_shows_a_bar_on_a_terminal() -> None:
    out, text = console(terminal=True)
    with StackProgress("lits", out) as view:
        view.report(0, 2, 0)
        view.report(1, 2, 50)
    assert "preparing lits" in text.getvalue()

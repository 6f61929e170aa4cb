from __future__ import annotations

import threading

import pytest
from fake_stages import node
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gkd_bench.cluster.messages import StageFailure
from gkd_bench.cluster.queue import REMEMBERED, StageQueue
from gkd_bench.errors import ClusterError
from gkd_bench.stages.monitor import Outcome, Progress
from gkd_bench.store.node import StageNode

DONE = Outcome("done")


@pytest.fixture
def queue() -> StageQueue:
    return StageQueue(max_failures=2)


def chain() -> tuple[StageNode, StageNode, StageNode]:
    teacher = node("teacher")
    alignment = node("alignment", {"host": teacher})
    return teacher, alignment, node("distill", {"alignment": alignment})


def state(queue: StageQueue, stage: StageNode) -> str | None:
    settled = queue.poll(stage.key).settled
    if settled is None:
        return None
    return "failed" if isinstance(settled, StageFailure) else settled.state


def boom(stage: StageNode, cause: str = "ValueError: boom") -> StageFailure:
    return StageFailure(stage.key, str(stage), cause)


def take(queue: StageQueue, group: str = "g", **options: object) -> StageNode:
    stage = queue.take(group, **options)  # type: ignore[arg-type]
    assert stage is not None
    return stage


def run(queue: StageQueue, group: str = "g") -> StageNode:
    stage = take(queue, group)
    assert queue.finish(group, stage.key, DONE)
    return stage


def test_stages_run_after_their_inputs_whatever_the_order_of_submission(queue: StageQueue) -> None:
    teacher, alignment, distill = chain()
    queue.submit([distill, teacher, alignment])
    assert [run(queue), run(queue), run(queue)] == [teacher, alignment, distill]
    assert queue.take("g") is None


def test_a_stage_that_two_ask_for_runs_once(queue: StageQueue) -> None:
    teacher, alignment, distill = chain()
    queue.submit([teacher, alignment], "a")
    queue.submit([teacher, alignment, distill], "b")
    assert take(queue, "g1") == teacher
    assert queue.take("g2") is None


def test_lower_priority_numbers_first_then_order_of_submission(queue: StageQueue) -> None:
    first, second, urgent = node(seed=1), node(seed=2), node(seed=3)
    queue.submit([first], priority=5)
    queue.submit([second], priority=5)
    queue.submit([urgent], priority=1)
    assert [run(queue), run(queue), run(queue)] == [urgent, first, second]


def test_what_an_urgent_stage_waits_for_becomes_urgent(queue: StageQueue) -> None:
    teacher, alignment, _ = chain()
    other = node("teacher", seed=9)
    queue.submit([other, teacher], priority=5)
    queue.submit([alignment], priority=0)
    assert [run(queue), run(queue), run(queue)] == [teacher, alignment, other]


def test_groups_get_only_their_kinds_and_only_the_keys_named(queue: StageQueue) -> None:
    teacher, alignment, _ = chain()
    queue.submit([teacher, alignment])
    assert queue.take("g", kinds=["distill"]) is None
    assert queue.take("g", among=[alignment.key]) is None
    assert take(queue, kinds=["teacher"], among=[teacher.key]) == teacher


def test_a_group_cannot_hold_two_stages(queue: StageQueue) -> None:
    queue.submit([node(seed=1), node(seed=2)])
    queue.take("g")
    with pytest.raises(ClusterError, match="holds"):
        queue.take("g")


def test_stored_stages_are_cached_and_stored_inputs_count_as_done(queue: StageQueue) -> None:
    teacher, alignment, distill = chain()
    queue.submit([teacher, alignment], stored=[teacher.key])
    assert state(queue, teacher) == "cached"
    assert run(queue) == alignment
    queue.submit([distill], stored=[alignment.key])
    assert run(queue) == distill


def test_inputs_that_nobody_has_are_all_listed(queue: StageQueue) -> None:
    _, alignment, distill = chain()
    with pytest.raises(ClusterError) as caught:
        queue.submit([alignment, node("evaluate", {"model": distill})])
    assert alignment.inputs["host"] in str(caught.value) and distill.key in str(caught.value)


def test_failure_reaches_everything_built_on_it_with_the_first_cause(queue: StageQueue) -> None:
    teacher, alignment, distill = chain()
    queue.submit([teacher, alignment, distill])
    queue.finish("g", take(queue).key, boom(teacher))
    failure = queue.poll(distill.key).settled
    assert isinstance(failure, StageFailure)
    assert failure.cause == "its input failed: teacher seed 0: ValueError: boom"
    queue.submit([node("evaluate", {"model": distill})])
    assert state(queue, node("evaluate", {"model": distill})) == "failed"
    assert len(queue.snapshot().failures) == 4


def test_stage_of_a_dead_group_goes_back_and_fails_after_its_retries(queue: StageQueue) -> None:
    stage = node()
    queue.submit([stage])
    for attempt in range(3):
        assert take(queue) == stage, attempt
        assert queue.release_group("g") == stage.key
    failure = queue.poll(stage.key).settled
    assert isinstance(failure, StageFailure)
    assert "died 3 times" in failure.cause and failure.attempts == 3
    assert queue.release_group("g") is None


def test_what_a_dying_group_says_of_its_last_death_is_the_cause(queue: StageQueue) -> None:
    stage = node()
    queue.submit([stage])
    for _ in range(3):
        take(queue)
        queue.blame("g", stage.key, "AcceleratorError: assert")
        queue.blame("another", stage.key, "not its stage")
        queue.release_group("g")
    failure = queue.poll(stage.key).settled
    assert isinstance(failure, StageFailure) and not failure.memory
    assert failure.cause == "its worker group died 3 times (AcceleratorError: assert)"


def test_restarted_group_gives_back_what_it_held_and_counts_its_starts(queue: StageQueue) -> None:
    stage = node()
    queue.submit([stage])
    queue.register_group("g")
    queue.take("g")
    queue.register_group("g")
    assert take(queue, "other") == stage
    assert {group.name: group.starts for group in queue.snapshot().groups} == {"g": 2, "other": 0}


def test_words_of_a_group_that_lost_the_stage_are_ignored(queue: StageQueue) -> None:
    stage = node()
    queue.submit([stage])
    queue.take("dead")
    queue.release_group("dead")
    queue.take("alive")
    queue.report("dead", stage.key, Progress(1, 2))
    assert not queue.finish("dead", stage.key, DONE)
    assert queue.heartbeat("dead", stage.key, 1, 2)
    assert state(queue, stage) is None
    assert all(event.progress is None for event in queue.poll(stage.key).events)


def test_cancelling_waits_for_the_last_requester(queue: StageQueue) -> None:
    teacher, alignment, distill = chain()
    other = node("distill", {"alignment": alignment}, seed=1)
    queue.submit([teacher, alignment, distill], "a")
    queue.submit([teacher, alignment, other], "b")
    queue.cancel([teacher.key, alignment.key, distill.key], "a")
    assert state(queue, distill) == "stopped"
    assert [run(queue), run(queue), run(queue)] == [teacher, alignment, other]


def test_cancelling_the_only_wish_drops_what_has_not_begun_and_stops_what_runs(queue: StageQueue) -> None:
    teacher, alignment, _ = chain()
    queue.submit([teacher, alignment], "a")
    queue.take("g")
    assert not queue.heartbeat("g", teacher.key)
    queue.cancel([teacher.key, alignment.key], "a")
    assert state(queue, alignment) == "stopped"
    assert queue.heartbeat("g", teacher.key)
    queue.finish("g", teacher.key, Outcome("stopped"))
    assert state(queue, teacher) == "stopped"


def test_an_input_is_kept_while_a_dependant_of_somebody_else_needs_it(queue: StageQueue) -> None:
    teacher, alignment, _ = chain()
    queue.submit([teacher], "driver")
    queue.submit([alignment], "trial")
    queue.cancel([teacher.key], "driver")
    assert [run(queue), run(queue)] == [teacher, alignment]


def test_inputs_that_nobody_named_are_dropped_with_their_last_dependant(queue: StageQueue) -> None:
    teacher, alignment, _ = chain()
    queue.submit([teacher], "driver")
    queue.submit([alignment], "trial")
    queue.cancel([teacher.key], "driver")
    queue.cancel([alignment.key], "trial")
    assert (state(queue, teacher), state(queue, alignment)) == ("stopped", "stopped")


def test_dropped_stages_are_revived_with_their_inputs(queue: StageQueue) -> None:
    teacher, alignment, distill = chain()
    queue.submit([teacher, alignment, distill], "a")
    queue.cancel([teacher.key, alignment.key, distill.key], "a")
    queue.submit([distill], "b")
    assert state(queue, distill) is None
    assert [run(queue), run(queue), run(queue)] == [teacher, alignment, distill]


def test_a_stage_asked_for_again_while_it_stops_is_run_again(queue: StageQueue) -> None:
    stage = node()
    queue.submit([stage], "a")
    queue.take("g")
    queue.cancel([stage.key], "a")
    queue.submit([stage], "b")
    queue.finish("g", stage.key, Outcome("stopped"))
    assert state(queue, stage) is None
    assert run(queue) == stage


def test_stages_stopped_at_the_end_are_not_failures(queue: StageQueue) -> None:
    stage = node()
    queue.submit([stage])
    queue.take("g")
    queue.stop_running()
    assert queue.heartbeat("g", stage.key)
    queue.finish("g", stage.key, Outcome("stopped"))
    assert queue.snapshot().failures == ()
    assert state(queue, stage) is None


def test_a_stage_that_stops_unasked_has_failed(queue: StageQueue) -> None:
    stage = node()
    queue.submit([stage])
    queue.take("g")
    queue.finish("g", stage.key, Outcome("stopped"))
    assert state(queue, stage) == "failed"


def test_a_stage_nobody_wants_is_not_retried_when_its_group_dies(queue: StageQueue) -> None:
    stage = node()
    queue.submit([stage], "a")
    queue.take("g")
    queue.cancel([stage.key], "a")
    queue.release_group("g")
    assert state(queue, stage) == "stopped"


def test_poll_gives_events_from_an_index_on(queue: StageQueue) -> None:
    stage = node()
    queue.submit([stage])
    queue.take("g")
    first = queue.poll(stage.key)
    assert [event.kind for event in first.events] == ["queued", "started"]
    queue.report("g", stage.key, Progress(1, 1, {"val/dice": 0.5}))
    queue.finish("g", stage.key, DONE)
    later = queue.poll(stage.key, first.upto)
    assert [event.kind for event in later.events] == ["progress", "settled"]
    assert later.settled == DONE
    with pytest.raises(ClusterError, match="never submitted"):
        queue.poll("nothing")


def test_epochs_of_stages_that_ended_long_ago_are_forgotten_and_their_end_is_not(queue: StageQueue) -> None:
    stages = [node(seed=seed) for seed in range(REMEMBERED + 1)]
    for stage in stages:
        queue.submit([stage])
        queue.take("g")
        queue.report("g", stage.key, Progress(1, 1, {"val/dice": 0.5}))
        queue.finish("g", stage.key, DONE)
    kinds = [[event.kind for event in queue.poll(stage.key).events] for stage in stages]
    assert kinds[0] == ["queued", "started", "settled"] and state(queue, stages[0]) == "done"
    assert all(kind == ["queued", "started", "progress", "settled"] for kind in kinds[1:])


def test_snapshot_shows_counts_rate_and_last_validation() -> None:
    now = [0.0]
    queue = StageQueue(clock=lambda: now[0])
    teacher, alignment, _ = chain()
    queue.submit([teacher, alignment])
    queue.take("g")
    queue.heartbeat("g", teacher.key, 10, 100)
    now[0] = 4.0
    queue.heartbeat("g", teacher.key, 30, 100)
    queue.report("g", teacher.key, Progress(1, 5, {"val/dice": 0.7}))
    snapshot = queue.snapshot()
    (running,) = snapshot.running
    assert dict(snapshot.counts) == {"running": 1, "waiting": 1}
    assert (running.rate, running.seconds, running.epoch, running.epochs) == (5.0, 4.0, 1, 5)
    assert running.metrics == {"val/dice": 0.7}


def test_many_threads_run_every_stage_exactly_once() -> None:
    queue, taken = StageQueue(), []
    roots = [node("teacher", seed=i) for i in range(20)]
    leaves = [node("distill", {"teacher": roots[i % 20]}, seed=100 + i) for i in range(200)]
    queue.submit([*leaves, *roots])

    def work(group: str) -> None:
        while (stage := queue.take(group)) is not None or queue.snapshot().counts.get("waiting"):
            if stage is not None:
                taken.append(stage.key)
                queue.finish(group, stage.key, DONE)

    threads = [threading.Thread(target=work, args=(f"g{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(stage.key for stage in [*roots, *leaves])


STAGES: list[StageNode] = [node("teacher", seed=0), node("teacher", seed=1)]
for number in range(6):
    STAGES.append(node("distill", {"a": STAGES[number], "b": STAGES[number // 2]}, seed=number))
GROUPS = st.sampled_from(["g0", "g1", "g2"])
WHO = st.sampled_from(["a", "b"])


class QueueMachine(RuleBasedStateMachine):
    """Any sequence of requests, deaths, failures and ends keeps the queue's promises."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = StageQueue(max_failures=1)
        self.held: dict[str, StageNode] = {}
        self.done: set[str] = set()

    @rule(index=st.integers(0, 7), who=WHO, priority=st.integers(0, 3))
    def submit(self, index: int, who: str, priority: int) -> None:
        self.queue.submit(STAGES[: index + 1], who, priority)

    @rule(index=st.integers(0, 7), who=WHO)
    def cancel(self, index: int, who: str) -> None:
        self.queue.cancel([stage.key for stage in STAGES[index:]], who)

    @rule(group=GROUPS)
    def take(self, group: str) -> None:
        if group in self.held:
            return
        stage = self.queue.take(group)
        if stage is not None:
            assert stage not in self.held.values()
            assert stage.key not in self.done
            assert all(key in self.done for key in stage.inputs.values())
            self.held[group] = stage

    @rule(group=GROUPS, end=st.sampled_from(["done", "failed", "stopped", "death"]))
    def end(self, group: str, end: str) -> None:
        stage = self.held.pop(group, None)
        if stage is None:
            return
        if end == "death":
            assert self.queue.release_group(group) == stage.key
        elif end == "failed":
            assert self.queue.finish(group, stage.key, boom(stage))
        else:
            asked = self.queue.heartbeat(group, stage.key)
            assert self.queue.finish(group, stage.key, Outcome("stopped" if asked and end == "stopped" else "done"))
            self.done |= set() if asked and end == "stopped" else {stage.key}

    @invariant()
    def nothing_waits_for_what_has_ended(self) -> None:
        known = [stage for stage in STAGES if stage.key in self.queue._items]
        for stage in known:
            above = {state(self.queue, STAGES_BY_KEY[key]) for key in stage.inputs.values()}
            if "failed" in above:
                assert state(self.queue, stage) in ("failed", "stopped")
            if state(self.queue, stage) is None:
                assert "stopped" not in above


STAGES_BY_KEY = {stage.key: stage for stage in STAGES}
TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

"""Ray Tune's two sides without a Ray session."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_stages import node

from gkd_bench.cluster.session import prepare_environment

prepare_environment(local=True)

from gkd_bench.cluster.broker import News  # noqa: E402
from gkd_bench.cluster.inprocess import InProcessEngine  # noqa: E402
from gkd_bench.cluster.messages import StageEvent, StageFailure, StagePoll  # noqa: E402
from gkd_bench.cluster.search import Study, Trial  # noqa: E402
from gkd_bench.cluster.tune_driver import MOST_DEATHS, StudyScheduler, StudySearcher  # noqa: E402
from gkd_bench.cluster.tune_search import Job, TrialStages  # noqa: E402
from gkd_bench.cluster.tune_trial import trial_results  # noqa: E402
from gkd_bench.config.schema import Range, Search  # noqa: E402
from gkd_bench.errors import StoreUnavailable  # noqa: E402
from gkd_bench.stages.monitor import Outcome, Progress, Workplace  # noqa: E402
from gkd_bench.store.records import RecordLog  # noqa: E402

EPOCHS = 4


def news(epochs: Iterable[int], end: Any = None, fatal: str = "") -> News:
    events = tuple(StageEvent("progress", Progress(e, EPOCHS, {"val/dice": e / 10})) for e in epochs)
    return News({"k": StagePoll(events, 0, end)}, fatal)


def listen(*answers: News, seen: dict[int, float] | None = None, last: str = "k") -> list[tuple[Any, ...]]:
    """What a trial that watches ``k`` reports; every answer has to be asked for, under the right key."""
    waiting = list(answers)

    def poll(key: str, since: int) -> News:
        assert key in waiting[0].stages
        return waiting.pop(0)

    results = list(trial_results(poll, "k", last, "val/dice", seen or {}))
    assert waiting == []
    assert [r.get("done", False) for r in results] == [False] * (len(results) - 1) + [True]
    return [(r["epoch"], r.get("metric"), r.get("state")) for r in results]


def scoring(end: Any = None, fatal: str = "") -> News:
    """News of the last stage; it reports an epoch that must not count."""
    event = StageEvent("progress", Progress(9, 9, {"val/dice": 0.99}))
    return News({"s": StagePoll((event,), 1, end)}, fatal)


def test_trial_reports_epochs_and_keeps_the_last_one_for_the_end() -> None:
    assert listen(news([1, 2]), news([3, 4]), news([], Outcome("done"))) == [
        (1, 0.1, None),
        (2, 0.2, None),
        (3, 0.3, None),
        (4, 0.4, "done"),
    ]


def test_trial_reports_epochs_that_a_restarted_worker_repeats_once() -> None:
    assert [r[0] for r in listen(news([1, 2]), news([2, 3]), news([4], Outcome("done")))] == [1, 2, 3, 4]


def test_interrupted_trial_gives_the_scheduler_its_old_epochs_first() -> None:
    assert listen(news([2, 3, 4], Outcome("done")), seen={1: 0.15, 2: 0.25}) == [
        (1, 0.15, None),
        (2, 0.25, None),
        (3, 0.3, None),
        (4, 0.4, "done"),
    ]


@pytest.mark.parametrize(
    ("last", "state"),
    [
        (news([], Outcome("cached")), "cached"),
        (news([], Outcome("stopped")), "stopped"),
        (news([], StageFailure("k", "distill", "NaN")), "failed"),
        (news([], fatal="no group"), "fatal"),
    ],
)
def test_trial_says_how_its_stage_ended_without_inventing_an_objective(last: News, state: str) -> None:
    assert listen(last) == [(0, None, state)]


def test_trial_keeps_its_last_epoch_until_the_stage_that_scores_it_has_ended() -> None:
    training = (news([1, 2]), news([3, 4]), news([], Outcome("done")))
    assert listen(*training, scoring(), scoring(Outcome("done")), last="s") == [
        (1, 0.1, None),
        (2, 0.2, None),
        (3, 0.3, None),
        (4, 0.4, "done"),
    ]


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (scoring(Outcome("cached")), "cached"),
        (scoring(Outcome("stopped")), "stopped"),
        (scoring(StageFailure("s", "stress", "no room left")), "failed"),
        (scoring(fatal="no group"), "fatal"),
    ],
)
def test_trial_ends_as_its_last_stage_does(end: News, state: str) -> None:
    assert listen(news([], Outcome("cached")), end, last="s", seen={3: 0.3}) == [(3, 0.3, None), (3, 0.3, state)]


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (news([1], Outcome("stopped")), "stopped"),
        (news([1], StageFailure("k", "distill", "NaN")), "failed"),
        (news([1], fatal="no group"), "fatal"),
    ],
)
def test_trial_whose_training_has_no_artefact_waits_for_nothing_more(end: News, state: str) -> None:
    assert listen(end, last="s") == [(1, 0.1, None), (1, 0.1, state)]


class Bench:
    """A study, its Tune searcher, and an in-process engine whose stages are run by hand."""

    def __init__(self, path: Path, **search: Any) -> None:
        self.store: dict[str, dict[str, float]] = {}
        settings = Search(**{"sampler": "random", "trials": 4, "concurrency": 4, **search})
        journal = RecordLog(path / "j.jsonl")
        self.study = Study("s", {"w": Range(low=0.0, high=1.0)}, settings, 0, journal, epochs=EPOCHS)
        self.epochs: dict[str, dict[int, float]] = {}
        self.engine = InProcessEngine(lambda *_: Outcome("done"), Workplace(path, path), self.store.__contains__)
        history = lambda key: self.epochs.get(key, {})  # noqa: E731
        self.job = Job(self.nodes, self.store.__getitem__, history, self.store.__contains__)
        self.searcher = StudySearcher(self.study, self.job, self.engine)

    def nodes(self, trial: Trial) -> TrialStages:
        teacher = node("teacher")
        distill = node("distill", {"teacher": teacher}, w=trial.params["w"], halvings=trial.halvings)
        return TrialStages((teacher, distill, node("stress", {"model": distill})), distill.key)

    def finish(self, config: dict[str, Any], values: dict[str, float], epochs: dict[int, float] | None = None) -> None:
        """Put a trial's two stages into the store."""
        self.store[config["watched"]], self.store[config["last"]] = {}, values
        self.epochs[config["watched"]] = epochs or {}

    def result(self, epoch: int, value: float, **more: Any) -> dict[str, Any]:
        return {"epoch": epoch, "metric": value, **more}

    def counts(self) -> dict[str, int]:
        return {str(status): count for status, count in self.engine.snapshot().counts.items()}


def test_proposing_submits_and_early_stopping_takes_back_only_what_nobody_else_wants(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.searcher.suggest("a")
    bench.searcher.suggest("b")
    assert bench.counts() == {"ready": 1, "waiting": 4}
    bench.searcher.on_trial_result("a", bench.result(1, 0.3))
    bench.searcher.on_trial_complete("a", bench.result(2, 0.4))
    assert bench.counts() == {"ready": 1, "waiting": 2, "stopped": 2}
    (ended,) = bench.study.finished()
    assert (ended.state, ended.values, dict(ended.epochs)) == ("pruned", {}, {1: 0.3, 2: 0.4})


def test_trial_watches_its_training_and_ends_with_its_last_stage(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    config = bench.searcher.suggest("a")
    (start,) = RecordLog(tmp_path / "j.jsonl").read()
    _, distill, stress = bench.nodes(Trial(0, {"w": start["param/w"]})).nodes
    assert config == {"watched": distill.key, "last": stress.key, "metric": "val/dice", "seen": {}}


def test_values_of_a_complete_trial_come_from_the_store(tmp_path: Path) -> None:
    bench = Bench(tmp_path, objectives=("source_val", "stress_fsd"))
    config = bench.searcher.suggest("a")
    bench.finish(config, {"source_val": 0.77, "stress_fsd": 2.5}, {1: 0.1, 4: 0.5})
    bench.searcher.on_trial_complete("a", bench.result(4, 0.4, state="done"))
    bench.searcher.suggest("b")
    bench.searcher.on_trial_complete("b", {"epoch": 1, "state": "failed", "cause": "NaN"})
    assert [(t.state, t.values) for t in bench.study.finished()] == [
        ("complete", {"source_val": 0.77, "stress_fsd": 2.5}),
        ("failed", {}),
    ]
    assert [t.cause for t in bench.study.finished()][1] == "NaN"
    assert bench.study.finished()[0].epochs == {1: 0.1, 4: 0.5}  # those of the artefact, whatever arrived


def test_trial_whose_process_died_is_proposed_again_and_its_stages_run_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, trials=1)
    config = bench.searcher.suggest("a")
    bench.searcher.on_trial_result("a", bench.result(1, 0.3))
    counts = bench.counts()
    assert bench.searcher.suggest("b") is None
    bench.searcher.on_trial_complete("a", None, error=True)
    assert bench.counts() == counts and bench.study.finished() == []
    assert bench.searcher.suggest("b") == {**config, "seen": {"1": 0.3}}


def test_trial_whose_process_dies_for_ever_has_failed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, trials=1)
    for number in range(MOST_DEATHS + 1):
        assert bench.study.finished() == []
        bench.searcher.suggest(str(number))
        bench.searcher.on_trial_complete(str(number), None, error=True)
    (ended,) = bench.study.finished()
    assert ended.state == "failed" and "process died" in ended.cause
    assert bench.searcher.suggest("last") == "FINISHED"


@pytest.mark.parametrize(("order", "state"), [("arrival", "complete"), ("fixed", "pruned")])
def test_trial_stopped_after_its_stage_was_published(tmp_path: Path, order: str, state: str) -> None:
    """In order of arrival nothing that is there is thrown away; in fixed order timing must not decide."""
    bench = Bench(tmp_path, order=order)
    config = bench.searcher.suggest("a")
    bench.finish(config, {"source_val": 0.6})
    bench.searcher.on_trial_complete("a", bench.result(2, 0.1))
    assert [(t.state, t.values) for t in bench.study.finished()] == [
        (state, {"source_val": 0.6} if state == "complete" else {})
    ]


def test_trial_stopped_before_it_was_scored_is_pruned_although_its_training_is_published(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    config = bench.searcher.suggest("a")
    bench.store[config["watched"]] = {"source_val": 0.6}
    bench.searcher.on_trial_complete("a", bench.result(2, 0.1))
    assert [(t.state, t.values) for t in bench.study.finished()] == [("pruned", {})]


def test_trials_whose_result_is_stored_never_reach_tune(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    configs = [first.searcher.suggest(str(i)) for i in range(4)]
    (tmp_path / "j.jsonl").unlink()
    second = Bench(tmp_path)
    for config in configs:
        second.finish(config, {"source_val": 0.5})
    assert second.searcher.suggest("x") == "FINISHED"
    assert [trial.values for trial in second.study.finished()] == [{"source_val": 0.5}] * 4
    assert second.counts() == {}
    (tmp_path / "j.jsonl").unlink()
    trained = Bench(tmp_path)
    trained.store.update((config["watched"], {"source_val": 0.5}) for config in configs)
    assert trained.searcher.suggest("x")["last"] == configs[0]["last"]  # what is not scored yet has to run


def test_training_that_ran_on_after_it_was_stopped_counts_as_stopped_in_fixed_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, concurrency=1, reduction=2)
    config = bench.searcher.suggest("a")
    bench.finish(config, {"source_val": 0.9}, {1: 0.8, 2: 0.9})
    bench.searcher.on_trial_complete("a", bench.result(4, 0.9, state="done"))
    second = bench.searcher.suggest("b")
    (tmp_path / "j.jsonl").rename(tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text()
    (tmp_path / "j.jsonl").write_text(lines)
    again = Bench(tmp_path, concurrency=1, reduction=2)
    again.finish(config, {"source_val": 0.9}, {1: 0.8, 2: 0.9})
    again.finish(second, {"source_val": 0.95}, {1: 0.3, 2: 0.95, 3: 0.96})
    again.searcher.suggest("b")
    ended = again.study.finished()[1]
    assert (ended.state, ended.epochs) == ("pruned", {1: 0.3})


def test_trial_waits_for_its_turn_in_fixed_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, concurrency=2)
    first, second = bench.searcher.suggest("a"), bench.searcher.suggest("b")
    assert first and second and bench.searcher.suggest("c") is None
    bench.searcher.on_trial_complete("b", bench.result(1, 0.2))
    assert bench.searcher.suggest("c") is None
    bench.searcher.on_trial_complete("a", bench.result(1, 0.1))
    assert bench.searcher.suggest("c")["last"] and bench.searcher.suggest("d")["last"]
    assert bench.searcher.suggest("e") is None  # an open one may have to be repeated
    bench.searcher.on_trial_complete("c", bench.result(1, 0.1))
    bench.searcher.on_trial_complete("d", bench.result(1, 0.1))
    assert bench.searcher.suggest("e") == "FINISHED"


def test_out_of_memory_brings_the_trial_back_with_half_its_batch(tmp_path: Path) -> None:
    bench = Bench(tmp_path, memory_retries=1, trials=1)
    first = bench.searcher.suggest("a")
    assert bench.searcher.suggest("b") is None  # it may come back
    bench.searcher.on_trial_complete("a", {"epoch": 1, "state": "failed", "cause": "OOM", "memory": True})
    second = bench.searcher.suggest("b")
    assert second["watched"] != first["watched"]
    bench.searcher.on_trial_complete("b", {"epoch": 1, "state": "failed", "cause": "OOM again", "memory": True})
    assert bench.searcher.suggest("c") == "FINISHED"
    assert [(t.state, t.cause, t.halvings) for t in bench.study.finished()] == [("failed", "OOM again", 1)]


@pytest.mark.parametrize("state", ["fatal", "stopped"])
def test_trials_cut_off_by_the_end_of_the_sweep_stay_open(tmp_path: Path, state: str) -> None:
    bench = Bench(tmp_path)
    config = bench.searcher.suggest("a")
    bench.searcher.suggest("b")
    bench.searcher.on_trial_complete("a", bench.result(2, 0.4, state=state))
    assert bench.searcher.suggest("c") == "FINISHED"
    bench.searcher.withdraw()
    assert bench.counts() == {"stopped": 5}
    again = Bench(tmp_path)
    assert again.study.finished() == []
    assert again.searcher.suggest("a") == {**config, "seen": {"2": 0.4}}


@pytest.mark.parametrize("call", ["suggest", "stops", "on_trial_complete"])
def test_a_store_that_fails_ends_the_search_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    bench = Bench(tmp_path)
    config = bench.searcher.suggest("a")
    bench.finish(config, {"source_val": 0.1})

    def away(*_: Any) -> None:
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(RecordLog, "append", away)
    if call == "suggest":
        bench.searcher.suggest("b")
    elif call == "stops":
        assert not bench.searcher.stops("a", bench.result(1, 0.1))
    else:
        bench.searcher.on_trial_complete("a", {"epoch": 0, "state": "done"})
    assert str(bench.searcher.error) == "the store is away"
    assert bench.searcher.suggest("c") == "FINISHED"
    assert bench.counts() == {"stopped": 3}  # what no finished trial needs was taken back
    bench.searcher.on_trial_complete("a", {"epoch": 1, "state": "stopped"})
    monkeypatch.undo()
    again = Bench(tmp_path)
    assert again.searcher.suggest("a") == config


def test_a_trial_whose_result_cannot_be_seen_ends_the_search_and_stays_open(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    config = bench.searcher.suggest("a")
    bench.searcher.on_trial_complete("a", {"epoch": 0, "state": "done"})
    assert "s/trial 0 has ended, and its result is not in the store" in str(bench.searcher.error)
    assert bench.searcher.suggest("b") == "FINISHED"
    again = Bench(tmp_path)
    assert again.searcher.suggest("a") == config


def test_trial_cut_off_while_it_was_scored_shows_asha_no_epochs_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    config = bench.searcher.suggest("a")
    bench.searcher.on_trial_complete("a", bench.result(3, 0.1, state="stopped"))
    again = Bench(tmp_path)
    again.store[config["watched"]] = {}
    assert again.searcher.suggest("a") == {**config, "seen": {}}
    again.finish(config, {"source_val": 0.1}, {3: 0.1})
    again.searcher.on_trial_complete("a", {"epoch": 0, "state": "done"})
    (ended,) = again.study.finished()
    assert (ended.state, dict(ended.epochs)) == ("complete", {3: 0.1})


@pytest.mark.parametrize("objectives", [("source_val",), ("stress_fsd",), ("student_macs", "source_val")])
def test_asha_compares_the_epochs_of_earlier_runs_whatever_the_objectives(
    tmp_path: Path, objectives: tuple[str, ...]
) -> None:
    search: dict[str, Any] = {"reduction": 2, "objectives": objectives, "concurrency": 1}
    bench = Bench(tmp_path, **search)
    for value in (0.8, 0.9):
        trial = bench.study.ask()
        assert trial is not None
        bench.study.report(trial.number, 1, value)
        bench.study.tell(trial.number, "pruned")

    class New:
        trial_id = "new"

    again = Bench(tmp_path, **search)
    scheduler = StudyScheduler(again.searcher)
    again.searcher.suggest("new")
    assert scheduler.on_trial_result(None, New, again.result(1, 0.5)) == "STOP"
    fresh = Bench(tmp_path / "none", **search)
    scheduler = StudyScheduler(fresh.searcher)
    fresh.searcher.suggest("new")
    assert scheduler.on_trial_result(None, New, fresh.result(1, 0.5)) == "CONTINUE"


def test_no_early_stopping_without_room_for_it(tmp_path: Path) -> None:
    for search in ({"scheduler": "none"}, {"grace_epochs": EPOCHS}):
        bench = Bench(tmp_path, **search)
        assert bench.study.stopped_at(3, {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}) is None


def test_population_based_training_is_not_on_offer() -> None:
    with pytest.raises(ValueError, match="scheduler"):
        Search(scheduler="pbt")

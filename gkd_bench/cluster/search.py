"""Search of loss weights without Ray: Optuna's ask and tell, with a journal that survives every crash.

One study per source domain and method. A proposal is a function of (seed, trial number, what was told and asked before):
the sampler is seeded anew for every trial, so that a restarted study proposes what the interrupted one would have.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gkd_bench.config.schema import Choice, Range, Search
from gkd_bench.store.node import content_hash

if TYPE_CHECKING:
    import optuna

Value = float | int | str | bool
TrialState = Literal["complete", "pruned", "failed"]
Space = Mapping[str, Range | Choice]

PARAM = "param/"  # records are flat, so each parameter is a field of its own


class Journal(Protocol):
    """Where a study's history is kept; ``gkd_bench.store.records.RecordLog`` is one."""

    def append(self, record: dict[str, Any]) -> None:
        """Add one flat record, durably."""

    def read(self) -> list[dict[str, Any]]:
        """All records, oldest first."""


@dataclass(frozen=True)
class Trial:
    """One point of the search space.

    Attributes:
        number: counted from 0 in its study.
        params: dotted path -> value.
        epochs: epoch -> objective of an earlier run of the same trial that did not end.
    """

    number: int
    params: Mapping[str, Value]
    epochs: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class FinishedTrial(Trial):
    """A trial that ended. ``value`` is none unless it is complete; ``cause`` says why it failed."""

    state: TrialState = "complete"
    value: float | None = None
    cause: str = ""


class Study:
    """Proposes trials and keeps what became of them; larger values are better."""

    def __init__(
        self,
        name: str,
        space: Space,
        settings: Search,
        seed: int,
        journal: Journal,
        default: Mapping[str, Value] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A study with the history that its journal holds.

        Args:
            name: part of every record. Trials of one name must be comparable: put into it a hash of everything a
                trial's value depends on besides its parameters.
            space: dotted path -> distribution.
            settings: sampler, number of trials, budget.
            seed: of the sampler.
            journal: history; several studies may share one.
            default: the sweep's own values of the same paths. Trial 0, when they fit the space; of a grid, when they are
                one of its points.
            clock: seconds; ``settings.minutes`` counts from the first trial that this object proposes. Time that ran out
                stays so in the journal, until more trials or more minutes are asked for.
        """
        self.name, self.settings = name, settings
        self._space, self._seed, self._journal, self._clock = dict(sorted(space.items())), seed, journal, clock
        self._space_hash = content_hash({path: item.model_dump(mode="json") for path, item in self._space.items()})
        self._distributions = {path: _distribution(item) for path, item in self._space.items()}
        self._default = dict(default or {}) if _fits(self._space, default or {}) else None
        self._grid = self._grid_points() if settings.sampler == "grid" else None
        self._study = _quiet_study()
        self._started: float | None = None
        self._time_over = False
        self._finished: dict[int, FinishedTrial] = {}
        self._open: dict[int, optuna.Trial] = {}
        self._again: list[Trial] = []
        self._restore()

    # ------------------------------------------------------------ proposing

    @property
    def size(self) -> int:
        """Trials that the study will have: as many as asked for, at most one per grid point, no more when its time is over."""
        if self._time_over:
            return len(self._study.trials)
        return self.settings.trials if self._grid is None else min(self.settings.trials, len(self._grid))

    @property
    def remaining(self) -> int:
        """Trials not proposed yet, unfinished ones of an earlier run included."""
        return max(0, self.size - len(self._study.trials)) + len(self._again)

    def ask(self) -> Trial | None:
        """The next trial: interrupted ones first; none when all were proposed or the time is over."""
        self._started = self._clock() if self._started is None else self._started
        if self._again:
            return self._again.pop(0)
        if len(self._study.trials) >= self.size:
            return None
        if self._late():
            self._end()
            return None
        trial = self._propose(len(self._study.trials))
        params = {PARAM + path: value for path, value in trial.params.items()}
        self._write("trial_start", number=trial.number, **params)
        return trial

    def _late(self) -> bool:
        minutes, started = self.settings.minutes, self._started
        return minutes is not None and started is not None and self._clock() - started > 60 * minutes

    def _end(self) -> None:
        """The time is over: the next run of the same settings proposes nothing more."""
        self._time_over = True
        self._write("study_end", trials=self.settings.trials, minutes=self.settings.minutes)

    def _propose(self, number: int) -> Trial:
        self._study.sampler = _sampler(self.settings, int(content_hash([self._seed, number])[:8], 16))
        if fixed := self._fixed_point(number):
            self._study.enqueue_trial(dict(fixed))
        return self._begin()

    def _begin(self) -> Trial:
        """Ask Optuna for the next trial: what was enqueued, else what the sampler proposes."""
        trial = self._study.ask(self._distributions)
        self._open[trial.number] = trial
        return Trial(trial.number, dict(trial.params))

    def _fixed_point(self, number: int) -> Mapping[str, Value] | None:
        if self._grid is not None:
            return self._grid[number]
        return self._default if number == 0 else None

    def _grid_points(self) -> list[dict[str, Value]]:
        """Every combination in a seeded order; the sweep's own values first, when they are one of them."""
        import numpy as np

        values = itertools.product(*map(_grid, self._space.values()))
        points = [dict(zip(self._space, point, strict=True)) for point in values]
        order = np.random.default_rng(self._seed).permutation(len(points))
        default = self._default or {}
        first = [i for i in order if default and _same_point(points[i], default)]
        return [*(default for _ in first), *(points[i] for i in order if i not in first)]

    # ------------------------------------------------------------ telling

    def report(self, number: int, epoch: int, value: float) -> None:
        """The objective after an epoch of an open trial; a non-finite value or an epoch told before is ignored."""
        trial = self._open[number]
        if not math.isfinite(value) or epoch in self._epochs(number):
            return
        trial.report(value, epoch)
        self._write("trial_epoch", number=number, epoch=epoch, value=value)

    def tell(self, number: int, state: TrialState, value: float | None = None, cause: str = "") -> FinishedTrial:
        """End an open trial. A complete trial without a finite value counts as failed; failures do not end a study."""
        if state == "complete" and (value is None or not math.isfinite(value)):
            state, cause = "failed", cause or f"its objective is {value}"
        value = value if state == "complete" else None
        trial = self._open.pop(number)
        self._study.tell(trial, value, _optuna_state(state))
        done = FinishedTrial(number, dict(trial.params), self._epochs(number), state, value, cause)
        self._finished[number] = done
        self._write("trial_end", number=number, state=state, value=value, cause=cause)
        return done

    def _epochs(self, number: int) -> dict[int, float]:
        return dict(self._study.trials[number].intermediate_values)

    def _write(self, record: str, **fields: Any) -> None:
        head = {"record": record, "study": self.name, "space": self._space_hash}
        self._journal.append({**head, **fields})

    # ------------------------------------------------------------ results

    def finished(self) -> list[FinishedTrial]:
        """All ended trials by number."""
        return [self._finished[number] for number in sorted(self._finished)]

    def best(self) -> FinishedTrial | None:
        """The complete trial with the largest value (the earliest of equals), or none. Pruned trials do not count."""
        complete = [trial for trial in self.finished() if trial.value is not None]
        return max(complete, key=lambda trial: (trial.value, -trial.number), default=None)

    # ------------------------------------------------------------ restarting

    def _restore(self) -> None:
        """Tell Optuna the journal's trials in their order; unfinished ones are proposed again first.

        Records of another search space are another study's.
        """
        mine = [r for r in self._journal.read() if (r.get("study"), r.get("space")) == (self.name, self._space_hash)]
        self._time_over = any(r["record"] == "study_end" and self._asks_no_more_than(r) for r in mine)
        for past in self._past(mine):
            if isinstance(past, FinishedTrial):
                self._study.add_trial(self._frozen(past))
                self._finished[past.number] = past
            else:
                self._study.enqueue_trial(dict(past.params))
                self._begin()
                for epoch, value in past.epochs.items():
                    self._open[past.number].report(value, epoch)
                self._again.append(past)

    def _asks_no_more_than(self, end: Mapping[str, Any]) -> bool:
        """Whether trials and minutes are within those of a run whose time was over."""
        minutes, trials = self.settings.minutes, self.settings.trials
        return minutes is not None and minutes <= end["minutes"] and trials <= end["trials"]

    def _past(self, mine: Sequence[Mapping[str, Any]]) -> Iterator[Trial]:
        """The trials of the study's records, by number."""
        starts = {r["number"]: r for r in mine if r["record"] == "trial_start"}
        ends = {r["number"]: r for r in mine if r["record"] == "trial_end"}
        for number in sorted(starts):
            params = {path: starts[number][PARAM + path] for path in self._space}
            epochs = {r["epoch"]: r["value"] for r in mine if r["record"] == "trial_epoch" and r["number"] == number}
            end = ends.get(number)
            if end is None:
                yield Trial(number, params, epochs)
            else:
                yield FinishedTrial(number, params, epochs, end["state"], end["value"], end["cause"])

    def _frozen(self, trial: FinishedTrial) -> optuna.trial.FrozenTrial:
        from optuna.trial import create_trial

        return create_trial(
            state=_optuna_state(trial.state),
            value=trial.value,
            params=dict(trial.params),
            distributions=self._distributions,
            intermediate_values=dict(trial.epochs),
        )


# ---------------------------------------------------------------- Optuna's words


def _quiet_study() -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())


def _sampler(settings: Search, seed: int) -> optuna.samplers.BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    if settings.sampler == "tpe":
        return TPESampler(seed=seed, n_startup_trials=settings.startup_trials)
    return RandomSampler(seed=seed)


def _distribution(item: Range | Choice) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(item, Choice):
        return CategoricalDistribution(item.choice)
    return FloatDistribution(item.low, item.high, log=item.log)


def _optuna_state(state: TrialState) -> optuna.trial.TrialState:
    from optuna.trial import TrialState as States

    return {"complete": States.COMPLETE, "pruned": States.PRUNED, "failed": States.FAIL}[state]


def _grid(item: Range | Choice) -> Sequence[Value]:
    """The grid values of one dimension; a range has ``points`` of them, evenly spaced, ends included."""
    if isinstance(item, Choice):
        return item.choice
    if item.points == 1:
        return [math.sqrt(item.low * item.high) if item.log else (item.low + item.high) / 2]
    steps = [i / (item.points - 1) for i in range(item.points)]
    if item.log:
        inner = [item.low * (item.high / item.low) ** t for t in steps]
    else:
        inner = [item.low + (item.high - item.low) * t for t in steps]
    return [item.low, *inner[1:-1], item.high]


def _same_point(a: Mapping[str, Value], b: Mapping[str, Value]) -> bool:
    return all(_same_value(value, b[path]) for path, value in a.items())


def _same_value(a: Value, b: Value) -> bool:
    """Equal, for numbers up to the rounding of a computed grid value."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b)
    return a == b


def _fits(space: Space, point: Mapping[str, Value]) -> bool:
    """Whether a point has every dimension of the space, each inside its bounds."""
    return all(path in point and _inside(item, point[path]) for path, item in space.items())


def _inside(item: Range | Choice, value: Value) -> bool:
    if isinstance(item, Choice):
        return value in item.choice
    return isinstance(value, int | float) and item.low <= value <= item.high

"""Search of loss weights without Ray: Optuna's ask and tell, with a journal that survives every crash.

One study per source domain and method. A proposal is a function of (seed, trial number, what the sampler was told before):
the sampler is seeded anew for every trial, so that a restarted study proposes what the interrupted one would have.

In fixed order (``search.order``) what is known about trial n is decided by numbers, not by time: trials up to n -
``concurrency`` have ended, and those alone are told to the sampler before it proposes n, and compared with n by ASHA.
Results that arrive earlier wait in the journal for their turn.

A trial has a value for each objective of the search. With several of them no trial is the best one: what stays is the front
of those that no other trial beats, and choosing from it is not this module's business. The epochs of a trial are those of
validation Dice whatever the objectives are: early stopping sees them, and the sampler only where they are the objective.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from gkd_bench.cluster.halving import rungs, stopped_at
from gkd_bench.cluster.objectives import best_of, sign, undominated
from gkd_bench.config.schema import Choice, Range, Search
from gkd_bench.store.node import content_hash

if TYPE_CHECKING:
    import optuna

Value = float | int | str | bool
TrialState = Literal["complete", "pruned", "failed"]
Space = Mapping[str, Range | Choice]
Values = Mapping[str, float | None]  # objective -> value, none where it could not be measured

PARAM, VALUE = "param/", "value/"  # records are flat, so each parameter and each value is a field of its own
LAYOUT = 2  # of the records; those of another layout are another study's


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
        epochs: epoch -> validation Dice; of a proposed trial, those of an earlier run that did not end.
        halvings: how often its batch was halved, since it ran out of memory.
    """

    number: int
    params: Mapping[str, Value]
    epochs: Mapping[int, float] = field(default_factory=dict)
    halvings: int = 0


@dataclass(frozen=True)
class FinishedTrial(Trial):
    """A trial that ended.

    Attributes:
        state: how it ended.
        values: objective -> finite value; empty unless it is complete.
        cause: why it failed.
    """

    state: TrialState = "complete"
    values: Mapping[str, float] = field(default_factory=dict)
    cause: str = ""


class Study:
    """Proposes trials and keeps what became of them; which way an objective is better, ``OBJECTIVES`` says."""

    def __init__(
        self,
        name: str,
        space: Space,
        settings: Search,
        seed: int,
        journal: Journal,
        default: Mapping[str, Value] | None = None,
        epochs: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A study with the history that its journal holds.

        Args:
            name: part of every record. Trials of one name must be comparable: put into it a hash of everything a
                trial's value depends on besides its parameters.
            space: dotted path -> distribution.
            settings: objectives, sampler, number of trials, budget. Other objectives are another study.
            seed: of the sampler.
            journal: history; several studies may share one.
            default: the sweep's own values of the same paths. Trial 0, when they fit the space; of a grid, when they are
                one of its points.
            epochs: of a trial's training; 0 = no trial is stopped early.
            clock: seconds; ``settings.minutes`` counts from the first trial that this object proposes. Time that ran out
                stays so in the journal, until more trials or more minutes are asked for.
        """
        self.name, self.settings = name, settings
        self._space, self._seed, self._journal, self._clock = dict(sorted(space.items())), seed, journal, clock
        self.objectives: tuple[str, ...] = settings.objectives
        halving = settings.scheduler == "asha" and epochs > 0
        self._rungs = rungs(settings.grace_epochs, settings.reduction, epochs) if halving else []
        self._space_hash = _space_hash(self._space, self.objectives)
        self._distributions = {path: _distribution(item) for path, item in self._space.items()}
        self._default = dict(default or {}) if _fits(self._space, default or {}) else None
        self._grid = self._grid_points() if settings.sampler == "grid" else None
        self._study = _quiet_study(self.objectives)
        self._started: float | None = None
        self._time_over = False
        self._finished: dict[int, FinishedTrial] = {}
        self._open: dict[int, optuna.Trial] = {}
        self._untold: dict[int, optuna.Trial] = {}  # ended, and not yet told to the sampler
        self._epochs: dict[int, dict[int, float]] = {}
        self._again: list[Trial] = []
        self._halvings: dict[int, int] = {}
        self._restore()

    # ------------------------------------------------------------ proposing

    @property
    def size(self) -> int:
        """Trials that the study will have: as many as asked for, at most one per grid point, no more when its time is over."""
        if self._time_over:
            return self._begun
        return self.settings.trials if self._grid is None else min(self.settings.trials, len(self._grid))

    @property
    def remaining(self) -> int:
        """Trials not proposed yet, unfinished ones of an earlier run included."""
        return max(0, self.size - self._begun) + len(self._again)

    @property
    def _begun(self) -> int:
        """Trials proposed so far, those of earlier runs included; also the next trial's number."""
        return len(self._finished) + len(self._open)

    @property
    def waits(self) -> bool:
        """Whether the next trial can only be proposed when one that is open has ended."""
        last = self._begun - self.settings.concurrency
        late = self.settings.order == "fixed" and any(number <= last for number in self._open)
        return late and not self._again and self._begun < self.size

    def _counts(self, other: int, number: int) -> bool:
        """Whether a trial counts for another one: always in order of arrival, else when it is ``concurrency`` before it."""
        return self.settings.order == "arrival" or other <= number - self.settings.concurrency

    def ask(self) -> Trial | None:
        """The next trial: interrupted ones first; none when all were proposed, the time is over, or the study ``waits``."""
        self._started = self._clock() if self._started is None else self._started
        if self._again:
            return self._again.pop(0)
        if self._begun >= self.size or self.waits:
            return None
        if self._late():
            self._end()
            return None
        trial = self._propose(self._begun)
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
        self._tell_sampler(number)
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
        """Validation Dice after an epoch of an open trial; a value that is not finite or an epoch told before is ignored."""
        if number not in self._open:
            raise KeyError(number)
        if not math.isfinite(value) or epoch in self._epochs.get(number, {}):
            return
        self._epochs.setdefault(number, {})[epoch] = value
        self._write("trial_epoch", number=number, epoch=epoch, value=value)

    def stops(self, number: int, epoch: int) -> bool:
        """Whether ASHA stops an open trial at an epoch that it has reported."""
        value = self._epochs.get(number, {}).get(epoch) if epoch in self._rungs else None
        return value is not None and self.stopped_at(number, {epoch: value}) is not None

    def stopped_at(self, number: int, epochs: Mapping[int, float]) -> int | None:
        """The first of a trial's epochs at which ASHA stops it, or none."""
        rivals = [one for n, one in self._epochs.items() if n != number and self._counts(n, number)]
        return stopped_at(epochs, rivals, self._rungs, self.settings.reduction)

    def halve(self, number: int) -> bool:
        """Propose an open trial that ran out of memory again, with half the batch; false when it was tried often enough."""
        done = self._halvings.get(number, 0)
        if done >= self.settings.memory_retries:
            return False
        self._halvings[number] = done + 1
        self._epochs.pop(number, None)
        self._write("trial_halved", number=number, halvings=done + 1)
        self.repeat(number)
        return True

    def repeat(self, number: int) -> None:
        """Propose an open trial again, with the epochs that it has reported: whatever it was, it was not the trial's fault."""
        params, epochs = dict(self._open[number].params), dict(self._epochs.get(number, {}))
        self._again.append(Trial(number, params, epochs, self._halvings.get(number, 0)))

    def _reached(self, trial: FinishedTrial) -> dict[int, float]:
        """The epoch by which Optuna ranks a stopped trial, where epochs are the one objective; of other trials none."""
        last = max(trial.epochs, default=None)
        if last is None or trial.state != "pruned" or self.objectives != ("source_val",):
            return {}
        return {last: trial.epochs[last]}

    def tell(
        self,
        number: int,
        state: TrialState,
        values: Values | None = None,
        cause: str = "",
        epochs: Mapping[int, float] | None = None,
    ) -> FinishedTrial:
        """End an open trial. A complete trial without a finite value of every objective counts as failed.

        Values of a trial that is not complete, and of what is no objective of this study, are left out. Failures do not
        end a study. ``epochs``: all that there are; they replace what was reported, of which a crash may have lost some.
        """
        for epoch, value in sorted((epochs or {}).items()):
            if self._epochs.get(number, {}).get(epoch) != value:
                self._epochs.get(number, {}).pop(epoch, None)
                self.report(number, epoch, value)
        measured, flaws = self._measured(values or {})
        if state == "complete" and flaws:
            state, cause = "failed", cause or "; ".join(flaws)
        if state != "complete":
            measured = {}
        trial = self._open.pop(number)
        halvings = self._halvings.get(number, 0)
        done = FinishedTrial(number, dict(trial.params), self._epochs.get(number, {}), halvings, state, measured, cause)
        self._finished[number] = done
        self._untold[number] = trial
        if self.settings.order == "arrival":
            self._tell_sampler(self._begun)
        fields = {VALUE + name: value for name, value in measured.items()}
        self._write("trial_end", number=number, state=state, cause=cause, **fields)
        return done

    def _tell_sampler(self, number: int) -> None:
        """Tell Optuna the ended trials that count for a trial, in their order."""
        for ended in sorted(n for n in self._untold if self._counts(n, number)):
            trial, done = self._untold.pop(ended), self._finished[ended]
            for epoch, value in self._reached(done).items():
                trial.report(value, epoch)
            self._study.tell(trial, list(done.values.values()) or None, _optuna_state(done.state))

    def _measured(self, values: Values) -> tuple[dict[str, float], list[str]]:
        """The finite values of the objectives, in their order, and what is wrong with the others."""
        found = {name: values.get(name) for name in self.objectives}
        finite = {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
        return finite, [f"its objective {name} is {value}" for name, value in found.items() if name not in finite]

    def _write(self, record: str, **fields: Any) -> None:
        head = {"record": record, "study": self.name, "space": self._space_hash}
        self._journal.append({**head, **fields})

    # ------------------------------------------------------------ results

    def finished(self) -> list[FinishedTrial]:
        """All ended trials by number."""
        return [self._finished[number] for number in sorted(self._finished)]

    def front(self) -> list[FinishedTrial]:
        """The complete trials that no other complete trial dominates, by number; see ``undominated``."""
        complete = [trial for trial in self.finished() if trial.state == "complete"]
        return [complete[index] for index in undominated([trial.values for trial in complete])]

    def best_value(self) -> float | None:
        """The best value of the first objective over the complete trials, or none."""
        first = self.objectives[0]
        return best_of(first, (trial.values[first] for trial in self.finished() if trial.state == "complete"))

    # ------------------------------------------------------------ restarting

    def _restore(self) -> None:
        """Tell Optuna the journal's trials in their order; unfinished ones are proposed again first.

        Records of another search space, of other objectives or of another layout are another study's.
        """
        mine = [r for r in self._journal.read() if (r.get("study"), r.get("space")) == (self.name, self._space_hash)]
        self._time_over = any(r["record"] == "study_end" and self._asks_no_more_than(r) for r in mine)
        trials = list(self._past(mine))
        for past in trials:
            self._epochs[past.number] = dict(past.epochs)
            self._halvings |= {past.number: past.halvings} if past.halvings else {}
            if isinstance(past, FinishedTrial) and self._counts(past.number, len(trials)):
                self._study.add_trial(self._frozen(past))
                self._finished[past.number] = past
                continue
            self._study.enqueue_trial(dict(past.params))
            self._begin()
            if isinstance(past, FinishedTrial):
                self._finished[past.number] = past
                self._untold[past.number] = self._open.pop(past.number)
                continue
            self._again.append(past)

    def _asks_no_more_than(self, end: Mapping[str, Any]) -> bool:
        """Whether trials and minutes are within those of a run whose time was over."""
        minutes, trials = self.settings.minutes, self.settings.trials
        return minutes is not None and minutes <= end["minutes"] and trials <= end["trials"]

    def _past(self, mine: Sequence[Mapping[str, Any]]) -> Iterator[Trial]:
        """The trials of the study's records, by number."""
        starts = {r["number"]: r for r in mine if r["record"] == "trial_start"}
        ends = {r["number"]: r for r in mine if r["record"] == "trial_end"}
        halvings: dict[int, int] = {}
        epochs: dict[int, dict[int, float]] = {}
        for record in mine:
            if record["record"] == "trial_epoch":
                epochs.setdefault(record["number"], {})[record["epoch"]] = record["value"]
            elif record["record"] == "trial_halved":
                halvings[record["number"]] = record["halvings"]
                epochs.pop(record["number"], None)
        for number in sorted(starts):
            params = {path: starts[number][PARAM + path] for path in self._space}
            past, halved, end = epochs.get(number, {}), halvings.get(number, 0), ends.get(number)
            if end is None:
                yield Trial(number, params, past, halved)
            else:
                values = {name: end[VALUE + name] for name in self.objectives if end["state"] == "complete"}
                yield FinishedTrial(number, params, past, halved, end["state"], values, end["cause"])

    def _frozen(self, trial: FinishedTrial) -> optuna.trial.FrozenTrial:
        from optuna.trial import create_trial

        return create_trial(
            state=_optuna_state(trial.state),
            values=[trial.values[name] for name in self.objectives] if trial.values else None,
            params=dict(trial.params),
            distributions=self._distributions,
            intermediate_values=self._reached(trial),
        )


def _space_hash(space: Space, objectives: Sequence[str]) -> str:
    """Stands in every record: only trials of the same space, objectives and layout are read back."""
    dimensions = {path: item.model_dump(mode="json") for path, item in space.items()}
    return content_hash({"layout": LAYOUT, "objectives": list(objectives), "space": dimensions})


# ---------------------------------------------------------------- Optuna's words


def _quiet_study(objectives: Sequence[str]) -> optuna.Study:
    import optuna
    from optuna.study import StudyDirection

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = [StudyDirection.MAXIMIZE if sign(name) > 0 else StudyDirection.MINIMIZE for name in objectives]
    return optuna.create_study(directions=directions, storage=optuna.storages.InMemoryStorage())


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

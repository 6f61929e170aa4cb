"""Tables of searches: trials by state, the trial that was taken, what each parameter matters, and Pareto fronts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from gkd_bench.config.schema import OBJECTIVES, Objective
from gkd_bench.metrics.pareto import pareto_front
from gkd_bench.report.captions import PICKS, sentences
from gkd_bench.report.cells import Cell, Column, Table
from gkd_bench.report.frame import Origin, SweepRecords, grouped
from gkd_bench.report.selection import RULES, closest_to_ideal
from gkd_bench.report.tables import frame_rows

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study as OptunaStudy

COMPLETE = "complete"
STATES = ((COMPLETE, "complete"), ("pruned", "stopped early"), ("failed", "failed"))
LEAST_TRIALS = 4
EVALUATOR = "PED-ANOVA"
OBJECTIVE_TITLES = {
    "source_val": "validation Dice of the source",
    "source_val_stressed": "the same under stress",
    "stress_fsd": "FSD under stress",
    "student_macs": "multiply-accumulates of the student",
}
_LOG_SPAN = 100.0  # a positive parameter that was tried over two decades or more was meant on a logarithmic scale
_ONLY_SOURCE = "Objectives are measured on the source's validation subjects only"


@dataclass(frozen=True, eq=False)
class Trial:
    """A complete trial: its number, parameters, finite objectives, and whether the sweep took it (none: not recorded)."""

    number: int
    params: Mapping[str, Any]
    objectives: Mapping[str, float]
    taken: bool | None


@dataclass(frozen=True, eq=False)
class SearchStudy:
    """One study as its trial records tell it.

    Attributes:
        name: name of the study.
        frame: its trial records.
        origin: the rule and the pick of the sweep.
    """

    name: str
    frame: pd.DataFrame
    origin: Origin

    @cached_property
    def trials(self) -> list[Trial]:
        """Complete trials with all objectives, by number."""
        frame = self.frame[self.frame["state"] == COMPLETE].sort_values("number", kind="stable")
        return [trial for row in frame.to_dict("records") if (trial := _trial(row)).objectives]  # type: ignore[arg-type]

    @cached_property
    def objectives(self) -> list[Objective]:
        """Objectives that all complete trials have, in the order of the schema."""
        known: list[Objective] = [*OBJECTIVES]  # type: ignore[list-item]
        return [name for name in known if self.trials and all(name in trial.objectives for trial in self.trials)]

    @cached_property
    def directions(self) -> dict[Objective, str]:
        """Objective -> ``up`` or ``down``."""
        return {name: OBJECTIVES[name] for name in self.objectives}

    @cached_property
    def front(self) -> list[Trial]:
        """Trials that no other trial beats."""
        return [self.trials[at] for at in pareto_front([trial.objectives for trial in self.trials], self.directions)]

    def gains(self, trial: Trial) -> tuple[float, ...]:
        """The trial's objectives, turned so that more is better."""
        return tuple((1 if way == "up" else -1) * trial.objectives[name] for name, way in self.directions.items())

    @cached_property
    def taken(self) -> Trial | None:
        """The trial that the sweep took; where records do not say, the one that its rule takes of the front's objectives."""
        known = [trial for trial in self.trials if trial.taken]
        if known or not self.front:
            return known[0] if known else None
        if any(trial.taken is not None for trial in self.trials):
            return None
        if self.origin.pick == "closest_to_ideal" and len(self.objectives) > 1:
            points = [{str(name): trial.objectives[name] for name in self.objectives} for trial in self.front]
            return self.front[closest_to_ideal(points, self.directions)]
        place = (
            [str(name) for name in self.objectives].index(self.origin.rule)
            if self.origin.rule in self.objectives
            else 0
        )
        return max(self.front, key=lambda trial: self.gains(trial)[place])


def studies_of(records: SweepRecords) -> list[SearchStudy]:
    """The studies of a sweep, by name."""
    parts = grouped(records.of("trial"), ["study"])
    return [SearchStudy(name, frame, records.origin) for (name,), frame in parts]


def search_summary(records: SweepRecords) -> Table:
    """Trials of every study by state, the trial that was taken, its objectives and its parameters."""
    studies = studies_of(records)
    names = _all_objectives(studies)
    columns = [Column("study", "study"), Column("trials", "trials", decimals=0)]
    columns += [Column(state, title, decimals=0) for state, title in STATES]
    columns += [Column("other", "other", decimals=0), Column("taken", "taken trial", decimals=0)]
    columns += [_objective_column(name) for name in names] + [Column("params", "its parameters")]
    rows = tuple(_summary_row(study, names) for study in studies)
    several = any(len(study.objectives) > 1 for study in studies)
    taken = RULES[records.origin.rule].title
    rule = f"Taken of the Pareto front: {PICKS[records.origin.pick]} ({taken})" if several else f"Taken by: {taken}"
    caption = sentences(_ONLY_SOURCE, rule)
    return Table("search", "Search: the trial of every study that was taken", caption, tuple(columns), rows, "search")


def importance_table(records: SweepRecords) -> Table:
    """How much of an objective's variation among trials every parameter explains; n/a below four complete trials."""
    columns = (
        Column("study", "study"),
        Column("objective", "objective"),
        Column("trials", "complete trials", decimals=0),
        Column("parameter", "parameter"),
        Column("importance", "importance", decimals=2),
        Column("taken", "taken value"),
    )
    rows = tuple(row for study in studies_of(records) for row in _importance_rows(study))
    caption = sentences(
        f"{EVALUATOR} (Watanabe et al., IJCAI 2023) over the complete trials of a study, shares that sum to one; ranges as tried",
        f"-: fewer than {LEAST_TRIALS} complete trials, equal objectives, or a parameter that never changed",
        "With few trials it is a hint, not a finding",
    )
    return Table("importance", "Search: importance of the parameters", caption, columns, rows, "search")


def pareto_table(records: SweepRecords) -> Table:
    """The Pareto front of every study with several objectives, and which of its trials was taken."""
    studies = [study for study in studies_of(records) if len(study.objectives) > 1]
    names = _all_objectives(studies)
    columns = [Column("study", "study"), Column("trial", "trial", decimals=0), Column("taken", "taken")]
    columns += [_objective_column(name) for name in names] + [Column("params", "parameters")]
    rows = tuple(_front_row(study, trial, names) for study in studies for trial in study.front)
    pick = PICKS.get(records.origin.pick, records.origin.pick)
    caption = sentences(
        "Complete trials that no other trial of their study beats in one objective without losing in another",
        f"Taken (✓): {pick}; rule: {RULES[records.origin.rule].title}",
        _ONLY_SOURCE,
    )
    return Table("pareto", "Search: Pareto front", caption, tuple(columns), rows, "search")


def trials_table(records: SweepRecords) -> Table:
    """Every trial of every study, one row each; a failed one with its cause."""
    names = ("study", "number", "state", "value", "objectives", "params", "cause", "key")
    columns = tuple(Column(name, name) for name in names)
    frame = records.of("trial").sort_values(["study", "number"], kind="stable")
    text = f"{_ONLY_SOURCE}; value: the first one."
    return Table("trials", "All trials", text, columns, frame_rows(columns, frame), "search")


def importances(study: SearchStudy, objective: Objective) -> dict[str, float]:
    """Parameter -> share of the objective's variation that it explains; empty where it cannot be told."""
    values = [trial.objectives[objective] for trial in study.trials]
    moving = _distributions(study.trials)
    if len(values) < LEAST_TRIALS or len(set(values)) < 2 or not moving:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is marked experimental
        found = get_param_importances(_rebuilt(study, objective, moving), evaluator=PedAnovaImportanceEvaluator())
    return {name: float(value) for name, value in found.items()}


def named_values(text: str) -> str:
    """A JSON object as ``name = value`` pairs in the order of the names; other JSON as it is."""
    values = json.loads(text)
    return _named(values) if isinstance(values, dict) else text


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {_plain(value)}" for name, value in sorted(values.items()))


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _trial(row: Mapping[str, Any]) -> Trial:
    found = json.loads(row["objectives"]) if isinstance(row["objectives"], str) else {}
    objectives = {str(name): float(value) for name, value in found.items() if value is not None}
    taken = row.get("taken")
    told = None if taken is None or taken != taken else bool(taken)
    return Trial(int(row["number"]), json.loads(row["params"]), objectives, told)


def _all_objectives(studies: Sequence[SearchStudy]) -> list[str]:
    return [name for name in OBJECTIVES if any(name in study.objectives for study in studies)]


def _objective_column(name: str) -> Column:
    return Column(name, OBJECTIVE_TITLES[name], OBJECTIVES[name], decimals=0 if name == "student_macs" else 3)


def _summary_row(study: SearchStudy, names: Sequence[str]) -> tuple[Cell, ...]:
    states = study.frame["state"]
    counts = [int((states == state).sum()) for state, _ in STATES]
    numbers = [len(states), *counts, len(states) - sum(counts)]
    taken = study.taken
    if taken is None:
        return (Cell(study.name), *map(Cell, numbers), Cell(), *(Cell() for _ in names), Cell())
    found = (Cell(taken.objectives.get(name)) for name in names)
    return (Cell(study.name), *map(Cell, numbers), Cell(taken.number), *found, Cell(_named(taken.params)))


def _front_row(study: SearchStudy, trial: Trial, names: Sequence[str]) -> tuple[Cell, ...]:
    mine = study.taken is not None and trial.number == study.taken.number
    cells = (Cell(trial.objectives.get(name)) for name in names)
    mark = Cell("✓").marked("best") if mine else Cell()
    return (Cell(study.name), Cell(trial.number), mark, *cells, Cell(_named(trial.params)))


def _importance_rows(study: SearchStudy) -> Iterator[tuple[Cell, ...]]:
    taken = {} if study.taken is None else study.taken.params
    params = sorted({name for trial in study.trials for name in trial.params})
    for objective in study.objectives:
        found = importances(study, objective)
        head = (Cell(study.name), Cell(OBJECTIVE_TITLES[objective]), Cell(len(study.trials)))
        for name in sorted(params, key=lambda name: (-found.get(name, -1.0), name)):
            value = Cell(_plain(taken[name])) if name in taken else Cell()
            yield (*head, Cell(name), Cell(found.get(name)), value)


def _distributions(trials: Sequence[Trial]) -> dict[str, BaseDistribution]:
    """The ranges in which parameters that all trials have were tried; those that never changed are left out."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name in sorted(set.intersection(*(set(trial.params) for trial in trials)) if trials else ()):
        values = [trial.params[name] for trial in trials]
        if len({repr(value) for value in values}) < 2:
            continue
        if any(isinstance(value, bool | str) or value is None or isinstance(value, list | dict) for value in values):
            found[name] = CategoricalDistribution(sorted({json.dumps(value) for value in values}))
        elif all(isinstance(value, int) for value in values):
            found[name] = IntDistribution(min(values), max(values))
        else:
            low, high = float(min(values)), float(max(values))
            found[name] = FloatDistribution(low, high, log=low > 0 and high / low >= _LOG_SPAN)
    return found


def _rebuilt(study: SearchStudy, objective: Objective, ranges: Mapping[str, BaseDistribution]) -> OptunaStudy:
    """The study in memory with one objective, as far as importance needs it."""
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.study import StudyDirection
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it announces every study on the terminal
    way = StudyDirection.MAXIMIZE if study.directions[objective] == "up" else StudyDirection.MINIMIZE
    rebuilt = optuna.create_study(direction=way, storage=optuna.storages.InMemoryStorage())
    for trial in study.trials:
        params = {
            name: json.dumps(trial.params[name]) if isinstance(kind, CategoricalDistribution) else trial.params[name]
            for name, kind in ranges.items()
        }
        rebuilt.add_trial(create_trial(params=params, distributions=dict(ranges), value=trial.objectives[objective]))
    return rebuilt

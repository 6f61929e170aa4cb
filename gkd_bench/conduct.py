"""What a sweep asks an engine for, and in which order: shared ancestors, searches, chosen students, scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gkd_bench.cluster.engine import Engine
from gkd_bench.cluster.launch import RunStudy
from gkd_bench.cluster.objectives import best_of
from gkd_bench.cluster.progress import SearchStatus
from gkd_bench.cluster.search import FinishedTrial, Study, Trial
from gkd_bench.cluster.tune_search import METRIC, Job, TrialStages
from gkd_bench.config.load import with_parameters
from gkd_bench.config.schema import OBJECTIVES, Choice, Network, Range, Sweep
from gkd_bench.errors import StageError
from gkd_bench.plan import Graph, Planner, graph
from gkd_bench.report.rows import network_name
from gkd_bench.report.selection import RULES, Candidate, choose, closest_to_ideal
from gkd_bench.store.artefacts import Store
from gkd_bench.store.node import StageNode, content_hash
from gkd_bench.store.records import Log
from gkd_bench.store.verify import CHECKPOINTS, stage_of

SEARCH_PRIORITY, FINAL_PRIORITY = 10, 20


@dataclass(frozen=True)
class StudyResult:
    """What a search found.

    Attributes:
        source: source domain.
        method: method searched.
        planner: of the chosen trial, or of the sweep's own values when no trial completed.
        trials: all ended trials.
        stages: trial number -> its stages, the student's training and then its stress stage last.
        taken: number of the chosen trial.
        scores: number of a complete trial -> its evaluate stages, where the sweep asks for them.
    """

    source: str
    method: str
    planner: Planner
    trials: tuple[FinishedTrial, ...] = ()
    stages: Mapping[int, TrialStages] = field(default_factory=dict)
    taken: int | None = None
    scores: Mapping[int, tuple[StageNode, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepResult:
    """Everything the report needs.

    Attributes:
        models: final training stages: teachers, baselines, semantic, alignment and distill stages.
        scores: their stress and evaluate stages, and what the networks cost.
        studies: the searches.
        failed: content key -> stage that failed, and its cause.
    """

    models: Graph
    scores: Graph
    studies: tuple[StudyResult, ...]
    failed: Mapping[str, tuple[StageNode, str]] = field(default_factory=dict)


class Conductor:
    """Asks for stages in the order that keeps every worker busy; what the store has is never computed again.

    Args:
        sweep: the sweep.
        planner: its planner.
        store: artefacts.
    """

    def __init__(self, sweep: Sweep, planner: Planner, store: Store) -> None:
        self.sweep, self.planner, self.store = sweep, planner, store
        self.journal = store.log(f"sweeps/{sweep.name}/journal")
        self._nodes: dict[str, StageNode] = {}
        self._planned: dict[tuple[str, str, int, int], TrialStages] = {}
        self.searches = {
            (source, method): open_study(sweep, planner, source, method, self.journal)
            for source in planner.sources()
            for method in searched_methods(sweep)
        }

    # -- what is there already

    def finished(self) -> SweepResult | None:
        """The result, when every search has ended and the store has every stage: nothing is left to run."""
        if any(study.remaining for study in self.searches.values()):
            return None
        studies = self.results()
        if self._lost().nodes:
            return None
        models, scores = final_graphs(self.sweep, self.planner, studies)
        if not all(self.store.has(node.key) for node in (models + scores + trial_scores(studies)).nodes):
            return None
        return SweepResult(models, scores, tuple(studies))

    def results(self) -> list[StudyResult]:
        """What every search has found so far."""
        return [self._result(source, method) for source, method in self.searches]

    def status(self) -> SearchStatus:
        """How far the searches are."""
        studies, objective = self.searches.values(), self.sweep.search.objectives[0]
        values = [study.best_value() for study in studies]
        best = best_of(objective, values)
        done = sum(len(study.finished()) for study in studies)
        return SearchStatus(done, sum(study.size for study in studies), best, objective)

    def wanted(self) -> tuple[StageNode, ...]:
        """Every stage that the sweep asks for, as far as its searches have come; those of trials included."""
        studies = self.results()
        models, scores = final_graphs(self.sweep, self.planner, studies)
        tried = graph(node for study in studies for stages in study.stages.values() for node in stages.nodes)
        return (models + scores + trial_scores(studies) + tried).nodes

    def kept(self) -> str:
        """What there is of the sweep when it is stopped before its end."""
        wanted = self.wanted()
        done = sum(self.store.has(node.key) for node in wanted)
        begun = len({stage_of(name) for name, _ in self.store.blobs.names(CHECKPOINTS)} & {node.key for node in wanted})
        ended = sum(len(study.finished()) for study in self.searches.values())
        trials = f", {ended} of {sum(study.size for study in self.searches.values())} trials" if self.searches else ""
        left = f"; {begun} stages go on from a checkpoint" if begun else ""
        return f"Kept: {done} of {len(wanted)} stages{trials}{left}."

    # -- running

    def run(self, engine: Engine, run_study: RunStudy) -> SweepResult:
        """The whole sweep on an engine. Failed stages are listed in the result and do not end it."""
        self._begin(engine)
        for (source, method), study in self.searches.items():
            run_study(study, self._job(source, method), engine)
        failed = _run_all(engine, self._lost())
        studies = self.results()
        models, scores = final_graphs(self.sweep, self.planner, studies)
        timed, untimed = _split(scores, "efficiency")
        failed |= _run_all(engine, models + untimed + trial_scores(studies))
        plain = graph(without_distances(node) for node in untimed.nodes if self._may_be_scored_plainly(node))
        failed |= _run_all(engine, plain)
        failed |= _run_all(engine, timed)  # when nothing else runs beside it
        kept = [node for node in scores.nodes if self.store.has(node.key)]
        failed = {key: found for key, found in failed.items() if not self.store.has(key)}
        return SweepResult(models, graph([*kept, *plain.nodes]), tuple(studies), failed)

    def _lost(self) -> Graph:
        """Stages of complete trials that the journal remembers and the store has not, such as after a clean-up."""
        ended = [
            (key, trial)
            for key, study in self.searches.items()
            for trial in study.finished()
            if trial.state == "complete"
        ]
        stages = [self._trial_stages(*key, trial) for key, trial in ended]
        return graph(node for one in stages if not self.store.has(one.last) for node in one.nodes)

    def _may_be_scored_plainly(self, node: StageNode) -> bool:
        """An alignment network that failed must not cost the Dice of a model that is there."""
        return not self.store.has(node.key) and self.store.has(node.inputs["model"]) and len(node.inputs) > 1

    def _begin(self, engine: Engine) -> None:
        """Ask for everything that no search can change, the search's own seed first."""
        for rank, seed in enumerate(self.sweep.seeds):
            for source in self.planner.sources():
                engine.submit(self.planner.ancestors(source, seed), rank)
        if searches_student(self.sweep):
            return  # every method waits for the student
        searched, base_of = searched_methods(self.sweep), self.sweep.methods.base_of
        names = self.sweep.methods.chosen()
        fixed = {name: self.planner.of_row(name) for name in names if base_of(name) not in searched}
        models, scores = model_graphs(self.sweep, fixed, self.planner)
        engine.submit((models + scores).nodes, FINAL_PRIORITY)

    # -- searching

    def _job(self, source: str, method: str) -> Job:
        return Job(
            lambda trial: self._trial_stages(source, method, trial),
            final_values=lambda key: self._values(key, source, method),
            history=self._history,
            has=self.store.has,
            priority=SEARCH_PRIORITY,
        )

    def _history(self, key: str) -> dict[int, float]:
        """Validation Dice of every epoch of a training that is in the store."""
        records = self.store.get(key, verify=False).records()
        epochs = (record for record in records if record["record"] == "epoch" and record.get(METRIC) is not None)
        return {int(record["epoch"]): float(record[METRIC]) for record in epochs}

    def _trial_stages(self, source: str, method: str, trial: Trial) -> TrialStages:
        """The stages of a trial, planned once; a node that several trials share is one object."""
        place = (source, method, trial.number, trial.halvings)
        if place not in self._planned:
            planned = self._of_trial(trial).candidate(method, source, self.sweep.seeds[0], self.planner)
            nodes = tuple(self._nodes.setdefault(node.key, node) for node in planned)
            self._planned[place] = TrialStages(nodes, nodes[-1].inputs["model"])
        return self._planned[place]

    def _values(self, key: str, source: str, method: str) -> dict[str, float | None]:
        """Objectives of the epoch that the sweep's rule takes of a trial's training."""
        taken = choose(RULES[self.sweep.selection.rule], self._candidates(key, source, method, None))
        return {name: taken.objectives[name] for name in self.sweep.search.objectives}

    def _candidates(self, key: str, source: str, method: str, number: int | None) -> list[Candidate]:
        """The kept epochs of a training, from its stress stage."""
        labels = {"source": source, "method": method, "seed": self.sweep.seeds[0], "trial": number}
        artefact = self.store.get(key, verify=False)
        model = {"model": artefact.node.inputs["model"]}
        records = [record for record in artefact.records() if record["record"] == "candidate"]
        return [Candidate.from_record({**record, **labels, **model}) for record in records]

    def _result(self, source: str, method: str) -> StudyResult:
        study = self.searches[source, method]
        trials = tuple(study.finished())
        stages = {trial.number: self._trial_stages(source, method, trial) for trial in trials}
        taken = self._take(study.front() if len(study.objectives) > 1 else trials, stages, source, method)
        planner = self._of_trial(taken) if taken else self.planner
        scores = self._trial_scores(source, method, trials, stages)
        return StudyResult(source, method, planner, trials, stages, taken.number if taken else None, scores)

    def _take(
        self, trials: Sequence[FinishedTrial], stages: Mapping[int, TrialStages], source: str, method: str
    ) -> FinishedTrial | None:
        """The trial that the sweep's selection takes, among those that are complete and still in the store."""
        kept = [trial for trial in trials if trial.state == "complete" and self.store.has(stages[trial.number].last)]
        if not kept:
            return None
        if self.sweep.selection.pick == "closest_to_ideal":
            ways = {name: OBJECTIVES[name] for name in self.sweep.search.objectives}
            return kept[closest_to_ideal([trial.values for trial in kept], ways)]
        pool = [one for t in kept for one in self._candidates(stages[t.number].last, source, method, t.number)]
        number = choose(RULES[self.sweep.selection.rule], pool).trial
        return next(trial for trial in kept if trial.number == number)

    def _trial_scores(
        self, source: str, method: str, trials: Iterable[FinishedTrial], stages: Mapping[int, TrialStages]
    ) -> dict[int, tuple[StageNode, ...]]:
        """Evaluate stages of complete trials: only to compare selection rules afterwards, never to select."""
        if not self.sweep.search.score_trials:
            return {}
        seed, found = self.sweep.seeds[0], {}
        for trial in trials:
            if trial.state == "complete" and self.store.has(stages[trial.number].last):
                chosen = self._of_trial(trial)
                ruler = self.planner.with_student(chosen.sweep.networks.student)
                nodes = ruler.scores(chosen.distill(method, source, seed), source, seed)
                found[trial.number] = tuple(node for node in nodes if node.kind == "evaluate")
        return found

    def _of_trial(self, trial: Trial) -> Planner:
        """The planner of a trial's parameters, with the batch that its memory allowed."""
        sweep = with_parameters(self.sweep, dict(trial.params))
        if trial.halvings:
            batch = max(1, sweep.stages.distill.batch >> trial.halvings)
            distill = sweep.stages.distill.model_copy(update={"batch": batch})
            sweep = sweep.model_copy(update={"stages": sweep.stages.model_copy(update={"distill": distill})})
        return self.planner.of(sweep)


def _split(whole: Graph, kind: str) -> tuple[Graph, Graph]:
    """Stages of a kind, and the others."""
    return graph(n for n in whole.nodes if n.kind == kind), graph(n for n in whole.nodes if n.kind != kind)


def trial_scores(studies: Iterable[StudyResult]) -> Graph:
    """The evaluate stages of all trials."""
    return graph(node for study in studies for nodes in study.scores.values() for node in nodes)


def _run_all(engine: Engine, wanted: Graph) -> dict[str, tuple[StageNode, str]]:
    """Run stages to their end; content key -> stage and cause, of those that failed."""
    engine.submit(wanted.nodes, FINAL_PRIORITY)
    ended = engine.wait([node.key for node in wanted.nodes])
    nodes = {node.key: node for node in wanted.nodes}
    return {key: (nodes[key], str(result)) for key, result in ended.items() if isinstance(result, StageError)}


def without_distances(node: StageNode) -> StageNode:
    """A scoring stage that measures no distance through alignment networks."""
    return replace(node, inputs={"model": node.inputs["model"]})


def searched_methods(sweep: Sweep) -> list[str]:
    """Methods that have a search space, when the sweep asks for trials."""
    search = sweep.search
    return [name for name in sweep.methods.chosen() if search.trials and search.spaces.get(name)]


def open_study(sweep: Sweep, planner: Planner, source: str, method: str, journal: Log) -> Study:
    """The study of a source and method. Its name holds a hash of all that a trial's values depend on besides parameters."""
    space = sweep.search.spaces[method]
    anchor = planner.of(with_parameters(sweep, {path: _anchor(item) for path, item in space.items()}))
    scored = anchor.candidate(method, source, sweep.seeds[0], planner)[-1].key
    name = f"{source}-{method}-{content_hash([scored, sweep.search.sampler, sweep.selection.rule])[:8]}"
    tree = sweep.dump()
    default = {path: value_at(tree, path) for path in space}
    return Study(name, space, sweep.search, sweep.seeds[0], journal, default, sweep.stages.distill.epochs)


def _anchor(item: Range | Choice) -> Any:
    return item.low if isinstance(item, Range) else item.choice[0]


def value_at(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of nested dicts."""
    value: Any = tree
    for step in path.split("."):
        value = value[step]
    return value


def final_graphs(sweep: Sweep, planner: Planner, studies: Iterable[StudyResult]) -> tuple[Graph, Graph]:
    """Final trainings and their scores, each searched method and its variants with its source's chosen parameters.

    A student network that a search took for a source is the student of all methods of that source.
    """
    best = {(study.source, study.method): study.planner for study in studies}
    models, scores, costs = Graph(()), Graph(()), [planner.efficiency("teacher")]
    for source in planner.sources():
        own = planner.with_student(student_of(sweep, planner, source, best))
        planners = {}
        for name in sweep.methods.chosen():
            chosen = best.get((source, sweep.methods.base_of(name)), planner)
            planners[name] = chosen.with_student(own.sweep.networks.student).of_row(name)
        part, rated = model_graphs(sweep, planners, own, [source])
        models, scores = models + part, scores + rated
        costs += [own.efficiency("student"), *other_students(sweep, planner)]
    return models, scores + graph(costs)


def other_students(sweep: Sweep, planner: Planner) -> Iterator[StageNode]:
    """What the students of variants cost."""
    for variant in sweep.methods.variants.values():
        if variant.student and variant.student != sweep.networks.student:
            title = f"student {network_name(variant.student.model_dump())}"
            yield planner.with_student(variant.student).efficiency("student", title)


def searches_student(sweep: Sweep) -> list[str]:
    """Methods whose search may change the student network; at most one, see ``config.checks``."""
    spaces = sweep.search.spaces
    return [
        name for name in searched_methods(sweep) if any(path.startswith("networks.student.") for path in spaces[name])
    ]


def student_of(sweep: Sweep, planner: Planner, source: str, best: Mapping[tuple[str, str], Planner]) -> Network:
    """The student of a source: the one its search took, for all methods, so that they stay comparable; else the sweep's."""
    takers = [best[source, name] for name in searches_student(sweep) if (source, name) in best]
    return (takers[0] if takers else planner).sweep.networks.student


def model_graphs(
    sweep: Sweep, methods: Mapping[str, Planner], planner: Planner, sources: Sequence[str] | None = None
) -> tuple[Graph, Graph]:
    """Teachers, baselines and the methods' students of all seeds, and their scores, with all they build on."""
    models: list[StageNode] = []
    scores: list[StageNode] = []
    for source in sources or planner.sources():
        for seed in sweep.seeds:
            models += planner.ancestors(source, seed)
            for host in (planner.teacher(source, seed), planner.baseline(source, seed)):
                scores += planner.scores(host, source, seed)
            for name, chosen in methods.items():
                models += [*chosen.ancestors(source, seed), *chosen.student(name, source, seed)]
                ruler = planner.with_student(chosen.sweep.networks.student)
                scores += ruler.scores(chosen.distill(name, source, seed), source, seed)
    aligned = [node for node in scores if node.kind == "alignment"]
    return graph([*models, *aligned]), graph(node for node in scores if node.kind != "alignment")

"""What a sweep asks an engine for, and in which order: shared ancestors, searches, chosen students, scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gkd_bench.cluster.engine import Engine
from gkd_bench.cluster.launch import RunStudy
from gkd_bench.cluster.progress import SearchStatus
from gkd_bench.cluster.search import FinishedTrial, Study
from gkd_bench.cluster.tune_search import Job
from gkd_bench.config.load import with_parameters
from gkd_bench.config.schema import Choice, Range, Sweep
from gkd_bench.errors import StageError
from gkd_bench.plan import Graph, Planner, graph
from gkd_bench.store.artefacts import Store
from gkd_bench.store.node import StageNode, content_hash
from gkd_bench.store.records import RecordLog

SEARCH_PRIORITY, FINAL_PRIORITY = 10, 20
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class StudyResult:
    """What a search found.

    Attributes:
        source: source domain.
        method: method searched.
        planner: of the best trial, or of the sweep's own values when no trial completed.
        trials: all ended trials.
        keys: trial number -> key of its distill stage.
    """

    source: str
    method: str
    planner: Planner
    trials: tuple[FinishedTrial, ...] = ()
    keys: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepResult:
    """Everything the report needs.

    Attributes:
        models: final training stages: teachers, baselines, semantic, alignment and distill stages.
        scores: their evaluate stages.
        studies: the searches.
        failures: stage in words -> cause.
    """

    models: Graph
    scores: Graph
    studies: tuple[StudyResult, ...]
    failures: Mapping[str, str]


class Conductor:
    """Asks for stages in the order that keeps every worker busy; what the store has is never computed again.

    Args:
        sweep: the sweep.
        planner: its planner.
        store: artefacts.
    """

    def __init__(self, sweep: Sweep, planner: Planner, store: Store) -> None:
        self.sweep, self.planner, self.store = sweep, planner, store
        self.journal = RecordLog(Path(sweep.storage.root) / "sweeps" / sweep.name / "journal.jsonl")
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
        models, scores = final_graphs(self.sweep, self.planner, studies)
        if not all(self.store.has(node.key) for node in (models + scores).nodes):
            return None
        return SweepResult(models, scores, tuple(studies), {})

    def results(self) -> list[StudyResult]:
        """What every search has found so far."""
        return [self._result(source, method) for source, method in self.searches]

    def status(self) -> SearchStatus:
        """How far the searches are."""
        best = [trial.value for study in self.searches.values() if (trial := study.best()) and trial.value is not None]
        done = sum(len(study.finished()) for study in self.searches.values())
        return SearchStatus(done, sum(study.size for study in self.searches.values()), max(best, default=None))

    # -- running

    def run(self, engine: Engine, run_study: RunStudy) -> SweepResult:
        """The whole sweep on an engine. Failed stages are listed in the result and do not end it."""
        self._begin(engine)
        for (source, method), study in self.searches.items():
            run_study(study, self._job(source, method), engine)
        studies = self.results()
        models, scores = final_graphs(self.sweep, self.planner, studies)
        failures = _run_all(engine, models + scores)
        plain = graph(without_distances(node) for node in scores.nodes if self._may_be_scored_plainly(node))
        failures |= _run_all(engine, plain)
        kept = [node for node in scores.nodes if self.store.has(node.key)]
        return SweepResult(models, graph([*kept, *plain.nodes]), tuple(studies), failures)

    def _may_be_scored_plainly(self, node: StageNode) -> bool:
        """An alignment network that failed must not cost the Dice of a model that is there."""
        return not self.store.has(node.key) and self.store.has(node.inputs["model"]) and len(node.inputs) > 1

    def _begin(self, engine: Engine) -> None:
        """Ask for everything that no search can change, the search's own seed first."""
        for rank, seed in enumerate(self.sweep.seeds):
            for source in self.planner.sources():
                engine.submit(self.planner.ancestors(source, seed), rank)
        fixed = {name: self.planner for name in self.sweep.methods.chosen() if name not in searched_methods(self.sweep)}
        models, scores = model_graphs(self.sweep, fixed, self.planner)
        engine.submit((models + scores).nodes, FINAL_PRIORITY)

    def _job(self, source: str, method: str) -> Job:
        return Job(
            lambda parameters: self._trial_nodes(source, method, parameters),
            final_value=lambda key: float(self.store.get(key, verify=False).summary["val/dice"]),
            has=self.store.has,
            epochs=self.sweep.stages.distill.epochs,
            priority=SEARCH_PRIORITY,
        )

    def _trial_nodes(self, source: str, method: str, parameters: Parameters) -> list[StageNode]:
        """A trial's stages with all they build on, the scored one last."""
        planner, seed = self._with(parameters), self.sweep.seeds[0]
        return [*planner.ancestors(source, seed), *planner.student(method, source, seed)]

    def _result(self, source: str, method: str) -> StudyResult:
        study = self.searches[source, method]
        best, trials = study.best(), tuple(study.finished())
        keys = {trial.number: self._trial_nodes(source, method, trial.params)[-1].key for trial in trials}
        return StudyResult(source, method, self._with(best.params) if best else self.planner, trials, keys)

    def _with(self, parameters: Parameters) -> Planner:
        return Planner(with_parameters(self.sweep, dict(parameters)), self.planner.references)


def _run_all(engine: Engine, wanted: Graph) -> dict[str, str]:
    """Run stages to their end; stage in words -> cause, of those that failed."""
    engine.submit(wanted.nodes, FINAL_PRIORITY)
    ended = engine.wait([node.key for node in wanted.nodes])
    names = {node.key: str(node) for node in wanted.nodes}
    return {names[key]: str(result) for key, result in ended.items() if isinstance(result, StageError)}


def without_distances(node: StageNode) -> StageNode:
    """An evaluate stage that scores its model and measures no distance through alignment networks."""
    return replace(node, inputs={"model": node.inputs["model"]})


def searched_methods(sweep: Sweep) -> list[str]:
    """Methods that have a search space, when the sweep asks for trials."""
    search = sweep.search
    return [name for name in sweep.methods.chosen() if search.trials and search.spaces.get(name)]


def open_study(sweep: Sweep, planner: Planner, source: str, method: str, journal: RecordLog) -> Study:
    """The study of a source and method. Its name holds a hash of all that a trial's value depends on besides parameters."""
    space = sweep.search.spaces[method]
    fixed = with_parameters(sweep, {path: _anchor(item) for path, item in space.items()})
    anchor = Planner(fixed, planner.references).distill(method, source, sweep.seeds[0]).key
    name = f"{source}-{method}-{content_hash([anchor, sweep.search.sampler])[:8]}"
    tree = sweep.dump()
    default = {path: value_at(tree, path) for path in space}
    return Study(name, space, sweep.search, sweep.seeds[0], journal, default)


def _anchor(item: Range | Choice) -> Any:
    return item.low if isinstance(item, Range) else item.choice[0]


def value_at(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of nested dicts."""
    value: Any = tree
    for step in path.split("."):
        value = value[step]
    return value


def final_graphs(sweep: Sweep, planner: Planner, studies: Iterable[StudyResult]) -> tuple[Graph, Graph]:
    """Final trainings and their scores, each searched method with its source's best parameters."""
    best = {(study.source, study.method): study.planner for study in studies}
    models, scores = Graph(()), Graph(())
    for source in planner.sources():
        methods = {name: best.get((source, name), planner) for name in sweep.methods.chosen()}
        part, rated = model_graphs(sweep, methods, planner, [source])
        models, scores = models + part, scores + rated
    return models, scores


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
                models += chosen.student(name, source, seed)
                scores += planner.scores(chosen.distill(name, source, seed), source, seed)
    aligned = [node for node in scores if node.kind == "alignment"]
    return graph([*models, *aligned]), graph(node for node in scores if node.kind == "evaluate")

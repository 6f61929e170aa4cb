"""The stage graph of a sweep as pure data: every node has a content key, whoever asks for it and whenever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gkd_bench.config.schema import MethodOptions, StageKind, Sweep
from gkd_bench.store.node import StageNode

STAGE_VERSIONS: dict[StageKind, int] = {
    "teacher": 1,
    "baseline": 1,
    "semantic": 1,
    "alignment": 2,
    "distill": 2,
    "evaluate": 3,
}
"""Raised by hand when a stage's code changes what it computes; part of every key."""


@dataclass(frozen=True)
class Graph:
    """Nodes of one or several targets, inputs before the stages that read them, each key once."""

    nodes: tuple[StageNode, ...]

    def by_kind(self) -> dict[str, list[StageNode]]:
        """Nodes grouped by stage kind, in order."""
        groups: dict[str, list[StageNode]] = {}
        for node in self.nodes:
            groups.setdefault(node.kind, []).append(node)
        return groups

    def __add__(self, other: Graph) -> Graph:
        """Both graphs, shared nodes once."""
        return graph([*self.nodes, *other.nodes])


def graph(nodes: Iterable[StageNode]) -> Graph:
    """A graph of the nodes in the order given, repeated keys left out."""
    return Graph(tuple({node.key: node for node in nodes}.values()))


class Planner:
    """Makes the nodes of a sweep. A trial's planner is one with the trial's parameters in its sweep.

    Args:
        sweep: the sweep, trial parameters included.
        references: domain name -> ``domain@fingerprint``; domains left out are missing and never planned.
    """

    def __init__(self, sweep: Sweep, references: Mapping[str, str]) -> None:
        self.sweep, self.references = sweep, dict(references)

    def sources(self) -> list[str]:
        """Source domains that are there."""
        return [name for name in self.sweep.sources() if name in self.references]

    def targets(self, source: str) -> list[str]:
        """Domains a model of this source is scored on: itself first, then the targets that are there."""
        return list(dict.fromkeys([source, *(name for name in self.sweep.targets() if name in self.references)]))

    # -- stages

    def teacher(self, source: str, seed: int) -> StageNode:
        """The teacher of a source and seed."""
        stages, networks = self.sweep.stages, self.sweep.networks
        settings = {"network": networks.teacher.model_dump(), "training": stages.teacher.model_dump()}
        return self._node("teacher", source, seed, settings, {}, {"method": "teacher"})

    def baseline(self, source: str, seed: int) -> StageNode:
        """The student alone, before any distillation: host of SAN and start of every method."""
        stages, networks = self.sweep.stages, self.sweep.networks
        settings = {"network": networks.student.model_dump(), "training": stages.baseline.model_dump()}
        return self._node("baseline", source, seed, settings, {}, {"method": "baseline"})

    def semantic(self, source: str, seed: int) -> StageNode:
        """P-SAE of a source's label maps."""
        networks = self.sweep.networks
        settings = {
            "width": networks.semantic_width,
            "header": networks.header.model_dump(),
            "semantic": self.sweep.stages.semantic.model_dump(),
        }
        return self._node("semantic", source, seed, settings, {}, {"method": "p-sae"})

    def alignment(self, host: StageNode, source: str, seed: int) -> StageNode:
        """TAN or SAN: the alignment network of a teacher or baseline."""
        settings = {
            "host": "teacher" if host.kind == "teacher" else "student",
            "header": self.sweep.networks.header.model_dump(),
            "alignment": self.sweep.stages.alignment.model_dump(),
        }
        inputs = {"host": host.key, "semantic": self.semantic(source, seed).key}
        labels = {"host": settings["host"], "method": "tan" if host.kind == "teacher" else "san"}
        return self._node("alignment", source, seed, settings, inputs, labels)

    def distill(self, method: str, source: str, seed: int) -> StageNode:
        """The student trained under a method, with the sweep's options."""
        options: MethodOptions = self.sweep.methods.chosen()[method]
        settings = {
            "network": self.sweep.networks.student.model_dump(),
            "method": method,
            "options": options.model_dump(mode="json"),
            "distill": self.sweep.stages.distill.model_dump(),
        }
        available = self.guides(source, seed)
        inputs = {"baseline": self.baseline(source, seed).key}
        inputs |= {guide: available[guide].key for guide in options.guides}
        return self._node("distill", source, seed, settings, inputs, {"method": method})

    def guides(self, source: str, seed: int) -> dict[str, StageNode]:
        """The stages that make the frozen networks a method may consult."""
        teacher, baseline = self.teacher(source, seed), self.baseline(source, seed)
        return {
            "teacher": teacher,
            "tan": self.alignment(teacher, source, seed),
            "san": self.alignment(baseline, source, seed),
        }

    def evaluate(self, model: StageNode, source: str, target: str, seed: int) -> StageNode:
        """One model scored on one target; with alignment networks in the sweep, Frechet distances as well.

        All models of a source and seed are measured with the same alignment networks, those of the sweep's own weights: a
        trial may train its own, but a distance between different rulers would compare the rulers.
        """
        inputs = {"model": model.key}
        if self.aligns():
            guides = self.guides(source, seed)
            inputs["semantic"] = self.semantic(source, seed).key
            if model.kind == "teacher":
                inputs["alignment"] = guides["tan"].key
            else:
                inputs |= {"alignment": guides["san"].key, "teacher": guides["teacher"].key, "tan": guides["tan"].key}
        settings = {"evaluate": self.sweep.stages.evaluate.model_dump()}
        labels = {"method": model.labels["method"], "target": target, "model": model.kind}
        return self._node("evaluate", source, seed, settings, inputs, labels, target)

    def aligns(self) -> bool:
        """Whether any method of the sweep consults alignment networks."""
        return any("san" in options.guides for options in self.sweep.methods.chosen().values())

    def _node(
        self,
        kind: StageKind,
        source: str,
        seed: int,
        settings: dict[str, Any],
        inputs: Mapping[str, str],
        labels: Mapping[str, Any],
        target: str | None = None,
    ) -> StageNode:
        sweep = self.sweep
        pool = sweep.compute.pool_of(kind)
        numerics = {"workers": pool.workers, "threads": pool.cpus, "gpu": pool.gpus > 0}
        common: dict[str, Any] = {"task": sweep.task, "tile": sweep.data.tile}
        common["numerics"] = {"precision": sweep.compute.precision, **numerics}
        if kind != "evaluate":
            common["augment"] = sweep.augment.model_dump()
        data = {"source": self.references[source]} | ({"target": self.references[target]} if target else {})
        return StageNode(
            kind,
            common | settings,
            seed,
            data,
            dict(inputs),
            STAGE_VERSIONS[kind],
            {"source": source, **labels},
        )

    # -- graphs

    def ancestors(self, source: str, seed: int) -> list[StageNode]:
        """What every student of a source and seed builds on, alignment networks left out (trials may change them)."""
        nodes = [self.teacher(source, seed), self.baseline(source, seed)]
        return [*nodes, self.semantic(source, seed)] if self.aligns() else nodes

    def student(self, method: str, source: str, seed: int) -> list[StageNode]:
        """A method's distill stage, last, behind the alignment stages it reads."""
        distill = self.distill(method, source, seed)
        guides = self.guides(source, seed) if "san" in distill.inputs else {}
        aligned = [node for node in guides.values() if node.kind == "alignment" and node.key in distill.inputs.values()]
        return [*aligned, distill]

    def models(self, source: str, seed: int, methods: Iterable[str]) -> list[StageNode]:
        """Teacher, baseline and every method's student, with all they build on; inputs first."""
        nodes = self.ancestors(source, seed)
        for method in methods:
            nodes += self.student(method, source, seed)
        return nodes

    def scores(self, model: StageNode, source: str, seed: int) -> list[StageNode]:
        """A model's evaluate stages on all targets, behind the alignment stages they read."""
        evaluations = [self.evaluate(model, source, target, seed) for target in self.targets(source)]
        aligned = self.guides(source, seed).values() if self.aligns() else ()
        needed = {key for node in evaluations for key in node.inputs.values()}
        return [*(node for node in aligned if node.kind == "alignment" and node.key in needed), *evaluations]

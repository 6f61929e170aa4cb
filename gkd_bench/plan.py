"""The stage graph of a sweep as pure data: every node has a content key, whoever asks for it and whenever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gkd_bench.config.schema import MethodOptions, Network, StageKind, Sweep
from gkd_bench.registry import NETWORKS
from gkd_bench.store.node import StageNode

STAGE_VERSIONS: dict[StageKind, int] = {
    "teacher": 1,
    "baseline": 1,
    "semantic": 1,
    "alignment": 2,
    "distill": 3,
    "stress": 1,
    "evaluate": 5,
    "efficiency": 1,
}
"""Raised by hand when a stage's code changes what it computes; part of every key."""
TRAINED_KINDS = ("teacher", "baseline", "semantic", "alignment", "distill")
"""Stages that train, and so depend on how tiles are augmented."""


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
    """A graph of the nodes in the order given; of nodes with the same key the first stays, with its labels."""
    found: dict[str, StageNode] = {}
    for node in nodes:
        found.setdefault(node.key, node)
    return Graph(tuple(found.values()))


def described(network: Network, channels: int = 1, classes: int = 1) -> dict[str, Any]:
    """A network as stage settings; one from another package with its version, so that a new one is trained anew.

    Args:
        network: the network.
        channels: of its input.
        classes: foreground classes it tells apart.
    """
    provider = NETWORKS.provider(network.name)
    settings = network.model_dump() | ({"provider": provider} if provider else {})
    settings |= {"in_channels": channels} if channels != 1 else {}
    return settings | ({"classes": classes + 1} if classes != 1 else {})


class Planner:
    """Makes the nodes of a sweep. A trial's planner is one with the trial's parameters in its sweep.

    Args:
        sweep: the sweep, trial parameters included.
        references: domain name -> ``domain@fingerprint``; domains left out are missing and never planned.
        banks: source domain -> reference of the stress bank of its validation images.
    """

    def __init__(self, sweep: Sweep, references: Mapping[str, str], banks: Mapping[str, str]) -> None:
        self.sweep, self.references, self.banks = sweep, dict(references), dict(banks)

    def of(self, sweep: Sweep) -> Planner:
        """The planner of the same data for another sweep, such as one with a trial's parameters."""
        return Planner(sweep, self.references, self.banks)

    def with_student(self, student: Network) -> Planner:
        """The planner of this sweep with another student: its own loss weights, and alignment networks that fit."""
        networks = self.sweep.networks.model_copy(update={"student": student})
        return self.of(self.sweep.model_copy(update={"networks": networks}))

    def of_row(self, name: str) -> Planner:
        """The planner of a row of the table: with the alignment settings and the student that a variant asks for."""
        return self.of(self.sweep.of_row(name))

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
        settings = {"network": self._described(networks.teacher), "training": stages.teacher.model_dump()}
        return self._node("teacher", source, seed, settings, {}, {"method": "teacher"})

    def baseline(self, source: str, seed: int) -> StageNode:
        """The student alone, before any distillation: host of SAN and start of every method."""
        stages, networks = self.sweep.stages, self.sweep.networks
        settings = {"network": self._described(networks.student), "training": stages.baseline.model_dump()}
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
        settings: dict[str, Any] = {
            "host": "teacher" if host.kind == "teacher" else "student",
            "header": self.sweep.networks.header.model_dump(),
            "alignment": self.sweep.stages.alignment.model_dump(exclude={"trained"}),
        }
        if not self.sweep.stages.alignment.trained:
            settings["untrained"] = True
        inputs = {"host": host.key, "semantic": self.semantic(source, seed).key}
        labels = {"host": settings["host"], "method": "tan" if host.kind == "teacher" else "san"}
        return self._node("alignment", source, seed, settings, inputs, labels)

    def distill(self, method: str, source: str, seed: int) -> StageNode:
        """The student trained under a method, with the sweep's options; remedies of test time are no part of it."""
        options: MethodOptions = self.sweep.methods.chosen()[method]
        settings: dict[str, Any] = {
            "network": self._described(self.sweep.networks.student),
            "method": self.sweep.methods.base_of(method),
            "options": options.model_dump(mode="json", exclude={"remedies"}),
            "distill": self.sweep.stages.distill.model_dump(),
        }
        settings |= {remedy: True for remedy in ("style", "swa") if remedy in options.remedies}
        if "photometric" in options.remedies:
            settings["augment"] = self.sweep.augment.model_dump() | {"photometric": "strong"}
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
        inputs = {"model": model.key} | self._ruler(model, source, seed)
        if self.aligns():
            inputs["semantic"] = self.semantic(source, seed).key
            if model.kind != "teacher":
                guides = self.guides(source, seed)
                inputs |= {"teacher": guides["teacher"].key, "tan": guides["tan"].key}
        settings: dict[str, Any] = {"evaluate": self.sweep.stages.evaluate.model_dump(), **self._adaptation(model)}
        settings |= {"everyone": True} if target in self.sweep.pairs.everyone else {}
        labels = {"method": model.labels["method"], "target": target, "model": model.kind}
        return self._node("evaluate", source, seed, settings, inputs, labels, target)

    def stress(self, model: StageNode, source: str, seed: int) -> StageNode:
        """One model on its source's validation subjects, clean and under the stress bank: what selection reads."""
        inputs = {"model": model.key} | self._ruler(model, source, seed)
        settings = {"stress": self.sweep.stages.stress.model_dump(), **self._adaptation(model)}
        labels = {"method": model.labels["method"], "model": model.kind}
        return self._node("stress", source, seed, settings, inputs, labels)

    def efficiency(self, role: Literal["teacher", "student"], title: str | None = None) -> StageNode:
        """What the teacher or the student costs, ``title`` in tables; the same for every source and seed."""
        network: Network = getattr(self.sweep.networks, role)
        settings = {
            "network": self._described(network),
            "efficiency": self.sweep.stages.efficiency.model_dump(),
            "role": title or role,
        }
        return self._node("efficiency", None, 0, settings, {}, {"method": title or role})

    def _described(self, network: Network) -> dict[str, Any]:
        """A network as stage settings, with what the sweep's images and classes ask of it."""
        return described(network, self.sweep.channels, len(self.sweep.classes))

    def _adaptation(self, model: StageNode) -> dict[str, str]:
        """What is done to a trained network at test time, if its method asks for it."""
        options = self.sweep.methods.chosen().get(str(model.labels["method"]))
        return {"adapt": "batch_norm"} if options and "bn_adapt" in options.remedies else {}

    def _ruler(self, model: StageNode, source: str, seed: int) -> dict[str, str]:
        """The alignment network that measures a model's vectors, if the sweep has any."""
        if not self.aligns():
            return {}
        guides = self.guides(source, seed)
        return {"alignment": guides["tan" if model.kind == "teacher" else "san"].key}

    def aligns(self) -> bool:
        """Whether any method of the sweep consults alignment networks."""
        return any("san" in options.guides for options in self.sweep.methods.chosen().values())

    def _node(
        self,
        kind: StageKind,
        source: str | None,
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
        if kind in TRAINED_KINDS:
            common["augment"] = sweep.augment.model_dump()
            if sweep.data.sampling != "centred":
                common["sampling"] = sweep.data.sampling
        if len(sweep.classes) > 1:
            common["classes"] = list(sweep.classes)
        data = {"source": self.references[source]} if source else {}
        data |= {"target": self.references[target]} if target else {}
        data |= {"stress": self.banks[source]} if source and kind == "stress" else {}
        return StageNode(
            kind,
            common | settings,
            seed,
            data,
            dict(inputs),
            STAGE_VERSIONS[kind],
            ({"source": source} if source else {}) | dict(labels),
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

    def scores(self, model: StageNode, source: str, seed: int) -> list[StageNode]:
        """A model's stress stage and its evaluate stages on all targets, behind the alignment stages they read."""
        evaluations = [self.evaluate(model, source, target, seed) for target in self.targets(source)]
        return self._measured([self.stress(model, source, seed), *evaluations], source, seed)

    def candidate(self, method: str, source: str, seed: int, ruler: Planner) -> list[StageNode]:
        """A trial's stages: all that its student builds on, the student, and last its stress stage.

        ``ruler``: planner of the sweep's own weights, whose alignment networks measure every candidate.
        """
        nodes = [*self.ancestors(source, seed), *self.student(method, source, seed)]
        fitting = ruler.with_student(self.sweep.networks.student)
        return [*nodes, *fitting._measured([fitting.stress(nodes[-1], source, seed)], source, seed)]

    def _measured(self, scoring: list[StageNode], source: str, seed: int) -> list[StageNode]:
        """Scoring stages behind the alignment stages they read."""
        aligned = self.guides(source, seed).values() if self.aligns() else ()
        needed = {key for node in scoring for key in node.inputs.values()}
        return [*(node for node in aligned if node.kind == "alignment" and node.key in needed), *scoring]

"""A tiny sweep on synthetic domains, its prepared data, and a way to run one stage in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gkd_bench.plan import Planner
from gkd_bench.stages.monitor import Outcome, Progress, Workplace
from gkd_bench.stages.run import execute
from gkd_bench.store.artefacts import Artefact, LocalStore
from gkd_bench.store.node import StageNode

DOMAINS = ("phantom_clear", "phantom_dim")
SHORT: dict[str, Any] = {"epochs": 2, "epoch_steps": 4, "batch": 4, "optimiser": {"lr": 1e-3}}
TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "domains": DOMAINS,
        "tile": 32,
        "prepare": {"scale": {"rule": "fov_width", "value": 96}},
        "stress": {"corruptions": ("gamma", "noise"), "strengths": (1, 3)},
    },
    "augment": {"photometric": "light"},
    "networks": {
        "teacher": {"name": "unet", "width": 0.05},
        "student": {"name": "mobile_unet", "width": 0.1},
        "semantic_width": 0.05,
        "header": {"dim": 32},
    },
    "stages": {
        "teacher": SHORT,
        "baseline": SHORT,
        "semantic": {"autoencoder": SHORT, "vector": SHORT},
        "alignment": SHORT,
        "distill": SHORT | {"warmup_epochs": 1},
        "stress": {"fsd_tiles": 40},
        "evaluate": {"overlap": 0.0, "overlays": 1, "fixed_pictures": 1, "fsd_tiles": 40, "fsd_bootstrap": 5},
        "efficiency": {"warmup": 1, "repeats": 3},
    },
    "methods": {"kd": {}, "gkd": {"views": ("photometric", "noise_blur")}, "controls": ()},
    "seeds": [0],
}


@dataclass
class Recorder:
    """Monitor that keeps what it hears and asks to stop after a number of steps."""

    stop_after: int | None = None
    progress: list[Progress] = field(default_factory=list)
    steps: int = 0

    def report(self, progress: Progress) -> None:
        self.progress.append(progress)

    def step(self, done: int, total: int) -> None:
        self.steps += 1

    def should_stop(self) -> bool:
        return self.stop_after is not None and self.steps >= self.stop_after


@dataclass(frozen=True)
class Lab:
    """A store, prepared domains and a planner."""

    folder: Path
    cache: Path
    planner: Planner

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder)

    def run(self, node: StageNode, monitor: Recorder | None = None) -> Outcome:
        return execute(node, Workplace(self.folder, self.cache), monitor or Recorder())

    def make(self, *nodes: StageNode) -> Artefact:
        """Run stages in order; the artefact of the last."""
        for node in nodes:
            self.run(node)
        return self.store.get(nodes[-1].key)

    def models(self, *methods: str, planner: Planner | None = None) -> list[StageNode]:
        """Teacher, baseline and the methods' students of the first source, with all they build on; inputs first."""
        planner, source = planner or self.planner, DOMAINS[0]
        nodes = planner.ancestors(source, 0)
        return nodes + [node for method in methods for node in planner.student(method, source, 0)]

    def elsewhere(self, folder: Path) -> Lab:
        """The same with an empty store."""
        return Lab(folder, self.cache, self.planner)

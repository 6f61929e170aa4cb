"""What every stage function gets: its node, its place, and typed access to data, inputs and settings."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from gkd_bench.config.schema import Block
from gkd_bench.data.cache import PreparedDomain, TestImages, open_prepared
from gkd_bench.data.shelf import fetch
from gkd_bench.data.stress import StressBank, open_stress
from gkd_bench.stages.monitor import Monitor, Workplace
from gkd_bench.store.artefacts import Artefact, Store
from gkd_bench.store.node import StageNode

Settings = TypeVar("Settings", bound=Block)


class StageStopped(Exception):
    """The stage was asked to stop and has written its checkpoint."""


@dataclass(frozen=True)
class StageContext:
    """Everything a stage may touch.

    Attributes:
        node: what to compute.
        place: device, rank and folders of this process.
        monitor: link to the engine.
        store: artefacts of the stages it builds on.
    """

    node: StageNode
    place: Workplace
    monitor: Monitor
    store: Store
    started: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> torch.device:
        """Torch device of this process."""
        return torch.device(self.place.device)

    @property
    def is_main(self) -> bool:
        """Whether this process reports, checkpoints and publishes."""
        return self.place.rank == 0

    @property
    def precision(self) -> str:
        """``fp32``, ``bf16`` or ``fp16``."""
        return str(self.node.settings["numerics"]["precision"])

    def settings(self, name: str, model: type[Settings]) -> Settings:
        """A block of the node's settings as its config model."""
        return model.model_validate(self.node.settings[name])

    def setting(self, name: str) -> Any:
        """A plain setting."""
        return self.node.settings[name]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the foreground classes where there are several; else none."""
        return tuple(self.node.settings.get("classes", ()))

    @property
    def classes(self) -> int:
        """Foreground classes."""
        return len(self.class_names) or 1

    def domain(self, role: str = "source") -> PreparedDomain:
        """The prepared domain in this role."""
        name, fingerprint = self._fetched(role)
        return open_prepared(self.place.cache, name, fingerprint)

    def scored_images(self) -> TestImages:
        """The target's images that the stage scores."""
        return self.domain("target").test_split(bool(self.node.settings.get("everyone"))).images

    def stress_bank(self) -> StressBank:
        """The stress bank of the source's validation images."""
        self._fetched("source")
        name, fingerprint = self._fetched("stress")
        return open_stress(self.place.cache, name, fingerprint)

    def _fetched(self, role: str) -> tuple[str, str]:
        """(name, fingerprint) of the prepared data in this role, which this machine has now."""
        reference = self.node.data[role]
        fetch(reference, self.place.cache, self.store)
        name, _, fingerprint = reference.partition("@")
        return name, fingerprint

    def input(self, role: str) -> Artefact:
        """The artefact of the stage in this role."""
        return self.store.get(self.node.inputs[role])

    def elapsed(self) -> float:
        """Seconds since this process began the stage."""
        return time.monotonic() - self.started

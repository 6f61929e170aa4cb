"""A node of the stage graph and its content key: the same work always has the same key, on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

KEY_LENGTH = 24


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space; equal values give equal text. NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def content_hash(value: Any) -> str:
    """First 24 hex digits of the SHA-256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:KEY_LENGTH]


@dataclass(frozen=True)
class StageNode:
    """One stage to run: pure data, JSON all through. Everything but ``labels`` decides the key.

    Attributes:
        kind: stage kind (``teacher``, ``baseline``, ``semantic``, ``alignment``, ``distill``, ``evaluate``).
        settings: every setting that can change the stage's result, networks and numerics included.
        seed: seed of weights, tiles and augmentation.
        data: role -> ``domain@fingerprint`` of the prepared domain it reads.
        inputs: role -> key of the stage it builds on.
        version: version of the stage's code.
        labels: what the stage is for (source, target, method, ...); for people and tables, not part of the key.
    """

    kind: str
    settings: Mapping[str, Any]
    seed: int
    data: Mapping[str, str]
    inputs: Mapping[str, str] = field(default_factory=dict)
    version: int = 1
    labels: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Content key; 24 hex digits."""
        # asdict would copy everything inside as well, which takes most of the time of planning a trial.
        mappings = {name: dict(getattr(self, name)) for name in ("settings", "data", "inputs")}
        return content_hash({"kind": self.kind, "seed": self.seed, "version": self.version, **mappings})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``from_json`` gives an equal node back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StageNode:
        """The node that ``to_json`` wrote."""
        return cls(**value)

    def __str__(self) -> str:
        words = [str(v) for k, v in self.labels.items() if k in ("source", "method", "host", "target")]
        return " ".join([self.kind, *words, f"seed {self.seed}"])

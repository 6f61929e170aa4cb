"""What every block of a sweep file has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Block(BaseModel):
    """Base of every block: frozen, no unknown keys, defaults validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped block with some of its settings changed; blocks inside are merged likewise."""
    both = {name: merged(tree[name], value) for name, value in changes.items() if _are_blocks(tree.get(name), value)}
    return {**tree, **changes, **both}


def _are_blocks(first: object, second: object) -> bool:
    return isinstance(first, Mapping) and isinstance(second, Mapping)

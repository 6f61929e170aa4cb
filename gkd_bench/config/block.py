"""What every block of a sweep file has in common."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Block(BaseModel):
    """Base of every block: frozen, no unknown keys, defaults validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def merge(base: Mapping[str, Any], over: Mapping[str, Any], path: tuple[str | int, ...] = ()) -> dict[str, Any]:
    """``over`` laid on ``base``, as a new tree: blocks merge key by key, everything else replaces.

    A search distribution replaces as a whole, since ``low`` and ``choice`` exclude each other.
    """
    whole = path[:2] == ("search", "spaces") and len(path) == 4
    merged = {} if whole else dict(base)
    for key, value in over.items():
        if isinstance(value, dict):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, dict) else {}, value, (*path, key))
        else:
            merged[key] = copy.deepcopy(value)
    return merged

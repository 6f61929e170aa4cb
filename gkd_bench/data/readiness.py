"""Whether a prepared domain has what its part in a sweep asks for."""

from __future__ import annotations

from collections.abc import Collection

from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.splits import SPLITS


def readiness_problems(domain: PreparedDomain, roles: Collection[str], whole: bool = False) -> list[str]:
    """One line per split that is needed and has no image; none for a domain that can be used.

    Args:
        domain: the domain.
        roles: ``sources``, ``targets`` or both: a source needs all three splits, a target its test split.
        whole: whether all of it is scored, whatever its split.
    """
    if not domain.manifest.everything():
        return ["no usable image"]
    there = {item.split for item in domain.manifest.everything()}
    needed = SPLITS if "sources" in roles else () if whole else ("test",)
    return [
        f"no usable image in its {split} split, which a {'source' if 'sources' in roles else 'target'} needs"
        for split in needed
        if split not in there
    ]

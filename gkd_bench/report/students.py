"""The one student per source that is handed over: what the sweep's selection rule takes, by the source's validation alone."""

from __future__ import annotations

import re

from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.rows import is_adapted
from gkd_bench.report.selection import RULES, Candidate, choose

NO_METHOD = frozenset({"teacher", "baseline"})
"""Networks that no method of the sweep trained: the large one, and the student before it."""
_PACKAGE = "gkd_bench"


def selected_students(records: SweepRecords) -> dict[str, Candidate]:
    """Source -> the candidate that the sweep's rule takes among the final trainings of all methods and seeds.

    Trials of a search are left out: their parameters were chosen by their scores, and a final training repeats the best.
    Nothing of any target is read, so a network that is adapted to each target cannot be taken. A source without such a
    training is left out.
    """
    groups: dict[str, list[Candidate]] = {}
    for one in records.candidates:
        if one.trial is None and one.method not in NO_METHOD and not is_adapted(records, one.method):
            groups.setdefault(one.source, []).append(one)
    rule = RULES[records.origin.rule]
    return {source: choose(rule, groups[source]) for source in records.sources if source in groups}


def registered_name(sweep: str, source: str) -> str:
    """Name in the model registry, which takes no ``/`` and no ``:``."""
    return ".".join(re.sub(r"[^0-9A-Za-z_\-. ]", "_", part) for part in (_PACKAGE, sweep, source))

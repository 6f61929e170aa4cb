"""What a report calls the people, the pictures and the region that its scores are of: subjects and images, patients and slices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from gkd_bench.report.frame import SLICES, SweepRecords, metric_names
from gkd_bench.report.names import REGION, bare, counted, span

PATIENT_TASKS = frozenset({"liver"})
"""Tasks whose subjects are patients for certain; of one's own data nobody knows."""
_PHOTOGRAPH_TASKS = frozenset({"vessel"})
_SURFACE = frozenset({"hd95", "assd", "nsd"})
_PLURALS = {"image": "images", "volume": "volumes", "stack of slices": "stacks of slices"}


@dataclass(frozen=True)
class Wording:
    """The words of one sweep.

    Attributes:
        subject: ``subject`` or ``patient``.
        scored: what one score is of, each in the singular: ``image``, ``volume``, ``stack of slices``.
        picture: what a network sees one of: ``image`` or ``slice``.
        has_region: whether scores are of the field of view.
    """

    subject: str = "subject"
    scored: tuple[str, ...] = ("image",)
    picture: str = "image"
    has_region: bool = True

    @property
    def subjects(self) -> str:
        """The plural of ``subject``."""
        return f"{self.subject}s"

    @property
    def image(self) -> str:
        """What one score is of."""
        return " or ".join(self.scored)

    @property
    def images(self) -> str:
        """The plural of ``image``."""
        return " or ".join(_PLURALS[name] for name in self.scored)

    @property
    def inside(self) -> str:
        """Where scores were measured, as the end of a phrase; empty where it is everywhere."""
        return " inside the field of view" if self.has_region else ""

    def size(self, subjects: list[int], images: list[int], slices: list[int]) -> str:
        """Counts in words: ``4 subjects, 8 images``, ``20 patients, 98 slices``; stacks only where a subject has several."""
        parts = [counted(span(subjects), self.subject)]
        if not slices:
            return ", ".join([*parts, counted(span(images), "image")])
        parts += [counted(span(images), "stack")] if images != subjects else []
        return ", ".join([*parts, counted(span(slices), "slice")])


def wording_of(records: SweepRecords) -> Wording:
    """The words that fit a sweep's task and what was scored in it."""
    tasks, images = _tasks(records), records.final("image", "test")
    sliced = SLICES in images and bool(images[SLICES].notna().any())
    scored = tuple(_scored(images)) if sliced else ("image",)
    known = any(name.endswith(REGION) for name in metric_names(images))
    region = known if len(images) else tasks <= _PHOTOGRAPH_TASKS
    picture = "slice" if sliced or tasks & PATIENT_TASKS else "image"
    return Wording("patient" if tasks & PATIENT_TASKS else "subject", scored, picture, region)


def _tasks(records: SweepRecords) -> set[str]:
    frames = [records.of(kind) for kind in ("image", "stress", "candidate", "epoch", "cost")]
    return {str(task) for frame in frames if "task" in frame for task in frame["task"].dropna().unique()}


def _scored(images: pd.DataFrame) -> Iterator[str]:
    """Photographs, volumes of known spacing, and slices of which no spacing is known, as far as there are some."""
    stacks = images[images[SLICES].notna()]
    names = {bare(name) for name in metric_names(stacks) if stacks[name].notna().any()}
    loose = bool(names & _SURFACE)
    if len(stacks) < len(images):
        yield "image"
    if not loose or any(f"{name}_mm" in names for name in _SURFACE):
        yield "volume"
    if loose:
        yield "stack of slices"

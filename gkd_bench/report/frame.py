"""Records of one sweep as data frames: what every table is a query over. Reads nothing, trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import pandas as pd

from gkd_bench.errors import GkdBenchError
from gkd_bench.registry import METHODS

BASE_FIELDS = (
    "schema", "sweep", "key", "kind", "task", "source", "target", "split", "method", "network", "seed", "trial",
)  # fmt: skip
REQUIRED_FIELDS: dict[str, tuple[str, ...]] = {
    "image": (*BASE_FIELDS, "subject", "image"),
    "pooled": (*BASE_FIELDS, "images", "subjects"),
    "fsd": (*BASE_FIELDS, "use", "space", "value", "low", "high", "floor", "floor_high", "n_a", "n_b", "dim"),
    "epoch": (*BASE_FIELDS, "epoch"),
    "health": (*BASE_FIELDS, "check", "value", "reference", "ok", "warning", "host"),
    "cost": (*BASE_FIELDS, "seconds", "steps", "device", "threads", "parameters", "versions"),
    "trial": ("sweep", "study", "number", "params", "state", "value", "cause", "key"),
    "missing": ("sweep", "domain", "reason"),
}
CELL = ["source", "target", "method", "seed"]
_ROW_ORDER = (
    "kind", *CELL, "split", "study", "number", "domain", "subject", "image", "use", "space", "epoch", "host", "check", "key",
)  # fmt: skip
METHOD_ORDER = ("teacher", "baseline", *METHODS)
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class SweepRecords:
    """All records of one sweep, one data frame per kind of record; a kind without records is an empty frame.

    Attributes:
        sweep: name of the sweep.
        frames: kind of record -> frame with at least the columns of ``REQUIRED_FIELDS``. Not to be changed in place.
        asked_sources: sources of the sweep in table order; none = those with results, and those left out, by name.
        asked_targets: targets likewise; a domain with results that is not named follows by name.
    """

    sweep: str
    frames: Mapping[str, pd.DataFrame]
    asked_sources: tuple[str, ...] = ()
    asked_targets: tuple[str, ...] = ()

    @classmethod
    def from_dicts(
        cls, records: Iterable[Mapping[str, Any]], sources: Sequence[str] = (), targets: Sequence[str] = ()
    ) -> SweepRecords:
        """Sort flat records by kind and check them; kinds this version does not know are left out.

        A stage that serves a trial and a final training is counted once, as the final training.

        Args:
            records: flat JSON objects, each with ``record`` and the fields that ``REQUIRED_FIELDS`` names for it.
            sources: source domains the sweep asks for, in table order; none = those found, by name.
            targets: target domains likewise.

        Raises:
            GkdBenchError: there is no record, fields are missing, the records are of several sweeps, or one test cell
                was scored by several trainings. Every problem is listed.
        """
        groups: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in REQUIRED_FIELDS}
        for record in records:
            groups.get(record.get("record", ""), []).append(record)
        names = {record.get("sweep") for group in groups.values() for record in group}
        _refuse([*_field_problems(groups), *_sweep_problems(names)])
        frames = {kind: _frame(kind, rows) for kind, rows in groups.items()}
        built = cls(str(names.pop()), frames, tuple(sources), tuple(targets))
        _refuse(_cell_problems(built.frames))
        return built

    def of(self, kind: str, split: str | None = None) -> pd.DataFrame:
        """The frame of one kind of record, of one split if given."""
        frame = self.frames[kind]
        return frame if split is None else frame[frame["split"] == split]

    @cached_property
    def missing(self) -> dict[str, str]:
        """Domains that were left out -> why."""
        frame = self.of("missing").drop_duplicates("domain")
        return {str(domain): str(reason) for domain, reason in zip(frame["domain"], frame["reason"], strict=True)}

    @cached_property
    def sources(self) -> list[str]:
        """Source domains in table order, those left out included."""
        return self._domains("source", self.asked_sources)

    @cached_property
    def targets(self) -> list[str]:
        """Target domains in table order, those left out included."""
        return self._domains("target", self.asked_targets)

    @cached_property
    def methods(self) -> list[str]:
        """Methods with test scores, teacher first, then the order of the registry, then by name."""
        return methods_in_order(set(self.of("image", "test")["method"].dropna()))

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds with test scores."""
        return sorted({int(seed) for seed in self.of("image", "test")["seed"].dropna()})

    @cached_property
    def seed_scores(self) -> pd.DataFrame:
        """Test scores of every trained network: mean over images per subject, then over subjects.

        One row per source, target, method and seed; columns ``network``, ``subjects``, ``images`` (counts) and every
        metric of the image records. A metric that is undefined for an image is left out of that subject's mean.
        """
        images = self.of("image", "test")
        by_subject = images.groupby([*CELL, "subject"], sort=True)[metric_names(images)].mean()
        scores = by_subject.groupby(level=CELL, sort=True).mean()
        cells = images.groupby(CELL, sort=True)
        counts = cells.agg(network=("network", "first"), subjects=("subject", "nunique"), images=("image", "size"))
        return counts.join(scores).reset_index()

    @cached_property
    def pooled_scores(self) -> pd.DataFrame:
        """Test scores pooled over all pixels of a target: one row per source, target, method and seed."""
        pooled = self.of("pooled", "test")
        return pooled.groupby(CELL, sort=True)[metric_names(pooled)].first().reset_index()

    def _domains(self, role: str, asked: Sequence[str]) -> list[str]:
        frames = [self.of(kind, "test")[role] for kind in ("image", "fsd")]
        found = {str(name) for frame in frames for name in frame.dropna().unique()}
        extra = found - set(asked) if asked else found | set(self.missing)
        return [*asked, *sorted(extra)]


def metric_names(frame: pd.DataFrame) -> list[str]:
    """Columns of image or pooled records that hold metrics, in the order in which they first appeared."""
    known = {*REQUIRED_FIELDS["image"], *REQUIRED_FIELDS["pooled"], "record"}
    numbers = frame.select_dtypes("number").columns
    return [str(name) for name in numbers if name not in known]


def grouped(frame: pd.DataFrame, names: Sequence[str]) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """The parts of a frame that agree in the named columns, with the values of these columns as text, in their order."""
    parts = frame.groupby([*names], sort=True, dropna=False)
    return [(tuple(map(str, cast("tuple[Any, ...]", values))), part) for values, part in parts]


def methods_in_order(methods: Iterable[str]) -> list[str]:
    """Teacher, baseline, the methods in the order of the registry, then the others by name."""
    return sorted(methods, key=lambda name: (_place(name, METHOD_ORDER), name))


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _frame(kind: str, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows in an order of their own: sums in floating point, and so the files, do not depend on the order of records."""
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*REQUIRED_FIELDS[kind]])
    if "trial" in frame:
        final_first = frame["trial"].notna().argsort(kind="stable")
        frame = frame.iloc[final_first].drop_duplicates([name for name in frame if name != "trial"])
    return frame.sort_values([name for name in _ROW_ORDER if name in frame], kind="stable", ignore_index=True)


def _field_problems(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    found: dict[str, int] = {}
    for kind, rows in groups.items():
        required = frozenset(REQUIRED_FIELDS[kind])
        for row in rows:
            if not required <= row.keys():
                line = f"record {kind!r} of stage {row.get('key')} lacks {', '.join(sorted(required - row.keys()))}"
                found[line] = found.get(line, 0) + 1
    return [f"{line} ({count} times)" if count > 1 else line for line, count in found.items()]


def _sweep_problems(names: set[Any]) -> list[str]:
    if not names:
        return ["there are no records: run the sweep first"]
    listed = ", ".join(sorted(map(str, names)))
    return [f"records of several sweeps ({listed}): make one report for each"] if len(names) > 1 else []


def _cell_problems(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """Two trainings under the same cell would be averaged as if they were one; no table may hide that."""
    images = frames["image"]
    keys = images[images["split"] == "test"].groupby(CELL, sort=True)["key"].nunique()
    several = keys[keys > 1].reset_index()[[*CELL, "key"]]
    return [
        f"{source} -> {target}, {method}, seed {seed}: scored by {count} trainings; hand over the records of one"
        for source, target, method, seed, count in several.itertuples(index=False, name=None)
    ]


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        shown = [*problems[:_SHOWN_PROBLEMS], *(["..."] if len(problems) > _SHOWN_PROBLEMS else [])]
        raise GkdBenchError("\n".join([f"the records cannot be reported, {len(problems)} problem(s):", *shown]))

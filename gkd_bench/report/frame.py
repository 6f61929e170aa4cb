"""Records of one sweep as data frames: what every table is a query over. Reads nothing, trains nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, cast

import pandas as pd

from gkd_bench.errors import GkdBenchError
from gkd_bench.registry import METHODS
from gkd_bench.report.selection import BEST, RULES, Candidate, choose

BASE_FIELDS = (
    "schema", "sweep", "key", "model", "kind", "task", "source", "target", "split", "method", "network", "seed", "trial",
)  # fmt: skip
_SCORED = (*BASE_FIELDS, "variant")
REQUIRED_FIELDS: dict[str, tuple[str, ...]] = {
    "image": (*_SCORED, "subject", "image"),
    "pooled": (*_SCORED, "images", "subjects"),
    "fsd": (*_SCORED, "use", "space", "value", "low", "high", "floor", "floor_high", "n_a", "n_b", "dim"),
    "stress": (*_SCORED, "corruption", "strength", "subject", "image", "dice"),
    "stress_fsd": (*_SCORED, "corruption", "strength", "space", "value", "n_a", "n_b", "dim"),
    "candidate": (*_SCORED, "epoch", "val_dice", "val_dice_stressed", "stress_fsd", "macs"),
    "efficiency": (
        *BASE_FIELDS, "role", "input", "parameters", "macs", "device", "threads", "latency_p50_ms", "latency_p95_ms",
        "peak_memory_mb",
    ),
    "epoch": (*BASE_FIELDS, "epoch"),
    "health": (*BASE_FIELDS, "check", "value", "reference", "ok", "warning", "host"),
    "cost": (*BASE_FIELDS, "seconds", "steps", "device", "threads", "parameters", "versions"),
    "trial": (
        "sweep", "study", "source", "method", "number", "params", "state", "value", "cause", "key", "objectives",
    ),
    "failure": (*BASE_FIELDS, "stage", "cause"),
    "missing": ("sweep", "domain", "reason"),
    "left_out": ("sweep", "domain", "image", "reason"),
    "domain": ("sweep", "domain", "title"),
}  # fmt: skip
SLICES = "slices"
"""How many slices a stack has that were scored; photographs have none."""
CELL = ["source", "target", "method", "seed"]
TRAINING = ["source", "method", "seed"]
_ROW_ORDER = (
    "kind", *CELL, "trial", "variant", "split", "study", "number", "domain", "corruption", "strength", "subject", "image",
    "use", "space", "role", "epoch", "host", "check", "key",
)  # fmt: skip
METHOD_ORDER = ("teacher", "baseline", *METHODS)
REFERENCES = ("teacher", "baseline", "scratch")
"""What every method is compared with: the teacher, and the student before and after continuation without a teacher."""
_ALONE, _AFTER_ALONE = "scratch", "bn_views"
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Origin:
    """Where records come from and how the sweep wants them read; kept beside them, so that a report needs nothing else.

    Attributes:
        sources: source domains in table order; none = those with results, and those left out, by name.
        targets: target domains likewise; a domain with results that is not named follows by name.
        pairs: pairs of a report of several sweeps, which need not ask for every source -> target; none = all.
        rule: selection rule.
        pick: how one point of a Pareto front is taken; only said in captions.
        variants: control or variant -> ``{"of": method, "set": {option: value}}``, and where they apply ``alignment``
            (changed settings of the alignment stage), ``student`` (``{"name", "width"}`` of another student), ``control``
            (true), ``same_as`` (the row that it coincides with in this sweep, which stands for it).
        sweep_yaml: the sweep as YAML text, defaults included.
        command: the command that runs it again.
        machine: one line about where it ran.
        fingerprints: domain -> fingerprint of its prepared data.
        settings: content key of a training -> its settings.
        prepare: how raw images become a network's input.
        factors: domain -> working pixels per native pixel.
    """

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    rule: str = "source_val"
    pick: str = "rule"
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sweep_yaml: str = ""
    command: str = ""
    machine: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prepare: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Origin:
        """The origin that ``to_json`` wrote."""
        pairs = tuple((source, target) for source, target in value["pairs"])
        return cls(**{**value, "sources": tuple(value["sources"]), "targets": tuple(value["targets"]), "pairs": pairs})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class SweepRecords:
    """All records of one sweep, one data frame per kind of record; a kind without records is an empty frame.

    Attributes:
        sweep: name of the sweep.
        frames: kind of record -> frame with at least the columns of ``REQUIRED_FIELDS``. Not to be changed in place.
        origin: where they come from.
    """

    sweep: str
    frames: Mapping[str, pd.DataFrame]
    origin: Origin = Origin()

    @classmethod
    def from_dicts(cls, records: Iterable[Mapping[str, Any]], origin: Origin | None = None) -> SweepRecords:
        """Sort flat records by kind and check them; kinds this version does not know are left out.

        A stage that serves a trial and a final training is counted once, as the final training.

        Args:
            records: flat JSON objects, each with ``record`` and the fields that ``REQUIRED_FIELDS`` names for it.
            origin: where they come from.

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
        built = cls(str(names.pop()), frames, origin or Origin())
        _refuse(_cell_problems(built))
        return built

    def of(self, kind: str, split: str | None = None) -> pd.DataFrame:
        """The frame of one kind of record, of one split if given."""
        frame = self.frames[kind]
        return frame if split is None else frame[frame["split"] == split]

    def final(self, kind: str, split: str | None = None) -> pd.DataFrame:
        """Records of final trainings, trials left out; where epochs were kept, of the one the selection rule takes."""
        frame = self.of(kind, split)
        frame = frame[frame["trial"].isna()] if "trial" in frame else frame
        if "variant" not in frame or frame.empty:
            return frame
        chosen = {str(model): self.chosen_variants.get(str(model), BEST) for model in frame["model"].unique()}
        return frame[frame["variant"] == frame["model"].map(chosen)]

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every trained student and kept epoch, of trials and of final trainings, as its source's validation sees it."""
        return tuple(Candidate.from_record(row) for row in self.of("candidate").to_dict("records"))  # type: ignore[arg-type]

    @cached_property
    def chosen_variants(self) -> dict[str, str]:
        """Content key of a final training -> the epoch that the sweep's selection rule takes."""
        finals: dict[str, list[Candidate]] = {}
        for one in self.candidates:
            if one.trial is None:
                finals.setdefault(one.model, []).append(one)
        return {model: choose(RULES[self.origin.rule], group).variant for model, group in finals.items()}

    @cached_property
    def missing(self) -> dict[str, str]:
        """Domains that were left out -> why."""
        frame = self.of("missing").drop_duplicates("domain")
        return {str(domain): str(reason) for domain, reason in zip(frame["domain"], frame["reason"], strict=True)}

    @cached_property
    def sources(self) -> list[str]:
        """Source domains in table order, those left out included."""
        return self._domains("source", self.origin.sources)

    @cached_property
    def targets(self) -> list[str]:
        """Target domains in table order, those left out included."""
        return self._domains("target", self.origin.targets)

    @cached_property
    def methods(self) -> list[str]:
        """Methods with test scores: teacher, then the order of the registry with variants behind their method, then by name."""
        return self.in_order(set(self.final("image", "test")["method"].dropna()))

    @cached_property
    def seeds(self) -> list[int]:
        """Seeds with test scores."""
        return sorted({int(seed) for seed in self.final("image", "test")["seed"].dropna()})

    @cached_property
    def networks(self) -> dict[str, str]:
        """Method -> the network of its final trainings; methods that have several are left out."""
        pairs = self.final("image", "test")[["method", "network"]].drop_duplicates().dropna()
        once = pairs[~pairs["method"].duplicated(keep=False)]
        return {str(method): str(network) for method, network in once.itertuples(index=False, name=None)}

    def in_order(self, methods: Iterable[str]) -> list[str]:
        """Methods in table order."""
        return methods_in_order(methods, self.origin.variants)

    @cached_property
    def models(self) -> dict[str, list[str]]:
        """Method -> content keys of its final trainings that were scored on test images; adapted networks have keys of their own."""
        pairs = self.final("image", "test")[["method", "model"]].drop_duplicates()
        found: dict[str, list[str]] = {}
        for method, model in sorted(pairs.itertuples(index=False, name=None)):
            found.setdefault(str(method), []).append(str(model))
        return found

    @cached_property
    def subject_scores(self) -> pd.DataFrame:
        """Test scores of every final training per subject: means over the subject's images.

        One row per source, target, method, seed and subject, with every metric of the image records as a column. A metric
        that is undefined for an image is left out of that subject's mean.
        """
        images = self.final("image", "test")
        return images.groupby([*CELL, "subject"], sort=True)[metric_names(images)].mean().reset_index()

    @cached_property
    def seed_scores(self) -> pd.DataFrame:
        """Test scores of every final training: mean over images per subject, then over subjects.

        One row per source, target, method and seed; columns ``network``, ``subjects``, ``images``, of stacks also
        ``slices`` (counts), and every metric of the image records.
        """
        images = self.final("image", "test")
        scores = self.subject_scores.drop(columns="subject").groupby(CELL, sort=True).mean()
        cells = images.groupby(CELL, sort=True)
        counts = cells.agg(network=("network", "first"), subjects=("subject", "nunique"), images=("image", "size"))
        slices = cells[[SLICES]].sum(min_count=1) if SLICES in images else counts[[]]
        return counts.join(slices).join(scores).reset_index()

    @cached_property
    def pooled_scores(self) -> pd.DataFrame:
        """Test scores pooled over all pixels of a target: one row per source, target, method and seed."""
        pooled = self.final("pooled", "test")
        return pooled.groupby(CELL, sort=True)[metric_names(pooled)].first().reset_index()

    def candidate_scores(self, metric: str) -> pd.DataFrame:
        """Test scores of every candidate, trials included: mean over images per subject, then over subjects.

        One row per ``model``, ``variant`` and ``target``, the score in the column ``score``.
        """
        images = self.of("image", "test")
        names = ["model", "variant", "target"]
        by_subject = images.groupby([*names, "subject"], sort=True)[metric].mean()
        return by_subject.groupby(level=names, sort=True).mean().rename("score").reset_index()

    def _domains(self, role: str, asked: Sequence[str]) -> list[str]:
        frames = [self.of(kind, "test")[role] for kind in ("image", "fsd")]
        found = {str(name) for frame in frames for name in frame.dropna().unique()}
        extra = found - set(asked) if asked else found | set(self.missing)
        return [*asked, *sorted(extra)]


def metric_names(frame: pd.DataFrame) -> list[str]:
    """Columns of image or pooled records that hold metrics, in the order in which they first appeared."""
    known = {*REQUIRED_FIELDS["image"], *REQUIRED_FIELDS["pooled"], "record", SLICES}
    numbers = frame.select_dtypes("number").columns
    return [str(name) for name in numbers if name not in known]


def grouped(frame: pd.DataFrame, names: Sequence[str]) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """The parts of a frame that agree in the named columns, with the values of these columns as text, in their order."""
    parts = frame.groupby([*names], sort=True, dropna=False)
    return [(tuple(map(str, cast("tuple[Any, ...]", values))), part) for values, part in parts]


def methods_in_order(methods: Iterable[str], variants: Mapping[str, Mapping[str, Any]] | None = None) -> list[str]:
    """Teacher, baseline, the methods in the order of the registry, each before its controls and variants, then others by name.

    What is made of the student alone follows the control that passes views, so that the controls stand together; the
    student alone of another size follows the student alone.

    Args:
        methods: names.
        variants: controls and variants, see :class:`Origin`.
    """
    entries = variants or {}

    def place(name: str) -> tuple[int, bool, bool, str]:
        entry = entries.get(name, {})
        base = str(entry.get("of", name))
        beside = base == _ALONE and name != base and not is_other_student(entry)
        return _place(_AFTER_ALONE if beside else base, METHOD_ORDER), name != base, not entry.get("control"), name

    return sorted(methods, key=place)


def is_other_student(entry: Mapping[str, Any]) -> bool:
    """Whether a variant changes the student's network and nothing else."""
    return bool(entry.get("student")) and not entry.get("set") and not entry.get("alignment")


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


def _cell_problems(records: SweepRecords) -> list[str]:
    """Two trainings under the same cell would be averaged as if they were one; no table may hide that."""
    keys = records.final("image", "test").groupby(CELL, sort=True)["key"].nunique()
    several = keys[keys > 1].reset_index()[[*CELL, "key"]]
    return [
        f"{source} -> {target}, {method}, seed {seed}: scored by {count} trainings; hand over the records of one"
        for source, target, method, seed, count in several.itertuples(index=False, name=None)
    ]


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        shown = [*problems[:_SHOWN_PROBLEMS], *(["..."] if len(problems) > _SHOWN_PROBLEMS else [])]
        raise GkdBenchError("\n".join([f"the records cannot be reported, {len(problems)} problem(s):", *shown]))

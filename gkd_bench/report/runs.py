"""What MLflow is to show below a sweep's run, worked out from the records alone: one run per trial and per final training,
those that failed included.

Metrics are ``<what>/<where>``, so that a list in alphabetical order keeps together what is compared: ``dice/<target>``,
``foreign/dice``, ``in_domain/dice``, ``stressed/dice``, ``fsd/<target>``, ``cost/macs``, ``val/dice``, ``loss/<term>``;
metrics that are rarely looked at come as ``other/<metric>/<target>``, those of one class as ``class/<class>/<metric>/<target>``.
Trials show what their search could see and nothing of any target. Knows no MLflow.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from gkd_bench.report.frame import REQUIRED_FIELDS, TRAINING, SweepRecords, grouped, metric_names
from gkd_bench.report.names import bare, class_of, method_title
from gkd_bench.report.palette import MUTED, method_colours
from gkd_bench.report.pulls import silent_rows
from gkd_bench.report.rows import kind_of, port_of, remedies_of
from gkd_bench.report.selection import RULES, Candidate, is_nothing
from gkd_bench.report.students import selected_students
from gkd_bench.report.tables import failures_of, plain_cause
from gkd_bench.store.node import content_hash

TEXT_LIMIT = 5000
TRAINED_KINDS = ("teacher", "baseline", "semantic", "alignment", "distill")
SCORED_KINDS = ("teacher", "baseline", "distill")
OWN_SPACE = "aligned_own"
FOREIGN = "foreign"
_COST = ("parameters", "macs", "latency_p50_ms")
_FURTHER_COST = ("latency_p95_ms", "peak_memory_mb")
PROMINENT = ("dice", "hd95", "hd95_mm", "nsd", "nsd_mm", "cldice", "ece")
"""One metric each of overlap, distance, surface, topology and calibration; the others are listed below them."""
_BY_TARGET = (
    "dice",
    "hd95",
    "hd95_mm",
    "nsd",
    "nsd_mm",
    "ece",
)  # MLflow's comparison shows seven names at first: none before these but cost
_NARROW_TITLES = {"scratch": "alone", "baseline": "start (student)"}
"""Lists of groups cut long names, and MLflow makes a group's colour of its name: these stay readable and distinct."""
_ILLEGAL = re.compile(r"[^0-9A-Za-z_\-. :/]")
Status = Literal["FINISHED", "KILLED", "FAILED", "RUNNING"]
Place = Literal["final", "trial", "part"]
_STATUS: Mapping[str, Status] = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
_Training = tuple[str, str, int]
_Scores = Mapping[_Training, Mapping[str, float]]


@dataclass(frozen=True)
class Point:
    """One value of a curve at an epoch."""

    name: str
    epoch: int
    value: float


@dataclass(frozen=True)
class ChildRun:
    """One run below the sweep's run.

    Attributes:
        identity: what finds it again within the sweep: content key of a training, or study and trial number.
        name: what the runs table shows.
        status: MLflow's word for how it ended.
        tags: labels to group and filter by. ``kind``: ``final`` (teachers and students), ``trial``, or ``part`` (networks
            that others are built on); ``source``, ``method``, ``model`` (both), ``seed``, ``trial``, ``stage``,
            ``selected``, ``rule``; of rows of the tables ``method_kind`` (``reference``, ``control``, ``method``,
            ``variant``), ``port`` (what differs from the published method), ``remedies``, ``gradient`` (which loss terms
            are silent); of what failed its ``cause``.
        params: settings; they never change for one identity.
        finals: results without an epoch.
        curves: values per epoch.
        seconds: how long it ran; 0 when unknown.
    """

    identity: str
    name: str
    status: Status = "FINISHED"
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    finals: Mapping[str, float] = field(default_factory=dict)
    curves: tuple[Point, ...] = ()
    seconds: float = 0.0

    @cached_property
    def digest(self) -> str:
        """Changes with anything that is to be shown."""
        return content_hash(asdict(self))


def child_runs(records: SweepRecords) -> list[ChildRun]:
    """Every trial, then every final training, then those that failed, in an order that does not depend on the records'.

    Settings of the origin become parameters.
    """
    curves = {key: tuple(_points(part)) for (key,), part in grouped(records.of("epoch"), ["key"])}
    seen = {(one.model, one.variant): one for one in records.candidates}
    trained = list(_training_runs(records, curves, seen))
    known = {one.identity for one in trained}
    return [*_trial_runs(records, curves, seen), *trained, *_failed_runs(records, known)]


def legal_name(text: str) -> str:
    """A metric or parameter name that MLflow takes: ``->`` becomes ``-to-``, other forbidden characters ``_``."""
    name = _ILLEGAL.sub("_", text.replace("->", "-to-"))
    return "/".join(part for part in name.split("/") if part.strip(". ")) or "_"


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Legal names and readable numbers; undefined and infinite values left out, since MLflow would show them as numbers.

    Fractions keep five significant digits: MLflow cannot format, and the files of the report have them all.
    """
    kept = {name: float(value) for name, value in values.items() if not is_nothing(value)}
    return {legal_name(name): _short(value) for name, value in kept.items() if math.isfinite(value)}


def headline_metrics(frame: pd.DataFrame) -> dict[str, str]:
    """Column -> its name for readers: metrics inside the field of view; all of them for a task without one."""
    names = metric_names(frame)
    inside = [name for name in names if name.endswith("_fov")]
    return {name: name.removesuffix("_fov") for name in inside or names}


# ---------------------------------------------------------------- trials


def _trial_runs(
    records: SweepRecords, curves: Mapping[str, tuple[Point, ...]], seen: Mapping[tuple[str, str], Candidate]
) -> Iterator[ChildRun]:
    for row in records.of("trial").sort_values(["study", "number"], kind="stable").to_dict("records"):
        study, number, state = str(row["study"]), int(row["number"]), str(row["state"])
        cause = plain_cause(row["cause"])
        tags = {"trial": str(number), "study": study, "state": state, **({"cause": cause} if cause else {})}
        words = f"Trial {number} of the search {study}: {state}{f', {cause}' if cause else ''}."
        name = f"{row['source']}: {method_title(str(row['method']))}, trial {number}"
        yield ChildRun(
            identity=f"{study}/{number}",
            name=name,
            status=_STATUS.get(state, "RUNNING"),
            tags={**_labels(row, "trial", records), **tags, "mlflow.note.content": words},
            params=_flat(json.loads(row["params"])),
            finals=_objectives(row) | _validation(seen.get((str(row["key"]), "best"))),
            curves=curves.get(str(row["key"]), ()),
        )


def _objectives(row: Mapping[Any, Any]) -> dict[str, float]:
    """``objective/<name>`` of a trial that has objectives, else ``objective/value``."""
    found: Mapping[str, Any] = json.loads(row["objectives"]) if row["objectives"] else {}
    return finite({f"objective/{name}": value for name, value in found.items()} or {"objective/value": row["value"]})


# ---------------------------------------------------------------- final trainings


def _training_runs(
    records: SweepRecords, curves: Mapping[str, tuple[Point, ...]], seen: Mapping[tuple[str, str], Candidate]
) -> Iterator[ChildRun]:
    results = _merged(_target_scores(records), _distances(records), _stress(records))
    spent = {str(row["key"]): row for row in records.of("cost").to_dict("records")}
    health = {key: dict(_health(part)) for (key,), part in grouped(records.of("health"), ["key"])}
    chosen = {one.model for one in selected_students(records).values()}
    for key, row in _training_rows(records).items():
        cell = (str(row["source"]), str(row["method"]), int(row["seed"]))
        scored = results.get(cell, {}) if row["kind"] in (*SCORED_KINDS, "evaluate") else {}
        picked = seen.get((key, records.chosen_variants.get(key, "best")))
        cost = _costs(records, row, spent.get(key, {}))
        place: Place = "part" if row["kind"] in ("semantic", "alignment") else "final"
        labels = {**_labels(row, place, records), "selected": "yes" if key in chosen else "no"}
        yield ChildRun(
            identity=key,
            name=_training_name(row, place),
            tags={**labels, "mlflow.note.content": _training_words(row, records, picked, key in chosen)},
            params={**_flat(records.origin.settings.get(key, {})), **_facts(row)},
            finals={**scored, **_validation(picked), **cost, **health.get(key, {})},
            curves=curves.get(key, ()),
            seconds=cost.get("training/seconds", 0.0),
        )


def _failed_runs(records: SweepRecords, known: set[str]) -> Iterator[ChildRun]:
    """A run for each final training that failed and has no records of its own; other stages are in the table only."""
    failed = {one.key: one.cause for one in failures_of(records) if one.kind == "stage" and one.key not in known}
    frame = records.of("failure").drop_duplicates("key")
    for row in frame[frame["kind"].isin(TRAINED_KINDS)].sort_values("key").to_dict("records"):
        key = str(row["key"])
        if key not in failed:
            continue
        place: Place = "part" if row["kind"] in ("semantic", "alignment") else "final"
        words = f"{_training_name(row, place)}. It failed: {failed[key]}. The same command tries it again."
        yield ChildRun(
            identity=key,
            name=_training_name(row, place),
            status="FAILED",
            tags={**_labels(row, place, records), "cause": failed[key], "mlflow.note.content": words},
            params=_flat(records.origin.settings.get(key, {})),
        )


def _training_rows(records: SweepRecords) -> dict[str, dict[str, Any]]:
    """Key -> labels of every final training; of a scoring, where the records of its training are not there."""
    columns = ["key", "kind", "source", "method", "network", "seed"]
    trained = pd.concat([_finals(records.of(kind))[columns] for kind in ("epoch", "cost")])
    trained = trained[trained["kind"].isin(TRAINED_KINDS)].drop_duplicates("key")
    scored = records.final("image", "test")[columns].drop_duplicates(TRAINING)
    known = set(_cells(trained[trained["kind"].isin(SCORED_KINDS)]))
    orphans = scored[[cell not in known for cell in _cells(scored)]]
    rows = pd.concat([trained, orphans]).sort_values([*columns[1:], "key"], kind="stable")
    return {str(row["key"]): {str(name): value for name, value in row.items()} for row in rows.to_dict("records")}


def _training_name(row: Mapping[Any, Any], place: Place) -> str:
    title = method_title(str(row["method"]))
    words = f"{title} ({row['kind']})" if place == "part" else title
    return f"{row['source']}: {words}, seed {row['seed']}"


def _training_words(row: Mapping[str, Any], records: SweepRecords, picked: Candidate | None, selected: bool) -> str:
    """One paragraph for somebody who opens the run."""
    text = f"{_training_name(row, 'final')}. Network {row['network']}, trained on {row['source']} only"
    if row["kind"] in ("semantic", "alignment"):
        return f"{text}; other networks of this sweep are built on it."
    text += "; every other domain is only ever scored."
    if picked is not None:
        text += f" Weights of epoch {picked.epoch} ({picked.variant}), by {RULES[records.origin.rule].title}."
    return f"{text} **The selected student of {row['source']}.**" if selected else text


def _facts(row: Mapping[str, Any]) -> dict[str, str]:
    return {"network": str(row["network"]), "seed": str(row["seed"]), "method": str(row["method"])}


def _target_scores(records: SweepRecords) -> _Scores:
    """``<metric>/<target>``, ``in_domain/<metric>``, ``foreign/<metric>`` (mean over the other targets); rarer ones ``other/...``."""
    scores = records.seed_scores
    metrics = headline_metrics(scores)
    found: dict[_Training, dict[str, float]] = {}
    for row in scores.to_dict("records"):
        values = {_metric_name(title, str(row["target"])): row[name] for name, title in metrics.items()}
        if row["source"] == row["target"]:
            values |= {f"in_domain/{title}": row[name] for name, title in metrics.items() if title in PROMINENT}
        found.setdefault(_cell(row), {}).update(finite(values))
    foreign = scores[scores["source"] != scores["target"]].groupby(TRAINING, sort=True)[[*metrics]].mean()
    for row in foreign.reset_index().to_dict("records"):
        found[_cell(row)].update(finite({_metric_name(title, FOREIGN): row[name] for name, title in metrics.items()}))
    return found


def _metric_name(metric: str, place: str) -> str:
    """Classes have a place of their own: a class and a target may have one name."""
    if one := class_of(metric):
        return f"class/{one}/{bare(metric)}/{place}"
    if metric in PROMINENT and place == FOREIGN:
        return f"{FOREIGN}/{metric}"
    return f"{metric}/{place}" if metric in _BY_TARGET else f"other/{metric}/{place}"


def _distances(records: SweepRecords) -> _Scores:
    """``fsd/<target>`` and its mean ``foreign/fsd`` on the scale that methods share; other uses and spaces by name."""
    found: dict[_Training, dict[str, float]] = {}
    for row in records.final("fsd", "test").to_dict("records"):
        extra = [word for word in (row["use"], row["space"]) if word not in ("domain", OWN_SPACE)]
        name = f"other/{'_'.join(['fsd', *extra])}/{row['target']}" if extra else f"fsd/{row['target']}"
        found.setdefault(_cell(row), {}).update(finite({name: row["value"]}))
    for (source, *_), values in found.items():
        others = [
            values[name] for target in records.targets if target != source and (name := f"fsd/{target}") in values
        ]
        values |= {"foreign/fsd": sum(others) / len(others)} if others else {}
    return found


def _stress(records: SweepRecords) -> _Scores:
    """``stressed/dice_<corruption>``: Dice on the source's validation images, mean over subjects and strengths."""
    frame = records.final("stress", "val")
    means = frame[frame["strength"] > 0].groupby([*TRAINING, "corruption"], sort=True)["dice"].mean().reset_index()
    found: dict[_Training, dict[str, float]] = {}
    for row in means.to_dict("records"):
        found.setdefault(_cell(row), {}).update(finite({f"stressed/dice_{row['corruption']}": row["dice"]}))
    return found


def _validation(candidate: Candidate | None) -> dict[str, float]:
    """What selection reads: clean and stressed validation of the source."""
    if candidate is None:
        return {}
    return finite(
        {
            "source_val/dice": candidate.val_dice,
            "stressed/dice": candidate.val_dice_stressed,
            "stressed/fsd": candidate.stress_fsd,
        }
    )


def _costs(records: SweepRecords, row: Mapping[str, Any], spent: Mapping[Any, Any]) -> dict[str, float]:
    """What the network costs to run (measured once per network) and what this training took."""
    training = {"training/seconds": spent.get("seconds"), "training/steps": spent.get("steps")}
    measured = records.of("efficiency")
    measured = measured[measured["network"] == row["network"]]
    if row["kind"] not in SCORED_KINDS or measured.empty:
        return finite({"cost/parameters": spent.get("parameters"), **training})
    first = measured.iloc[0]
    further = {f"other/{name}": first[name] for name in _FURTHER_COST}
    return finite({**{f"cost/{name}": first[name] for name in _COST}, **further, **training})


def _health(part: pd.DataFrame) -> Iterator[tuple[str, float]]:
    for host, check, value in part[["host", "check", "value"]].itertuples(index=False, name=None):
        place = f"{host}/" if isinstance(host, str) else ""
        yield from finite({f"health/{place}{check}": value}).items()


# ---------------------------------------------------------------- both


def _labels(row: Mapping[Any, Any], place: Place, records: SweepRecords) -> dict[str, str]:
    """Labels that the runs table filters, groups and colours by."""
    method, rule = str(row["method"]), records.origin.rule
    named = {"source": row["source"], "seed": row.get("seed"), "stage": row.get("kind"), "rule": rule}
    known = {name: str(value) for name, value in named.items() if not is_nothing(value)}
    colour = method_colours(records.methods).get(method, MUTED)
    title = _NARROW_TITLES.get(method, method_title(method))
    own = {"kind": place, "method": title, "model": f"{row['source']}, {title}", "gkd.method": method, "selected": "no"}
    return {**own, **known, **_row_facts(records, method), "mlflow.runColor": colour}


def _row_facts(records: SweepRecords, method: str) -> dict[str, str]:
    """What a reader must know of the row: reference, control, method or variant, what is ported, what it is combined with."""
    if method not in records.methods:
        return {}
    facts = {"port": port_of(records, method)[:TEXT_LIMIT], "remedies": ", ".join(remedies_of(records, method))}
    silent = silent_rows(records).get(method, "")
    return {"method_kind": kind_of(records, method), **{name: text for name, text in facts.items() if text}} | (
        {"gradient": silent} if silent else {}
    )


def _points(part: pd.DataFrame) -> Iterator[Point]:
    known = {*REQUIRED_FIELDS["epoch"], "record"}
    epochs = [int(epoch) for epoch in part["epoch"]]
    for name in sorted(str(name) for name in part.select_dtypes("number") if name not in known):
        for epoch, value in zip(epochs, part[name], strict=True):
            if math.isfinite(value):
                yield Point(legal_name(name), epoch, float(value))


def _merged(*parts: _Scores) -> dict[_Training, dict[str, float]]:
    found: dict[_Training, dict[str, float]] = {}
    for part in parts:
        for cell, values in part.items():
            found.setdefault(cell, {}).update(values)
    return found


def _finals(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["trial"].isna()]


def _cells(frame: pd.DataFrame) -> list[_Training]:
    return [
        (str(source), str(method), int(seed))
        for source, method, seed in frame[TRAINING].itertuples(index=False, name=None)
    ]


def _cell(row: Mapping[Any, Any]) -> _Training:
    return str(row["source"]), str(row["method"]), int(row["seed"])


def _short(value: float) -> float:
    return value if value.is_integer() else float(f"{value:.5g}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as ``a.b.c`` -> text."""
    found: dict[str, str] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{path}.")
        else:
            found[legal_name(path)] = value if isinstance(value, str) else json.dumps(value)
    return found

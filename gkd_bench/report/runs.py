"""What MLflow is to show, worked out from the records alone: one run per trial and per final training. Knows no MLflow."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from gkd_bench.report import diagnostics, tables
from gkd_bench.report.cells import Table
from gkd_bench.report.frame import CELL, REQUIRED_FIELDS, SweepRecords, grouped, metric_names
from gkd_bench.report.render import escape_markdown, readable_rows, to_csv, to_markdown
from gkd_bench.report.writer import DISCLAIMER, file_tables, origin_lines, page_tables, picture_names, report_page
from gkd_bench.store.node import content_hash

NOTE_LIMIT = 7900
_TAG_LIMIT = 5000
NODE_TAG = "gkd.node"
TRIAL_TAG = "gkd.trial"
_SCORED_KINDS = ("teacher", "baseline", "distill")
_ILLEGAL = re.compile(r"[^0-9A-Za-z_\-. :/]")
Status = Literal["FINISHED", "KILLED", "FAILED", "RUNNING"]
_STATUS: Mapping[str, Status] = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
Settings = Mapping[str, Mapping[str, Any]]


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
        tag: the tag that finds it again: ``gkd.node`` (final training) or ``gkd.trial``.
        identity: value of that tag: content key of the stage, or study and trial number.
        name: what the runs table shows.
        status: MLflow's word for how it ended.
        tags: labels to group and filter by.
        params: settings; they never change for one identity.
        finals: results without an epoch; the names sort by target.
        curves: values per epoch.
        seconds: how long it ran; 0 when unknown.
    """

    tag: str
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


@dataclass(frozen=True)
class Provenance:
    """Where a sweep comes from.

    Attributes:
        sweep_yaml: the sweep as YAML text, defaults included.
        command: the command that runs it again.
        machine: one line about where it ran.
        fingerprints: domain -> fingerprint of its prepared data.
    """

    sweep_yaml: str
    command: str
    machine: str = ""
    fingerprints: Mapping[str, str] = field(default_factory=dict)


def legal_name(text: str) -> str:
    """A metric or parameter name that MLflow takes: ``->`` becomes ``-to-``, other forbidden characters ``_``."""
    name = _ILLEGAL.sub("_", text.replace("->", "-to-"))
    return "/".join(part for part in name.split("/") if part.strip(". ")) or "_"


def child_runs(records: SweepRecords, settings: Settings | None = None) -> list[ChildRun]:
    """Every trial, then every final training, in an order that does not depend on the order of the records.

    Args:
        records: records of the sweep.
        settings: content key of a stage -> its settings, nested mappings allowed; shown as parameters.
    """
    curves = {key: tuple(_points(part)) for (key,), part in grouped(records.of("epoch"), ["key"])}
    named = {key: _flat(values) for key, values in (settings or {}).items()}
    return [*_trial_runs(records, curves), *_training_runs(records, curves, named)]


def parent_metrics(records: SweepRecords) -> dict[str, float]:
    """Headline Dice of every pair and method, mean over seeds: ``<source>-to-<target>/<method>/dice``."""
    means = records.seed_scores
    if means.empty:
        return {}
    values = means.groupby(CELL[:3], sort=True)[tables.HEADLINE].mean().dropna().reset_index()
    return {
        legal_name(f"{source}->{target}/{method}/dice"): float(value)
        for source, target, method, value in values.itertuples(index=False, name=None)
    }


def sweep_files(records: SweepRecords, provenance: Provenance, pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    """Files of the sweep's run by path: the page, CSV files, tables for MLflow's viewer, pictures and the sweep file."""
    names = picture_names(pictures)
    origin = origin_lines(records, provenance.command, provenance.machine)
    page = report_page(records, [Path(names[name]) for name in sorted(names)], provenance.sweep_yaml, origin)
    data = {"origin": origin, "data_fingerprints": dict(provenance.fingerprints)}
    texts = {
        "report.md": page,
        "sweep.yaml": provenance.sweep_yaml,
        "provenance.json": json.dumps(data, indent=2, sort_keys=True),
    }
    texts |= {f"csv/{name}.csv": to_csv(table, origin) for name, table in file_tables(records).items()}
    texts |= {f"tables/{table.name}.json": _table_json(table) for table in page_tables(records)}
    drawn = {f"overlays/{names[name]}": content for name, content in pictures.items()}
    return {path: text.encode() for path, text in texts.items()} | drawn


def sweep_tags(records: SweepRecords, provenance: Provenance, paths: Sequence[str]) -> dict[str, str]:
    """Tags of the sweep's run: the note it opens on, where it comes from, and which files are tables."""
    tables_tag = [{"path": path, "type": "table"} for path in paths if path.startswith("tables/")]
    tags = {f"gkd.data.{domain}": fingerprint for domain, fingerprint in provenance.fingerprints.items()}
    return {
        **tags,
        "gkd.command": provenance.command[:_TAG_LIMIT],
        "gkd.machine": provenance.machine[:_TAG_LIMIT],
        "mlflow.note.content": parent_note(records),
        "mlflow.loggedArtifacts": json.dumps(tables_tag),
    }


def parent_note(records: SweepRecords, limit: int = NOTE_LIMIT) -> str:
    """The sweep's answer in Markdown: as many whole tables as fit into ``limit`` characters, the first ones first.

    MLflow silently cuts longer notes; tables that do not fit are named instead.
    """
    lines = [f"* {escape_markdown(line)}\n" for line in diagnostics.health_warnings(records)]
    warnings = ["## Warnings\n\n" + "".join(lines)] if lines else []
    methods = [method for method in reversed(records.methods) if method != "teacher"]
    shown = [tables.triple(records), *(tables.matrix(records, method=method) for method in [*methods, "teacher"])]
    head = f"**{escape_markdown(tables.answer(records))}** All tables are among the artifacts. {DISCLAIMER}\n"
    sections = [head, to_markdown(shown[0], 2), *warnings, *(to_markdown(table, 2) for table in shown[1:])]
    note, left_out = "", 0
    for section in sections:
        fits = len(note) + len(section) + 100 <= limit
        note, left_out = (f"{note}{section}\n", left_out) if fits else (note, left_out + 1)
    return note + (
        f"\n{left_out} more sections did not fit here; see report.md among the artifacts.\n" if left_out else ""
    )


def _table_json(table: Table) -> str:
    """The form of MLflow's ``log_table``, which cannot be used itself because it appends to a table that is there."""
    columns, *rows = readable_rows(table)
    return json.dumps({"columns": columns, "data": rows})


def _trial_runs(records: SweepRecords, curves: Mapping[str, tuple[Point, ...]]) -> Iterator[ChildRun]:
    for row in records.of("trial").sort_values(["study", "number"], kind="stable").to_dict("records"):
        study, number, state = str(row["study"]), int(row["number"]), str(row["state"])
        cause = {} if _is_nothing(row["cause"]) or not row["cause"] else {"gkd.cause": str(row["cause"])[:_TAG_LIMIT]}
        yield ChildRun(
            tag=TRIAL_TAG,
            identity=f"{study}/{number}",
            name=f"trial {study} {number}",
            status=_STATUS.get(state, "RUNNING"),
            tags={"gkd.kind": "trial", "gkd.study": study, "gkd.state": state, **cause, **_labels(row)},
            params=_flat(json.loads(row["params"])),
            finals=_finite({"objective": row["value"]}),
            curves=curves.get(str(row["key"]), ()),
        )


def _training_runs(
    records: SweepRecords, curves: Mapping[str, tuple[Point, ...]], settings: Settings
) -> Iterator[ChildRun]:
    results = _results(records)
    costs = {str(row["key"]): row for row in records.of("cost").to_dict("records")}
    health = {key: dict(_health(part)) for (key,), part in grouped(records.of("health"), ["key"])}
    for key, row in _training_rows(records).items():
        cell = (row["source"], row["method"], row["seed"])
        scored = results.pop(cell, {}) if row["kind"] in (*_SCORED_KINDS, "evaluate") else {}
        cost = costs.get(key, {})
        spent = _finite({f"cost/{name}": cost.get(name) for name in ("seconds", "steps", "parameters")})
        labels = _labels(row)
        yield ChildRun(
            tag=NODE_TAG,
            identity=key,
            name=" ".join(dict.fromkeys([row["kind"], row["method"], row["source"], f"seed {row['seed']}"])),
            tags={"gkd.kind": row["kind"], **labels},
            params={"network": str(row["network"]), "seed": str(row["seed"]), **settings.get(key, {})},
            finals=scored | spent | health.get(key, {}),
            curves=curves.get(key, ()),
            seconds=spent.get("cost/seconds", 0.0),
        )


def _training_rows(records: SweepRecords) -> dict[str, dict[str, Any]]:
    """Key -> labels of every final training; of a scoring, where the records of its training are not there."""
    columns = ["key", "kind", "source", "method", "network", "seed"]
    trained = pd.concat([_finals(records.of(kind))[columns] for kind in ("epoch", "cost")])
    trained = trained[trained["kind"] != "evaluate"].drop_duplicates("key")
    scored = records.of("image", "test")[columns].drop_duplicates(["source", "method", "seed"])
    known = set(_cells(trained[trained["kind"].isin(_SCORED_KINDS)]))
    orphans = scored[[cell not in known for cell in _cells(scored)]]
    rows = pd.concat([trained, orphans]).sort_values([*columns[1:], "key"], kind="stable")
    return {str(row["key"]): {str(name): value for name, value in row.items()} for row in rows.to_dict("records")}


def _results(records: SweepRecords) -> dict[tuple[Any, ...], dict[str, float]]:
    """(source, method, seed) -> ``test/<target>/<metric>`` inside the field of view, and FSD."""
    found: dict[tuple[Any, ...], dict[str, float]] = {}
    scores = records.seed_scores
    metrics = [name for name in metric_names(scores) if name.endswith("_fov")]
    for row in scores.to_dict("records"):
        values = {f"test/{row['target']}/{name.removesuffix('_fov')}": row[name] for name in metrics}
        found.setdefault((row["source"], row["method"], row["seed"]), {}).update(_finite(values))
    for row in records.of("fsd", "test").to_dict("records"):
        name = f"test/{row['target']}/fsd_{row['use']}_{row['space']}"
        found.setdefault((row["source"], row["method"], row["seed"]), {}).update(_finite({name: row["value"]}))
    return found


def _finals(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["trial"].isna()]


def _cells(frame: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(frame[["source", "method", "seed"]].itertuples(index=False, name=None))


def _points(part: pd.DataFrame) -> Iterator[Point]:
    known = {*REQUIRED_FIELDS["epoch"], "record"}
    epochs = [int(epoch) for epoch in part["epoch"]]
    for name in sorted(str(name) for name in part.select_dtypes("number") if name not in known):
        for epoch, value in zip(epochs, part[name], strict=True):
            if math.isfinite(value):
                yield Point(legal_name(name), epoch, float(value))


def _health(part: pd.DataFrame) -> Iterator[tuple[str, float]]:
    for host, check, value in part[["host", "check", "value"]].itertuples(index=False, name=None):
        place = f"{host}/" if isinstance(host, str) else ""
        yield from _finite({f"health/{place}{check}": value}).items()


def _labels(row: Mapping[Any, Any]) -> dict[str, str]:
    found = {name: row.get(name) for name in ("method", "source", "seed")}
    return {f"gkd.{name}": str(value) for name, value in found.items() if not _is_nothing(value)}


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Legal names; undefined and infinite values left out, since MLflow would show them as numbers."""
    kept = {name: float(value) for name, value in values.items() if not _is_nothing(value)}
    return {legal_name(name): value for name, value in kept.items() if math.isfinite(value)}


def _is_nothing(value: Any) -> bool:
    return value is None or value != value


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

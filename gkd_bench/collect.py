"""From artefacts to one flat list of records: what every table, figure and MLflow run is made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gkd_bench.conduct import StudyResult, SweepResult
from gkd_bench.config.schema import Sweep
from gkd_bench.store.artefacts import Store
from gkd_bench.store.node import StageNode
from gkd_bench.store.records import SCHEMA_VERSION

Record = dict[str, Any]


def collect(sweep: Sweep, store: Store, result: SweepResult, missing: Mapping[str, str]) -> list[Record]:
    """All records of a sweep. Stages that failed have none; domains that are missing are named.

    Args:
        sweep: the sweep.
        store: artefacts.
        result: what was asked for.
        missing: domain -> why it was left out.
    """
    records: list[Record] = []
    for node in (*result.models.nodes, *result.scores.nodes):
        records += node_records(sweep, store, node)
    for study in result.studies:
        records += study_records(sweep, study)
    return records + [
        {"schema": SCHEMA_VERSION, "record": "missing", "sweep": sweep.name, "domain": name, "reason": reason}
        for name, reason in missing.items()
    ]


def node_records(sweep: Sweep, store: Store, node: StageNode) -> list[Record]:
    """The records of one stage with everything needed to place them in a table; none when it is not in the store."""
    if not store.has(node.key):
        return []
    base = base_fields(sweep, node, None)
    return [{**base, **record} for record in store.get(node.key, verify=False).records()]


def base_fields(sweep: Sweep, node: StageNode, trial: int | None) -> Record:
    """The fields that every record of a stage carries."""
    labels = node.labels
    return {
        "schema": SCHEMA_VERSION,
        "sweep": sweep.name,
        "key": node.key,
        "kind": node.kind,
        "task": sweep.task,
        "source": labels.get("source"),
        "target": labels.get("target"),
        "split": "train",
        "method": labels.get("method"),
        "network": network_name(sweep, node),
        "seed": node.seed,
        "trial": trial,
    }


def network_name(sweep: Sweep, node: StageNode) -> str:
    """The network a stage trains or scores: ``name x width``; for alignment stages the host."""
    networks = sweep.networks
    if node.kind == "semantic":
        return f"P-SAE x{networks.semantic_width:g}"
    network = (
        networks.teacher if "teacher" in (node.labels.get("method"), node.labels.get("host")) else networks.student
    )
    return f"{network.name} x{network.width:g}"


def study_records(sweep: Sweep, study: StudyResult) -> Iterator[Record]:
    """One ``trial`` record per ended trial, and its epochs as the search saw them."""
    for trial in study.trials:
        key = study.keys[trial.number]
        yield {
            "schema": SCHEMA_VERSION,
            "record": "trial",
            "sweep": sweep.name,
            "study": f"{study.source} {study.method}",
            "source": study.source,
            "method": study.method,
            "number": trial.number,
            "params": json.dumps(dict(trial.params), sort_keys=True),
            "state": trial.state,
            "value": trial.value,
            "cause": trial.cause,
            "key": key,
        }
        yield from trial_epochs(sweep, study, trial.number, key)


def trial_epochs(sweep: Sweep, study: StudyResult, number: int, key: str) -> Iterator[Record]:
    """Validation Dice of a trial's epochs as the search saw them, of stopped trials as well."""
    node = study.planner.distill(study.method, study.source, sweep.seeds[0])
    base = base_fields(sweep, node, number) | {"key": key, "record": "epoch", "split": "val"}
    trial = next(trial for trial in study.trials if trial.number == number)
    for epoch, value in sorted(trial.epochs.items()):
        yield base | {"epoch": epoch, "val/dice": value}


def pictures(store: Store, result: SweepResult) -> dict[str, bytes]:
    """Overlay pictures of all scored models: file name -> PNG bytes."""
    found = {}
    for node in result.scores.nodes:
        if not store.has(node.key):
            continue
        artefact = store.get(node.key, verify=False)
        words = [node.labels["source"], "to", node.labels["target"], node.labels["method"], f"seed{node.seed}"]
        for name in artefact.files():
            if name.startswith("overlays/"):
                found["_".join([*words, name.removeprefix("overlays/")])] = artefact.bytes(name)
    return found

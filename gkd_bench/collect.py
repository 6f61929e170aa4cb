"""From artefacts to what a report is made of: one flat list of records, and what is shown beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gkd_bench.report import rows
from gkd_bench.report.extras import Extras, Picture, Student, VectorSet
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.selection import BEST, LAST
from gkd_bench.report.tables import plain_cause
from gkd_bench.store.artefacts import Store
from gkd_bench.store.node import StageNode
from gkd_bench.store.records import SCHEMA_VERSION

if TYPE_CHECKING:
    from gkd_bench.cluster.search import FinishedTrial
    from gkd_bench.conduct import StudyResult, SweepResult
    from gkd_bench.config.schema import Sweep

Record = dict[str, Any]
TRIAL_RECORDS = ("candidate", "image", "pooled", "fsd")
"""What is kept of a trial beside its epochs: enough to compare selection rules."""


def collect(
    sweep: Sweep,
    store: Store,
    result: SweepResult,
    missing: Mapping[str, str],
    statements: Sequence[Mapping[str, Any]] = (),
) -> list[Record]:
    """All records of a sweep. Stages that failed have one that says why; domains that are missing are named.

    Args:
        sweep: the sweep.
        store: artefacts.
        result: what was asked for.
        missing: domain -> why it was left out.
        statements: records of the domains themselves.
    """
    records: list[Record] = []
    for node in (*result.models.nodes, *result.scores.nodes):
        records += node_records(sweep, store, node)
    for study in result.studies:
        for trial in study.trials:
            records += trial_records(sweep, store, study, trial)
    records += [failure_record(sweep, node, cause) for node, cause in result.failed.values()]
    return (
        records
        + [
            {"schema": SCHEMA_VERSION, "record": "missing", "sweep": sweep.name, "domain": name, "reason": reason}
            for name, reason in missing.items()
        ]
        + [{"schema": SCHEMA_VERSION, "sweep": sweep.name, **statement} for statement in statements]
    )


def node_records(sweep: Sweep, store: Store, node: StageNode, trial: int | None = None) -> list[Record]:
    """The records of one stage with everything needed to place them in a table; none when it is not in the store."""
    if not store.has(node.key):
        return []
    base = base_fields(sweep, node, trial) | {"network": network_name(sweep, store, node)}
    records = store.get(node.key, verify=False).records()
    return [{**base, **record} for record in records if record["record"] != "picture"]


def failure_record(sweep: Sweep, node: StageNode, cause: str) -> Record:
    """That a stage failed, and why, in one line."""
    return base_fields(sweep, node, None) | {"record": "failure", "stage": str(node), "cause": plain_cause(cause)}


def base_fields(sweep: Sweep, node: StageNode, trial: int | None) -> Record:
    """The fields that every record of a stage carries."""
    labels = node.labels
    return {
        "schema": SCHEMA_VERSION,
        "sweep": sweep.name,
        "key": node.key,
        "model": model_of(node),
        "kind": node.kind,
        "task": sweep.task,
        "source": labels.get("source"),
        "target": labels.get("target"),
        "split": "train",
        "method": labels.get("method"),
        "network": None,
        "seed": node.seed,
        "trial": trial,
    }


def model_of(node: StageNode) -> str:
    """What a stage trains or scores; a network that is adapted at test time is another one than the network itself."""
    key, adaptation = node.inputs.get("model", node.key), node.settings.get("adapt")
    return f"{key}+{adaptation}" if adaptation else key


def network_name(sweep: Sweep, store: Store, node: StageNode) -> str:
    """The network a stage trains or scores: ``name x width``; for alignment stages the host."""
    scored = node.inputs.get("model") or node.inputs.get("host")
    trained = store.get(scored, verify=False).node if scored else node
    if "network" in trained.settings:
        return rows.network_name(trained.settings["network"])
    return f"P-SAE x{sweep.networks.semantic_width:g}"


# ---------------------------------------------------------------- searches


def trial_records(sweep: Sweep, store: Store, study: StudyResult, trial: FinishedTrial) -> Iterator[Record]:
    """A ``trial`` record, its epochs as the search saw them, and, where it is complete, what its student scored."""
    stages, number = study.stages[trial.number], trial.number
    first = sweep.search.objectives[0]
    yield {
        "schema": SCHEMA_VERSION,
        "record": "trial",
        "sweep": sweep.name,
        "study": f"{study.source} {study.method}",
        "source": study.source,
        "method": study.method,
        "number": number,
        "params": json.dumps(dict(trial.params), sort_keys=True),
        "halvings": trial.halvings,
        "state": trial.state,
        "value": trial.values.get(first),
        "objectives": json.dumps(dict(trial.values), sort_keys=True),
        "cause": plain_cause(trial.cause),
        "key": stages.watched,
        "taken": number == study.taken,
    }
    training = next(node for node in stages.nodes if node.key == stages.watched)
    base = base_fields(sweep, training, number) | {"record": "epoch", "split": "val"}
    for epoch, value in sorted(trial.epochs.items()):
        yield base | {"epoch": epoch, "val/dice": value}
    if trial.state == "complete":
        for node in (stages.nodes[-1], *study.scores.get(number, ())):
            records = node_records(sweep, store, node, number)
            yield from (record for record in records if record["record"] in TRIAL_RECORDS)


# ---------------------------------------------------------------- beside the records


def extras(store: Store, stages: Sequence[StageNode], records: SweepRecords) -> Extras:
    """Pictures, vectors and students of final trainings, of the epoch that the selection rule takes.

    Args:
        store: artefacts; those that are gone are left out.
        stages: final trainings and their evaluate stages.
        records: the sweep's records.
    """
    there = [node for node in stages if store.has(node.key)]
    scored = [node for node in there if node.kind == "evaluate"]
    return Extras(
        tuple(picture for node in scored for picture in pictures(store, node, records)),
        tuple(vectors for node in scored for vectors in vector_sets(store, node, records)),
        tuple(student(store, node, scored, records) for node in there if node.kind == "distill"),
    )


def pictures(store: Store, node: StageNode, records: SweepRecords) -> Iterator[Picture]:
    """The pictures of one evaluate stage."""
    artefact, labels = store.get(node.key, verify=False), node.labels
    variant = records.chosen_variants.get(model_of(node), BEST)
    for record in artefact.records():
        if record["record"] == "picture" and record["variant"] == variant:
            photo, label, found = (
                artefact.bytes(f"{record['folder']}/{part}.png") for part in ("photo", "label", "found")
            )
            yield Picture(
                labels["source"], labels["target"], labels["method"], node.seed, record["subject"], record["image"],
                record["score"], tuple(record["roles"].split(",")), photo, label, found,
            )  # fmt: skip


def vector_sets(store: Store, node: StageNode, records: SweepRecords) -> Iterator[VectorSet]:
    """Vectors of the source's training tiles, from the stage that scores the source itself, else of the target's test tiles."""
    labels = node.labels
    variant = records.chosen_variants.get(model_of(node), BEST)
    if node.seed != records.seeds[0] or "alignment" not in node.inputs:
        return
    own = labels["target"] == labels["source"]
    tensors = store.get(node.key).tensors(f"vectors-{variant}")
    values = tensors["source" if own else "target"].numpy().astype(np.float32)
    yield VectorSet(labels["source"], labels["method"], node.seed, labels["target"], values)


def student(store: Store, node: StageNode, scored: Sequence[StageNode], records: SweepRecords) -> Student:
    """A final training as something to hand over."""
    evaluations = [one for one in scored if model_of(one) == node.key]
    weights = "last" if records.chosen_variants.get(node.key, BEST) == LAST else "network"
    return Student(
        model=node.key,
        source=node.labels["source"],
        method=node.labels["method"],
        seed=node.seed,
        network=node.settings["network"],
        tile=node.settings["tile"],
        prepare=records.origin.prepare,
        threshold=evaluations[0].settings["evaluate"]["threshold"] if evaluations else 0.5,
        weights=lambda: store.get(node.key).tensors(weights),
    )

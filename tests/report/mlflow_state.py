"""What MLflow says of sweeps, without the ids and times that differ from one write to the next; and what records say."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gkd_bench.report.backend import Backend, client_of
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.runs import child_runs
from gkd_bench.report.tracking import DIGEST_TAG, ID_TAG, PARENT_ID, PARENT_TAG, SWEEP_TAG

State = dict[str, Any]
_CLOCK = ("createdAt", "updatedAt")
_NOT_OURS = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")


def state_of(backend: Backend, experiment: str, files: bool = True) -> State:
    """Runs with everything in them by sweep and identity, saved views, files of the sweeps' runs, and registered models."""
    client = client_of(backend)
    found = client.get_experiment_by_name(experiment)
    runs = list(_pages(client, found.experiment_id))
    names = Counter((run.data.tags[SWEEP_TAG], run.data.tags[ID_TAG]) for run in runs)
    assert set(names.values()) <= {1}, f"several runs of one: {names}"
    ids = {run.info.run_id: run.data.tags[ID_TAG] for run in runs}
    parents = [run for run in runs if run.data.tags[ID_TAG] == PARENT_ID]
    return {
        "runs": {
            f"{run.data.tags[SWEEP_TAG]}: {run.data.tags[ID_TAG]}": _run_state(client, run, ids, backend)
            for run in runs
        },
        "views": {name: _view(value) for name, value in found.tags.items() if name.startswith("mlflow.shared")},
        "files": {run.data.tags[SWEEP_TAG]: _files(client, run.info.run_id) for run in parents} if files else {},
        "models": {model.name: _versions(client, model) for model in client.search_registered_models()},
        "logged": sorted(
            (one.name, str(one.status), ids.get(one.source_run_id, "no run"), sorted(one.tags.items()))
            for one in client.search_logged_models([found.experiment_id])
        ),
    }


def assert_says_the_records(state: State, records: SweepRecords) -> None:
    """Every run, parameter, label and point of the records is there, and nothing else."""
    children = {f"{records.sweep}: {child.identity}": child for child in child_runs(records)}
    mine = {name: run for name, run in state["runs"].items() if name.startswith(f"{records.sweep}: ")}
    parent = mine.pop(f"{records.sweep}: {PARENT_ID}")
    assert mine.keys() == children.keys()
    for name, child in children.items():
        run = mine[name]
        points = [(point.name, point.epoch, point.value) for point in child.curves]
        points += [(metric, 0, value) for metric, value in child.finals.items()]
        assert sorted((metric, *point) for metric, history in run["metrics"].items() for point in history) == sorted(
            points
        )
        assert run["params"] == dict(child.params)
        fixed = {SWEEP_TAG: records.sweep, ID_TAG: child.identity, PARENT_TAG: PARENT_ID, DIGEST_TAG: child.digest}
        assert run["tags"] == {**child.tags, **fixed, "mlflow.runName": child.name}
        assert (run["status"], run["seconds"]) == (child.status, child.seconds)
    assert {name for name, *_ in parent["inputs"]} == set(records.origin.fingerprints)


def _pages(client: Any, experiment_id: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=500, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _run_state(client: Any, run: Any, ids: dict[str, str], backend: Backend) -> State:
    tags = {name: value for name, value in run.data.tags.items() if name not in _NOT_OURS}
    if PARENT_TAG in tags:
        tags[PARENT_TAG] = ids.get(tags[PARENT_TAG], f"a run that is not there: {tags[PARENT_TAG]}")
    is_parent = tags[ID_TAG] == PARENT_ID
    inputs = client.get_run(run.info.run_id).inputs.dataset_inputs if is_parent else []
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "seconds": None if is_parent or not run.info.end_time else (run.info.end_time - run.info.start_time) / 1000,
        "tags": tags,
        "params": run.data.params,
        "metrics": {
            name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        },
        "latest": run.data.metrics,
        "inputs": sorted((one.dataset.name, one.dataset.digest, one.tags[0].value) for one in inputs),
    }


def _view(value: str) -> State:
    return {key: part for key, part in json.loads(value).items() if key not in _CLOCK}


def _files(client: Any, run_id: str) -> dict[str, str]:
    with TemporaryDirectory() as folder:
        root = Path(client.download_artifacts(run_id, "", folder))
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _versions(client: Any, model: Any) -> list[Any]:
    versions = client.search_model_versions(f"name = '{model.name}'")
    aliases = client.get_registered_model(model.name).aliases
    return [
        (int(one.version), sorted(name for name, at in aliases.items() if str(at) == str(one.version)),
         one.description, sorted(one.tags.items()))
        for one in sorted(versions, key=lambda one: int(one.version))
    ]  # fmt: skip

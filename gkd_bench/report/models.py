"""Hands the selected students over: logged with MLflow as exported graphs and registered under an alias.

A version is made when what it holds changed and never otherwise; its card is kept up to date. The logged module is a graph
of torch operations (``torch.export``), so that using it needs torch and MLflow and not this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gkd_bench.report.extras import Student
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.model_card import ALIAS, Card, model_card, summary
from gkd_bench.report.students import selected_students
from gkd_bench.store.node import content_hash

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import Model, ModelSignature
    from torch import nn

CONTENT_TAG = "gkd.content"
CARD_FILE = "README.md"
_DESCRIPTION_LIMIT = 4900
_EXAMPLE_TILES = 2  # an example of one tile would be exported as a network that takes one tile only


def selected_cards(records: SweepRecords, students: Sequence[Student]) -> list[Card]:
    """Cards of the selected students whose weights are at hand, in the order of the sources."""
    known = {student.model: student for student in students}
    chosen = selected_students(records).values()
    return [Card(records, one, known[one.model]) for one in chosen if one.model in known]


def register(client: MlflowClient, experiment_id: str, card: Card, run_id: str | None) -> str:
    """Bring the registry to one selected student; its registered name.

    Args:
        client: of the tracking database, which holds the registry as well.
        experiment_id: experiment of the sweep.
        card: the student.
        run_id: run of its training, which the model is linked to; none when there is no such run.
    """
    _registered_model(client, card)
    content = _content(card)
    versions = client.search_model_versions(f"name = '{card.name}'")
    found = next((version for version in versions if version.tags.get(CONTENT_TAG) == content), None)
    version = found or _new_version(client, experiment_id, card, run_id, content)
    text = _short(model_card(card))
    if version.description != text:
        client.update_model_version(card.name, version.version, text)
    if ALIAS not in version.aliases:
        client.set_registered_model_alias(card.name, ALIAS, version.version)
    return card.name


def deployable(student: Student) -> nn.Module:
    """The student as it is handed over: (n, channels, tile, tile) float32 in [0, 1] -> (n, tile, tile) probability of the
    foreground, or (n, classes, tile, tile) of several foreground classes."""
    import torch
    from torch import Tensor, nn

    from gkd_bench.networks.base import SegmentationNetwork, class_probabilities, foreground_probability
    from gkd_bench.stages.models import new_network

    class Deployable(nn.Module):
        def __init__(self, network: SegmentationNetwork) -> None:
            super().__init__()
            self.network = network

        def forward(self, tiles: Tensor) -> Tensor:
            logits = self.network(tiles)
            return foreground_probability(logits) if self.network.classes == 2 else class_probabilities(logits)

    network = new_network(student.network, 0, torch.device("cpu")).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.load_state_dict(dict(student.weights()))
    return Deployable(network).eval()


def example_tiles(tile: int, channels: int = 1) -> NDArray[np.float32]:
    """(2, channels, tile, tile) made-up tiles: a bright and a dark band on grey, in few grey levels, which keeps the file small."""
    across = np.abs(np.arange(tile) - tile // 2)
    band = np.where(across < 3, 0.75, 0.5).astype(np.float32)
    tiles = np.stack([np.broadcast_to(band, (tile, tile)), 1 - np.broadcast_to(band[:, None], (tile, tile))])
    return np.ascontiguousarray(np.repeat(tiles[:_EXAMPLE_TILES, None], channels, axis=1))


def _registered_model(client: MlflowClient, card: Card) -> None:
    found = client.search_registered_models(f"name = '{card.name}'")
    text = f"{summary(card)} The version under the alias `{ALIAS}` is the sweep's choice; its description is the model card."
    if not found:
        tags = {"sweep": card.records.sweep, "source": card.candidate.source}
        client.create_registered_model(card.name, tags, text)
    elif found[0].description != text:
        client.update_registered_model(card.name, text)


def _content(card: Card) -> str:
    """What the exported model depends on; scores and texts are no part of it."""
    one, student = card.candidate, card.student
    facts = [dict(student.network), student.tile, dict(student.prepare), student.threshold]
    return content_hash([one.model, one.variant, *facts])


def _new_version(
    client: MlflowClient, experiment_id: str, card: Card, run_id: str | None, content: str
) -> ModelVersion:
    one = card.candidate
    tags = {"source": one.source, "method": one.method, "seed": str(one.seed), "variant": one.variant,
            "rule": card.records.origin.rule, CONTENT_TAG: content}  # fmt: skip
    params = {"network": str(card.student.network["name"]), "width": str(card.student.network["width"]),
              "tile": str(card.student.tile), "threshold": str(card.student.threshold)}  # fmt: skip
    logged = client.create_logged_model(experiment_id, f"{one.source}_selected", run_id, tags, params, "segmentation")
    try:
        _upload(client, logged, card, run_id)
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    if run_id is not None:
        _link(client, run_id, logged.model_id)
    linked = logged.model_id if run_id else None  # without a run the registry asks the process-wide store for it
    return client.create_model_version(
        card.name, _source(client, logged), run_id, tags, model_id=linked, await_creation_for=0
    )


def _source(client: MlflowClient, logged: LoggedModel) -> str:
    """Where the version finds its files. A server looks models up itself; a database asks the process-wide store for them."""
    served = client.tracking_uri.startswith(("http://", "https://"))
    return f"models:/{logged.model_id}" if served else str(logged.artifact_location)


def _upload(client: MlflowClient, logged: LoggedModel, card: Card, run_id: str | None) -> None:
    from mlflow.models import Model

    with TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        described = Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id)
        _export(path, described, card.student)
        (path / CARD_FILE).write_text(model_card(card), encoding="utf-8")
        client.log_model_artifacts(logged.model_id, str(path))


def _export(path: Path, described: Model, student: Student) -> None:
    """Write the model; the requirements are named here, since finding them out would start processes and ask the network."""
    import mlflow.pytorch
    import torch

    mlflow.pytorch.save_model(
        deployable(student),
        str(path),
        mlflow_model=described,
        signature=_signature(student),
        input_example=example_tiles(student.tile, _channels(student)),
        pip_requirements=[
            f"{module.__name__}=={module.__version__.partition('+')[0]}" for module in (mlflow, np, torch)
        ],
        serialization_format="pt2",
    )


def _channels(student: Student) -> int:
    return int(student.network.get("in_channels", 1))


def _signature(student: Student) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    number, side, classes = np.dtype(np.float32), (student.tile,) * 2, int(student.network.get("classes", 2)) - 1
    found = (-1, *side) if classes == 1 else (-1, classes, *side)
    return ModelSignature(
        Schema([TensorSpec(number, (-1, _channels(student), *side))]), Schema([TensorSpec(number, found)])
    )


def _link(client: MlflowClient, run_id: str, model_id: str) -> None:
    """Show the model in its run, and the run's scores in the list of models: the same points, not new ones."""
    from mlflow.entities import LoggedModelOutput, Metric

    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    names = [name for name in client.get_run(run_id).data.metrics if _is_score(name)]
    points = [client.get_metric_history(run_id, name)[-1] for name in names]
    scores = [Metric(p.key, p.value, p.timestamp, p.step, model_id=model_id, run_id=run_id) for p in points]
    client.log_batch(run_id, scores)


def _is_score(name: str) -> bool:
    return (name.endswith("/dice") and not name.startswith("val/")) or name.startswith("dice/")


def _short(text: str) -> str:
    """The card as far as whole sections of it fit into a description of the registry."""
    if len(text) <= _DESCRIPTION_LIMIT:
        return text
    note = f"\n\nThe rest is in {CARD_FILE} among the files of the model.\n"
    cut = text.rfind("\n## ", 0, _DESCRIPTION_LIMIT - len(note))
    return text[: cut if cut > 0 else _DESCRIPTION_LIMIT - len(note)] + note

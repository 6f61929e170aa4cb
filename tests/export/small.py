"""A made-up sweep of one untrained student on any domain, exported: volumes, several classes, colour."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gkd_bench.config.schema import EvaluateStage
from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.prepare import prepare_domain
from gkd_bench.export.bundle import Request, export_run
from gkd_bench.export.facts import Facts
from gkd_bench.export.model_file import ModelFile, open_model
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.report.archive import SavedSweep, save_sweep
from gkd_bench.report.frame import Origin
from gkd_bench.stages.models import new_network
from gkd_bench.stages.predict import predict_slices
from gkd_bench.store.artefacts import Draft, LocalStore
from gkd_bench.store.node import StageNode

TILE = 64
EVALUATE: dict[str, Any] = {"threshold": 0.55, "overlap": 0.25, "blend": "gaussian"}


@dataclass(frozen=True)
class Small:
    """An exported student beside the network and the data that it comes from."""

    folder: Path
    domain: PreparedDomain
    network: SegmentationNetwork
    stage: EvaluateStage
    lines: list[str]

    @property
    def model(self) -> ModelFile:
        return open_model(self.folder)

    @property
    def facts(self) -> Facts:
        return self.model.facts

    def predict(self, images: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """What the evaluate stage asks of a network."""
        stage = self.stage
        return predict_slices(self.network, images, TILE, torch.device("cpu"), stage.overlap, 16, stage.blend)


@torch.no_grad()
def spread(network: SegmentationNetwork, images: Tensor) -> None:
    """Scale the last layer so that every class is found somewhere."""
    *_, head = (part for part in network.modules() if isinstance(part, nn.Conv2d))
    assert head.bias is not None and head.out_channels == network.classes
    logits = network(images).transpose(0, 1).flatten(1)
    head.bias -= logits.mean(1)
    for values in (head.weight, head.bias):
        values /= logits.std(1).reshape(-1, *[1] * (values.ndim - 1))


def make_small(folder: Path, source: str, place: Catalogue, **evaluate: Any) -> Small:
    """Prepare a domain, publish a student of it, and export that."""
    store = LocalStore(folder / "store")
    domain = prepare_domain(source, place, store.root / "data")
    manifest, images = domain.manifest, domain.source_splits().val
    spec: dict[str, Any] = {"name": "little_unet", "width": 0.25, "in_channels": manifest.channels}
    spec["classes"] = len(manifest.classes) + 1
    network = new_network(spec, 3, torch.device("cpu")).eval()
    shown = np.atleast_3d(images.image(len(images) // 2))[:TILE, :TILE]
    spread(network, torch.from_numpy(shown).permute(2, 0, 1)[None].float() / 255)

    task = "liver" if manifest.stacks else "vessel"
    labels = {"method": "gkd", "source": source}
    settings = {"network": spec, "tile": TILE, "task": task, "method": "gkd", "options": {}, "distill": {"epochs": 1}}
    model = StageNode("distill", settings, 0, {"source": domain.reference}, labels=labels)
    store.publish(model, Draft(tensors={"network": network.state_dict()}))
    stage = EvaluateStage.model_validate(EVALUATE | evaluate)
    scoring = StageNode(
        "evaluate", {"evaluate": stage.model_dump(), "tile": TILE}, 0, {**model.data, "target": domain.reference},
        {"model": model.key}, labels={**labels, "target": source},
    )  # fmt: skip
    base = {
        "schema": 1, "sweep": "small", "key": model.key, "model": model.key, "kind": "distill", "task": task,
        "source": source, "target": None, "split": "val", "method": "gkd", "network": "little_unet x0.25", "seed": 0,
        "trial": None, "variant": "best",
    }  # fmt: skip
    score = {"dice": 0.8, "slices": 20} if manifest.stacks else {"dice_fov": 0.8}
    scored = {"record": "image", "key": scoring.key, "kind": "evaluate", "target": source, "split": "test"}
    records = (
        {
            **base,
            "record": "candidate",
            "epoch": 1,
            "val_dice": 0.7,
            "val_dice_stressed": 0.6,
            "stress_fsd": None,
            "macs": 1e6,
        },
        *({**base, **scored, "subject": name, "image": name, **score} for name in ("a", "b")),
    )
    origin = Origin(sources=(source,), targets=(source,), prepare=place.prepare.model_dump(mode="json"))
    save_sweep(SavedSweep("small", records, origin, (model, scoring)), store)
    lines: list[str] = []
    request = Request("small", folder / "model", folder / "results", store.root, tiles=4)
    return Small(export_run(request, lines.append), domain, network, stage, lines)


def with_facts(model: ModelFile, **changes: Any) -> ModelFile:
    """The model with some of its facts changed."""
    return replace(model, facts=model.facts.model_copy(update=changes))

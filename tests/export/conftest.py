"""A made-up finished sweep on synthetic domains, its store, and the export of one of its students."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from gkd_bench.config.schema import Prepare
from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.catalogue import Catalogue, open_reader
from gkd_bench.data.prepare import prepare_domain, prepare_image
from gkd_bench.export.bundle import Request, export_run
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.build import build
from gkd_bench.report.archive import SavedSweep, save_sweep
from gkd_bench.report.frame import Origin
from gkd_bench.store.artefacts import Draft, LocalStore
from gkd_bench.store.node import StageNode

SOURCE, TARGET, SWEEP, TILE = "phantom_clear", "phantom_dim", "made_up", 48
METHODS, SEEDS = ("teacher", "baseline", "scratch", "gkd"), (0, 1)
PREPARE = Prepare.model_validate({"scale": {"rule": "fov_width", "value": 120}})
EVALUATE = {"threshold": 0.45, "overlap": 0.25}
VAL_DICE = {("gkd", 1): 0.74, ("gkd", 0): 0.72, ("scratch", 0): 0.71, ("scratch", 1): 0.70, ("teacher", 0): 0.9}
NETWORK: dict[str, Any] = {"name": "little_unet", "width": 0.5}
Record = dict[str, Any]


@functools.cache
def example() -> Tensor:
    """One prepared image of the source, (1, 1, height, width)."""
    reader = open_reader(SOURCE)
    pixels = reader.read(reader.images()[0])
    grey, _, _ = prepare_image(pixels, PREPARE, (120, 120))
    return torch.from_numpy(grey)[None, None].float() / 255


@torch.no_grad()
def network(seed: int) -> SegmentationNetwork:
    """An untrained network; its last layer is scaled so that probabilities lie on both sides of one half."""
    made = build(NETWORK["name"], NETWORK["width"], seed=seed).eval()
    *_, head = (part for part in made.modules() if isinstance(part, nn.Conv2d))
    assert head.bias is not None and head.out_channels == 2
    logits = made(example())
    margin = logits[:, 1] - logits[:, 0]
    head.bias[1] -= margin.median()
    head.weight *= 1 / margin.std()
    head.bias *= 1 / margin.std()
    return made


@dataclass(frozen=True)
class Sweep:
    """The sweep's folder of results, its store, and its domains."""

    results: Path
    store: Path
    domains: dict[str, PreparedDomain]
    keys: dict[tuple[str, int], str]

    def request(self, run: str, output: Path, **changes: Any) -> Request:
        return Request(**{"run": run, "output": output, "results": self.results, "store": self.store, **changes})


def training(method: str, seed: int, reference: str) -> StageNode:
    kind = method if method in ("teacher", "baseline") else "distill"
    settings = {
        "network": NETWORK, "tile": TILE, "task": "vessel", "method": method,
        "options": {"intra": 0.1} if method == "gkd" else {}, "distill": {"epochs": 5, "epoch_steps": 10, "batch": 4},
    }  # fmt: skip
    labels = {"method": method, "source": SOURCE}
    return StageNode(kind, settings, seed, {"source": reference}, labels=labels)


def scoring(model: StageNode, target: str, reference: str) -> StageNode:
    data, labels = {**model.data, "target": reference}, {**model.labels, "target": target}
    settings = {"evaluate": EVALUATE, "tile": TILE}
    return StageNode("evaluate", settings, model.seed, data, {"model": model.key}, labels=labels)


def records_of(model: StageNode, rng: np.random.Generator) -> Iterator[Record]:
    method, seed = str(model.labels["method"]), model.seed
    base = {
        "schema": 1, "sweep": SWEEP, "key": model.key, "model": model.key, "kind": model.kind, "task": "vessel",
        "source": SOURCE, "target": None, "split": "val", "method": method, "network": "little_unet x0.5", "seed": seed,
        "trial": None, "variant": "best",
    }  # fmt: skip
    val = VAL_DICE.get((method, seed), 0.6)
    yield {**base, "record": "candidate", "epoch": 3, "val_dice": val, "val_dice_stressed": val - 0.1, "stress_fsd": None,
           "macs": 1e6}  # fmt: skip
    cost = {"seconds": 1.0, "steps": 10, "device": "cpu", "threads": 1, "parameters": 5000, "versions": "{}"}
    yield {**base, "record": "cost", **cost}
    place = {
        "input": "1x1x48x48",
        "device": "cpu",
        "threads": 1,
        "parameters": 5000,
        "macs": 1e6,
        "peak_memory_mb": 1.0,
    }
    role = "teacher" if method == "teacher" else "student"
    yield {**base, "record": "efficiency", "role": role, "latency_p50_ms": 1.0, "latency_p95_ms": 2.0, **place}
    for target in (SOURCE, TARGET):
        for subject in ("s1", "s2", "s3"):
            dice = (
                0.9 - 0.2 * seed + float(rng.normal(0, 0.01))
            )  # the test scores speak for another seed than validation
            scored = {"key": f"{model.key}{target}"[:40], "kind": "evaluate", "target": target, "split": "test"}
            yield {**base, **scored, "record": "image", "subject": subject, "image": subject, "dice_fov": dice}


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep")
    store, rng = LocalStore(folder / "store"), np.random.default_rng(0)
    domains = {name: prepare_domain(name, Catalogue(None, PREPARE), store.root / "data") for name in (SOURCE, TARGET)}
    models = [training(method, seed, domains[SOURCE].reference) for method in METHODS for seed in SEEDS]
    for model in models:
        draft = Draft(tensors={"network": network(model.seed).state_dict()})
        store.publish(model, draft)
    scores = [scoring(model, name, domains[name].reference) for model in models for name in domains]
    records = tuple(record for model in models for record in records_of(model, rng))
    origin = Origin(sources=(SOURCE,), targets=(SOURCE, TARGET), prepare=PREPARE.model_dump(mode="json"))
    save_sweep(SavedSweep(SWEEP, records, origin, (*models, *scores)), store)
    keys = {(str(model.labels["method"]), model.seed): model.key for model in models}
    return Sweep(folder / "results", store.root, domains, keys)


@dataclass(frozen=True)
class Export:
    """An export and what it said."""

    folder: Path
    lines: list[str]


@pytest.fixture(scope="session")
def exported(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The student that the sweep's rule ranks first, in both formats."""
    pytest.importorskip("onnxscript")
    lines: list[str] = []
    folder = export_run(sweep.request(SWEEP, tmp_path_factory.mktemp("exports") / "model"), lines.append)
    return Export(folder, lines)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of the target as PNG files, named like its test images."""
    folder = tmp_path_factory.mktemp("photographs")
    reader = open_reader(TARGET)
    splits = reader.splits()
    for raw in [raw for raw in reader.images() if splits[raw.subject] == "test"][:2]:
        Image.fromarray(reader.read(raw).rgb).save(folder / f"{raw.name}.png")
    return folder

"""Made-up records of a sweep: three sources and targets, five methods, three seeds, a search. No number means anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from gkd_bench.report.frame import Origin

DOMAINS = ("chase_db1", "hrf", "stare")
METHODS = ("teacher", "baseline", "scratch", "kd", "gkd", "gkd_intra")
SEEDS = (0, 1, 2)
STATES = ("complete", "pruned", "failed", "complete")
LEVEL = {"teacher": 0.80, "baseline": 0.69, "scratch": 0.70, "kd": 0.71, "gkd": 0.74, "gkd_intra": 0.72}
KIND = {"teacher": "teacher", "baseline": "baseline"}  # the others: distill
METRICS = ("dice", "iou", "sensitivity", "specificity", "accuracy", "auc")
DISTANCES = {"hd95": 12.0, "assd": 2.0, "components": 30.0, "ece": 0.05, "brier": 0.04}
UNITS = {"nsd": 0.9, "cldice": 0.75}
CORRUPTIONS = ("gamma", "noise")
VARIANTS = {"gkd_intra": {"of": "gkd", "set": {"inter": 0.0, "cross": 0.0}}}
TRIAL_SOURCE_METHOD = "gkd"
NETWORKS = {"teacher": "unet x0.5", "scratch_small": "mobile_unet x0.25", "gkd_small": "mobile_unet x0.25"}
Levels = Mapping[str, float]

Record = dict[str, Any]


def key_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def kind_of(method: str) -> str:
    return KIND.get(method, "distill")


def model_key(method: str, source: str, seed: int, trial: int | None = None) -> str:
    return key_of(kind_of(method), method, source, seed, trial)


def base(
    kind: str, method: str, source: str, target: str | None, seed: int, split: str = "test", trial: int | None = None
) -> Record:
    network = NETWORKS.get(method, "mobile_unet x0.5")
    names = {"sweep": "made_up", "kind": kind, "task": "vessel", "source": source, "target": target, "split": split}
    model = model_key(method, source, seed, trial)
    key = model if kind == kind_of(method) else key_of(kind, model, target)
    labels = {"method": method, "network": network, "seed": seed, "trial": trial}
    return {"schema": 1, "key": key, "model": model, **names, **labels}


def metrics(level: float) -> Record:
    overlap = {f"{name}{suffix}": level - at / 100 for at, name in enumerate(METRICS) for suffix in ("", "_fov")}
    distances = {f"{name}_fov": value * (1.5 - level) for name, value in DISTANCES.items()}
    return overlap | distances | {f"{name}_fov": value * level for name, value in UNITS.items()}


def trained(levels: Levels = LEVEL, seeds: Sequence[int] = SEEDS) -> Iterator[tuple[str, str, int, int | None]]:
    """(method, source, seed, trial) of every network that is scored; complete trials of gkd on the first seed."""
    for method, source, seed in product(levels, DOMAINS, seeds):
        yield method, source, seed, None
    for source, number in product(DOMAINS, range(len(STATES))):
        if STATES[number] == "complete" and TRIAL_SOURCE_METHOD in levels:
            yield TRIAL_SOURCE_METHOD, source, 0, number


def variants_of(method: str, seed: int) -> tuple[str, ...]:
    return ("best", "last") if kind_of(method) == "distill" and seed == 0 else ("best",)


def evaluations(rng: np.random.Generator, levels: Levels = LEVEL, seeds: Sequence[int] = SEEDS) -> Iterator[Record]:
    """Six subjects with two images each on every target, pooled scores, and FSD in four spaces."""
    for (method, source, seed, trial), target in product(trained(levels, seeds), DOMAINS):
        for variant in variants_of(method, seed):
            labels = base("evaluate", method, source, target, seed, trial=trial) | {"variant": variant}
            level = levels[method] - 0.1 * (source != target) - 0.02 * (variant == "last") + 0.01 * (trial or 0)
            level += float(rng.normal(0, 0.005))
            for subject, image in product([f"s{number}" for number in range(6)], ("a", "b")):
                score = metrics(level + float(rng.normal(0, 0.01)))
                yield {**labels, "record": "image", "subject": subject, "image": f"{subject}{image}", **score}
            yield {**labels, "record": "pooled", "subjects": 6, "images": 12, **metrics(level)}
            yield from distances(rng, labels, source != target)


def distances(rng: np.random.Generator, labels: Record, foreign: bool) -> Iterator[Record]:
    for space, value in (("aligned", 0.3), ("aligned_own", 2.9), ("bottleneck", 5.3), ("random_header", 3.7)):
        distance = value * (1 + foreign) + float(rng.normal(0, 0.01))
        sizes = {"n_a": 400, "n_b": 380, "dim": 64}
        bounds = {"low": distance - 0.05, "high": distance + 0.05, "floor": 0.1, "floor_high": 0.15}
        yield {**labels, "record": "fsd", "use": "domain", "space": space, "value": distance, **bounds, **sizes}


def stresses(rng: np.random.Generator, levels: Levels = LEVEL, seeds: Sequence[int] = SEEDS) -> Iterator[Record]:
    """Two validation subjects, clean and under two corruptions of two strengths, and what selection reads."""
    for method, source, seed, trial in trained(levels, seeds):
        for variant in variants_of(method, seed):
            labels = base("stress", method, source, None, seed, "val", trial) | {"variant": variant}
            clean = levels[method] - 0.02 * (variant == "last") + 0.01 * (trial or 0) + float(rng.normal(0, 0.005))
            for corruption, strength in (("none", 0), *product(CORRUPTIONS, (1, 2))):
                here = {**labels, "corruption": corruption, "strength": strength}
                for subject in ("v1", "v2"):
                    dice = clean - 0.04 * strength
                    yield {**here, "record": "stress", "subject": subject, "image": f"{subject}a", "dice": dice}
                sizes = {"n_a": 400, "n_b": 60, "dim": 64}
                for space in ("aligned_own", "bottleneck"):
                    yield {**here, "record": "stress_fsd", "space": space, "value": 2.0 + strength, **sizes}
            yield {**labels, "record": "candidate", "epoch": 4 if variant == "last" else 3, "val_dice": clean,
                   "val_dice_stressed": clean - 0.06, "stress_fsd": 3.5, "macs": 2.5e6}  # fmt: skip


def trainings(epochs: int = 4, levels: Levels = LEVEL, seeds: Sequence[int] = SEEDS) -> Iterator[Record]:
    for method, source, seed in product(levels, DOMAINS, seeds):
        labels = base(kind_of(method), method, source, None, seed, "val")
        for epoch in range(1, epochs + 1):
            values = {"val/dice": levels[method] - 0.3 / epoch, "loss/ce": 1 / epoch}
            if method.startswith("gkd"):
                values |= {"loss/intra": 0.2 / epoch, "grad_ratio/intra": 0.3 / epoch, "grad_cosine/intra": -0.1}
            yield {**labels, "record": "epoch", "epoch": epoch, **values}
        versions = json.dumps({"torch": "2.13.0", "numpy": "2.4.6"})
        size = {"seconds": 12.5 + seed, "steps": 400, "parameters": 17_000}
        yield {**labels, "record": "cost", **size, "device": "cpu", "threads": 1, "versions": versions}


def efficiencies() -> Iterator[Record]:
    for role, network, size in (("teacher", "unet x0.5", 490_000), ("student", "mobile_unet x0.5", 17_000)):
        labels = base("efficiency", role, "", None, 0, "none") | {"source": None, "network": network, "method": role}
        cost = {"parameters": size, "macs": 150.0 * size, "latency_p50_ms": size / 1e4, "latency_p95_ms": size / 8e3}
        place = {"input": "1x1x96x96", "device": "cpu", "threads": 1, "peak_memory_mb": size / 1e5}
        yield {**labels, "record": "efficiency", "role": role, **cost, **place}


def checks() -> Iterator[Record]:
    for source, seed in product(DOMAINS, SEEDS):
        labels = {**base("alignment", "gkd", source, None, seed, "val"), "record": "health", "host": "student"}
        yield {**labels, "check": "alignment_error", "value": 0.7, "reference": 1.0, "ok": True, "warning": None}
        words = "the bottleneck carries no information: shuffled vectors decode as well"
        yield {**labels, "check": "shuffled_dice", "value": 0.77, "reference": 0.77, "ok": False, "warning": words}


def trials() -> Iterator[Record]:
    for source, place in product(DOMAINS, range(len(STATES))):
        state = STATES[place]
        value = 0.6 + 0.01 * place if state == "complete" else None
        cause = "its loss is not finite" if state == "failed" else ""
        params = json.dumps({"methods.gkd.intra": 0.1 * (place + 1), "methods.gkd.cross": 0.3})
        found = {"source_val": value, "source_val_stressed": value and value - 0.05, "stress_fsd": 3.0 - 0.1 * place}
        labels = base("distill", "gkd", source, None, 0, "val", place)
        yield {**labels, "record": "trial", "study": f"{source} gkd", "number": place, "params": params, "state": state,
               "value": value, "cause": cause, "objectives": json.dumps(found if value else {})}  # fmt: skip
        for epoch in (1, 2):
            yield {**labels, "record": "epoch", "epoch": epoch, "val/dice": 0.5 + 0.01 * epoch}


def make_records(seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)
    parts = (evaluations(rng), stresses(rng), trainings(), efficiencies(), checks(), trials())
    return [record for part in parts for record in part]


def make_origin(**changes: Any) -> Origin:
    """An origin that fits the records."""
    text = "name: made_up\nseeds: [0, 1, 2]\n"
    command = "python -m gkd_bench.sweep sweeps/made_up.yaml"
    settings = {model_key("gkd", "stare", 0): {"options": {"intra": 0.1}}}
    origin = {
        "variants": VARIANTS,
        "sweep_yaml": text,
        "command": command,
        "machine": "2 CPU cores",
        "settings": settings,
    }
    return Origin(**{**origin, "fingerprints": {name: key_of(name) for name in DOMAINS}, **changes})

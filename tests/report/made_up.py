"""Made-up records of a sweep: three sources, three targets, four methods, three seeds. No number means anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

DOMAINS = ("chase_db1", "hrf", "stare")
METHODS = ("teacher", "scratch", "kd", "gkd")
SEEDS = (0, 1, 2)
STATES = ("complete", "pruned", "failed", "complete")
LEVEL = {"teacher": 0.80, "scratch": 0.70, "kd": 0.71, "gkd": 0.74}
KIND = {"teacher": "teacher", "scratch": "distill", "kd": "distill", "gkd": "distill"}
METRICS = ("dice", "iou", "sensitivity", "specificity", "accuracy", "auc")

Record = dict[str, Any]


def key_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def base(kind: str, method: str, source: str, target: str | None, seed: int, split: str = "test") -> Record:
    network = "fanet" if method == "teacher" else "mobile_unet"
    names = {"sweep": "made_up", "kind": kind, "task": "vessel", "source": source, "target": target, "split": split}
    key = key_of(kind, method, source, target, seed)
    return {"schema": 1, "key": key, **names, "method": method, "network": network, "seed": seed, "trial": None}


def metrics(level: float) -> Record:
    return {f"{name}{suffix}": level - place / 100 for place, name in enumerate(METRICS) for suffix in ("", "_fov")}


def evaluations(rng: np.random.Generator) -> Iterator[Record]:
    """Two subjects with two images each on every target, pooled scores, and FSD in four spaces."""
    for method, source, target, seed in product(METHODS, DOMAINS, DOMAINS, SEEDS):
        labels = base("evaluate", method, source, target, seed)
        level = LEVEL[method] - 0.1 * (source != target)
        for subject, image in product(("s1", "s2"), ("a", "b")):
            score = metrics(level + float(rng.normal(0, 0.01)))
            yield {**labels, "record": "image", "subject": subject, "image": image, **score}
        yield {**labels, "record": "pooled", "subjects": 2, "images": 4, **metrics(level)}
        for space, value in (("aligned", 0.3), ("aligned_own", 2.9), ("bottleneck", 5.3), ("random_header", 3.7)):
            distance = value * (1 + (source != target)) + float(rng.normal(0, 0.01))
            sizes = {"n_a": 400, "n_b": 380, "dim": 64}
            bounds = {"low": distance - 0.05, "high": distance + 0.05, "floor": 0.1, "floor_high": 0.15}
            yield {**labels, "record": "fsd", "use": "domain", "space": space, "value": distance, **bounds, **sizes}


def trainings(epochs: int = 4) -> Iterator[Record]:
    for method, source, seed in product(METHODS, DOMAINS, SEEDS):
        labels = base(KIND[method], method, source, None, seed, "val")
        for epoch in range(1, epochs + 1):
            values = {"val/dice": LEVEL[method] - 0.3 / epoch, "loss/ce": 1 / epoch, "grad_cosine/intra": -0.1}
            yield {**labels, "record": "epoch", "epoch": epoch, **values}
        versions = json.dumps({"torch": "2.13.0", "numpy": "2.4.6"})
        size = {"seconds": 12.5 + seed, "steps": 400, "parameters": 17_000}
        yield {**labels, "record": "cost", **size, "device": "cpu", "threads": 1, "versions": versions}


def checks() -> Iterator[Record]:
    for source, seed in product(DOMAINS, SEEDS):
        labels = {**base("alignment", "gkd", source, None, seed, "val"), "record": "health", "host": "student"}
        yield {**labels, "check": "alignment_error", "value": 0.7, "reference": 1.0, "ok": True, "warning": None}
        words = "the bottleneck carries no information: shuffled vectors decode as well"
        yield {**labels, "check": "shuffled_dice", "value": 0.77, "reference": 0.77, "ok": False, "warning": words}


def trials(number: int = 4) -> Iterator[Record]:
    for source, place in product(DOMAINS, range(number)):
        study, state = f"{source}/gkd", STATES[place % len(STATES)]
        value = 0.6 + 0.01 * place if state == "complete" else None
        cause = "its loss is not finite" if state == "failed" else ""
        params = json.dumps({"methods.gkd.intra": 0.1 * (place + 1), "methods.gkd.cross": 0.3})
        key = key_of("trial", source, place)
        labels = {**base("distill", "gkd", source, None, 0, "val"), "key": key, "trial": place}
        yield {**labels, "record": "trial", "study": study, "number": place, "params": params, "state": state,
               "value": value, "cause": cause}  # fmt: skip
        for epoch in (1, 2):
            yield {**labels, "record": "epoch", "epoch": epoch, "val/dice": 0.5 + 0.01 * epoch}


def make_records(seed: int = 0) -> list[Record]:
    rng = np.random.default_rng(seed)
    return [*evaluations(rng), *trainings(), *checks(), *trials()]

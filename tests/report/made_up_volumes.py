"""Made-up records of volumes and of several classes: a liver sweep of CT and MR, and photographs of a disc and its cup. No number means anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from gkd_bench.report.frame import Origin, SweepRecords

from .made_up import Record, base, key_of, kind_of

CT, LOOSE = "ct_mm", "mr_loose"
"""A domain of volumes with a spacing, and one of loose slices without."""
SEEDS = (0, 1)
LEVEL = {"teacher": 0.90, "scratch": 0.80, "kd": 0.82, "gkd": 0.86}
PATIENTS, SLICES = 6, (9, 12)
PLAIN = ("dice", "iou", "sensitivity", "specificity", "accuracy", "auc")
CLASSES = ("cup", "disc")
ORGANS = ("right_kidney", "liver")
LEFT_OUT = "slices differ in size: 512 x 512 and 256 x 256"


def labels(method: str, source: str, target: str | None, seed: int, task: str, split: str = "test") -> Record:
    kind = "evaluate" if split == "test" else kind_of(method)
    return {**base(kind, method, source, target, seed, split), "task": task, "variant": "best"}


def volume_metrics(level: float, millimetres: bool, classes: Sequence[str] = ()) -> Record:
    """Metrics of one volume; those of several classes also by themselves, the first class worse than the mean."""
    found = {name: level - at / 100 for at, name in enumerate(PLAIN)} | {"ece": 0.02, "brier": 0.01}
    surface = {"hd95": 30 * (1 - level), "assd": 8 * (1 - level), "nsd": level - 0.1}
    found |= {f"{name}{'_mm' if millimetres else ''}": value for name, value in surface.items()}
    for at, one in enumerate(classes):
        shift = 0.05 * (2 * at / max(1, len(classes) - 1) - 1)
        by_class = {name: value + shift for name, value in found.items() if "/" not in name}
        found |= {
            f"{name}/{one}": value for name, value in by_class.items() if name not in ("accuracy", "ece", "brier")
        }
    return found


def evaluations(task: str, targets: dict[str, bool], classes: Sequence[str] = ()) -> Iterator[Record]:
    """One record per patient's stack on every target; ``targets`` says whose spacing is known."""
    rng = np.random.default_rng(0)
    for method, source, target, seed in product(LEVEL, targets, targets, SEEDS):
        here = labels(method, source, target, seed, task)
        level = LEVEL[method] - 0.2 * (source != target) + float(rng.normal(0, 0.004))
        for patient in range(PATIENTS):
            score = volume_metrics(level + 0.01 * patient + float(rng.normal(0, 0.01)), targets[target], classes)
            who = {"subject": f"p{patient}", "image": f"p{patient}_stack", "slices": SLICES[patient % 2]}
            yield {**here, "record": "image", **who, **score}
        counts = {"subjects": PATIENTS, "images": PATIENTS, "slices": PATIENTS // 2 * sum(SLICES)}
        yield {**here, "record": "pooled", **counts, **volume_metrics(level, targets[target], classes)}


def validations(task: str, sources: Sequence[str]) -> Iterator[Record]:
    """Stress on two slices of one validation patient, what selection reads, and epochs."""
    for method, source, seed in product(LEVEL, sources, SEEDS):
        here = labels(method, source, None, seed, task, "val")
        for corruption, strength in (("none", 0), ("noise", 1)):
            for image in ("v1_003", "v1_004"):
                where = {"corruption": corruption, "strength": strength, "subject": "v1", "image": image}
                yield {**here, "kind": "stress", "record": "stress", **where, "dice": LEVEL[method] - 0.05 * strength}
        dice = {"val_dice": LEVEL[method], "val_dice_stressed": LEVEL[method] - 0.05}
        yield {**here, "record": "candidate", "epoch": 3, "stress_fsd": 3.5, "macs": 2.5e6, **dice}
        for epoch in (1, 2, 3):
            yield {**here, "record": "epoch", "epoch": epoch, "val/dice": LEVEL[method] - 0.2 / epoch}


def domain(name: str, title: str, modality: str, window: str, slices: int | None, **more: Any) -> Record:
    """What a domain is made of; 3 : 1 : 6 patients."""
    people = {"train_subjects": 3, "val_subjects": 1, "test_subjects": 6, "subjects": 10, "images": 10}
    parts = {"train_slices": 30, "val_slices": 10, "test_slices": 63} if slices else {}
    words = {"title": title, "modality": modality, "window": window, "pixels": "1.5 mm per pixel, 256 x 256"}
    head = {"record": "domain", "sweep": "made_up", "domain": name}
    return {**head, **words, **people, "slices": slices, **parts, **more}


def left_out(name: str, count: int) -> list[Record]:
    head = {"record": "left_out", "sweep": "made_up", "domain": name, "reason": LEFT_OUT}
    return [{**head, "image": f"stack_{at:02}"} for at in range(count)]


def make_liver(broken: int = 2) -> list[Record]:
    """Two domains, each tested on both: CT in millimetres, loose MR slices in pixels."""
    described = [
        domain(CT, "Abdominal CT of one hospital", "ct", "HU -160 ... 240", 103),
        domain(LOOSE, "Loose MR slices of another", "mr", "percentiles 0.5 ... 99.5 of each slice", 103, pixels="native pixels"),
    ]  # fmt: skip
    scored = evaluations("liver", {CT: True, LOOSE: False})
    return [*scored, *validations("liver", (CT, LOOSE)), *described, *left_out(LOOSE, broken)]


def make_organs() -> list[Record]:
    """Volumes of one's own with two classes."""
    return [
        *evaluations("segmentation", {"mine": True, "theirs": True}, ORGANS),
        *validations("segmentation", ("mine",)),
    ]


def make_discs() -> list[Record]:
    """Photographs of two classes inside a field of view, from two cameras."""
    rng = np.random.default_rng(1)
    rows = []
    for method, source, target, seed in product(LEVEL, ("canon", "topcon"), ("canon", "topcon"), SEEDS):
        here = labels(method, source, target, seed, "segmentation")
        for number in range(4):
            level = LEVEL[method] - 0.1 * (source != target) + float(rng.normal(0, 0.01))
            found = {"dice": level, "iou": level - 0.1, "hd95": 40 * (1 - level)}
            by_class = {f"{name}/{one}": value * (0.9 + 0.2 * at) for name, value in found.items() for at, one in enumerate(CLASSES)}  # fmt: skip
            inside = {f"{name}_fov": value for name, value in (found | by_class).items()}
            whole = dict.fromkeys(("dice", "dice/cup", "dice/disc"), found["dice"] - 0.01)
            rows.append({**here, "record": "image", "subject": f"s{number}", "image": f"i{number}", **inside, **whole})
    photographs = domain("canon", "Canon", "photograph", "green channel, 8 bit", None, pixels="600 pixels across")
    return [*rows, *validations("segmentation", ("canon",)), photographs]


def volumes_origin(**changes: Any) -> Origin:
    """An origin that fits any of them."""
    entry = {"sweep_yaml": "name: made_up\n", "command": "gkd-bench run sweeps/made_up.yaml", "machine": "2 CPU cores"}
    return Origin(**{**entry, "fingerprints": {CT: key_of(CT)}, **changes})


def liver_records(**origin: Any) -> SweepRecords:
    return SweepRecords.from_dicts(make_liver(), volumes_origin(**origin))

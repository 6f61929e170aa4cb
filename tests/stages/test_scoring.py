"""Scores of photographs and stacks against counts made by hand, of one class and of several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gkd_bench.config.schema import EvaluateStage
from gkd_bench.data.cache import TestImages, _Arrays
from gkd_bench.data.manifest import PreparedImage
from gkd_bench.metrics.catalogue import of_class
from gkd_bench.metrics.surface import surface_metrics
from gkd_bench.stages.evaluate import image_record, pooled_record
from gkd_bench.stages.scoring import (
    class_map,
    cleaned,
    mean_dice,
    over_classes,
    score_volume,
    working_dice,
)

SPACING = (5.0, 2.0, 1.0)
STAGE = EvaluateStage()


def stack_images(labels: np.ndarray[Any, Any], spacing: Any = SPACING, subject: str = "7") -> TestImages:
    """One stack whose images are its labels, at native size."""
    size = labels.shape[1:]
    entries = tuple(
        PreparedImage(
            name=f"s_{i:04d}", subject=subject, split="test", size=size, native_size=size, stack="s", spacing=spacing
        )
        for i in range(len(labels))
    )
    levels = (labels * 100).astype(np.uint8)
    return TestImages("made_up", entries, tuple(range(len(labels))), _Arrays(levels, labels, None, labels, None))


def knowing(found: np.ndarray[Any, Any], classes: int, confidence: float = 0.9) -> Any:
    """A network that finds ``found`` (slices, height, width), whatever it is shown, in the order of the slices."""
    place = 0

    def predict(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        nonlocal place
        part = found[place % len(found) : place % len(found) + len(images)]
        place += len(images)
        one_hot = np.stack([part == number for number in range(1, classes + 1)], axis=1)
        return np.where(one_hot, confidence, (1 - confidence) / (classes + 1)).astype(np.float32)

    return predict


def volumes(seed: int, classes: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    label, found = np.zeros((20, 24, 30), np.uint8), np.zeros((20, 24, 30), np.uint8)
    for number in range(1, classes + 1):
        z, y, x = rng.integers(2, 8), rng.integers(2, 8), rng.integers(2, 10)
        label[z : z + 8, y : y + 10, x : x + 12] = number
        found[z + 1 : z + 9, y + 1 : y + 11, x : x + 10] = number
    return label, found


@pytest.mark.parametrize("classes", [1, 3])
def test_stack_is_scored_as_one_volume_in_millimetres(classes: int) -> None:
    label, found = volumes(classes, classes)
    names = ("a", "b", "c")[:classes] if classes > 1 else ()
    images = stack_images(label)
    one = score_volume(knowing(found, classes), images, 0, images.volumes()[0], STAGE, names)
    assert (one.slices, one.subject, one.name) == (20, "7", "s")
    metrics = one.metrics()
    expected = []
    for number in range(1, classes + 1):
        mask, truth = found == number, label == number
        dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        distances = surface_metrics(mask, truth, SPACING, STAGE.tolerance)
        expected.append((dice, distances["hd95"]))
        if classes > 1:
            assert metrics[f"dice/{names[number - 1]}"] == pytest.approx(dice)
            assert metrics[f"hd95_mm/{names[number - 1]}"] == pytest.approx(distances["hd95"])
    assert metrics["dice"] == pytest.approx(np.mean([dice for dice, _ in expected]))
    assert metrics["hd95_mm"] == pytest.approx(np.mean([distance for _, distance in expected]))
    assert one.dice == metrics["dice"] and not any("_fov" in name for name in metrics)


def test_loose_slices_are_measured_in_pixels_slice_by_slice() -> None:
    label, found = volumes(5, 1)
    images = stack_images(label, spacing=None)
    metrics = score_volume(knowing(found, 1), images, 0, images.volumes()[0], STAGE).metrics()
    each = [surface_metrics(f, t)["hd95"] for f, t in zip(found, label, strict=True) if f.any() or t.any()]
    assert metrics["hd95"] == pytest.approx(np.mean(each)) and "hd95_mm" not in metrics


def test_records_of_a_stack_count_its_slices_and_patients() -> None:
    label, found = volumes(5, 1)
    images = stack_images(label)
    one = score_volume(knowing(found, 1), images, 0, images.volumes()[0], STAGE)
    other = replace(one, name="t", subject="8")
    record = image_record(one)
    assert (record["record"], record["image"], record["subject"], record["slices"]) == ("image", "s", "7", 20)
    pooled = pooled_record([one, other])
    assert (pooled["images"], pooled["subjects"], pooled["slices"]) == (2, 2, 40)
    assert pooled["dice"] == pytest.approx(record["dice"])  # twice the same counts


def test_native_size_is_what_is_scored() -> None:
    label, _ = volumes(2, 1)
    images = stack_images(label)
    small = label[:, ::2, ::2]
    entries = tuple(entry.model_copy(update={"size": small.shape[1:]}) for entry in images.entries)
    arrays = replace(images._arrays, images=(small * 100).astype(np.uint8), labels=small)
    shrunk = replace(images, entries=entries, _arrays=arrays)
    one = score_volume(knowing(small, 1), shrunk, 0, shrunk.volumes()[0], STAGE)
    assert one.classes[0].whole.confusion.pixels == label.size
    assert one.dice > 0.85


def test_several_classes_take_the_most_probable_one_with_the_background() -> None:
    probability = np.array([[[0.4, 0.2, 0.1]], [[0.3, 0.6, 0.2]]], np.float32)  # background: .3 .2 .7
    assert class_map(probability, 0.5).tolist() == [[1, 2, 0]]
    assert class_map(probability[:1], 0.3).tolist() == [[1, 0, 0]]


def test_class_metrics_keep_the_region_last() -> None:
    assert of_class("dice_fov", "disc") == "dice/disc_fov"
    assert of_class("hd95_mm", "spleen") == "hd95_mm/spleen"


def test_mean_over_classes_leaves_out_what_is_undefined() -> None:
    found = over_classes([{"auc": None, "dice": 1.0}, {"auc": 0.5, "dice": 0.0}], ("a", "b"))
    assert (found["auc"], found["dice"], found["auc/a"], found["dice/b"]) == (0.5, 0.5, None, 0.0)


def test_largest_component_of_every_class_is_kept() -> None:
    found = np.zeros((4, 12, 12), np.uint8)
    found[0:3, 1:5, 1:5] = 1
    found[3, 9, 9] = 1
    found[0, 8:11, 1:3] = 2
    found[2, 1, 9] = 2
    kept = cleaned(found, 2, wanted=True)
    assert (kept == 1).sum() == 48 and (kept == 2).sum() == 6 and kept[3, 9, 9] == 0
    loose = cleaned(found, 2, wanted=True, loose=True)
    assert loose[3, 9, 9] == 1 and loose[2, 1, 9] == 2  # alone in its slice
    assert (cleaned(found, 2, wanted=False) == found).all()


def test_largest_component_raises_the_score_of_a_scattered_prediction() -> None:
    label, found = volumes(3, 1)
    found[0, 0, 0:3] = found[19, 22, 25:29] = 1
    images = stack_images(label)
    plain, clean = (
        score_volume(
            knowing(found, 1), images, 0, images.volumes()[0], EvaluateStage(largest_component=wanted)
        ).metrics()
        for wanted in (False, True)
    )
    assert clean["dice"] > plain["dice"] and clean["hd95_mm"] <= plain["hd95_mm"]  # type: ignore[operator]
    assert clean["auc"] == plain["auc"]  # probabilities are scored as they are


def test_working_dice_pools_the_slices_of_a_stack() -> None:
    label, found = volumes(4, 2)
    images = stack_images(label)
    assert working_dice(knowing(found, 2), images, images.volumes()[0], 2) == pytest.approx(mean_dice(found, label, 2))


def test_missing_class_scores_one_only_if_it_is_found_nowhere() -> None:
    label = np.ones((2, 4, 4), np.uint8)
    assert mean_dice(label, label, 2) == 1.0
    wrong = label.copy()
    wrong[0, 0, 0] = 2
    assert mean_dice(wrong, label, 2) < 0.6


def test_chunks_do_not_change_scores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    label, found = volumes(6, 1)
    images = stack_images(label)
    scores = []
    for chunk in (1, 7, 100):
        monkeypatch.setattr("gkd_bench.stages.scoring.CHUNK", chunk)
        scores.append(score_volume(knowing(found, 1), images, 0, images.volumes()[0], STAGE).metrics())
    assert scores[0] == scores[1] == scores[2]

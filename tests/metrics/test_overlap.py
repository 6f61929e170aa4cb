from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from gkd_bench.errors import StageError
from gkd_bench.metrics.overlap import METRICS, Confusion, ImageScore, ScoreHistogram, auc, confusion, score_image

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


def _image(seed: int, sharpness: float = 3.0) -> tuple[Image, Mask, Mask]:
    """(probability, label, fov) of 48 x 40 pixels; a larger sharpness saturates the probability."""
    generator = np.random.default_rng(seed)
    label = generator.random((48, 40)) < 0.2
    logit = sharpness * (generator.normal(size=label.shape) + 2.0 * label - 1.0)
    return (1.0 / (1.0 + np.exp(-logit))).astype(np.float32), label, generator.random(label.shape) < 0.7


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("inside", [True, False])
def test_metrics_equal_sklearn(seed: int, inside: bool) -> None:
    probability, label, fov = _image(seed)
    mask = fov if inside else np.ones_like(fov)
    values = score_image(probability, label, fov if inside else None, threshold=0.4).metrics()
    truth, found = label[mask], probability[mask] >= 0.4
    assert values["dice"] == pytest.approx(reference.f1_score(truth, found))
    assert values["iou"] == pytest.approx(reference.jaccard_score(truth, found))
    assert values["sensitivity"] == pytest.approx(reference.recall_score(truth, found))
    assert values["specificity"] == pytest.approx(reference.recall_score(~truth, ~found))
    assert values["accuracy"] == pytest.approx(reference.accuracy_score(truth, found))
    assert values["auc"] == pytest.approx(reference.roc_auc_score(truth, probability[mask]), abs=2e-3)
    assert values["brier"] == pytest.approx(reference.brier_score_loss(truth, probability[mask].astype(float)))


def test_hand_counted_example() -> None:
    counts = confusion([[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]])
    assert counts == Confusion(tp=2, fp=1, fn=1, tn=2)
    assert counts.metrics() == {
        "dice": 4 / 6,
        "iou": 2 / 4,
        "sensitivity": 2 / 3,
        "specificity": 2 / 3,
        "accuracy": 4 / 6,
    }


def test_pixels_outside_the_field_of_view_change_nothing() -> None:
    probability, label, fov = _image(0)
    changed = np.where(fov, probability, 1.0 - probability)
    other = np.where(fov, label, ~label)
    assert score_image(probability, label, fov).metrics() == score_image(changed, other, fov).metrics()
    assert score_image(probability, label).metrics() != score_image(changed, other).metrics()


def test_labels_of_255_are_masks() -> None:
    probability, label, fov = _image(0)
    as_bytes = score_image(probability, label.astype(np.uint8) * 255, fov.astype(np.uint8) * 255)
    assert as_bytes.metrics() == score_image(probability, label, fov).metrics()


def test_threshold_itself_is_foreground() -> None:
    assert score_image(np.full((2, 2), 0.5), np.ones((2, 2))).confusion == Confusion(tp=4)


# ---------------------------------------------------------------- degenerate masks


@pytest.mark.parametrize(
    ("prediction", "label", "expected"),
    [
        (
            "none",
            "none",
            {"dice": 1.0, "iou": 1.0, "sensitivity": None, "specificity": 1.0, "accuracy": 1.0, "auc": None},
        ),
        (
            "all",
            "none",
            {"dice": 0.0, "iou": 0.0, "sensitivity": None, "specificity": 0.0, "accuracy": 0.0, "auc": None},
        ),
        (
            "none",
            "all",
            {"dice": 0.0, "iou": 0.0, "sensitivity": 0.0, "specificity": None, "accuracy": 0.0, "auc": None},
        ),
        (
            "all",
            "all",
            {"dice": 1.0, "iou": 1.0, "sensitivity": 1.0, "specificity": None, "accuracy": 1.0, "auc": None},
        ),
    ],
)
def test_degenerate_masks(prediction: str, label: str, expected: dict[str, float | None]) -> None:
    probability = np.full((4, 5), 0.9 if prediction == "all" else 0.1)
    error = 0.1 if prediction == label else 0.9
    calibration = {"ece": pytest.approx(error), "brier": pytest.approx(error**2)}
    assert score_image(probability, np.full((4, 5), label == "all")).metrics() == {**expected, **calibration}


def test_without_pixels_nothing_is_defined() -> None:
    empty = score_image(np.ones((3, 3)), np.ones((3, 3)), fov=np.zeros((3, 3)))
    assert set(empty.metrics().values()) == {None}
    assert set(ImageScore().metrics().values()) == {None}


def test_constant_probability_has_chance_auc() -> None:
    _, label, _ = _image(0)
    assert auc(np.full(label.shape, 0.3), label) == 0.5
    assert score_image(np.full(label.shape, 0.3), label).histogram.auc() == 0.5


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        score_image(np.zeros((3, 3)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="one shape"):
        score_image(np.zeros((3, 3)), np.zeros((3, 3)), fov=np.zeros((4, 3)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_diverged_network_is_named(bad: float) -> None:
    probability = np.zeros((3, 3))
    probability[1, 1] = bad
    with pytest.raises(StageError, match="1 of 9 predicted values are NaN"):
        score_image(probability, np.zeros((3, 3)))


# ---------------------------------------------------------------- pooling


def test_sum_of_images_is_the_score_of_all_pixels_together() -> None:
    images = [_image(seed) for seed in range(4)]
    pooled = sum((score_image(*image) for image in images), ImageScore())
    probability, label, fov = (np.concatenate(parts) for parts in zip(*images, strict=True))
    together = score_image(probability, label, fov)
    assert pooled.metrics() == pytest.approx(together.metrics(), rel=1e-12)
    assert pooled.confusion == together.confusion
    assert pooled.confusion.pixels == sum(int(fov.sum()) for _, _, fov in images)


# ---------------------------------------------------------------- area under the curve


@pytest.mark.parametrize("decimals", [1, 2, 9])
def test_exact_auc_equals_sklearn_with_ties(decimals: int) -> None:
    probability, label, _ = _image(3)
    scores = np.round(probability.astype(float), decimals)
    assert auc(scores, label) == pytest.approx(reference.roc_auc_score(label.ravel(), scores.ravel()), abs=1e-12)


def test_exact_auc_takes_any_scores() -> None:
    assert auc([-5.0, 100.0, 3.0], [False, True, False]) == 1.0
    assert auc([-5.0, 100.0, 3.0], [True, False, False]) == 0.0
    assert auc([], []) is None


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0, 10.0])
def test_histogram_auc_is_within_its_stated_error(sharpness: float) -> None:
    probability, label, _ = _image(1, sharpness)
    histogram = ScoreHistogram.from_scores(probability, label)
    exact = auc(probability, label)
    value = histogram.auc()
    assert exact is not None
    assert value is not None
    assert abs(value - exact) <= histogram.auc_error() + 1e-12
    assert histogram.auc_error() < 0.03
    assert abs(value - exact) < (1e-3 if sharpness >= 1.0 else 3e-3)


def test_saturated_background_is_still_ranked() -> None:
    probability = np.array([1e-6, 1e-5, 1e-4, 1e-3])
    assert ScoreHistogram.from_scores(probability, [False, False, True, True]).auc() == 1.0


def test_probabilities_of_zero_and_one_are_counted() -> None:
    histogram = ScoreHistogram.from_scores(np.array([0.0, 1.0, 1.0]), [False, True, True])
    assert (histogram.background[0], histogram.foreground[-1]) == (1, 2)
    assert histogram.auc() == 1.0


def test_best_dice_is_the_largest_over_thresholds() -> None:
    probability, label, _ = _image(2)
    best, threshold = ScoreHistogram.from_scores(probability, label).best_dice()
    assert score_image(probability, label, threshold=threshold).metrics()["dice"] == pytest.approx(best, abs=2e-3)
    others = [score_image(probability, label, threshold=t).metrics()["dice"] or 0.0 for t in np.linspace(0, 1, 50)]
    assert best >= max(others) - 2e-3
    assert ScoreHistogram.from_scores(np.full(9, 0.4), np.zeros(9)).best_dice()[0] == 0.0


# ---------------------------------------------------------------- catalogue


def test_every_metric_has_a_card_that_holds_on_random_masks() -> None:
    values = score_image(*_image(0)).metrics()
    assert set(values) <= set(METRICS)
    for name, value in values.items():
        card = METRICS[name]
        assert card.name == name
        assert value is not None
        assert card.low <= value <= card.high
        assert card.reference
        assert card.undefined


def test_perfect_prediction_reaches_the_best_value_of_each_card() -> None:
    _, label, _ = _image(0)
    values = score_image(label.astype(float), label).metrics()
    assert all(value == METRICS[name].best for name, value in values.items())

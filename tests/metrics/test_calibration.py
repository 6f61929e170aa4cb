from __future__ import annotations

import math
from functools import reduce
from operator import add

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss

from gkd_bench.errors import StageError
from gkd_bench.metrics.calibration import Calibration

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


def _image(seed: int, shape: tuple[int, int] = (30, 41)) -> tuple[Image, Mask]:
    """Overconfident probabilities of a rare foreground."""
    generator = np.random.default_rng(seed)
    label = generator.random(shape) < 0.15
    logit = 3.0 * (generator.normal(size=shape) + 1.5 * label - 1.0)
    return (1.0 / (1.0 + np.exp(-logit))).astype(np.float32), label


def _by_loop(probability: Image, label: Mask) -> float:
    """Naeini's sum, bin by bin and pixel by pixel."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for value, truth in zip(probability.ravel().tolist(), label.ravel().tolist(), strict=True):
        bins[min(int(value * 15), 14)].append((value, truth))
    gaps = [
        abs(sum(v for v, _ in one) / len(one) - sum(t for _, t in one) / len(one)) * len(one) for one in bins if one
    ]
    return sum(gaps) / label.size


@pytest.mark.parametrize("seed", range(5))
def test_values_equal_a_loop_and_sklearn(seed: int) -> None:
    probability, label = _image(seed)
    values = Calibration.from_scores(probability, label).metrics()
    assert values["ece"] == pytest.approx(_by_loop(probability, label))
    assert values["brier"] == pytest.approx(brier_score_loss(label.ravel(), probability.ravel().astype(float)))


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_equals_torchmetrics(seed: int) -> None:
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    probability, label = _image(seed)
    scores, truth = torch.from_numpy(probability.ravel()), torch.from_numpy(label.ravel()).long()
    expected = float(functional.binary_calibration_error(scores, truth, n_bins=15, norm="l1"))
    assert Calibration.from_scores(probability, label).metrics()["ece"] == pytest.approx(expected, rel=1e-4)


def test_hand_counted_example() -> None:
    values = Calibration.from_scores([0.9, 0.9, 0.9, 0.9, 0.1], [1, 1, 1, 0, 0]).metrics()
    assert values["ece"] == pytest.approx((4 * 0.15 + 0.1) / 5)
    assert values["brier"] == pytest.approx((3 * 0.01 + 0.81 + 0.01) / 5)


def test_probabilities_that_are_true_frequencies_are_calibrated() -> None:
    generator = np.random.default_rng(0)
    probability = generator.random(200_000)
    values = Calibration.from_scores(probability, generator.random(200_000) < probability).metrics()
    assert values["ece"] == pytest.approx(0.0, abs=5e-3)
    assert values["brier"] == pytest.approx(1 / 6, abs=2e-3)


def test_constant_base_rate_is_calibrated_but_scores_badly() -> None:
    label = np.arange(100) < 30
    values = Calibration.from_scores(np.full(100, 0.3), label).metrics()
    assert values == {"ece": pytest.approx(0.0, abs=1e-12), "brier": pytest.approx(0.21)}


@pytest.mark.parametrize(("probability", "expected"), [(1.0, 0.0), (0.0, 1.0)])
def test_sure_predictions_reach_the_ends_of_the_range(probability: float, expected: float) -> None:
    values = Calibration.from_scores(np.full((3, 5), probability), np.ones((3, 5))).metrics()
    assert values == {"ece": expected, "brier": expected}


def test_overrated_and_underrated_foreground_err_alike() -> None:
    probability, label = _image(0)
    mirrored = Calibration.from_scores(1.0 - probability.astype(float), ~label).metrics()
    assert mirrored["brier"] == pytest.approx(Calibration.from_scores(probability, label).metrics()["brier"])
    assert mirrored["ece"] == pytest.approx(Calibration.from_scores(probability, label).metrics()["ece"], rel=1e-6)


def test_sum_of_images_is_the_value_of_all_pixels_together() -> None:
    images = [_image(seed, (7, 20 + seed)) for seed in range(4)]
    pooled = reduce(add, (Calibration.from_scores(*image) for image in images), Calibration())
    together = Calibration.from_scores(
        *(np.concatenate([part.ravel() for part in parts]) for parts in zip(*images, strict=True))
    )
    assert pooled.metrics() == pytest.approx(together.metrics())
    assert pooled.metrics()["ece"] != pytest.approx(np.mean([_by_loop(*image) for image in images]))


def test_without_pixels_nothing_is_defined() -> None:
    assert Calibration().metrics() == {"ece": None, "brier": None}
    assert Calibration.from_scores([], []).metrics() == {"ece": None, "brier": None}


def test_values_outside_of_0_and_1_are_clipped() -> None:
    assert Calibration.from_scores([-0.5, 1.5], [0, 1]).metrics() == {"ece": 0.0, "brier": 0.0}


def test_nan_is_named_and_different_shapes_are_refused() -> None:
    with pytest.raises(StageError, match="NaN"):
        Calibration.from_scores([0.5, math.nan], [0, 1])
    with pytest.raises(ValueError, match="one shape"):
        Calibration.from_scores(np.zeros((2, 3)), np.zeros((3, 2)))

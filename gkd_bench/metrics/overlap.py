"""Overlap of a predicted with a labelled foreground: Dice, IoU, sensitivity, specificity, accuracy, AUC, and its calibration.

Everything is computed from counts that add up, so the score of a set of images is the sum of the images' scores.
A value that is not defined is None, never NaN: records stay JSON, and a mean over images leaves it out knowingly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gkd_bench.errors import StageError
from gkd_bench.metrics.calibration import Calibration
from gkd_bench.metrics.catalogue import METRICS, MetricInfo

__all__ = [
    "METRICS",
    "Confusion",
    "ImageScore",
    "MetricInfo",
    "ScoreHistogram",
    "accuracy",
    "auc",
    "confusion",
    "dice",
    "iou",
    "score_image",
    "sensitivity",
    "specificity",
]

Mask = NDArray[np.bool_]
Values = NDArray[Any]
Counts = NDArray[np.int64]

_LOGIT_LIMIT = 16.0
_BINS_PER_LOGIT = 32
BINS = int(2 * _LOGIT_LIMIT * _BINS_PER_LOGIT)


@dataclass(frozen=True)
class Confusion:
    """Pixel counts of a binary segmentation; ``+`` pools them.

    Attributes:
        tp: foreground found.
        fp: background taken for foreground.
        fn: foreground missed.
        tn: background found.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: Confusion) -> Confusion:
        """Counts of both sets of pixels together."""
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def pixels(self) -> int:
        """Number of pixels counted."""
        return self.tp + self.fp + self.fn + self.tn

    def metrics(self) -> dict[str, float | None]:
        """Name -> value in [0, 1] of every metric of these counts."""
        return {name: function(self) for name, function in _FROM_COUNTS.items()}


def dice(counts: Confusion) -> float | None:
    """2 TP / (2 TP + FP + FN), in [0, 1]; 1 when label and prediction are both empty, None without pixels."""
    return _overlap(2 * counts.tp, counts)


def iou(counts: Confusion) -> float | None:
    """TP / (TP + FP + FN), in [0, 1]; 1 when label and prediction are both empty, None without pixels."""
    return _overlap(counts.tp, counts)


def sensitivity(counts: Confusion) -> float | None:
    """TP / (TP + FN), in [0, 1]; None when the label has no foreground."""
    return _ratio(counts.tp, counts.tp + counts.fn)


def specificity(counts: Confusion) -> float | None:
    """TN / (TN + FP), in [0, 1]; None when the label has no background."""
    return _ratio(counts.tn, counts.tn + counts.fp)


def accuracy(counts: Confusion) -> float | None:
    """(TP + TN) / all, in [0, 1]; None without pixels."""
    return _ratio(counts.tp + counts.tn, counts.pixels)


_FROM_COUNTS: dict[str, Callable[[Confusion], float | None]] = {
    "dice": dice,
    "iou": iou,
    "sensitivity": sensitivity,
    "specificity": specificity,
    "accuracy": accuracy,
}


def confusion(prediction: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None) -> Confusion:
    """Count the pixels of two masks of one shape.

    Args:
        prediction: mask; anything but zero is foreground.
        label: mask of the same shape.
        fov: mask of the pixels that count; None = all.

    Raises:
        ValueError: the shapes differ.
    """
    found, truth = _inside(fov, np.asarray(prediction, bool), np.asarray(label, bool))
    tp, predicted, labelled = (int(np.count_nonzero(mask)) for mask in (found & truth, found, truth))
    return Confusion(tp, predicted - tp, labelled - tp, truth.size - predicted - labelled + tp)


def auc(scores: ArrayLike, label: ArrayLike) -> float | None:
    """Area under the ROC curve, exact by rank; ties count half (Mann-Whitney's U; Hanley and McNeil 1982).

    Args:
        scores: any finite numbers, higher = more likely foreground.
        label: mask of the same shape.

    Returns:
        A value in [0, 1]; None when the label has one class only.
    """
    values, truth = _inside(None, np.asarray(scores), np.asarray(label, bool))
    _require_finite(values)
    distinct, rank = np.unique(values, return_inverse=True)
    foreground, background = (np.bincount(rank[mask], minlength=len(distinct)) for mask in (truth, ~truth))
    return _area(foreground, background)


def _no_counts() -> Counts:
    return np.zeros(BINS, np.int64)


@dataclass(frozen=True, eq=False)
class ScoreHistogram:
    """How often each probability was given to foreground and to background pixels; ``+`` pools them.

    The 1,024 bins have equal width (1/32) in the logit, from -16 to 16: probabilities share a bin when their odds differ by
    less than 3.2 %. Networks saturate, so equal widths in the probability would put most of the background in one bin.
    Pairs that share a bin count as ties, hence ``|auc() - exact| <= auc_error()``, in practice below 1e-3,
    or 3e-3 for a network so unsure that all its logits lie within a few tenths.

    Attributes:
        foreground: (1024,) int64, counts of pixels labelled foreground.
        background: (1024,) int64, counts of pixels labelled background.
    """

    foreground: Counts = field(default_factory=_no_counts)
    background: Counts = field(default_factory=_no_counts)

    @classmethod
    def from_scores(cls, probability: ArrayLike, label: ArrayLike) -> ScoreHistogram:
        """Count probabilities in [0, 1] against a mask of the same shape. Raises StageError for NaN."""
        values, truth = _inside(None, np.asarray(probability), np.asarray(label, bool))
        _require_finite(values)
        counts = np.bincount(_bin(values) + BINS * truth, minlength=2 * BINS)
        return cls(foreground=counts[BINS:], background=counts[:BINS])

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        """Counts of both sets of pixels together."""
        return ScoreHistogram(self.foreground + other.foreground, self.background + other.background)

    def auc(self) -> float | None:
        """Area under the ROC curve, in [0, 1]; None when the label has one class only."""
        return _area(self.foreground, self.background)

    def auc_error(self) -> float:
        """Largest possible distance of :meth:`auc` from the exact area: half the share of pairs that share a bin."""
        pairs = float(self.foreground.sum()) * float(self.background.sum())
        return 0.5 * float(self.foreground.astype(float) @ self.background) / pairs if pairs else 0.0

    def best_dice(self) -> tuple[float, float]:
        """(Dice, threshold) at the bin edge where pooled Dice is largest; an optimistic bound, never a result."""
        tp, fp = np.cumsum(self.foreground[::-1])[::-1], np.cumsum(self.background[::-1])[::-1]
        scores = 2.0 * tp / np.maximum(tp + fp + self.foreground.sum(), 1)
        best = int(scores.argmax())
        edge = best / _BINS_PER_LOGIT - _LOGIT_LIMIT
        return float(scores[best]), 1.0 / (1.0 + float(np.exp(-edge))) if best else 0.0


@dataclass(frozen=True, eq=False)
class ImageScore:
    """Score of one image, or, by ``+``, of a set of images pooled.

    Attributes:
        confusion: pixel counts at the threshold.
        histogram: probabilities by class, for the AUC.
        calibration: probabilities against labels, for the expected calibration error and the Brier score.
    """

    confusion: Confusion = field(default_factory=Confusion)
    histogram: ScoreHistogram = field(default_factory=ScoreHistogram)
    calibration: Calibration = field(default_factory=Calibration)

    def __add__(self, other: ImageScore) -> ImageScore:
        """Score of both sets of pixels together."""
        return ImageScore(
            self.confusion + other.confusion,
            self.histogram + other.histogram,
            self.calibration + other.calibration,
        )

    def metrics(self) -> dict[str, float | None]:
        """Name -> value in [0, 1], or None where undefined, of every overlap metric, the AUC, ``ece`` and ``brier``."""
        return {**self.confusion.metrics(), "auc": self.histogram.auc(), **self.calibration.metrics()}


def score_image(
    probability: ArrayLike, label: ArrayLike, fov: ArrayLike | None = None, threshold: float = 0.5
) -> ImageScore:
    """Score one image.

    Args:
        probability: (height, width) float in [0, 1], of the foreground.
        label: (height, width) mask; anything but zero is foreground.
        fov: (height, width) mask of the pixels that count (field of view); None = all.
        threshold: a pixel is foreground when its probability is at least this.

    Raises:
        ValueError: the shapes differ.
        StageError: the probability holds NaN or infinities.
    """
    values, truth = _inside(fov, np.asarray(probability), np.asarray(label, bool))
    return ImageScore(
        confusion(values >= threshold, truth),
        ScoreHistogram.from_scores(values, truth),
        Calibration.from_scores(values, truth),
    )


def _overlap(shared: int, counts: Confusion) -> float | None:
    missed = counts.fp + counts.fn
    if counts.pixels and not shared + missed:
        return 1.0
    return _ratio(shared, shared + missed)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _inside(fov: ArrayLike | None, values: Values, label: Mask) -> tuple[Values, Mask]:
    """Flat values and labels of the pixels that count."""
    mask = None if fov is None else np.asarray(fov, bool)
    shapes = {values.shape, label.shape} | ({mask.shape} if mask is not None else set())
    if len(shapes) > 1:
        raise ValueError(f"prediction, label and field of view must have one shape, not {sorted(shapes)}")
    return (values.ravel(), label.ravel()) if mask is None else (values[mask], label[mask])


def _require_finite(values: Values) -> None:
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise StageError(
            f"{bad} of {values.size} predicted values are NaN or infinite: the network has diverged; lower its lr"
        )


def _bin(probability: Values) -> Counts:
    """Bin numbers in 0 ... 1023; probabilities of 0 and 1 fall in the outermost bins."""
    values = np.clip(probability.astype(np.float32, copy=False), 0.0, 1.0)
    with np.errstate(divide="ignore"):
        logit = np.log(values) - np.log1p(-values)
    position = (np.clip(logit, -_LOGIT_LIMIT, _LOGIT_LIMIT) + _LOGIT_LIMIT) * _BINS_PER_LOGIT
    bins: Counts = np.minimum(position.astype(np.int64), BINS - 1)
    return bins


def _area(foreground: Counts, background: Counts) -> float | None:
    """Share of (foreground, background) pairs in the right order, ties half, from counts by ascending score."""
    total = float(foreground.sum()) * float(background.sum())
    if not total:
        return None
    below = np.cumsum(background) - background
    return float(foreground.astype(float) @ (below + 0.5 * background)) / total

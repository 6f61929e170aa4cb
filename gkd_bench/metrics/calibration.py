"""Whether probabilities mean what they say: expected calibration error and Brier score, from sums that add up over images."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gkd_bench.errors import StageError

Sums = NDArray[np.float64]

BINS = 15


def _no_sums() -> Sums:
    return np.zeros(BINS, np.float64)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Foreground probabilities against labels, in 15 bins of equal width; ``+`` pools them.

    The expected calibration error is the binary one of Pakdaman Naeini et al. (AAAI 2015): the bins divide the probability of
    the *foreground*, and each compares its mean with the share of foreground in it. Guo et al. (ICML 2017) bin the
    confidence in the predicted class instead, which cannot tell an overrated from an underrated foreground. In both, the many
    easy background pixels weigh most, so look at the values inside the field of view.

    Attributes:
        pixels: (15,) float64, pixels per bin.
        probability: (15,) float64, sum of the probabilities per bin.
        foreground: (15,) float64, pixels per bin that are labelled foreground.
        squares: sum of (probability - label)^2.
    """

    pixels: Sums = field(default_factory=_no_sums)
    probability: Sums = field(default_factory=_no_sums)
    foreground: Sums = field(default_factory=_no_sums)
    squares: float = 0.0

    @classmethod
    def from_scores(cls, probability: ArrayLike, label: ArrayLike) -> Calibration:
        """Compare probabilities in [0, 1] (others are clipped) with a mask of the same shape.

        A probability on the edge of two bins counts in the upper one.

        Raises:
            ValueError: the shapes differ.
            StageError: the probabilities hold NaN.
        """
        values, truth = np.asarray(probability, np.float64), np.asarray(label, bool)
        if values.shape != truth.shape:
            raise ValueError(f"probability and label must have one shape, not {values.shape} and {truth.shape}")
        if np.isnan(values.sum()):
            raise StageError("predicted values are NaN: the network has diverged; lower its lr")
        values, truth = np.clip(values, 0.0, 1.0).ravel(), truth.ravel()
        bins = np.minimum((values * BINS).astype(np.intp), BINS - 1)
        error = values - truth
        return cls(
            pixels=np.bincount(bins, minlength=BINS).astype(np.float64),
            probability=np.asarray(np.bincount(bins, values, BINS), np.float64),
            foreground=np.bincount(bins[truth], minlength=BINS).astype(np.float64),
            squares=float(error @ error),
        )

    def __add__(self, other: Calibration) -> Calibration:
        """Sums of both sets of pixels together."""
        return Calibration(
            self.pixels + other.pixels,
            self.probability + other.probability,
            self.foreground + other.foreground,
            self.squares + other.squares,
        )

    def metrics(self) -> dict[str, float | None]:
        """``ece`` and ``brier`` (Brier, Monthly Weather Review 78:1, 1950), in [0, 1], lower is better; None without pixels."""
        count = float(self.pixels.sum())
        if not count:
            return {"ece": None, "brier": None}
        gaps = np.abs(self.probability - self.foreground)
        return {"ece": float(gaps.sum()) / count, "brier": self.squares / count}

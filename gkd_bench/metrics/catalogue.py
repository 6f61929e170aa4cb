"""What every metric means: its direction, range and reference. Tables sort, mark and describe metrics by this."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """Card of one metric.

    Attributes:
        name: name in records.
        title: name in tables.
        higher_is_better: direction, which decides what a table marks as best.
        low: smallest possible value.
        high: largest possible value; may be infinite.
        reference: where the formula comes from.
        undefined: when the value is None.
    """

    name: str
    title: str
    higher_is_better: bool
    low: float
    high: float
    reference: str
    undefined: str

    @property
    def best(self) -> float:
        """The value of a perfect result."""
        return self.high if self.higher_is_better else self.low


_NO_PIXELS = "no pixel was scored"

METRICS: dict[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo("dice", "Dice", True, 0.0, 1.0, "Dice, Ecology 26:297, 1945 (the foreground's F1)", _NO_PIXELS),
        MetricInfo("iou", "IoU", True, 0.0, 1.0, "Jaccard, New Phytologist 11:37, 1912", _NO_PIXELS),
        MetricInfo("sensitivity", "Sensitivity", True, 0.0, 1.0, "TP / (TP + FN)", "no foreground in the label"),
        MetricInfo("specificity", "Specificity", True, 0.0, 1.0, "TN / (TN + FP)", "no background in the label"),
        MetricInfo("accuracy", "Accuracy", True, 0.0, 1.0, "(TP + TN) / all", _NO_PIXELS),
        MetricInfo(
            "auc", "AUC", True, 0.0, 1.0, "Hanley and McNeil, Radiology 143:29, 1982", "the label has one class only"
        ),
        MetricInfo(
            "fsd", "FSD", False, 0.0, math.inf, "reconstruction; Dowson and Landau, 1982", "fewer than 2 vectors"
        ),
    )
}

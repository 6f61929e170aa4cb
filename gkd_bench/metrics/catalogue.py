"""What every metric means: its direction, range and reference. Tables sort, mark and describe metrics by this."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

REGION = "_fov"
"""End of the names of metrics that were measured inside the field of view."""


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
        unit: unit of the value; empty for shares and counts.
        decimals: digits after the point in tables.
        tie: two values that differ by less count as tied; 0 where no difference is too small to matter, or where
            the size of the values depends on the networks.
    """

    name: str
    title: str
    higher_is_better: bool
    low: float
    high: float
    reference: str
    undefined: str
    unit: str = ""
    decimals: int = 3
    tie: float = 0.005

    @property
    def best(self) -> float:
        """The value of a perfect result."""
        return self.high if self.higher_is_better else self.low


_HD95 = "Huttenlocher et al., IEEE PAMI 15:850, 1993; 95th percentile as in MONAI"
_ASSD = "Heimann et al., IEEE TMI 28:1251, 2009"
_NSD = "Nikolov et al., arXiv 1809.04430"
_NO_PIXELS = "no pixel was scored"
_WORST_DIAGONAL = "never: 0 when both masks are empty, the diagonal of the image when exactly one is"
_WORST_DIAGONAL_MM = _WORST_DIAGONAL.replace("image", "volume")
_WORST_ZERO = "never: 1 when both masks are empty, 0 when exactly one is"


def _share(name: str, title: str, reference: str, undefined: str = _NO_PIXELS) -> MetricInfo:
    """Card of a metric in [0, 1] of which more is better."""
    return MetricInfo(name, title, True, 0.0, 1.0, reference, undefined)


def _error(name: str, title: str, reference: str, *, tie: float, decimals: int = 3) -> MetricInfo:
    """Card of a metric of probabilities in [0, 1] of which less is better."""
    return MetricInfo(name, title, False, 0.0, 1.0, reference, _NO_PIXELS, decimals=decimals, tie=tie)


def _distance(name: str, title: str, reference: str, *, tie: float) -> MetricInfo:
    """Card of a distance between surfaces, in pixels of one image or slice; in millimetres of a volume with ``_mm``."""
    unit, undefined = ("mm", _WORST_DIAGONAL_MM) if name.endswith("_mm") else ("px", _WORST_DIAGONAL)
    return MetricInfo(name, title, False, 0.0, math.inf, reference, undefined, unit=unit, decimals=2, tie=tie)


def of_class(metric: str, name: str) -> str:
    """The name of one class's metric: ``dice/liver``, and ``dice/disc_fov`` beside ``dice_fov``."""
    plain = metric.removesuffix(REGION)
    return f"{plain}/{name}{metric[len(plain) :]}"


def card_of(name: str) -> MetricInfo | None:
    """Card of a metric; of one class's, such as ``dice/right_kidney``, the metric's own under the class's name.

    Args:
        name: as in records, without where it was measured. None for a metric that has no card.
    """
    metric, _, of = name.partition("/")
    card = METRICS.get(metric)
    if card is None or not of:
        return card
    return replace(card, name=name, title=f"{card.title}, {of.replace('_', ' ')}")


METRICS: dict[str, MetricInfo] = {
    info.name: info
    for info in (
        _share("dice", "Dice", "Dice, Ecology 26:297, 1945 (the foreground's F1)"),
        _share("iou", "IoU", "Jaccard, New Phytologist 11:37, 1912"),
        _share("sensitivity", "Sensitivity", "TP / (TP + FN)", "no foreground in the label"),
        _share("specificity", "Specificity", "TN / (TN + FP)", "no background in the label"),
        _share("accuracy", "Accuracy", "(TP + TN) / all"),
        _share("auc", "AUC", "Hanley and McNeil, Radiology 143:29, 1982", "the label has one class only"),
        _distance("hd95", "HD95", _HD95, tie=0.5),
        _distance("hd95_mm", "HD95", f"{_HD95}; of the volume, in 3-D", tie=1.0),
        _distance("assd", "ASSD", _ASSD, tie=0.1),
        _distance("assd_mm", "ASSD", f"{_ASSD}; of the volume, in 3-D", tie=0.25),
        _share("nsd", "NSD", f"{_NSD} (surface pixels counted)", _WORST_ZERO),
        _share(
            "nsd_mm",
            "NSD, tolerance in mm",
            f"{_NSD} (surface voxels of the volume counted, tolerance in mm)",
            _WORST_ZERO,
        ),
        _share("cldice", "clDice", "Shit et al., CVPR 2021", _WORST_ZERO),
        MetricInfo(
            "components",
            "Component error",
            False,
            0.0,
            math.inf,
            "|b0(prediction) - b0(label)|, 8-connected; Hu et al., NeurIPS 2019, on whole images",
            "never",
            decimals=1,
            tie=0.5,
        ),
        _error("ece", "ECE", "Pakdaman Naeini et al., AAAI 2015; 15 bins of the foreground's probability", tie=0.005),
        _error("brier", "Brier", "Brier, Monthly Weather Review 78:1, 1950", tie=0.001, decimals=4),
        MetricInfo(
            "fsd",
            "FSD",
            False,
            0.0,
            math.inf,
            "reconstruction; Dowson and Landau, 1982",
            "fewer than 2 vectors",
            tie=0.0,
        ),
    )
}

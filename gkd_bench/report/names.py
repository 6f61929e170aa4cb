"""What readers see for methods, metrics and their numbers; the catalogue of metrics says what each one means."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gkd_bench.config.method_options import METHOD_OPTIONS
from gkd_bench.metrics.catalogue import METRICS, card_of
from gkd_bench.metrics.catalogue import REGION as REGION
from gkd_bench.metrics.catalogue import of_class as of_class
from gkd_bench.report.cells import Column, Direction

HEADLINE = f"dice{REGION}"
ALONE = "scratch"
KD = "kd"
TEACHER = "teacher"
REFERENCES = (TEACHER, "baseline", ALONE)
METHOD_TITLES = {
    TEACHER: "teacher",
    "baseline": "student before continuation",
    **{name: options.title for name, options in METHOD_OPTIONS.items()},
    "scratch_photometric": "student alone + photometric",
    "kd_photometric": "KD + photometric",
    "p-sae": "P-SAE",
    "tan": "TAN (teacher)",
    "san": "SAN (student)",
    "student": "student",
}
MARKS_NOTE = "◦ in-domain (target = source), n/a: domain left out, -: not scored."
_DECIMALS, _TIE = 3, 0.005


def method_title(method: str) -> str:
    """What readers see for a method; a variant is its method's title with the rest of its name."""
    if method in METHOD_TITLES:
        return METHOD_TITLES[method]
    ends = [at for at, letter in enumerate(method) if letter == "_" and method[:at] in METHOD_TITLES]
    return f"{METHOD_TITLES[method[: ends[-1]]]} {words(method[ends[-1] + 1 :])}" if ends else method


def metric_title(metric: str, *, whole: bool = False) -> str:
    """What readers see for a metric, the class, the unit and the region included.

    Args:
        metric: column of the records.
        whole: say of a plain metric that it is of the whole image, which only means something beside one of a region.
    """
    region = " (field of view)" if metric.endswith(REGION) else " (whole image)" if whole else ""
    return f"{short_title(metric)}{region}"


def short_title(metric: str) -> str:
    """The metric's name and unit without the region, for headings that stand beside others of the same region."""
    name = _without_place(metric)
    card = card_of(name)
    return name if card is None else f"{card.title}, {card.unit}" if card.unit else card.title


def metric_direction(metric: str) -> Direction:
    """Which way a metric is better, from the catalogue; ``none`` for a metric that has no card there."""
    card = METRICS.get(bare(metric))
    return "none" if card is None else "up" if card.higher_is_better else "down"


def metric_decimals(metric: str) -> int:
    """Decimals that readers see of a metric."""
    card = METRICS.get(bare(metric))
    return _DECIMALS if card is None else card.decimals


def metric_tie(metric: str) -> float:
    """Size of a difference below which it counts as a tie; 0 where no difference is too small to matter."""
    card = METRICS.get(bare(metric))
    return _TIE if card is None else card.tie


def metric_column(key: str, title: str, metric: str, *, interval: bool = False, signed: bool = False) -> Column:
    """A column of means of a metric, or of its signed differences."""
    return Column(key, title, metric_direction(metric), True, metric_decimals(metric), signed, interval)


def bare(metric: str) -> str:
    """The name of a metric in the catalogue, without where and of which class it was measured."""
    return _without_place(metric).partition("/")[0]


def class_of(metric: str) -> str:
    """The class that a metric is of; empty for the mean over all classes, or where there is one."""
    return _without_place(metric).partition("/")[2]


def _without_place(metric: str) -> str:
    return metric.removeprefix("pooled/").removesuffix(REGION)


def words(name: str) -> str:
    """A name in plain words."""
    return name.replace("_", " ")


def file_part(name: str) -> str:
    """A name as part of a file's: names in records of somebody else's store may hold anything, such as ``../``."""
    return re.sub(r"[^0-9A-Za-z_.+@-]", "_", name)


def span(values: Iterable[float]) -> str:
    """Smallest to largest of some counts, or the one that all are."""
    numbers = [int(value) for value in values]
    low, high = min(numbers, default=0), max(numbers, default=0)
    return str(low) if low == high else f"{low} to {high}"


def counted(count: int | str, noun: str) -> str:
    """A count with its noun, which gets its plural s."""
    return f"{count} {noun}{'' if str(count) == '1' else 's'}"


def listed(names: Iterable[str]) -> str:
    """Names as a sentence has them: ``a, b and c``."""
    *most, last = list(names)
    return f"{', '.join(most)} and {last}" if most else last

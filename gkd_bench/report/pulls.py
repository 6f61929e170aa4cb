"""How strongly the loss terms of every row pulled at the student, compared with cross-entropy; a silent one is no method.

A term's ratio is the norm of its unweighted gradient over that of cross-entropy, averaged over the epochs of a training by
its health check. With its weight it says how much of what the student learnt came from the term.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from gkd_bench.config.method_options import SILENT_RATIO
from gkd_bench.report.cells import Cell, mean_cell
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import counted, listed, words
from gkd_bench.report.rows import options_of

_RATIO, _COSINE = "gradient ratio ", "gradient cosine "
Measured = Mapping[tuple[str, str], float]
"""(training, check) -> value"""


@dataclass(frozen=True)
class Term:
    """One term of a method's loss over all its trainings.

    Attributes:
        name: of the term.
        weights: weights of the trainings; a search may give every source one of its own.
        ratios: gradient norms over cross-entropy's, unweighted; of the trainings that measured it.
        pulls: the same with the weight of the training, or what the training balanced it to.
        cosines: cosines of the two gradients.
    """

    name: str
    weights: tuple[float, ...]
    ratios: tuple[float, ...]
    pulls: tuple[float, ...]
    cosines: tuple[float, ...]

    @cached_property
    def ratio(self) -> Cell:
        """Mean unweighted ratio over sources and seeds, flagged where it is silent."""
        return _mean(self.ratios).marked("warning", self.is_silent)

    @cached_property
    def pull(self) -> Cell:
        """Mean weighted ratio over sources and seeds."""
        return _mean(self.pulls)

    @property
    def is_silent(self) -> bool:
        """Whether the term teaches nothing on average over its trainings."""
        return bool(self.ratios) and sum(self.ratios) / len(self.ratios) < SILENT_RATIO

    @property
    def silent_runs(self) -> int:
        """Trainings in which it taught nothing."""
        return sum(ratio < SILENT_RATIO for ratio in self.ratios)

    @property
    def weight_words(self) -> str:
        """``0.1``, or the range over sources: ``0.05 to 0.4``."""
        ends = dict.fromkeys(f"{weight:.3g}" for weight in (min(self.weights), max(self.weights)))
        return " to ".join(ends)


def loss_terms(records: SweepRecords) -> dict[str, tuple[Term, ...]]:
    """Row -> the terms of its loss whose weight is not zero; made once for the same records."""
    kept: dict[str, tuple[Term, ...]] | None = vars(records).get("_loss_terms")
    if kept is None:
        measured = _measured(records)
        found = {method: tuple(_terms(records, method, measured)) for method in Evidence.of(records).students}
        kept = vars(records)["_loss_terms"] = found
    return kept


def pull_cell(records: SweepRecords, method: str) -> Cell:
    """The largest weighted ratio of a row's terms; flagged when a term is silent, empty for rows without terms.

    The largest and not the sum: gradients of several terms may cancel each other, so that a sum of norms promises a pull
    that no student felt.
    """
    terms = loss_terms(records).get(method, ())
    measured = [term.pull for term in terms if term.pulls]
    best = max(measured, key=lambda cell: float(cell.value or 0), default=Cell())
    return Cell(best.value).marked("warning", any(term.is_silent for term in terms))


def weakest_cell(records: SweepRecords, method: str) -> Cell:
    """The smallest unweighted ratio of a row's terms, flagged when it is silent."""
    measured = [term.ratio for term in loss_terms(records).get(method, ()) if term.ratios]
    weakest = min(measured, key=lambda cell: float(cell.value or 0), default=Cell())
    return replace(weakest, n=0)


def verdict(records: SweepRecords, method: str) -> str:
    """What a row's gradients say, in words."""
    terms = loss_terms(records).get(method, ())
    measured = [term for term in terms if term.ratios]
    silent = [words(term.name) for term in measured if term.is_silent]
    if not terms:
        return "no loss term"
    if not measured:
        return "not measured"
    if silent:
        return "silent" if len(silent) == len(measured) else f"silent: {listed(silent)}"
    partly = [
        f"{words(term.name)} in {term.silent_runs} of {counted(len(term.ratios), 'run')}"
        for term in measured
        if term.silent_runs
    ]
    return f"silent: {listed(partly)}" if partly else "pulls"


def silent_rows(records: SweepRecords) -> dict[str, str]:
    """Row -> its verdict, of rows with a silent term."""
    found = {method: verdict(records, method) for method in loss_terms(records)}
    return {method: text for method, text in found.items() if text.startswith("silent")}


# ---------------------------------------------------------------- one row


def _mean(values: Sequence[float]) -> Cell:
    """A mean and its n without a half width, beside which small numbers would be printed as nothing."""
    return replace(mean_cell(values), half=None)


def _measured(records: SweepRecords) -> Measured:
    frame = Evidence.of(records).final("health")
    frame = frame[frame["check"].str.startswith("gradient ", na=False) & frame["value"].notna()]
    rows = frame[["model", "check", "value"]].itertuples(index=False, name=None)
    return {(str(model), str(check)): float(value) for model, check, value in rows}


def _terms(records: SweepRecords, method: str, measured: Measured) -> Iterator[Term]:
    options = options_of(records, method)
    models = list(dict.fromkeys(model.partition("+")[0] for model in records.models.get(method, ())))
    for name in options.terms if options else ():
        weights = {model: _weight(records, method, model, name) for model in models}
        used = [model for model, weight in weights.items() if weight > 0]
        found = [model for model in used if (model, _RATIO + name) in measured]
        if not used:
            continue
        ratios = [measured[model, _RATIO + name] for model in found]
        pulls = [_pull(records, model, weights[model], ratio) for model, ratio in zip(found, ratios, strict=True)]
        cosines = [measured[model, _COSINE + name] for model in found if (model, _COSINE + name) in measured]
        yield Term(name, tuple(weights[model] for model in used), tuple(ratios), tuple(pulls), tuple(cosines))


def _weight(records: SweepRecords, method: str, model: str, term: str) -> float:
    """A term's weight in one training: as its settings say, else as the variant or the method's defaults do."""
    options = options_of(records, method)
    assert options is not None
    field = options.terms[term]
    changed: Mapping[str, Any] = records.origin.variants.get(method, {}).get("set", {})
    known: Mapping[str, Any] = records.origin.settings.get(model, {}).get("options", {})
    return float(known.get(field, changed.get(field, options.model_fields[field].default)))


def _pull(records: SweepRecords, model: str, weight: float, ratio: float) -> float:
    """Weighted ratio of one training. A balanced one scales every term that pulls at all to the norm it is told."""
    stage = records.origin.settings.get(model, {}).get("distill", {})
    balanced = stage.get("balance") == "gradient_norm" and ratio >= SILENT_RATIO
    return weight * (float(stage.get("balance_target", 1.0)) if balanced else ratio)

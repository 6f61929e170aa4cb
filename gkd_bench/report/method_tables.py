"""Whether the methods were compared on equal terms: their losses, weights and budgets, and how strongly each term pulled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gkd_bench.config.method_options import SILENT_RATIO
from gkd_bench.report.captions import sentences
from gkd_bench.report.cells import Cell, Column, Table, mean_cell
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import counted, method_title, span, words
from gkd_bench.report.pulls import Term, loss_terms, pull_cell, verdict, weakest_cell
from gkd_bench.report.rows import (
    REMEDY_TITLES,
    base_of,
    kind_of,
    method_cell,
    method_notes,
    options_of,
    remedies_of,
)  # fmt: skip

PULL_WORDS = (
    "Pull: the largest gradient norm among a row's loss terms, weight included, over that of cross-entropy, mean over sources "
    f"and seeds; ! a term of the row is silent, below {SILENT_RATIO:g} of cross-entropy without its weight"
)


@dataclass(frozen=True)
class Budget:
    """Trials of a method's searches.

    Attributes:
        complete, pruned: how many over all sources.
        per_source: trials of every source.
    """

    complete: int
    pruned: int
    per_source: tuple[int, ...]


def methods_table(records: SweepRecords) -> Table:
    """One row per method, control and variant: loss terms and weights, where these come from, and whether they pulled."""
    columns = (
        Column("method", "method"),
        Column("kind", "kind"),
        Column("terms", "loss terms and weights"),
        Column("from", "weights from"),
        Column("weakest", "weakest term / CE", decimals=3),
        Column("pull", "pull", decimals=3),
        Column("verdict", "verdict"),
        Column("remedies", "combined with"),
    )
    budgets = budgets_of(records)
    rows = tuple(_row(records, method, budgets) for method in _shown(records))
    caption = sentences(
        "Every row starts from the same student and takes the same number of steps, with cross-entropy beside the terms named here",
        _budget_words(budgets),
        "Weakest term: the smallest gradient norm among the terms, without its weight, over that of cross-entropy (CE)",
        PULL_WORDS,
        "A silent row teaches nothing: its score is that of the student alone",
    )
    notes = method_notes(records, _shown(records))
    return Table(
        "methods", "Methods, their weights, and whether they pulled", caption, columns, rows, "comparison", notes
    )


def terms_table(records: SweepRecords) -> Table:
    """One row per loss term of every row: weight, gradient ratio with and without it, and cosine."""
    columns = (
        Column("method", "method"),
        Column("term", "loss term"),
        Column("weight", "weight"),
        Column("ratio", "gradient / CE", spread=True),
        Column("pull", "gradient x weight / CE", spread=True),
        Column("cosine", "cosine with CE", spread=True, decimals=2, signed=True),
        Column("silent", "silent runs"),
    )
    rows = [
        (method_cell(records, method), *_term_cells(term))
        for method, terms in loss_terms(records).items()
        for term in terms
    ]
    caption = sentences(
        "Norm of every term's gradient over that of cross-entropy, mean over the epochs of a training, then over sources and seeds",
        f"! silent, below {SILENT_RATIO:g} without its weight",
        "Cosine: ± half width of the 95 % t interval; above zero: pulls the same way as cross-entropy, below: against it",
        "Where gradients are balanced, the weight is what the term is scaled to",
    )
    return Table("method_terms", "How strongly every loss term pulled", caption, columns, tuple(rows), "comparison")


def budgets_of(records: SweepRecords) -> dict[str, Budget]:
    """Searched method -> the trials of its searches."""
    frame = records.of("trial")
    found: dict[str, Budget] = {}
    for method in records.in_order(map(str, frame["method"].dropna().unique())):
        mine = frame[frame["method"] == method]
        states = mine["state"].value_counts()
        sizes = tuple(int(size) for size in mine.groupby("study")["number"].nunique())
        found[method] = Budget(int(states.get("complete", 0)), int(states.get("pruned", 0)), sizes)
    return found


def _shown(records: SweepRecords) -> list[str]:
    """Everything that is continued from the student before continuation."""
    return [method for method in Evidence.of(records).students if method != "baseline"]


def _row(records: SweepRecords, method: str, budgets: Mapping[str, Budget]) -> tuple[Cell, ...]:
    terms = loss_terms(records)[method]
    text = ", ".join(f"{words(term.name)} {term.weight_words}" for term in terms)
    judged = verdict(records, method)
    remedies = ", ".join(REMEDY_TITLES[name] for name in remedies_of(records, method))
    return (
        method_cell(records, method),
        Cell(kind_of(records, method)),
        Cell(text or "cross-entropy alone"),
        Cell(_weights_from(records, method, budgets) if terms else None),
        weakest_cell(records, method),
        pull_cell(records, method),
        Cell(judged).marked("warning", judged.startswith("silent")),
        Cell(remedies or None),
    )


def _weights_from(records: SweepRecords, method: str, budgets: Mapping[str, Budget]) -> str:
    base, options = base_of(records, method), options_of(records, method)
    changed = set(records.origin.variants.get(method, {}).get("set", {}))
    weights = set(options.terms.values()) if options else set()
    if method in budgets:
        one = budgets[method]
        return f"searched, {counted(span(one.per_source), 'trial')} per source"
    if changed & weights:
        return f"the variant; others as {method_title(base)}" if weights - changed else "the variant"
    if base in budgets:
        return f"as {method_title(base)}"
    return options.default_from if options else "-"


def _budget_words(budgets: Mapping[str, Budget]) -> str:
    if not budgets:
        return "No weight was searched"
    sizes = {size for one in budgets.values() for size in one.per_source}
    equal = "the same budget" if len(sizes) == 1 else "budgets that DIFFER"
    states = ", ".join(f"{method_title(name)} {one.complete}/{one.pruned}" for name, one in budgets.items())
    return (
        f"Searched methods had {equal}, {counted(span(sizes), 'trial')} per source; complete/stopped early over all sources: "
        f"{states}"
    )


def _term_cells(term: Term) -> Iterator[Cell]:
    yield Cell(words(term.name))
    yield Cell(term.weight_words)
    yield term.ratio
    yield term.pull
    yield mean_cell(term.cosines)
    yield Cell(f"{term.silent_runs} of {len(term.ratios)}" if term.ratios else None)

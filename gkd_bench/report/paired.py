"""Tables of paired tests over test subjects: every method against the student alone and against KD, pair by pair."""

from __future__ import annotations

from gkd_bench.report.captions import interval, sentences, smallest_words, tie_words
from gkd_bench.report.cells import Cell, Column, Table
from gkd_bench.report.evidence import SIGNIFICANT, Evidence
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import ALONE, KD, method_title, metric_column
from gkd_bench.report.rows import method_cell, method_notes
from gkd_bench.report.tables import name_cells


def significance(records: SweepRecords, reference: str = ALONE, metric: str | None = None) -> Table:
    """Every source -> target and method against a reference: both tests, raw and Holm-adjusted, and effect sizes.

    Args:
        records: records of the sweep.
        reference: ``scratch`` (student alone) or ``kd``.
        metric: the headline by default.
    """
    evidence = Evidence.of(records)
    metric = metric or evidence.headline
    verdicts = evidence.verdicts(metric, reference)
    keys = [(*pair, method) for pair in evidence.pairs for method in evidence.compared]
    rows = tuple(_row(evidence, metric, reference, key) for key in keys if key in verdicts)
    title = f"Is a method better than {_named(reference)}? Tests on {evidence.title(metric)}"
    text = _caption(evidence, metric, reference)
    notes = method_notes(records, [name for name in evidence.compared if name != reference])
    return Table(
        f"significance_{reference}", title, text, _columns(evidence, reference, metric), rows, "significance", notes
    )


def _columns(evidence: Evidence, reference: str, metric: str) -> tuple[Column, ...]:
    return (
        Column("source", "source"),
        Column("target", "target"),
        Column("method", "method"),
        Column("subjects", f"n {evidence.words.subjects}", decimals=0),
        metric_column("difference", f"difference to {_named(reference)}", metric, signed=True, interval=True),
        Column("p_permutation", "p permutation", decimals=4),
        Column("p_permutation_holm", "after Holm", decimals=4),
        Column("p_wilcoxon", "p Wilcoxon", decimals=4),
        Column("p_wilcoxon_holm", "after Holm", decimals=4),
        Column("rank_biserial", "rank-biserial r", decimals=2, signed=True),
        Column("cohen_dz", "Cohen's d_z", decimals=2, signed=True),
        Column("smallest_p", "smallest possible p", decimals=4),
        Column("verdict", "verdict"),
    )


def _row(evidence: Evidence, metric: str, reference: str, key: tuple[str, str, str]) -> tuple[Cell, ...]:
    verdict = evidence.verdicts(metric, reference)[key]
    gain, test = evidence.gain_cells(metric, reference)[key], verdict.test
    return (
        *name_cells(key[:2]),
        method_cell(evidence.records, key[2]),
        Cell(test.n),
        gain,
        Cell(test.p_permutation),
        Cell(verdict.p_permutation),
        Cell(test.p_wilcoxon),
        Cell(verdict.p_wilcoxon),
        Cell(test.rank_biserial),
        Cell(test.cohen_dz),
        Cell(test.smallest_p),
        Cell(_verdict_words(gain, test.reason)),
    )


def _verdict_words(gain: Cell, reason: str) -> str:
    if reason:
        return reason
    words = "better" if gain.flags & {"better", "better_kd"} else "worse" if gain.flags & {"worse", "worse_kd"} else ""
    if not words:
        return "not told apart"
    return f"{words}, but too little to matter" if "tie" in gain.flags else words


def _caption(evidence: Evidence, metric: str, reference: str) -> str:
    verdicts = [*evidence.verdicts(metric, reference).values()]
    family = verdicts[0].family if verdicts else 0
    marks = "† better, ‡ worse" if reference == KD else "* better, ▾ worse"
    return sentences(
        f"Two-sided paired tests over test {evidence.words.subjects}, their scores averaged over seeds before",
        f"Holm over the {family} comparisons of this table, in-domain ones included, for each test on its own",
        smallest_words(evidence, verdicts) if verdicts else "No comparison",
        f"{marks} than {_named(reference)} by the permutation test after Holm, p < {SIGNIFICANT:g}; {tie_words(metric)}",
        "Difference: mean ± half width of the 95 % t interval over seeds",
        interval(evidence),
        f"Rank-biserial r in [-1, 1]; d_z: mean difference / its standard deviation over {evidence.words.subjects}",
    )


def _named(reference: str) -> str:
    title = method_title(reference)
    return f"the {title}" if reference == ALONE else title

"""Methods side by side: means over pairs of domains, their differences from the student alone, and ablations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gkd_bench.report.captions import chosen_by, interval, paired, ranks, sentences, tie_words
from gkd_bench.report.cells import Cell, Column, Table, mark_ranks
from gkd_bench.report.evidence import SIGNIFICANT, Evidence, Verdict, gap_cell, judged
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.method_tables import PULL_WORDS
from gkd_bench.report.names import (
    ALONE,
    REGION,
    TEACHER,
    bare,
    counted,
    listed,
    metric_column,
    metric_decimals,
    metric_direction,
    metric_tie,
    short_title,
    span,
)  # fmt: skip
from gkd_bench.report.overall import overall_cell, overall_gap, overall_test
from gkd_bench.report.pulls import pull_cell
from gkd_bench.report.rows import alone_of, lacking, method_cell, method_notes, student_of
from gkd_bench.report.significance import holm

_P = 4  # place of the column of p among those of the comparison
FURTHER = ("hd95_mm", "hd95", "nsd_mm", "nsd", "cldice", "components", "ece", "brier")


def comparison(records: SweepRecords) -> Table:
    """One row per method: headline on in-domain and foreign pairs, worst pair, gain over the student alone, gap closed."""
    evidence = Evidence.of(records)
    metric = evidence.headline
    title = short_title(metric)
    columns = (
        Column("method", "method"),
        metric_column("in_domain", f"in-domain {title}", metric, interval=not evidence.is_wide),
        metric_column("foreign", f"foreign {title}", metric, interval=not evidence.is_wide),
        metric_column("gain", "foreign - student alone", metric, signed=True, interval=True),
        Column("p", "p (Holm)", decimals=4),
        Column("gap", "gap closed", "up", True, 2, False, not evidence.is_wide),
        Column("pull", "pull", decimals=3),
        Column("wins", "wins/ties/losses"),
        Column("significant", "better/worse (p < 0.05)"),
        Column("worst", "worst pair", metric_direction(metric), decimals=metric_decimals(metric)),
        Column("worst_pair", "which"),
    )
    gains = overall_gains(evidence, metric, ALONE, evidence.compared)
    rows = [_comparison_row(evidence, metric, method, gains.get(method, Cell())) for method in records.methods]
    rows = ranked_columns(rows, columns, records.methods, ("in_domain", "foreign", "worst"))
    text = f"{evidence.title(metric)}, every method in one row"
    return Table(
        "comparison",
        text,
        _comparison_caption(evidence, metric, rows),
        columns,
        tuple(rows),
        "comparison",
        method_notes(records, records.methods),
    )


def further_comparison(records: SweepRecords) -> Table:
    """One row per method: surface, topology and calibration metrics on foreign pairs, and its parameters."""
    evidence = Evidence.of(records)
    metrics = [name for metric in FURTHER for name in (f"{metric}{REGION}", metric) if name in evidence.metrics]
    metrics = list({bare(name): name for name in reversed(metrics)}.values())[::-1]
    metrics = [name for name in metrics if not evidence.unmeasured(name) or evidence.common(name)[0]]
    columns = [Column("method", "method")]
    columns += [metric_column(bare(name), short_title(name), name) for name in metrics]
    columns += [Column("parameters", "parameters", "down", decimals=0)]
    counts = parameter_counts(records)
    rows = [
        (
            method_cell(records, method),
            *(overall_cell(evidence.several(name, method, of=mean_pairs(evidence, name))) for name in metrics),
            Cell(counts.get(method)),
        )
        for method in records.methods
    ]
    rows = ranked_columns(rows, columns, records.methods, [bare(name) for name in metrics])
    caption = sentences(
        f"Means over foreign source -> target pairs{', inside the field of view where there is one' * evidence.words.has_region}",
        *(fewer_pairs(evidence, name) for name in metrics),
        over_words(evidence, rows),
        ranks("the column"),
    )
    shown = tuple(rows) if metrics else ()
    return Table("further", "Surface, topology and calibration on foreign domains", caption, tuple(columns), shown, "comparison")  # fmt: skip


def ablation(records: SweepRecords) -> Table:
    """A method and its variants: what was changed, headline in-domain and foreign, and the difference to the full method."""
    evidence = Evidence.of(records)
    metric = evidence.headline
    title = short_title(metric)
    columns = (
        Column("method", "method"),
        Column("change", "what was changed"),
        metric_column("in_domain", f"in-domain {title}", metric, interval=True),
        metric_column("foreign", f"foreign {title}", metric, interval=True),
        metric_column("difference", "foreign - full method", metric, signed=True, interval=True),
        Column("p", "p (Holm)", decimals=4),
    )
    rows: list[tuple[Cell, ...]] = []
    for method, variants in _families(records).items():
        losses = overall_gains(evidence, metric, method, variants)
        rows += [_ablation_row(evidence, metric, name, losses.get(name, Cell())) for name in (method, *variants)]
    caption = sentences(
        f"Means over in-domain and over foreign pairs; {paired(evidence)}",
        over_words(evidence, rows),
        interval(evidence),
        _test_words(evidence, "the full method, over the variants of one method", [row[-1] for row in rows]),
        tie_words(metric),
    )
    return Table("ablation", "Ablation: what each part is worth", caption, columns, tuple(rows), "ablation")


def overall_gains(evidence: Evidence, metric: str, reference: str, methods: Sequence[str]) -> dict[str, Cell]:
    """Method -> mean foreign difference from a reference with its p, Holm over these methods; those without one are left out."""
    gathered = {name: evidence.several(metric, name, reference=reference) for name in methods if name != reference}
    found = {name: several for name, several in gathered.items() if several is not None}
    tests = [overall_test(several) for several in found.values()]
    ranked, flipped = holm([test.p_wilcoxon for test in tests]), holm([test.p_permutation for test in tests])
    verdicts = [Verdict(*row, len(tests)) for row in zip(tests, ranked, flipped, strict=True)]
    return {
        name: judged(overall_cell(several), verdict, metric, reference)
        for (name, several), verdict in zip(found.items(), verdicts, strict=True)
    }


def parameter_counts(records: SweepRecords) -> dict[str, int]:
    """Method -> parameters of its network, as its training or the efficiency stage counted them."""
    counts: dict[str, int] = {}
    for kind in ("cost", "efficiency"):
        frame = Evidence.of(records).final(kind)
        frame = frame[frame["kind"].isin(["teacher", "baseline", "distill"])] if kind == "cost" else frame
        found = frame.dropna(subset=["method", "parameters"]).groupby("method")["parameters"].max()
        counts |= {str(method): int(value) for method, value in found.items()}
    return counts


def wins(evidence: Evidence, metric: str, method: str) -> tuple[int, int, int]:
    """Foreign pairs on which a method is better than the student alone by more than a tie, about equal, and worse."""
    sign, tie = (-1 if metric_direction(metric) == "down" else 1), metric_tie(metric)
    found = evidence.gain_cells(metric)
    gains = [sign * float(cell.value or 0) for key, cell in found.items() if key[2] == method and key[0] != key[1]]
    better, worse = (sum(gain >= tie and gain > 0 for gain in values) for values in (gains, [-gain for gain in gains]))
    return better, len(gains) - better - worse, worse


def significant(evidence: Evidence, metric: str, method: str, beyond_ties: bool = False) -> tuple[int, int, int]:
    """Foreign pairs on which a method is significantly better, and worse, than the student alone, and all that were tested.

    ``beyond_ties``: count only differences that are large enough to matter.
    """
    found = evidence.gain_cells(metric)
    cells = [cell for key, cell in found.items() if key[2] == method and key[0] != key[1]]
    counted = [cell for cell in cells if not (beyond_ties and "tie" in cell.flags)]
    better, worse = (sum(flag in cell.flags for cell in counted) for flag in ("better", "worse"))
    return better, worse, len(cells)


def _comparison_row(evidence: Evidence, metric: str, method: str, gain: Cell) -> tuple[Cell, ...]:
    foreign = evidence.several(metric, method)
    worst, where = _worst(evidence, metric, method)
    counts = wins(evidence, metric, method), significant(evidence, metric, method)
    alone = alone_of(evidence.records, method)
    distils = method in evidence.compared and alone is not None
    ends = [evidence.several(metric, name) for name in (TEACHER, alone or ALONE, method)]
    gap = overall_gap(*ends, higher_is_better=metric_direction(metric) != "down") if distils else None
    seeds, subjects = (0, 0) if foreign is None else (len(foreign.values), foreign.subjects)
    return (
        method_cell(evidence.records, method),
        overall_cell(evidence.several(metric, method, foreign=False)),
        overall_cell(foreign),
        gain,
        Cell(gain.p),
        gap_cell(gap, seeds, subjects),
        pull_cell(evidence.records, method),
        Cell("/".join(map(str, counts[0])) if distils else None),
        Cell(f"{counts[1][0]}/{counts[1][1]} of {counts[1][2]}" if distils else None),
        worst,
        where,
    )


def _worst(evidence: Evidence, metric: str, method: str) -> tuple[Cell, Cell]:
    several = evidence.several(metric, method)
    if several is None:
        return Cell(), Cell()
    means = several.pair_means
    worst = max(means) if metric_direction(metric) == "down" else min(means)
    source, target, _ = several.keys[means.index(worst)]
    return Cell(worst), Cell(f"{source} → {target}")


def _comparison_caption(evidence: Evidence, metric: str, rows: Sequence[Sequence[Cell]]) -> str:
    foreign, _ = evidence.common(metric)
    every = [pair for pair in evidence.pairs if pair[0] != pair[1]]
    return sentences(
        f"Means over {_of_all(len(foreign), len(every))}",
        over_words(evidence, rows),
        interval(evidence),
        _test_words(evidence, "the student alone, over the methods", [row[_P] for row in rows]),
        f"* better, ▾ worse than the student alone, p < {SIGNIFICANT:g}" if evidence.compared else "",
        f"Wins, ties and losses: pairs by their mean difference to the student alone; {tie_words(metric)}",
        "better/worse: pairs with a significant difference, see the table of tests",
        PULL_WORDS,
        lacking(evidence.records, evidence.compared),
        ranks("the column"),
        chosen_by(evidence),
    )


def _of_all(shared: int, every: int) -> str:
    if shared == every:
        return f"in-domain and over all {counted(every, 'foreign source -> target pair')}"
    return f"in-domain and over the {shared} of {counted(every, 'foreign source -> target pair')} that every method has"


def _test_words(evidence: Evidence, family: str, cells: Sequence[Cell]) -> str:
    """What p tests, with n and the smallest p of it; nothing without any p."""
    several = next((found for name in evidence.compared if (found := evidence.several(evidence.headline, name))), None)
    if several is None or all(cell.value is None for cell in cells):
        return ""
    test = overall_test(several)
    return (
        f"p: paired permutation test against {family} (Holm), n = {test.n} {evidence.words.subjects}, each averaged over seeds and sources; "
        f"p cannot be below {test.smallest_p or 1:.2g}"
    )


def over_words(evidence: Evidence, rows: Sequence[Sequence[Cell]]) -> str:
    """The seeds and subjects of the means of a table."""
    cells = [cell for row in rows for cell in row if cell.n]
    if not cells:
        return "n = 0 seeds"
    seeds, subjects = span(cell.n for cell in cells), span(cell.subjects for cell in cells)
    several = max(cell.n for cell in cells) > 1
    means = "mean ± half width of the 95 % t interval over " if several else ""
    return f"{means}n = {counted(seeds, 'seed')}, {counted(subjects, f'test {evidence.words.subject}')}"


def fewer_pairs(evidence: Evidence, metric: str) -> str:
    """Over how many foreign pairs a metric's mean is where some targets do not have it; empty where all do."""
    lacking_it = evidence.unmeasured(metric)
    if not lacking_it:
        return ""
    pairs, every = evidence.common(metric)[0], evidence.common(evidence.headline)[0]
    return f"{short_title(metric)}: over {len(pairs)} of {counted(len(every), 'pair')}, {listed(lacking_it)} not among the targets"


def mean_pairs(evidence: Evidence, metric: str) -> str:
    """The metric whose pairs a mean is over: the headline's, its own where some targets do not have it."""
    return metric if evidence.unmeasured(metric) else evidence.headline


def ranked_columns(
    rows: Sequence[tuple[Cell, ...]], columns: Sequence[Column], methods: Sequence[str], keys: Sequence[str]
) -> list[tuple[Cell, ...]]:
    """The rows with the best and the second student of some columns flagged; the teacher is no contestant."""
    table = [list(row) for row in rows]
    students = [at for at, method in enumerate(methods) if method != TEACHER]
    for place, column in enumerate(columns):
        if column.key in keys:
            ranked = mark_ranks([table[at][place] for at in students], column.direction, column.decimals)
            for at, cell in zip(students, ranked, strict=True):
                table[at][place] = cell
    return [tuple(row) for row in table]


def _families(records: SweepRecords) -> dict[str, list[str]]:
    """Method -> its variants that were scored, for methods that have some; controls and other students have tables of their own."""
    families: dict[str, list[str]] = {}
    for name in records.methods:
        entry = records.origin.variants.get(name, {})
        base = str(entry.get("of", ""))
        if base in records.methods and not entry.get("control") and student_of(records, name) is None:
            families.setdefault(base, []).append(name)
    return families


def _ablation_row(evidence: Evidence, metric: str, method: str, difference: Cell) -> tuple[Cell, ...]:
    entry: Mapping[str, Any] = evidence.records.origin.variants.get(method, {})
    changes = {
        **entry.get("set", {}),
        **{f"alignment.{name}": value for name, value in entry.get("alignment", {}).items()},
    }
    change = ", ".join(f"{name} = {_plain(value)}" for name, value in changes.items())
    return (
        method_cell(evidence.records, method),
        Cell(change or "nothing: the full method"),
        overall_cell(evidence.several(metric, method, foreign=False)),
        overall_cell(evidence.several(metric, method)),
        replace(difference, flags=difference.flags & {"tie"}),
        Cell(difference.p),
    )


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""What selection costs: the selection rules side by side on the same candidates, beside the oracle that nobody can use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gkd_bench.report.captions import seed_words, sentences
from gkd_bench.report.cells import Cell, Column, Direction, Table, mark_ranks, mean_cell
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import TEACHER, metric_column, metric_direction, span, words
from gkd_bench.report.rows import method_cell
from gkd_bench.report.selection import ORACLE, RULES, Candidate, TargetScores, choose, oracle

Training = tuple[str, str, int]
"""(method, source, seed)"""


@dataclass(frozen=True)
class Choice:
    """What every rule gets out of the candidates of one training.

    Attributes:
        training: method, source and seed.
        candidates: how many could be chosen.
        scores: rule, or ``oracle`` -> mean score on foreign targets of what it takes.
    """

    training: Training
    candidates: int
    scores: Mapping[str, float]


def rule_choices(records: SweepRecords, metric: str | None = None) -> list[Choice]:
    """What every rule takes of the candidates (final epochs and trials) of every method, source and seed.

    Only candidates that were scored on all foreign targets of their training can be compared, and so be chosen here.
    """
    evidence = Evidence.of(records)
    metric = metric or evidence.headline
    if not evidence.metrics or not records.candidates:
        return []
    frame = records.candidate_scores(metric).dropna()
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for model, variant, target, score in frame.itertuples(index=False, name=None):
        scores.setdefault(target, {})[model, variant] = score
    groups: dict[Training, list[Candidate]] = {}
    for one in records.candidates:
        if one.method != TEACHER:
            groups.setdefault((one.method, one.source, one.seed), []).append(one)
    down = metric_direction(metric) == "down"
    return list(_choices(groups, scores, down))


def selection_table(records: SweepRecords) -> Table:
    """One row per method: foreign headline of what each rule takes, the oracle last and greyed, and the regret to it."""
    evidence = Evidence.of(records)
    metric = evidence.headline
    choices = rule_choices(records)
    columns = [Column("method", "method"), Column("candidates", "candidates")]
    columns += [metric_column(name, f"{words(name)}{_used(records, name)}", metric) for name in RULES]
    columns += [_regret_column(name, metric) for name in RULES]
    columns.append(metric_column(ORACLE, "oracle (reads target labels)", metric))
    methods = records.in_order({choice.training[0] for choice in choices})
    rows = tuple(
        (method_cell(records, method), *_row([one for one in choices if one.training[0] == method], metric))
        for method in methods
    )
    caption = sentences(
        f"{evidence.title(metric)} on foreign targets of the trained student that each rule takes, averaged over targets and "
        f"sources; {seed_words(evidence, (cell for row in rows for cell in row))}",
        "Candidates: kept epochs of final trainings, and complete trials of a search, of one method, source and seed, that "
        f"were scored on all its foreign targets; the rules see the source's validation {evidence.words.subjects} only",
        *(f"{words(name)}{_used(records, name)}: {rule.title}" for name, rule in RULES.items()),
        "Oracle, greyed: the best candidate for every target by that target's own test labels. It is a bound, and never used",
        "Regret: oracle - rule. Bold: best rule of the row; underlined: the second",
    )
    title = "Selection rules on the same candidates"
    return Table("selection", title, caption, tuple(columns), rows, "selection")


def _regret_column(rule: str, metric: str) -> Column:
    worse: Direction = "up" if metric_direction(metric) == "down" else "down"
    return replace(metric_column(f"{rule}_regret", f"regret of {words(rule)}", metric, signed=True), direction=worse)


def _used(records: SweepRecords, rule: str) -> str:
    return " (used)" if records.origin.rule == rule and records.origin.pick == "rule" else ""


def _choices(
    groups: Mapping[Training, Sequence[Candidate]], scores: Mapping[str, Mapping[tuple[str, str], float]], down: bool
) -> Iterator[Choice]:
    for training, group in sorted(groups.items()):
        mine = {(one.model, one.variant) for one in group}
        targets = [name for name, known in scores.items() if name != training[1] and mine & known.keys()]
        pool = [one for one in group if all((one.model, one.variant) in scores[name] for name in targets)]
        if not targets or not pool:
            continue
        found = {name: _mean(scores, targets, [choose(rule, pool)] * len(targets)) for name, rule in RULES.items()}
        signed = [{place: -value if down else value for place, value in scores[name].items()} for name in targets]
        best = [oracle(pool, TargetScores(known)) for known in signed]
        yield Choice(training, len(pool), {**found, ORACLE: _mean(scores, targets, best)})


def _mean(
    scores: Mapping[str, Mapping[tuple[str, str], float]], targets: Sequence[str], chosen: Sequence[Candidate]
) -> float:
    pairs = zip(targets, chosen, strict=True)
    return float(np.mean([scores[target][one.model, one.variant] for target, one in pairs]))


def _row(choices: Sequence[Choice], metric: str) -> tuple[Cell, ...]:
    cells = {name: _over_seeds(choices, name) for name in (*RULES, ORACLE)}
    regrets = [_over_seeds(choices, name, regret=True) for name in RULES]
    column = metric_column("", "", metric)
    ranked = mark_ranks([cells[name] for name in RULES], column.direction, column.decimals)
    grey = cells[ORACLE].marked("oracle")
    counts = Cell(span(choice.candidates for choice in choices))
    return (counts, *ranked, *regrets, grey)


def _over_seeds(choices: Sequence[Choice], name: str, *, regret: bool = False) -> Cell:
    """Mean over the sources of a seed, then over the seeds that have all sources."""
    seeds: dict[int, list[float]] = {}
    for choice in choices:
        value = choice.scores[ORACLE] - choice.scores[name] if regret else choice.scores[name]
        seeds.setdefault(choice.training[2], []).append(value)
    sources = len({choice.training[1] for choice in choices})
    return mean_cell(float(np.mean(values)) for values in seeds.values() if len(values) == sources)

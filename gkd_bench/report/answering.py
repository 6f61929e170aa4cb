"""The answer of a sweep in a few sentences: what generalised best, whether that is more than a control, and what was silent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gkd_bench.config.method_options import SILENT_RATIO
from gkd_bench.report import comparison
from gkd_bench.report.captions import sizes_on
from gkd_bench.report.cells import Cell
from gkd_bench.report.evidence import SIGNIFICANT, Evidence, Pair
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import (
    ALONE,
    TEACHER,
    counted,
    listed,
    method_title,
    metric_decimals,
    metric_direction,
    metric_tie,
)  # fmt: skip
from gkd_bench.report.overall import overall_cell
from gkd_bench.report.pulls import silent_rows
from gkd_bench.report.rows import MANY, is_adapted, is_distilled, kind_of, student_of

_NAMED, _BEST = 3, 3
Means = dict[str, Cell]


def answer(records: SweepRecords) -> str:
    """The sweep in a few sentences: foreign means, whether any method really beats the student alone, controls, silent losses."""
    evidence = Evidence.of(records)
    metric = evidence.headline
    foreign = [pair for pair in evidence.pairs if pair[0] != pair[1]]
    scored = evidence.blocks(metric).keys()
    if not any(key[0] != key[1] for key in scored):
        return "No network was scored on a foreign domain."
    pairs, seeds = evidence.common(metric)
    if not seeds:
        return "No foreign pair of domains was scored with every method on one seed."
    means = {method: overall_cell(evidence.several(metric, method)) for method in records.methods}
    of = f" of {len(foreign)}" if len(foreign) > len(pairs) else ""
    over = f"{len(pairs)}{of} foreign source → target {'pair' if not of and len(pairs) == 1 else 'pairs'}"
    begin = f"Mean {evidence.title(metric)} over {over}, n = {counted(len(seeds), 'seed')}{_slices(evidence, pairs)}"
    few = len(records.methods) <= MANY
    first = [f"{begin}: {_named(evidence, means, means)}."] if few else _many(evidence, metric, means, begin)
    return " ".join([*first, *_judgement(evidence, metric), *_controls(evidence, metric, means), *_silent(records)])


def _slices(evidence: Evidence, pairs: Iterable[Pair]) -> str:
    """On how many patients and slices the targets of these pairs were scored; empty for photographs."""
    targets = dict.fromkeys(target for _, target in pairs)
    sizes = [sizes_on(evidence, target, evidence.records.methods) for target in targets]
    if not all(one.slices for one in sizes):
        return ""
    subjects, images, slices = (
        sum(max(getattr(one, name)) for one in sizes) for name in ("subjects", "images", "slices")
    )
    return f", {evidence.words.size([subjects], [images], [slices])}"


def _tested(evidence: Evidence) -> str:
    return f"paired tests over {evidence.words.subjects}, Holm, p < {SIGNIFICANT:g}"


def _named(evidence: Evidence, means: Means, methods: Iterable[str]) -> str:
    """Methods with their means, and which of them read images of the target."""
    return ", ".join(
        f"{method_title(method)} {_number(evidence.headline, means[method])}"
        f"{' (uses unlabelled target images)' if is_adapted(evidence.records, method) else ''}"
        for method in methods
    )


def _candidates(evidence: Evidence) -> list[str]:
    """Rows that are to be better than the student alone: methods and variants."""
    return [name for name in evidence.compared if kind_of(evidence.records, name) != "control"]


def _many(evidence: Evidence, metric: str, means: Means, begin: str) -> list[str]:
    """The references, the best three, GKD, and how many are ahead of the student alone, about equal, and behind."""
    records = evidence.records
    rows = [name for name in _candidates(evidence) if means[name].value is not None and not student_of(records, name)]
    ranked = _ranked(metric, means, rows)
    known = [name for name in (TEACHER, ALONE) if name in means]
    text = f"{begin}: {_named(evidence, means, known)}; best of {counted(len(ranked), 'method')}: {_named(evidence, means, ranked[:_BEST])}"
    if "gkd" in ranked[_BEST:]:
        text += f"; {_named(evidence, means, ['gkd'])} is number {ranked.index('gkd') + 1}"
    gains = comparison.overall_gains(evidence, metric, ALONE, rows)
    way = -1 if metric_direction(metric) == "down" else 1
    signed = [way * float(gain.value or 0) for gain in gains.values() if "tie" not in gain.flags]
    ahead, behind = sum(gain > 0 for gain in signed), sum(gain < 0 for gain in signed)
    tie = f"tied (within {metric_tie(metric):g})"
    return [
        f"{text}.",
        f"On this mean {ahead} of {len(gains)} are ahead of the student alone, {len(gains) - ahead - behind} {tie}, {behind} behind.",
    ]


def _controls(evidence: Evidence, metric: str, means: Means) -> Iterator[str]:
    """Whether a plain control is ahead of everything that was distilled: then no gain can be distillation's."""
    records = evidence.records
    there = [name for name in evidence.compared if means[name].value is not None]
    distilled = _ranked(metric, means, [name for name in there if is_distilled(records, name)])
    controls = _ranked(metric, means, [name for name in there if kind_of(records, name) == "control"])
    ahead = [name for name in controls if distilled and _ranked(metric, means, [distilled[0], name])[0] == name]
    if ahead:
        verb = "is a control" if len(ahead) == 1 else "are controls"
        yield (
            f"No method may take credit: {listed(_named(evidence, means, [name]) for name in ahead)} {verb} and "
            f"ahead of every distillation method, the best of which is {_named(evidence, means, distilled[:1])}."
        )


def _silent(records: SweepRecords) -> Iterator[str]:
    rows = silent_rows(records)
    if rows:
        texts = [
            method_title(name) + ("" if text == "silent" else f" ({text.removeprefix('silent: ')})")
            for name, text in rows.items()
        ]
        yield (
            f"Silent losses, whose gradient is below {SILENT_RATIO:g} of cross-entropy's and teaches nothing: {listed(texts)}."
        )


def _ranked(metric: str, means: Means, methods: Iterable[str]) -> list[str]:
    """Methods with a mean, best first; equal ones as readers see them stay in table order."""
    way, decimals = (1 if metric_direction(metric) == "down" else -1), metric_decimals(metric)
    return sorted(methods, key=lambda name: way * round(float(means[name].value or 0), decimals))


def _judgement(evidence: Evidence, metric: str) -> Iterator[str]:
    """Whether a method beats the student alone by more than a tie: on foreign pairs by the tests, else by size, and on their mean."""
    found = {name: comparison.significant(evidence, metric, name, beyond_ties=True) for name in _candidates(evidence)}
    tested = {name: counts for name, counts in found.items() if counts[2]}
    if not tested:
        return
    better = {f"{method_title(name)} on {counts[0]} of {counts[2]}": counts[0] for name, counts in tested.items()}
    worse = {f"{method_title(name)} on {counts[1]} of {counts[2]}": counts[1] for name, counts in tested.items()}
    if any(better.values()):
        yield f"Better than the student alone by more than a tie and significantly ({_tested(evidence)}): {_most(better)} foreign pairs{_on_average(evidence, metric)}."
    else:
        yield f"{_without_significance(evidence, metric, tested)}{_on_average(evidence, metric)}."
    if any(worse.values()):
        yield f"Worse in the same way: {_most(worse)}."


def _most(counts: Mapping[str, float], beyond: str = "on some") -> str:
    """Those that count, all of a few, or the first of many and how many more there are."""
    known = {text: count for text, count in counts.items() if count}
    if len(known) <= MANY:
        return listed(known)
    first = sorted(known, key=lambda text: -known[text])[:_NAMED]
    return listed([*first, f"{len(known) - _NAMED} more {beyond}".strip()])


def _without_significance(evidence: Evidence, metric: str, methods: Iterable[str]) -> str:
    counts = {name: comparison.wins(evidence, metric, name) for name in methods}
    named = {
        f"{method_title(name)} ahead on {won}, behind on {lost} of {won + tied + lost}": won + lost
        for name, (won, tied, lost) in counts.items()
    }
    tie = f"by more than a tie ({metric_tie(metric):g})"
    if not any(won for won, _, _ in counts.values()):
        behind = f"; {_most(named)} pairs" if any(named.values()) else ""
        return f"No method beats the student alone on a foreign domain {tie}{behind}"
    too_few = f", with so few test {evidence.words.subjects} none could be" if evidence.powerless(metric) else ""
    return (
        f"No method beats the student alone {tie} and significantly ({_tested(evidence)}) on any foreign pair{too_few}; "
        f"by more than a tie: {_most(named)} pairs"
    )


def _on_average(evidence: Evidence, metric: str) -> str:
    """Methods whose mean difference over all foreign pairs is significant; empty without any."""
    gains = comparison.overall_gains(evidence, metric, ALONE, evidence.compared)
    named = {
        f"{method_title(name)} {float(gain.value or 0):+.{metric_decimals(metric)}f} (p = {gain.p:.2g}"
        f"{', smaller than a tie' if 'tie' in gain.flags else ''})": abs(float(gain.value or 0))
        for name, gain in gains.items()
        if kind_of(evidence.records, name) != "control" and gain.flags & {"better", "worse"} and gain.p is not None
    }
    if not named:
        return ""
    subjects = max(gain.subjects for gain in gains.values())
    return f"; on the mean over foreign pairs, n = {subjects} {evidence.words.subjects}: {_most(named, '')}"


def _number(metric: str, cell: Cell) -> str:
    return f"{cell.value:.{metric_decimals(metric)}f}" if isinstance(cell.value, float) else "-"

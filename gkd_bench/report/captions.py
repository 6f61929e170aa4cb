"""What captions say: over what a number is a mean, with which n, how a network was chosen, and what the marks mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gkd_bench.report.blocks import Key
from gkd_bench.report.cells import Cell
from gkd_bench.report.evidence import SIGNIFICANT, Evidence, Sizes, Verdict
from gkd_bench.report.names import bare, counted, listed, metric_tie, span
from gkd_bench.report.selection import RULES

PICKS = {"rule": "the one this rule likes best", "closest_to_ideal": "the one closest to the ideal point"}


def interval(evidence: Evidence) -> str:
    """What numbers in brackets are."""
    return f"[ ] 95 % bootstrap interval over seeds and test {evidence.words.subjects}"


def paired(evidence: Evidence) -> str:
    """How a difference of two methods was taken."""
    return f"differences are paired by seed and {evidence.words.subject}"


def unmeasured(evidence: Evidence, metric: str) -> str:
    """Targets that were scored but not by this metric, and why; empty without any."""
    targets = evidence.unmeasured(metric)
    if not targets:
        return ""
    why = ", of which no spacing is known" if bare(metric).endswith("_mm") else ""
    instead = ", where it is in mm" if f"{metric}_mm" in evidence.metrics else ""
    return f"Not measured on {listed(targets)}{why}{instead}"


def basis(evidence: Evidence, cells: Iterable[Cell], seeds: Iterable[int] | None = None) -> str:
    """How a mean was taken and over how many seeds; the seeds that are named are those of the sweep unless given."""
    words = evidence.words
    means = f"Per test {words.image}, averaged per {words.subject}, then over {words.subjects}"
    return f"{means}; {seed_words(evidence, cells, seeds)}."


def seed_words(evidence: Evidence, cells: Iterable[Cell], seeds: Iterable[int] | None = None) -> str:
    """What ± means, and the n of the cells; a range of n where cells differ."""
    counts = sorted({cell.n for cell in cells if cell.n})
    if not counts:
        return "n = 0 seeds"
    named = [*(evidence.records.seeds if seeds is None else seeds)]
    which = f" ({', '.join(map(str, named))})" if len(named) >= counts[-1] else ""
    spread = "mean ± half width of the 95 % t interval over " if counts[-1] > 1 else ""
    return f"{spread}n = {counted(span(counts), 'seed')}{which}"


def seeds_of(evidence: Evidence, metric: str, keys: Iterable[Key]) -> list[int]:
    """Seeds that any of the cells has."""
    blocks = evidence.blocks(metric)
    return sorted({seed for key in keys if key in blocks for seed in blocks[key].seed_means})


def tested_on(evidence: Evidence, methods: Sequence[str]) -> str:
    """How many subjects and images, or slices, each target's scores of these methods rest on."""
    found = {target: sizes_on(evidence, target, methods) for target in evidence.records.targets}
    parts = [
        f"{target}: {evidence.words.size(sizes.subjects, sizes.images, sizes.slices)}"
        for target, sizes in found.items()
        if sizes.subjects
    ]
    return "; ".join(parts) or "nothing"


def sizes_on(evidence: Evidence, target: str, methods: Sequence[str]) -> Sizes:
    """What the scores of these methods on a target rest on, all of them together."""
    found = [evidence.sizes.get((method, target), Sizes()) for method in methods]
    return Sizes(
        [count for one in found for count in one.subjects],
        [count for one in found for count in one.images],
        [count for one in found for count in one.slices],
    )


def chosen_by(evidence: Evidence) -> str:
    """The rule that chose epochs, and the trial of a search."""
    origin = evidence.records.origin
    rule = f"Networks chosen by: {RULES[origin.rule].title}; no target is read."
    return f"{rule} Of a Pareto front, {PICKS.get(origin.pick, origin.pick)}." if evidence.several_objectives else rule


def ranks(where: str) -> str:
    """What bold and underlined numbers are."""
    return f"Bold: best student of {where}; underlined: the second"


def tie_words(metric: str) -> str:
    """What counts as a tie; nothing where no difference is too small to matter."""
    size = metric_tie(metric)
    return f"≈ a tie, smaller than {size:g}" if size else ""


def marks(evidence: Evidence, metric: str) -> str:
    """Significance marks with the doubt that n subjects leave."""
    verdicts = [*evidence.verdicts(metric).values()]
    if not verdicts:
        return ""
    permutation = f"paired permutation test over {evidence.words.subjects}"
    words = f"* better, ▾ worse than the student alone ({permutation}, Holm over {verdicts[0].family} comparisons, p < {SIGNIFICANT:g})"
    return f"{words}; {smallest_words(evidence, verdicts)}"


def smallest_words(evidence: Evidence, verdicts: Sequence[Verdict]) -> str:
    """The smallest p that so few subjects can give, and whether anything can be significant at all."""
    known = [verdict for verdict in verdicts if verdict.test.smallest_p is not None]
    if not known:
        return f"no target has the two {evidence.words.subjects} that a test needs"
    subjects = span(verdict.test.n for verdict in known)
    smallest = [float(verdict.test.smallest_p or 1.0) for verdict in known]
    family = known[0].family
    ends = sorted({f"{min(smallest):.2g}", f"{max(smallest):.2g}"}, key=float)
    words = f"n = {subjects} {evidence.words.subjects}, with which p cannot be below {' to '.join(ends)}"
    if min(smallest) * family >= SIGNIFICANT:
        words += f" (times {family} for the first Holm step: nothing can be significant here)"
    return words


def sentences(*parts: str) -> str:
    """Parts as sentences, empty ones left out; a word gets a capital letter, a symbol like n does not."""
    whole = (f"{part[0].upper()}{part[1:]}" if part[1:2].isalpha() else part for part in parts if part)
    return " ".join(part if part.endswith(".") else f"{part}." for part in whole)

"""The model card of a selected student: what a stranger needs before using it, in Markdown, from the records alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gkd_bench.report.domains import window_of
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Student
from gkd_bench.report.frame import SLICES, SweepRecords
from gkd_bench.report.names import listed, method_title, metric_decimals, of_class, short_title, words
from gkd_bench.report.origin import DISCLAIMER
from gkd_bench.report.render import code, escape_markdown
from gkd_bench.report.runs import headline_metrics
from gkd_bench.report.selection import RULES, Candidate
from gkd_bench.report.statistics import Bounds, HierarchicalBootstrap
from gkd_bench.report.students import NO_METHOD, registered_name

ALIAS = "selected"
_SHOWN = ("iou", "sensitivity", "specificity", "auc", "hd95_mm", "hd95", "nsd_mm", "nsd", "cldice", "ece")


@dataclass(frozen=True)
class Card:
    """A selected student and what the records say about it.

    Attributes:
        records: records of the sweep.
        candidate: the training and epoch that the sweep's rule took.
        student: how its network is built and fed.
        why: how the student was chosen, one sentence, where it was not simply the sweep's own choice for its source.
    """

    records: SweepRecords
    candidate: Candidate
    student: Student
    why: str = ""

    @property
    def name(self) -> str:
        """Name in the model registry."""
        return registered_name(self.records.sweep, self.candidate.source)


def model_card(card: Card, use: str = "", further: Sequence[str] = ()) -> str:
    """The card in Markdown: use, scores per target with intervals and n, selection, training, preparation, limits.

    Args:
        card: the student.
        use: the section that says how it is used; by default from the model registry.
        further: sections that follow the scores of the model.
    """
    before = [_head(card), use or _use(card), _scores(card), *further]
    return "\n".join([*before, *(part(card) for part in (_selection, _training, _preparation, _limits))])


def summary(card: Card) -> str:
    """The card's first paragraph, for places where only a line is shown."""
    one, records = card.candidate, card.records
    return (
        f"Segments {_structures(records)} in prepared image tiles; a {card.student.network['name']} x{card.student.network['width']} "
        f"trained on {one.source} only by {method_title(one.method)}, seed {one.seed}. {_taken(card)}"
    )


def _taken(card: Card) -> str:
    if card.why:
        return f"From sweep {card.records.sweep}: {card.why}."
    rule = RULES[card.records.origin.rule]
    return f"Taken by the rule *{rule.title}* from sweep {card.records.sweep}; no target was read."


def _head(card: Card) -> str:
    return f"# {escape_markdown(card.name)}\n\n{summary(card)}\n\n**Research only; no medical device.** {DISCLAIMER}\n"


def _use(card: Card) -> str:
    side, words = card.student.tile, Evidence.of(card.records).words
    channels, classes = _channels(card), int(card.student.network.get("classes", 2)) - 1
    found = f"(n, {f'{classes}, ' if classes > 1 else ''}{side}, {side})"
    if classes > 1:  # what is missing to 1 is the background's
        decided = (
            "classes = np.concatenate([1 - probability.sum(1, keepdims=True), probability], axis=1).argmax(axis=1)"
        )
    else:
        decided = f"foreground = probability >= {card.student.threshold:g}"
    return f"""## Use

```python
import mlflow
model = mlflow.pyfunc.load_model("models:/{card.name}@{ALIAS}")
probability = model.predict(tiles)  # (n, {channels}, {side}, {side}) float32 in [0, 1] -> {found} float32 in [0, 1]
{decided}
```

Loading needs torch and mlflow, not the package that trained it; `mlflow.pytorch.load_model` gives a torch module. Whole \
{words.picture}s are covered by overlapping tiles whose probabilities are averaged. Intended for comparing how well light networks \
do on other scanners and hospitals, and as a starting point for research.
"""


def _scores(card: Card) -> str:
    """Scores of this very model per target: mean over subjects, Dice with an interval over subjects."""
    one, evidence = card.candidate, Evidence.of(card.records)
    rows, people = card.records.subject_scores, evidence.words.subjects
    rows = rows[(rows["source"] == one.source) & (rows["method"] == one.method) & (rows["seed"] == one.seed)]
    names = headline_metrics(card.records.subject_scores)
    wanted = {*_SHOWN, *(of_class("dice", name) for name in evidence.classes)}
    shown = {column: title for column, title in names.items() if title in wanted and rows[column].notna().any()}
    dice = next((column for column, title in names.items() if title == "dice"), None)
    if rows.empty or dice is None:
        return "## Scores\n\nIt has not been scored on test images.\n"
    slices = _slices(card)
    titles = ["target", "Dice", "95 % interval", people, *([SLICES] if slices else []), *map(short_title, shown)]
    lines = [_row(titles), _row(["---"] * len(titles))]
    lines += [
        _score_row(card, str(target), part, dice, shown, slices) for target, part in rows.groupby("target", sort=False)
    ]
    note = (
        f"Means over test {people}{evidence.words.inside}; the interval is a bootstrap over {people} of this one model (n = 1 seed) and does "
        f"not say how another training would do. The source's own test {people} are marked ◦. {_seeds_note(card, dice)}"
    )
    return "## Scores\n\n" + "\n".join(lines) + f"\n\n{note}\n"


def _slices(card: Card) -> dict[str, int]:
    """Target -> how many of its slices this model was scored on; nothing for photographs."""
    one, scores = card.candidate, card.records.seed_scores
    if SLICES not in scores:
        return {}
    mine = scores[(scores["source"] == one.source) & (scores["method"] == one.method) & (scores["seed"] == one.seed)]
    found = mine[mine[SLICES].notna()]
    return {str(target): int(count) for target, count in zip(found["target"], found[SLICES], strict=True)}


def _score_row(
    card: Card, target: str, part: pd.DataFrame, dice: str, shown: Mapping[str, str], slices: Mapping[str, int]
) -> str:
    values = part[dice].dropna().to_numpy(np.float64)
    bounds = _interval(values)
    interval = f"{bounds.low:.3f} to {bounds.high:.3f}" if bounds else "-"
    mark = " ◦" if target == card.candidate.source else ""
    means = {column: float(part[column].mean()) for column in shown}
    numbers = [f"{mean:.{metric_decimals(name)}f}" if np.isfinite(mean) else "-" for name, mean in means.items()]
    counts = [str(values.size), *([str(slices.get(target, "-"))] if slices else [])]
    dice_text = f"{values.mean():.3f}" if values.size else "-"
    return _row([f"{escape_markdown(target)}{mark}", dice_text, interval, *counts, *numbers])


def _interval(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Bounds | None:
    if values.size < 2:
        return None
    return HierarchicalBootstrap(seeds=1, subjects=values.size).intervals(values[None, None, :])[0]


def _seeds_note(card: Card, dice: str) -> str:
    """How the same method did over all seeds, so that one lucky training is not taken for the method."""
    scores, one = card.records.seed_scores, card.candidate
    same = scores[(scores["source"] == one.source) & (scores["method"] == one.method)]
    foreign = same[same["target"] != one.source].groupby("seed")[dice].mean().dropna()
    if foreign.empty:
        return ""
    span = f"{foreign.min():.3f} to {foreign.max():.3f}"
    return f"Over all {len(foreign)} seeds the method has mean Dice {foreign.mean():.3f} ({span}) on the other domains."


def _selection(card: Card) -> str:
    one, records = card.candidate, card.records
    rule = RULES[records.origin.rule]
    finals = [c for c in records.candidates if c.source == one.source and c.trial is None and c.method not in NO_METHOD]
    methods = ", ".join(method_title(name) for name in records.in_order({c.method for c in finals}))
    seeds = _listed(sorted({c.seed for c in finals}))
    what = (
        f"Chosen: {card.why}. The sweep's rule is `{rule.name}`: {rule.title}. Exported:"
        if card.why
        else f"Rule `{rule.name}`: {rule.title}, over {len(finals)} candidates ({methods}; seeds {seeds}). It took"
    )
    return f"""## How it was selected

{what} {method_title(one.method)}, seed {one.seed}, epoch {one.epoch} ({one.variant}): validation Dice {one.val_dice:.3f}, \
under scanner-like corruptions {one.val_dice_stressed:.3f}. Labels of targets were read for the scores above only.
"""


def _training(card: Card) -> str:
    one, origin = card.candidate, card.records.origin
    print_of = origin.fingerprints.get(one.source)
    lines = [
        f"* data: training {Evidence.of(card.records).words.subjects} of `{one.source}`"
        + (f", prepared data `{print_of[:12]}`" if print_of else ""),
        f"* network: {card.student.network['name']}, width {card.student.network['width']}{_size(one)}",
        f"* content key of the training: `{one.model}`",
        *([f"* made by: {code(origin.command)}"] if origin.command else []),
        *([f"* machine: {escape_markdown(origin.machine)}"] if origin.machine else []),
    ]
    return "## Training\n\n" + "\n".join(lines) + "\n"


def _size(one: Candidate) -> str:
    return f", {one.macs / 1e6:.1f} M multiply-accumulates per tile" if np.isfinite(one.macs) else ""


def _preparation(card: Card) -> str:
    """Whatever the images went through; a network fed otherwise does not do what the scores say."""
    side, picture = card.student.tile, Evidence.of(card.records).words.picture
    facts = [f"* {escape_markdown(name)}: {code(value)}" for name, value in _flat(card.student.prepare)]
    window = window_of(card.records, card.candidate.source)
    facts += [f"* grey levels of {escape_markdown(card.candidate.source)}: {escape_markdown(window)}"] if window else []
    values = (
        "one channel, 0 to 1 (grey level / 255)"
        if _channels(card) == 1
        else "red, green and blue, 0 to 1 (level / 255)"
    )
    facts += [f"* input: tiles of {side} x {side} pixels, {values}"]
    several = int(card.student.network.get("classes", 2)) > 2
    facts += ["* the most probable of background and classes is taken" if several
              else f"* foreground from probability {card.student.threshold:g}"]  # fmt: skip
    return f"## Preparation of {picture}s\n\n" + "\n".join(facts) + "\n"


def _channels(card: Card) -> int:
    return int(card.student.network.get("in_channels", 1))


def _limits(card: Card) -> str:
    warnings = card.records.of("health")
    failed = int((~warnings["ok"].astype(bool)).sum()) if len(warnings) else 0
    checks = f" {failed} health checks of the sweep failed; its report says which." if failed else ""
    said = Evidence.of(card.records).words
    where = ", at another pixel scale or outside the field of view" if said.has_region else " or at another pixel scale"
    return f"""## Limits

* Trained on one domain with few {said.subjects}. On other scanners, populations or diseases it can fail without any sign of it.
* {said.picture.capitalize()}s prepared in another way{where} are out of scope.
* Never to be used for diagnosis or treatment.{checks}
"""


def _structures(records: SweepRecords) -> str:
    """What is segmented: the classes where there are several, else the task's name, which for one's own data says nothing."""
    classes, task = Evidence.of(records).classes, _task(records)
    if classes:
        return listed(words(name) for name in classes)
    return "structures" if task == "segmentation" else f"{task}s"


def _task(records: SweepRecords) -> str:
    tasks = records.of("candidate")["task"].dropna().unique()
    return str(tasks[0]) if len(tasks) else "structure"


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""The tables of scores: pure functions from records to tables. Nothing in them is a number of the paper.

The headline Dice is ``dice_fov``: computed per test image inside the field of view, averaged over the images of a
subject, then over subjects; a cell is the mean and the standard deviation of that over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from gkd_bench.report.cells import Cell, Column, Direction, Table, mark_best, mean_cell
from gkd_bench.report.frame import CELL, SweepRecords, methods_in_order, metric_names

HEADLINE = "dice_fov"
ALONE = "scratch"
TIE = 0.005
METHOD_TITLES = {
    "teacher": "teacher",
    "baseline": "student before continuation",
    "scratch": "student alone",
    "kd": "KD",
    "gkd": "GKD",
}
METRIC_TITLES = {"dice": "Dice", "iou": "IoU", "auc": "AUC"}
SPACES = ("aligned", "bottleneck", "random_header")
REFERENCES = ("teacher", "baseline", ALONE)

_MARKS = "◦ in-domain (target = source), n/a: domain left out, -: not scored."
_Pair = tuple[str, str]
_Key = tuple[str, str, str]
_Values = Mapping[_Key, Mapping[int, float]]


def matrix(records: SweepRecords, metric: str = HEADLINE, method: str = "gkd") -> Table:
    """Source x target matrix of one metric of one method: mean and standard deviation over seeds.

    Args:
        records: records of the sweep.
        metric: column of the image records; ``_fov`` = inside the field of view, plain = whole image.
        method: ``teacher``, ``baseline``, ``scratch`` or a distillation method.

    Raises:
        KeyError: no image record has the metric.
    """
    values = _by_seed(records.seed_scores, metric)
    name = f"{metric}_{method}"
    title = f"{metric_title(metric)} of {method_title(method)}, source x target"
    caption = f"{_basis(records)} Rows: trained on; columns: tested on ({_counts(records)}). {_MARKS}"
    return _matrix(records, name, title, caption, metric, [(*pair, method) for pair in _pairs(records)], values)


def triple(records: SweepRecords, metric: str = HEADLINE) -> Table:
    """Teacher, student alone and every method for each source -> target, with the difference to the student alone.

    Differences are paired: taken seed by seed, then averaged; only seeds that both have count. A difference below 0.005
    in size is a tie unless all of at least three seeds agree in sign. The best student of a row is flagged; the teacher
    is no contestant.
    """
    methods = _table_methods(records)
    distilled = [method for method in methods if method not in REFERENCES]
    columns = [Column("source", "source"), Column("target", "target")]
    columns += [Column(method, method_title(method), "up", spread=True) for method in methods]
    columns += [
        Column(f"{method}-{ALONE}", f"{method_title(method)} - student alone", "up", spread=True, signed=True)
        for method in distilled
    ]
    values = _by_seed(records.seed_scores, metric)
    rows = tuple(_triple_row(records, values, pair, methods, distilled) for pair in _pairs(records))
    caption = (
        f"{_basis(records)} Differences are paired by seed; ≈ a tie (below {TIE} and the seeds disagree, or fewer "
        f"than three). Bold: best student of the row. Tested on: {_counts(records)}. {_MARKS}"
    )
    title = f"{metric_title(metric)}: teacher, student alone and distilled student"
    return Table("triple", title, caption, tuple(columns), rows)


def answer(records: SweepRecords, metric: str = HEADLINE) -> str:
    """The sweep in one sentence: mean of every method over the foreign targets that all methods were scored on."""
    scores = records.seed_scores
    foreign = scores[scores["source"] != scores["target"]]
    if foreign.empty:
        return "No network was scored on a foreign domain."
    means = foreign.pivot_table(index=["source", "target"], columns="method", values=metric).dropna()
    if means.empty:
        return "No pair of domains was scored with every method."
    parts = [f"{method_title(method)} {means[method].mean():.3f}" for method in records.methods if method in means]
    count = f"{len(means)} foreign source -> target pair{'s' if len(means) != 1 else ''}"
    return f"Mean {metric_title(metric)} over {count}, n = {len(records.seeds)} seeds: {', '.join(parts)}."


def fsd_matrix(records: SweepRecords, use: str = "domain", space: str = "aligned", method: str = "gkd") -> Table:
    """Source x target matrix of the Fréchet Semantic Distance of one method's vectors (method.md section 3).

    Args:
        records: records of the sweep.
        use: ``domain`` (network's vectors, source against target), ``semantic`` (network against the masks' vectors) or
            ``teacher_student``.
        space: ``aligned``, ``bottleneck`` (raw) or ``random_header`` (the control).
        method: whose vectors.
    """
    frame = records.of("fsd", "test")
    chosen = frame[(frame["use"] == use) & (frame["space"] == space)]
    values = _by_seed(chosen[chosen["method"] == method], "value")
    keys = [(*pair, method) for pair in _pairs(records)]
    mine = chosen[chosen["method"] == method]
    caption = (
        f"Lower is better. Mean ± standard deviation over seeds. {_fsd_basis(mine)} A reconstruction: the published "
        f"abstract does not define the distance. {_MARKS}"
    )
    title = f"FSD ({_words(use)}, {_words(space)}) of {method_title(method)}, source x target"
    return _matrix(records, f"fsd_{use}_{space}_{method}", title, caption, "fsd", keys, values)


def fsd_comparison(records: SweepRecords, use: str = "domain") -> Table:
    """FSD of every method and pair in each space, beside the same-domain floor: does alignment beat its controls?"""
    frame = records.of("fsd", "test")
    chosen = frame[frame["use"] == use]
    spaces = [space for space in SPACES if space in set(chosen["space"])]
    values = [_by_seed(chosen[chosen["space"] == space], "value") for space in spaces]
    values.append(_by_seed(chosen[chosen["space"] == "aligned"], "floor"))
    columns = [Column("source", "source"), Column("target", "target"), Column("method", "method")]
    columns += [Column(space, _words(space), "down", spread=True) for space in spaces]
    columns.append(Column("floor", "same-domain floor (aligned)", "down", spread=True))
    keys = [
        (*pair, method)
        for pair in _pairs(records)
        for method in methods_in_order({str(name) for name in chosen["method"]})
        if any((*pair, method) in column for column in values)
    ]
    rows = tuple(
        (Cell(key[0]), Cell(key[1]).marked("in_domain", key[0] == key[1]), Cell(method_title(key[2])),
         *(mean_cell(column.get(key, {}).values()) for column in values))
        for key in keys
    )  # fmt: skip
    caption = f"Lower is better. Mean ± standard deviation over seeds. {_fsd_basis(chosen)}"
    return Table(f"fsd_{use}", f"FSD ({_words(use)}) and its controls", caption, tuple(columns), rows)


def scores(records: SweepRecords) -> Table:
    """Every metric of every trained network on every target, one row per seed; the raw material of the matrices.

    Plain columns are means over subjects, ``pooled/`` columns count all pixels of the target together.
    """
    pooled = records.pooled_scores.set_index(CELL).add_prefix("pooled/")
    frame = records.seed_scores.join(pooled, on=CELL)
    metrics = [*metric_names(records.seed_scores), *map(str, pooled.columns)]
    columns = [Column(name, name) for name in (*CELL, "network", "subjects", "images")]
    columns += [Column(name, name, "up") for name in metrics]
    caption = (
        "Test subjects. Plain: mean over images per subject, then over subjects; pooled/: all pixels together. "
        "_fov: inside the field of view, else the whole image."
    )
    return Table("scores", "All scores", caption, tuple(columns), frame_rows(columns, frame))


def fsd_values(records: SweepRecords) -> Table:
    """Every measured FSD, one row each: value, bootstrap interval, same-domain floor and counts."""
    texts = (*CELL, "split", "network", "use", "space", "n_a", "n_b", "dim")
    columns = [Column(name, name) for name in texts]
    columns += [Column(name, name, "down") for name in ("value", "low", "high", "floor")]
    frame = records.of("fsd").sort_values([*CELL, "split", "use", "space"], kind="stable")
    caption = "low, high: 95 % bootstrap interval over tiles; floor: split-half value of the same domain."
    return Table("fsd", "All Fréchet Semantic Distances", caption, tuple(columns), frame_rows(columns, frame))


def method_title(method: str) -> str:
    """What readers see for a method."""
    return METHOD_TITLES.get(method, method)


def metric_title(metric: str) -> str:
    """What readers see for a metric, the region included."""
    name = metric.removesuffix("_fov")
    title = METRIC_TITLES.get(name, name)
    return f"{title} (field of view)" if metric.endswith("_fov") else f"{title} (whole image)"


def value_cell(value: object) -> Cell:
    """A cell for one plain value; a missing one (None, NaN) becomes an empty cell, numpy's numbers plain ones."""
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None or plain != plain:
        return Cell()
    return Cell(plain if isinstance(plain, str | int | float) else str(plain))


def frame_rows(columns: Sequence[Column], frame: pd.DataFrame) -> tuple[tuple[Cell, ...], ...]:
    """The rows of a frame as cells, one per column of the table, found by the column's key."""
    lists = [[value_cell(value) for value in frame[column.key]] for column in columns]
    return tuple(zip(*lists, strict=True))


def _matrix(
    records: SweepRecords, name: str, title: str, caption: str, metric: str, keys: Sequence[_Key], values: _Values
) -> Table:
    direction: Direction = "down" if metric == "fsd" else "up"
    columns = [Column("source", "trained on")]
    columns += [Column(target, target, direction, spread=True) for target in records.targets]
    cells = {key[:2]: _scored(records, values, key) for key in keys}
    rows = [(Cell(source), *(cells[source, target] for target in records.targets)) for source in records.sources]
    return Table(name, title, caption, tuple(columns), tuple(rows))


def _triple_row(
    records: SweepRecords, values: _Values, pair: _Pair, methods: Sequence[str], distilled: Sequence[str]
) -> tuple[Cell, ...]:
    scored = {method: _scored(records, values, (*pair, method)) for method in methods}
    students = [method for method in methods if method != "teacher"]
    scored |= dict(zip(students, mark_best([scored[method] for method in students], "up"), strict=True))
    alone = values.get((*pair, ALONE), {})
    gains = [_gain(values.get((*pair, method), {}), alone) for method in distilled]
    missing = _is_missing(records, pair)
    names = (Cell(pair[0]), Cell(pair[1]).marked("in_domain", pair[0] == pair[1]))
    return (*names, *(scored[method] for method in methods), *(cell.marked("missing", missing) for cell in gains))


def _gain(mine: Mapping[int, float], alone: Mapping[int, float]) -> Cell:
    gains = [mine[seed] - alone[seed] for seed in sorted(mine.keys() & alone.keys())]
    cell = mean_cell(gains)
    agree = len(gains) >= 3 and (all(gain > 0 for gain in gains) or all(gain < 0 for gain in gains))
    small = isinstance(cell.value, float) and abs(cell.value) < TIE
    return cell.marked("tie", small and not agree)


def _scored(records: SweepRecords, values: _Values, key: _Key) -> Cell:
    cell = mean_cell(values.get(key, {}).values())
    return cell.marked("in_domain", key[0] == key[1]).marked("missing", _is_missing(records, key))


def _is_missing(records: SweepRecords, key: Sequence[str]) -> bool:
    return key[0] in records.missing or key[1] in records.missing


def _by_seed(frame: pd.DataFrame, column: str) -> _Values:
    """(source, target, method) -> seed -> value, undefined values left out; each seed once."""
    values: dict[_Key, dict[int, float]] = {}
    if frame.empty:
        return values
    chosen = frame[[*CELL, column]].dropna()
    for source, target, method, seed, value in chosen.itertuples(index=False, name=None):
        values.setdefault((source, target, method), {})[int(seed)] = float(value)
    return values


def _pairs(records: SweepRecords) -> list[_Pair]:
    return [(source, target) for source in records.sources for target in records.targets]


def _table_methods(records: SweepRecords) -> list[str]:
    """Teacher and student alone are always there, so that a missing one is seen."""
    return methods_in_order({"teacher", ALONE, *records.methods})


def _basis(records: SweepRecords) -> str:
    seeds = ", ".join(map(str, records.seeds)) or "none"
    return (
        "Per test image, averaged per subject, then over subjects; mean ± standard deviation over "
        f"n = {len(records.seeds)} seeds ({seeds})."
    )


def _counts(records: SweepRecords) -> str:
    """How many subjects and images each target's scores rest on."""
    frame = records.seed_scores.groupby("target")[["subjects", "images"]].max()
    counts = {str(target): (int(subjects), int(images)) for target, subjects, images in frame.itertuples(name=None)}
    found = [(target, *counts[target]) for target in records.targets if target in counts]
    parts = [f"{target}: {subjects} subjects, {images} images" for target, subjects, images in found]
    return "; ".join(parts) or "nothing"


def _fsd_basis(frame: pd.DataFrame) -> str:
    """n, dimension and floor of the FSD records a table rests on."""
    if frame.empty:
        return "No FSD was measured."
    sizes = [f"{name} = {_span(frame[column])}" for name, column in (("n", "n_a"), ("m", "n_b"), ("d", "dim"))]
    return (
        f"Vectors per set {', '.join(sizes[:2])}; dimensions {sizes[2]}; same-domain floor {frame['floor'].mean():.3g}."
    )


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _words(name: str) -> str:
    return name.replace("_", " ")

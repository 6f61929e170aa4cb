"""The tables of scores: pure functions from records to tables. Nothing in them is a number of the paper.

The headline Dice is ``dice_fov``: computed per test image inside the field of view, averaged over the images of a
subject, then over subjects; a cell is the mean and the standard deviation of that over seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from gkd_bench.metrics.catalogue import METRICS
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
    "p-sae": "P-SAE",
    "tan": "TAN (teacher)",
    "san": "SAN (student)",
}
SPACES = ("aligned", "aligned_own", "random_header", "bottleneck")
REFERENCES = ("teacher", "baseline", ALONE)
_FLOORS = (("floor", "same-domain floor"), ("floor_high", "95 % of the null"))

_SCALES = (
    "Only aligned own (the same vectors, standardised by the source's own deviation) and random header share a scale; "
    "aligned is in P-SAE units and shrinks when vectors regress to the mean."
)
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
    keys = [(*pair, method) for pair in _pairs(records)]
    region = "" if metric.endswith("_fov") else "_whole"
    name = f"matrix_{_bare(metric)}{region}_{method}"
    title = f"{metric_title(metric)} of {method_title(method)}, source x target"
    tested = _counts(records, [method])
    caption = f"{_basis(values, keys)} Rows: trained on; columns: tested on ({tested}). {_MARKS}"
    return _matrix(records, name, title, caption, metric, keys, values)


def triple(records: SweepRecords, metric: str = HEADLINE) -> Table:
    """Teacher, student alone and every method for each source -> target, with the difference to the student alone.

    Differences are paired: taken seed by seed, then averaged; only seeds that both have count. A difference below 0.005
    in size is a tie unless all of at least three seeds agree in sign. The best student of a row is flagged; the teacher
    is no contestant.
    """
    methods = _table_methods(records)
    distilled = [method for method in methods if method not in REFERENCES]
    columns = [Column("source", "source"), Column("target", "target")]
    better = metric_direction(metric)
    columns += [Column(method, method_title(method), better, spread=True) for method in methods]
    columns += [
        Column(f"{method}-{ALONE}", f"{method_title(method)} - student alone", better, spread=True, signed=True)
        for method in distilled
    ]
    values = _by_seed(records.seed_scores, metric)
    rows = tuple(_triple_row(records, values, pair, methods, distilled, better) for pair in _pairs(records))
    keys = [(*pair, method) for pair in _pairs(records) for method in methods]
    caption = (
        f"{_basis(values, keys)} Differences are paired by seed; ≈ a tie (below {TIE} and the seeds disagree, or fewer "
        f"than three). Bold: best student of the row. Tested on: {_counts(records, methods)}. {_MARKS}"
    )
    title = f"{metric_title(metric)}: teacher, student alone and distilled student"
    return Table("triple", title, caption, tuple(columns), rows)


def answer(records: SweepRecords, metric: str = HEADLINE) -> str:
    """The sweep in one sentence: mean of every method over the foreign (source, target, seed) rows that all methods have."""
    scores = records.seed_scores
    foreign = scores[scores["source"] != scores["target"]]
    if foreign.empty:
        return "No network was scored on a foreign domain."
    every = foreign.pivot(index=["source", "target", "seed"], columns="method", values=metric)
    shared = every.reindex(columns=records.methods).dropna()
    if shared.empty:
        return "No foreign pair of domains was scored with every method on one seed."
    parts = [f"{method_title(method)} {shared[method].mean():.3f}" for method in records.methods]
    pairs = _counted(len({row[:2] for row in shared.index}), "foreign source -> target pair")
    count = f"n = {len(shared)}{f' of {len(every)}' if len(every) > len(shared) else ''}"
    words = "(source, target, seed) rows, those that every method has"
    return f"Mean {metric_title(metric)} over {pairs}, {count} {words}: {', '.join(parts)}."


def fsd_matrix(records: SweepRecords, use: str = "domain", space: str = "aligned", method: str = "gkd") -> Table:
    """Source x target matrix of the Fréchet Semantic Distance of one method's vectors.

    The distance is a reconstruction, see docs/method.md.

    Args:
        records: records of the sweep.
        use: ``domain`` (network's vectors, source against target), ``semantic`` (network against the masks' vectors) or
            ``teacher_student``.
        space: ``aligned`` (P-SAE units), ``aligned_own`` (source's own deviation), ``random_header`` (the control) or
            ``bottleneck`` (raw).
        method: whose vectors.
    """
    frame = records.of("fsd", "test")
    mine = frame[(frame["use"] == use) & (frame["space"] == space) & (frame["method"] == method)]
    values = _by_seed(mine, "value")
    keys = [(*pair, method) for pair in _pairs(records)]
    caption = (
        f"{_fsd_basis(mine, use, values, keys)} A reconstruction: the published abstract does not define the distance. "
        f"{_MARKS}"
    )
    title = f"{METRICS['fsd'].title} ({_words(use)}, {_words(space)}) of {method_title(method)}, source x target"
    kind = "" if (use, space) == ("domain", "aligned") else f"{use}_{space}_"
    return _matrix(records, f"matrix_fsd_{kind}{method}", title, caption, "fsd", keys, values)


def fsd_comparison(records: SweepRecords, use: str = "domain") -> Table:
    """FSD of every method and pair in each space, beside the same-domain floor where it was measured.

    Does alignment beat its controls? Only ``aligned_own`` and ``random_header`` share a scale.
    """
    frame = records.of("fsd", "test")
    chosen = frame[frame["use"] == use]
    spaces = [space for space in SPACES if space in set(chosen["space"])]
    aligned = chosen[chosen["space"] == "aligned"]
    floors = [(name, title) for name, title in _FLOORS if aligned[name].notna().any()]
    values = [_by_seed(chosen[chosen["space"] == space], "value") for space in spaces]
    values += [_by_seed(aligned, name) for name, _ in floors]
    columns = [Column("source", "source"), Column("target", "target"), Column("method", "method")]
    better = metric_direction("fsd")
    columns += [Column(space, _words(space), better, spread=True) for space in spaces]
    columns += [Column(name, f"{title} (aligned)", spread=True) for name, title in floors]
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
    caption = _fsd_basis(chosen, use, _by_seed(chosen, "value"), keys)
    controls = " and its controls" if len(spaces) > 1 else ""
    title = f"{METRICS['fsd'].title} ({_words(use)}){controls}"
    return Table(f"fsd_{use}", title, caption, tuple(columns), rows)


def scores(records: SweepRecords) -> Table:
    """Every metric of every trained network on every target, one row per seed; the raw material of the matrices.

    Plain columns are means over subjects, ``pooled/`` columns count all pixels of the target together.
    """
    pooled = records.pooled_scores.set_index(CELL).add_prefix("pooled/")
    frame = records.seed_scores.join(pooled, on=CELL)
    metrics = [*metric_names(records.seed_scores), *map(str, pooled.columns)]
    columns = [Column(name, name) for name in (*CELL, "network", "subjects", "images")]
    columns += [Column(name, name, metric_direction(name)) for name in metrics]
    caption = (
        "Test subjects. Plain: mean over images per subject, then over subjects; pooled/: all pixels together. "
        "_fov: inside the field of view, else the whole image."
    )
    return Table("scores", "All scores", caption, tuple(columns), frame_rows(columns, frame))


def fsd_values(records: SweepRecords) -> Table:
    """Every measured FSD, one row each: value, bootstrap interval, same-domain floor and counts."""
    texts = (*CELL, "split", "network", "use", "space", "n_a", "n_b", "dim")
    columns = [Column(name, name) for name in texts]
    columns.append(Column("value", "value", metric_direction("fsd")))
    columns += [Column(name, name) for name in ("low", "high", "floor", "floor_high")]
    frame = records.of("fsd").sort_values([*CELL, "split", "use", "space"], kind="stable")
    caption = (
        "low, high: 95 % bootstrap interval over tiles; floor: mean value between random halves of the same domain, "
        "floor_high: 95 % of those halves lie below."
    )
    return Table("fsd", "All Fréchet Semantic Distances", caption, tuple(columns), frame_rows(columns, frame))


def method_title(method: str) -> str:
    """What readers see for a method."""
    return METHOD_TITLES.get(method, method)


def metric_title(metric: str) -> str:
    """What readers see for a metric, the region included."""
    title = METRICS[_bare(metric)].title if _bare(metric) in METRICS else _bare(metric)
    return f"{title} (field of view)" if metric.endswith("_fov") else f"{title} (whole image)"


def metric_direction(metric: str) -> Direction:
    """Which way a metric is better, from the catalogue; ``none`` for a metric that has no card there."""
    card = METRICS.get(_bare(metric))
    return "none" if card is None else "up" if card.higher_is_better else "down"


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
    columns = [Column("source", "trained on")]
    columns += [Column(target, target, metric_direction(metric), spread=True) for target in records.targets]
    cells = {key[:2]: _scored(records, values, key) for key in keys}
    rows = [(Cell(source), *(cells[source, target] for target in records.targets)) for source in records.sources]
    return Table(name, title, caption, tuple(columns), tuple(rows))


def _triple_row(
    records: SweepRecords,
    values: _Values,
    pair: _Pair,
    methods: Sequence[str],
    distilled: Sequence[str],
    better: Direction,
) -> tuple[Cell, ...]:
    scored = {method: _scored(records, values, (*pair, method)) for method in methods}
    students = [method for method in methods if method != "teacher"]
    scored |= dict(zip(students, mark_best([scored[method] for method in students], better), strict=True))
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


def _basis(values: _Values, keys: Iterable[_Key]) -> str:
    return (
        "Per test image, averaged per subject, then over subjects; mean ± standard deviation over "
        f"{_seed_words(values, keys)}."
    )


def _seed_words(values: _Values, keys: Iterable[_Key]) -> str:
    """The seeds that the scored cells of a table really have; a range of n where cells differ."""
    found = [values[key].keys() for key in keys if key in values]
    seeds = sorted(set[int]().union(*found))
    if not seeds:
        return "n = 0 seeds"
    return f"n = {_counted(_span(map(len, found)), 'seed')} ({', '.join(map(str, seeds))})"


def _counts(records: SweepRecords, methods: Sequence[str]) -> str:
    """How many subjects and images each target's scores of these methods rest on."""
    scores = records.seed_scores
    found = dict(list(scores[scores["method"].isin(methods)].groupby("target")[["subjects", "images"]]))
    parts = [
        f"{target}: {_span(found[target]['subjects'])} subjects, {_span(found[target]['images'])} images"
        for target in records.targets
        if target in found
    ]
    return "; ".join(parts) or "nothing"


def _fsd_basis(frame: pd.DataFrame, use: str, values: _Values, keys: Iterable[_Key]) -> str:
    """Seeds, vectors, dimension, scale and floor of the FSD records a table rests on."""
    if frame.empty:
        return "No FSD was measured."
    sizes = f"Vectors per set n_a = {_span(frame['n_a'])}, n_b = {_span(frame['n_b'])}; dimensions d = {_span(frame['dim'])}."
    parts = [f"Lower is better. Mean ± standard deviation over {_seed_words(values, keys)}.", sizes]
    parts += [_SCALES] if use == "domain" else []
    return " ".join([*parts, *_floor_words(frame)])


def _floor_words(frame: pd.DataFrame) -> list[str]:
    """Floor and the end of its null, in the units of the aligned vectors where they are there; nothing when undefined."""
    aligned = frame[frame["space"] == "aligned"]
    chosen = (frame if aligned.empty else aligned)[["floor", "floor_high"]].dropna().astype(float)
    if chosen.empty:
        return []
    space = "" if aligned.empty else " (aligned)"
    low, high = chosen["floor"].mean(), chosen["floor_high"].mean()
    return [f"Same-domain floor{space} {low:.3g}, 95 % of the null below {high:.3g}."]


def _span(values: Iterable[float]) -> str:
    numbers = [int(value) for value in values]
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _counted(count: int | str, noun: str) -> str:
    return f"{count} {noun}{'' if str(count) == '1' else 's'}"


def _bare(metric: str) -> str:
    """The name of a metric in the catalogue, without where it was measured."""
    return metric.removeprefix("pooled/").removesuffix("_fov")


def _words(name: str) -> str:
    return name.replace("_", " ")

"""Tables of the Fréchet Semantic Distance. A reconstruction: the published abstract does not define the distance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from gkd_bench.metrics.catalogue import METRICS
from gkd_bench.report.blocks import Key
from gkd_bench.report.captions import sentences
from gkd_bench.report.cells import Cell, Column, Table, mean_cell
from gkd_bench.report.evidence import Evidence, is_missing
from gkd_bench.report.frame import CELL, SweepRecords
from gkd_bench.report.names import MARKS_NOTE, counted, method_title, metric_direction, span, words
from gkd_bench.report.rows import method_cell
from gkd_bench.report.tables import frame_rows, name_cells

SPACES = ("aligned", "aligned_own", "random_header", "bottleneck")
USES = ("domain", "semantic", "teacher_student")
_FLOORS = (("floor", "same-domain floor"), ("floor_high", "95 % of the null"))
_SCALES = (
    "Only aligned own (the same vectors, standardised by the source's own deviation) and random header share a scale; "
    "aligned is in P-SAE units and shrinks when vectors regress to the mean."
)
_Values = Mapping[Key, Mapping[int, float]]


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
    frame = Evidence.of(records).final("fsd", "test")
    mine = frame[(frame["use"] == use) & (frame["space"] == space) & (frame["method"] == method)]
    values = by_seed(mine, "value")
    keys = [(*pair, method) for pair in Evidence.of(records).pairs]
    cells = {key[:2]: _scored(records, values, key) for key in keys}
    columns = [Column("source", "trained on")]
    columns += [Column(target, target, metric_direction("fsd"), spread=True) for target in records.targets]
    rows = [(Cell(source), *(cells[source, target] for target in records.targets)) for source in records.sources]
    caption = sentences(
        _basis(mine, use, values, keys),
        "A reconstruction: the published abstract does not define the distance",
        MARKS_NOTE,
    )
    title = f"{METRICS['fsd'].title} ({words(use)}, {words(space)}) of {method_title(method)}, source x target"
    kind = "" if (use, space) == ("domain", "aligned") else f"{use}_{space}_"
    return Table(f"matrix_fsd_{kind}{method}", title, caption, tuple(columns), tuple(rows), "distance")


def fsd_comparison(records: SweepRecords, use: str = "domain") -> Table:
    """FSD of every method and pair in each space, beside the same-domain floor where it was measured.

    Does alignment beat its controls? Only ``aligned_own`` and ``random_header`` share a scale.
    """
    frame = Evidence.of(records).final("fsd", "test")
    chosen = frame[frame["use"] == use]
    spaces = [space for space in SPACES if space in set(chosen["space"].unique())]
    aligned = chosen[chosen["space"] == "aligned"]
    floors = [(name, title) for name, title in _FLOORS if aligned[name].notna().any()]
    values = [by_seed(chosen[chosen["space"] == space], "value") for space in spaces]
    values += [by_seed(aligned, name) for name, _ in floors]
    columns = [Column("source", "source"), Column("target", "target"), Column("method", "method")]
    better = metric_direction("fsd")
    columns += [Column(space, words(space), better, spread=True) for space in spaces]
    columns += [Column(name, f"{title} (aligned)", spread=True) for name, title in floors]
    methods = records.in_order(map(str, chosen["method"].unique()))
    keys = [
        (*pair, method)
        for pair in Evidence.of(records).pairs
        for method in methods
        if any((*pair, method) in column for column in values)
    ]
    rows = tuple(
        (
            *name_cells(key[:2]),
            method_cell(records, key[2]),
            *(mean_cell(column.get(key, {}).values()) for column in values),
        )
        for key in keys
    )
    controls = " and its controls" if len(spaces) > 1 else ""
    title = f"{METRICS['fsd'].title} ({words(use)}){controls}"
    caption = _basis(chosen, use, by_seed(chosen, "value"), keys)
    return Table(f"fsd_{use}", title, caption, tuple(columns), rows, "distance")


def fsd_values(records: SweepRecords) -> Table:
    """Every measured FSD, one row each: value, bootstrap interval, same-domain floor and counts."""
    texts = (*CELL, "variant", "split", "network", "use", "space", "n_a", "n_b", "dim")
    columns = [Column(name, name) for name in texts]
    columns.append(Column("value", "value", metric_direction("fsd")))
    columns += [Column(name, name) for name in ("low", "high", "floor", "floor_high")]
    frame = Evidence.of(records).final("fsd").sort_values([*CELL, "split", "use", "space"], kind="stable")
    caption = (
        "low, high: 95 % bootstrap interval over tiles; floor: mean value between random halves of the same domain, "
        "floor_high: 95 % of those halves lie below."
    )
    return Table(
        "fsd", "All Fréchet Semantic Distances", caption, tuple(columns), frame_rows(columns, frame), "distance"
    )


def by_seed(frame: pd.DataFrame, column: str) -> _Values:
    """(source, target, method) -> seed -> value, undefined values left out; each seed once."""
    values: dict[Key, dict[int, float]] = {}
    if frame.empty:
        return values
    chosen = frame[[*CELL, column]].dropna()
    for source, target, method, seed, value in chosen.itertuples(index=False, name=None):
        values.setdefault((source, target, method), {})[int(seed)] = float(value)
    return values


def _scored(records: SweepRecords, values: _Values, key: Key) -> Cell:
    cell = mean_cell(values.get(key, {}).values())
    return cell.marked("in_domain", key[0] == key[1]).marked("missing", is_missing(records, key[:2]))


def _basis(frame: pd.DataFrame, use: str, values: _Values, keys: Iterable[Key]) -> str:
    """Seeds, vectors, dimension, scale and floor of the FSD records a table rests on."""
    if frame.empty:
        return "No FSD was measured."
    found = [values[key] for key in keys if key in values]
    seeds = sorted({seed for one in found for seed in one})
    over = f"n = {counted(span(map(len, found)), 'seed')} ({', '.join(map(str, seeds))})"
    sizes = (
        f"Vectors per set n_a = {span(frame['n_a'])}, n_b = {span(frame['n_b'])}; dimensions d = {span(frame['dim'])}"
    )
    scale = _SCALES if use == "domain" else ""
    mean = "Mean ± half width of the 95 % t interval over "
    return sentences("Lower is better", f"{mean}{over}", sizes, scale, *_floor_words(frame))


def _floor_words(frame: pd.DataFrame) -> list[str]:
    """Floor and the end of its null, in the units of the aligned vectors where they are there; nothing when undefined."""
    aligned = frame[frame["space"] == "aligned"]
    chosen = (frame if aligned.empty else aligned)[["floor", "floor_high"]].dropna().astype(float)
    if chosen.empty:
        return []
    space = "" if aligned.empty else " (aligned)"
    low, high = chosen["floor"].mean(), chosen["floor_high"].mean()
    return [f"Same-domain floor{space} {low:.3g}, 95 % of the null below {high:.3g}"]

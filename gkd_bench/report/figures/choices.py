"""What selection rules get out of the same candidates, beside the oracle that nobody can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gkd_bench.report.cells import Cell, Table
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Extras
from gkd_bench.report.figures.axes import few_ticks, key, legend, plain
from gkd_bench.report.figures.base import PAGE, TALL, Figure, finish, panels, style
from gkd_bench.report.figures.scores import number
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import counted, listed, span
from gkd_bench.report.palette import DOMAIN_COLOURS, FAINT, INK, ORACLE
from gkd_bench.report.selecting import selection_table
from gkd_bench.report.selection import ORACLE as ORACLE_RULE
from gkd_bench.report.selection import RULES

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_SHAPES = ("o", "s", "^", "D", "v")
_STEP = 0.17


def selection_rules(records: SweepRecords, extras: Extras) -> Figure | None:
    """Foreign Dice of what each rule takes, method by method, with the oracle in grey."""
    table = selection_table(records)
    cells = _cells(table)
    if not cells:
        return None
    names = [*RULES, ORACLE_RULE]
    with style():
        height = min(0.36 * len(cells) + 0.75, TALL)
        drawing, axes = panels(1, 1, PAGE, height)
        for place, row in enumerate(cells.values()):
            _row(axes[0], place, [row[name] for name in names], names)
        axes[0].set_yticks(range(len(cells)), list(cells))
        axes[0].set_ylim(len(cells) - 0.4, -0.6)
        axes[0].tick_params(axis="y", length=0)
        axes[0].spines["left"].set_visible(False)
        axes[0].set_xlabel("Dice, mean over foreign targets")
        few_ticks(axes[0], 6, None)
        legend(drawing, _handles(names, records.origin.rule), 2)
        evidence = Evidence.of(records)
        caption = (
            f"{evidence.title(evidence.headline)} on foreign targets of the trained student that each rule takes from the same "
            f"candidates (kept epochs and complete trials), higher is better: mean over targets, sources and n = {counted(_seeds(cells), 'seed')}; lines: "
            f"95 % t interval over seeds. The sweep uses: {RULES[records.origin.rule].title}. Rules see validation {evidence.words.picture}s of the "
            f"source only. Grey: the oracle takes the best candidate by each target's own test labels; a bound, never used."
        )
        return finish(drawing, "selection_rules", "selection", table.title, caption, _alt(cells))


def _cells(table: Table) -> dict[str, dict[str, Cell]]:
    """Method -> rule or oracle -> cell; methods whose rules were scored."""
    keys = [column.key for column in table.columns]
    rows = {str(row[0].value): dict(zip(keys, row, strict=True)) for row in table.rows}
    return {method: row for method, row in rows.items() if row[ORACLE_RULE].value is not None}


def _seeds(cells: dict[str, dict[str, Cell]]) -> str:
    return span(row[ORACLE_RULE].n for row in cells.values())


def _row(axes: Axes, place: int, cells: list[Cell], names: list[str]) -> None:
    axes.axhline(place, color=FAINT, linewidth=0.7, zorder=0)
    for at, (cell, name) in enumerate(zip(cells, names, strict=True)):
        if cell.value is None:
            continue
        x, y = number(cell), place + _STEP * (at - (len(names) - 1) / 2)
        colour, shape = _look(name, at)
        if cell.half is not None:
            axes.plot([x - cell.half, x + cell.half], [y, y], color=colour, linewidth=1.0, solid_capstyle="butt")
        axes.plot(x, y, shape, color=colour, markeredgecolor=_edge(name), markersize=4, linestyle="none", zorder=3)


def _look(name: str, at: int) -> tuple[str, str]:
    return (ORACLE, "X") if name == ORACLE_RULE else (DOMAIN_COLOURS[at], _SHAPES[at])


def _handles(names: list[str], used: str) -> list[Artist]:
    titles = {name: rule.title for name, rule in RULES.items()} | {
        ORACLE_RULE: "oracle: reads target labels, never used"
    }
    handles = []
    for at, name in enumerate(names):
        colour, shape = _look(name, at)
        label = f"{titles[name]}{' (used)' if name == used else ''}"
        handles.append(key(label, shape, colour, edge=_edge(name), size=4.5))
    return handles


def _edge(name: str) -> str:
    return ORACLE if name == ORACLE_RULE else INK


def _alt(cells: dict[str, dict[str, Cell]]) -> str:
    texts = []
    for method, row in cells.items():
        found = [f"{name} {plain(number(row[name]))}" for name in (*RULES, ORACLE_RULE) if row[name].value is not None]
        texts.append(f"{method}: {listed(found)}")
    return f"Dots of mean foreign Dice by selection rule. {'; '.join(texts)}."

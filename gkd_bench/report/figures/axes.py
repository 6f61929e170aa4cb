"""Parts that several figures share: looks of methods, legends, bands, texts and tidy axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import method_title
from gkd_bench.report.palette import INK, MUTED, RULE, SOLID, Dash, method_colours, method_dashes, method_markers

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure as Drawing

ARROW = " \N{RIGHTWARDS ARROW} "
OTHERS = "#BDBDBD"
"""What is drawn beside the methods that a figure names."""
MINUS = "\N{MINUS SIGN}"
_LETTER, _HANDLE = 0.062, 0.5
"""Inches: a letter of a label, and what a legend adds to a label."""


@dataclass(frozen=True)
class Looks:
    """Colour, marker and name of every method, the same in all figures of a report."""

    colours: Mapping[str, str]
    markers: Mapping[str, str]
    dashes: Mapping[str, Dash]

    @classmethod
    def of(cls, records: SweepRecords) -> Looks:
        """The looks of all methods of a sweep, scored ones first."""
        frames = [records.of(kind)["method"].dropna() for kind in ("epoch", "stress", "trial")]
        others = {str(name) for names in frames for name in names.unique()} - {*records.methods}
        names = [*records.methods, *records.in_order(others)]
        return cls(method_colours(names), method_markers(names), method_dashes(names))

    def colour(self, method: str) -> str:
        """``#RRGGBB``."""
        return self.colours.get(method, MUTED)

    def marker(self, method: str) -> str:
        """A marker of matplotlib."""
        return self.markers.get(method, "o")

    def dash(self, method: str) -> Dash:
        """Dashes of matplotlib."""
        return self.dashes.get(method, SOLID)

    def handle(self, method: str, line: bool = True) -> Artist:
        """An entry of a legend."""
        return key(method_title(method), self.marker(method), self.colour(method), line=line and self.dash(method))

    def handles(self, methods: Sequence[str], named: Sequence[str], line: bool = True) -> list[Artist]:
        """Entries of all methods that are named, and one for the others, which are drawn in grey."""
        entries = [self.handle(method, line) for method in named]
        rest = len(methods) - len(named)
        grey = key(f"{rest} others", "" if line else "o", OTHERS, line=line and SOLID, edge=OTHERS)
        return [*entries, *([grey] if rest else [])]


def key(
    label: str, marker: str, colour: str, *, edge: str = INK, width: float = 0.4, size: float = 4.0,
    line: Dash | Literal[False] = False,
) -> Artist:  # fmt: skip
    """An entry of a legend: a marker, with a line through it if dashes are given."""
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], marker=marker, color=colour, markeredgecolor=edge, markeredgewidth=width, markersize=size,
        linestyle=line or "none", label=label,
    )  # fmt: skip


def legend(drawing: Drawing, handles: Sequence[Artist], most: int = 6) -> None:
    """A legend in the order of reading above all panels, in as many columns as fit."""
    if handles:
        columns = legend_columns([str(handle.get_label()) for handle in handles], drawing.get_figwidth(), most)
        ordered = by_row(handles, columns)
        drawing.legend(handles=ordered, loc="outside upper left", ncols=columns, borderaxespad=0.2)


def legend_columns(labels: Sequence[str], width: float, most: int = 6) -> int:
    """How many columns of labels fit into a width in inches; at least one, filled evenly."""
    for columns in range(min(most, len(labels)), 1, -1):
        even = math.ceil(len(labels) / math.ceil(len(labels) / columns))
        widest = [max(map(len, labels[at::even])) for at in range(even)]
        if sum(_LETTER * letters + _HANDLE for letters in widest) <= width:
            return even
    return 1


def by_row(handles: Sequence[Artist], columns: int) -> list[Artist]:
    """Handles so ordered that matplotlib, which fills columns first, shows them row by row."""
    return [handle for at in range(columns) for handle in handles[at::columns]]


def shortened(text: str, width: float) -> str:
    """A text of 7 to 8 points that fits into a width in inches; the middle of a long one becomes an ellipsis."""
    most = max(4, int(width / _LETTER))
    return text if len(text) <= most else f"{text[: most - most // 2 - 1]}\N{HORIZONTAL ELLIPSIS}{text[-(most // 2) :]}"


def colour_map(stops: Sequence[str]) -> LinearSegmentedColormap:
    """A scale of matplotlib through the given colours."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("report", list(stops))


def band(axes: Axes, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> None:
    """A light band between two lines."""
    axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)


def zero_line(axes: Axes, where: str = "y") -> None:
    """A thin line at zero: horizontal for ``y``, vertical for ``x``."""
    (axes.axhline if where == "y" else axes.axvline)(0, color=MUTED, linewidth=0.7, zorder=1)


def empty(axes: Iterable[Axes]) -> None:
    """Panels that have nothing to show."""
    for one in axes:
        one.set_axis_off()


def nothing(axes: Axes, words: str) -> None:
    """An empty panel that says why."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(RULE)
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def whole_ticks(axes: Axes, most: int = 5) -> None:
    """Whole numbers on the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True))


def few_ticks(axes: Axes, x: int | None = 4, y: int | None = 4) -> None:
    """At most that many steps on linear axes."""
    for steps, which in ((x, "x"), (y, "y")):
        if steps is not None:
            axes.locator_params(axis=which, nbins=steps)  # type: ignore[arg-type]


def round_log(axes: Axes, which: Literal["x", "y"]) -> None:
    """Round numbers, written out, and no others on a logarithmic axis, whose limits are set."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    steps = (1.0,) if high / low > 100 else (1.0, 3.0) if high / low > 12 else (1.0, 2.0, 5.0)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(subs=steps, numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axis.set_minor_locator(NullLocator())


def short_number(value: float) -> str:
    """``0.03``, ``30``, ``30 k``, ``30 M``, ``30 G``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def all_domains(records: SweepRecords, others: Iterable[str] = ()) -> list[str]:
    """Sources, then the other targets, in table order, then others that have no scores; their place gives their colour."""
    return list(dict.fromkeys([*records.sources, *records.targets, *sorted(others)]))


def sources_of(records: SweepRecords, found: Iterable[str]) -> list[str]:
    """Those sources that were found, in table order; scored or not."""
    names = {str(name) for name in found}
    return [name for name in all_domains(records, names) if name in names]


def arrow(source: str, target: str) -> str:
    """``source → target``."""
    return f"{source}{ARROW}{target}"


def signed(value: float, decimals: int = 3) -> str:
    """``+0.012``, a true minus below zero, and ``0.000`` without a sign."""
    return plain(value, decimals) if f"{abs(value):.{decimals}f}".strip("0.") == "" else _with_sign(value, decimals)


def plain(value: float, decimals: int = 3) -> str:
    """``0.012`` with a true minus."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if text.strip("-0.") == "" else text.replace("-", MINUS)


def _with_sign(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", MINUS)

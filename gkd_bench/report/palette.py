"""Colours of a report, defined once: a method looks the same in every figure, table and page.

Qualitative colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with any common colour
blindness can tell apart. Numbers are coloured along cividis (one way) or PuOr (around zero), which they can read as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from gkd_bench.metrics.pictures import LEGEND, Colour

INK = "#1A1A1A"
MUTED = "#5F5F5F"
RULE = "#C8C8C8"
FAINT = "#EDEDED"
PAPER = "#FFFFFF"
ORACLE = "#A6A6A6"

METHOD_COLOURS = {
    "teacher": "#000000",
    "baseline": "#999999",
    "scratch": "#56B4E9",
    "bn_views": "#56B4E9",
    "scratch_photometric": "#56B4E9",
    "kd": "#E69F00",
    "kd_photometric": "#E69F00",
    "fitnet": "#CC79A7",
    "at": "#D55E00",
    "fsp": "#0072B2",
    "skd": "#882255",
    "ifvd": "#44AA99",
    "cwd": "#AA4499",
    "dsd": "#999933",
    "cirkd": "#DDCC77",
    "coco": "#661100",
    "graph_flow": "#6699CC",
    "emkd": "#CC6677",
    "xded": "#332288",
    "ccdistill": "#117733",
    "diga": "#88CCEE",
    "gkd": "#009E73",
}
"""Methods that the first figures had keep the colours of Okabe and Ito; the others have those of Paul Tol's "muted" scheme
(2021), which is made for the same eyes. Controls have the colour of what they control, with another marker and dashes."""
MORE_COLOURS = ("#CC79A7", "#0072B2", "#D55E00", "#F0E442")
METHOD_MARKERS = {
    "teacher": "s", "baseline": "v", "scratch": "o", "bn_views": "<", "scratch_photometric": ">", "kd": "^",
    "kd_photometric": ">", "fitnet": "P", "at": "X", "fsp": "p", "skd": "h", "ifvd": "d", "cwd": "*", "dsd": "<",
    "cirkd": "s", "coco": "v", "graph_flow": "^", "emkd": "o", "xded": "P", "ccdistill": "X", "diga": "p", "gkd": "D",
}  # fmt: skip
Dash = Literal["-"] | tuple[int, tuple[float, ...]]
SOLID: Dash = "-"
_DASHED: Dash = (0, (4.0, 1.5))
METHOD_DASHES: dict[str, Dash] = dict.fromkeys(("bn_views", "scratch_photometric", "kd_photometric"), _DASHED)
MORE_DASHES: tuple[Dash, ...] = (SOLID, (0, (1.0, 1.0)), (0, (4.0, 1.0, 1.0, 1.0)), (0, (6.0, 2.0)))
MORE_MARKERS = ("P", "X", "<", ">", "p", "h")
DOMAIN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")

SEQUENTIAL = (
    "#00224E", "#1A386F", "#434E6C", "#61656F", "#7D7C78", "#9B9476", "#BCAE6C", "#DEC958", "#FEE838",
)  # fmt: skip
"""Nine even steps of cividis, low to high."""
DIVERGING = (
    "#7F3B08", "#BE630A", "#EF9E3C", "#FED7A2", "#F6F6F7", "#CECDE4", "#988DBE", "#5D3790", "#2D004B",
)  # fmt: skip
"""Nine even steps of PuOr: orange below zero, purple above, zero in the middle."""


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """Method -> ``#RRGGBB``; methods without a colour of their own take the spare ones in the given order, again and again.

    Args:
        methods: all methods of a report in table order, so that every part of it agrees.
    """
    return _assigned(methods, METHOD_COLOURS, MORE_COLOURS)


def method_markers(methods: Iterable[str]) -> dict[str, str]:
    """Method -> marker of matplotlib, so that colour is never the only difference; see :func:`method_colours`."""
    return _assigned(methods, METHOD_MARKERS, MORE_MARKERS)


def method_dashes(methods: Iterable[str]) -> dict[str, Dash]:
    """Method -> dashes of matplotlib; controls are dashed, methods with a colour of their own are not, others take turns."""
    unique = list(dict.fromkeys(methods))
    others = [name for name in unique if name not in METHOD_COLOURS]
    given = {name: MORE_DASHES[at % len(MORE_DASHES)] for at, name in enumerate(others)}
    return {name: METHOD_DASHES.get(name) or given.get(name, SOLID) for name in unique}


def domain_colours(domains: Iterable[str]) -> dict[str, str]:
    """Domain -> ``#RRGGBB`` in the given order, again and again."""
    return _assigned(domains, {}, DOMAIN_COLOURS)


def shade(stops: Sequence[str], share: float) -> str:
    """The colour ``#RRGGBB`` at a share of the way along a scale, linear between its stops.

    Args:
        stops: two or more colours at even steps, such as :data:`SEQUENTIAL`.
        share: 0 = first, 1 = last; numbers outside take the nearer end.
    """
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    at = min(int(place), len(stops) - 2)
    pairs = zip(rgb(stops[at]), rgb(stops[at + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - at)):02X}" for a, b in pairs)


def text_colour(background: str) -> str:
    """Black or white, whichever stands out more from ``#RRGGBB``: 4.5 to 1 or better on every colour."""
    light = luminance(background)
    return "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#FFFFFF"


def luminance(colour: str) -> float:
    """Relative luminance of ``#RRGGBB`` in [0, 1] (Web Content Accessibility Guidelines 2.2)."""
    channels = [value / 255 for value in rgb(colour)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def rgb(colour: str) -> Colour:
    """(red, green, blue) in 0 to 255 of ``#RRGGBB``."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


def error_colours() -> dict[str, str]:
    """True positive, false positive and false negative in pictures of segmentations -> ``#RRGGBB``."""
    return {name: "#" + "".join(f"{value:02X}" for value in colour) for name, colour in LEGEND}


def _assigned(names: Iterable[str], fixed: dict[str, str], spare: Sequence[str]) -> dict[str, str]:
    unique = list(dict.fromkeys(names))
    others = [name for name in unique if name not in fixed]
    given = {name: spare[at % len(spare)] for at, name in enumerate(others)}
    return {name: fixed.get(name) or given[name] for name in unique}

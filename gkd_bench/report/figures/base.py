"""What a figure is, and how a drawing becomes files: no display, no global state, equal input gives equal bytes.

Drawings are made with matplotlib's objects inside :func:`style`, at the size in which they are printed: :data:`COLUMN` or
:data:`PAGE` inches wide, with type of 7 points or more. Type becomes outlines in SVG, so that it looks the same everywhere.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from gkd_bench.report.cells import Section
from gkd_bench.report.palette import FAINT, INK, MUTED, PAPER, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

COLUMN, PAGE, TALL = 3.5, 7.0, 9.5
"""Inches: one column of a journal, both, and the height of its page."""
DPI = 200
_RASTER_DPI = 150
_SMALL, _NORMAL = 7.0, 8.0
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": _SMALL,
    "axes.titlesize": _NORMAL,
    "axes.titlelocation": "left",
    "axes.titlepad": 4.0,
    "axes.labelsize": _SMALL,
    "axes.labelcolor": INK,
    "axes.labelpad": 2.5,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.labelsize": _SMALL,
    "ytick.labelsize": _SMALL,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "lines.markeredgewidth": 0.5,
    "legend.fontsize": _SMALL,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
    "legend.handletextpad": 0.5,
    "text.color": INK,
    "text.parse_math": False,
    "hatch.color": RULE,
    "hatch.linewidth": 0.5,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Figure:
    """One figure in all its forms.

    Attributes:
        name: its name in files; lower-case letters, digits and ``_ -``; unique in a report.
        section: the part of the report it belongs to, as for tables.
        title: one line for readers.
        caption: what is shown, of how many seeds and subjects, and what marks and lines mean.
        alt: for those who cannot see it: what it shows and the gist of its numbers.
        svg: vector form; ids carry the name, so that several can stand in one page.
        pdf: vector form for papers.
        png: pixels, 200 per inch.
    """

    name: str
    section: Section
    title: str
    caption: str
    alt: str
    svg: bytes
    pdf: bytes
    png: bytes


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, whatever the user's own settings are; those are back afterwards."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, _STYLE))
        yield


def sheet(width: float, height: float) -> Drawing:
    """An empty drawing in inches, whose parts make room for each other when it is finished."""
    from matplotlib.figure import Figure as NewDrawing
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    room = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=0.03, hspace=0.03)
    return NewDrawing(figsize=(width, height), dpi=DPI, layout=room)


def panels(
    rows: int, columns: int, width: float, height: float, *, share_x: bool = False, share_y: bool = False
) -> tuple[Drawing, list[Axes]]:
    """A drawing of equal panels, row by row; with shared axes only the outer ones have numbers.

    Args:
        rows: rows of panels.
        columns: columns of panels.
        width: of the drawing, inches.
        height: of the drawing, inches.
        share_x: one scale for all horizontal axes.
        share_y: one scale for all vertical axes.
    """
    drawing = sheet(width, height)
    grid = drawing.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y)
    return drawing, [axes for row in grid for axes in row]


def finish(drawing: Drawing, name: str, section: Section, title: str, caption: str, alt: str) -> Figure:
    """Lay out a drawing once and write it in its three forms; the drawing is empty afterwards.

    Args:
        drawing: made inside :func:`style`, which must still hold.
        name, section, title, caption, alt: see :class:`Figure`.
    """
    drawing.draw_without_rendering()
    drawing.set_layout_engine("none")
    png, pdf = _as_png(drawing), _as_pdf(drawing, title)
    svg = _tidy_svg(_as_svg(drawing, name), name, title, alt)
    drawing.clear()
    return Figure(name, section, title, " ".join(caption.split()), " ".join(alt.split()), svg, pdf, png)


def file_name(*parts: str) -> str:
    """A plain file name from some words: lower-case letters, digits, ``-``, and ``_`` between the parts."""
    return "_".join(re.sub(r"[^a-z0-9_]+", "-", part.lower()).strip("-_") or "x" for part in parts)


def _as_svg(drawing: Drawing, name: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    drawing.set_dpi(_RASTER_DPI)
    with mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(drawing).print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue().encode()


def _as_pdf(drawing: Drawing, title: str) -> bytes:
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    buffer = io.BytesIO()
    drawing.set_dpi(_RASTER_DPI)
    metadata = {"CreationDate": None, "Creator": None, "Producer": None, "Title": title}
    FigureCanvasPdf(drawing).print_pdf(buffer, metadata=metadata)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _as_png(drawing: Drawing) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    drawing.set_dpi(DPI)
    FigureCanvasAgg(drawing).print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _tidy_svg(svg: bytes, name: str, title: str, alt: str) -> bytes:
    """Without the XML head, with a title and a description for screen readers, and with ids of its own."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    head = f' role="img" aria-labelledby="{name}-title {name}-desc">'
    words = (
        f'\n <title id="{name}-title">{html.escape(title)}</title>\n <desc id="{name}-desc">{html.escape(alt)}</desc>'
    )
    return text.replace(">", head + words, 1).encode()

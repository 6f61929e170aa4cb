"""Pictures of segmentations side by side: the same images for every method, and every method's worst and best."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import PNG, Extras, Picture, Role
from gkd_bench.report.figures.axes import legend, plain
from gkd_bench.report.figures.base import PAGE, Figure, file_name, finish, sheet, style
from gkd_bench.report.figures.scores import named_methods
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import listed, method_title
from gkd_bench.report.palette import INK, MUTED, error_colours

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_MOST_ROWS, _MOST_METHODS = 4, 5
_MARGIN = 0.75
_DOTS = 160  # pixels per inch: enough to see vessels, small enough for a page with all figures in it
Pixels = NDArray[np.uint8]
Tile = tuple[bytes, str]
"""PNG bytes, and the words below them."""


# -------------------------------------------------------------------------------------------- the same images


def same_images(records: SweepRecords, extras: Extras) -> tuple[Figure, ...]:
    """One figure per source: image, label and what every method found, on images fixed beforehand."""
    found = (_same(records, source, _first_seed(extras.pictures, source)) for source in records.sources)
    return tuple(figure for figure in found if figure)


def _same(records: SweepRecords, source: str, pictures: Sequence[Picture]) -> Figure | None:
    fixed = [one for one in pictures if "fixed" in one.roles]
    methods = _shown_methods(records, {one.method for one in fixed})
    rows = _image_rows(records, source, [one for one in fixed if one.method in methods])
    if not rows:
        return None
    tiles = {name: _same_row(row, methods) for name, row in rows.items()}
    heads = ["image", "label", *map(method_title, methods)]
    title = f"The same images for every method, trained on {source}"
    caption = (
        f"Test images fixed beforehand by name, not by result (seed {_seed(fixed)}); rows: target and image. Below each: Dice"
        f"{Evidence.of(records).words.inside}. Colours: true positives, false positives and false negatives. Shown smaller than they were scored."
    )
    texts = [
        f"{target} {image}: {listed(f'{method_title(one.method)} {plain(one.score)}' for one in _by_method(row, methods))}"
        for (target, image), row in rows.items()
    ]
    labels = [f"{target}\n{_short(image)}" for target, image in rows]
    alt = f"Grid of test images with what each method found. Dice: {'; '.join(texts)}."
    with style():
        drawing = _grid(labels, heads, [tiles[name] for name in rows])
        return finish(drawing, file_name("same_images", source), "comparison", title, caption, alt)


def _image_rows(
    records: SweepRecords, source: str, pictures: Sequence[Picture]
) -> dict[tuple[str, str], list[Picture]]:
    """(target, image) -> its pictures: one image of each foreign target in turn, the source itself last, while they fit."""
    images: dict[str, list[str]] = {}
    for one in sorted(pictures, key=lambda picture: picture.image):
        if one.image not in images.setdefault(one.target, []):
            images[one.target].append(one.image)
    order = sorted(images, key=lambda name: (name == source, _place(records.targets, name)))
    depth = max(map(len, images.values()), default=0)
    chosen = [(target, images[target][at]) for at in range(depth) for target in order if at < len(images[target])]
    shown = sorted(chosen[:_MOST_ROWS], key=lambda name: order.index(name[0]))
    return {name: [one for one in pictures if (one.target, one.image) == name] for name in shown}


def _same_row(row: Sequence[Picture], methods: Sequence[str]) -> list[Tile | None]:
    found = {one.method: one for one in row}
    tiles: list[Tile | None] = [(row[0].photo, ""), (row[0].label, "")]
    return [*tiles, *((found[name].found, plain(found[name].score)) if name in found else None for name in methods)]


def _by_method(row: Sequence[Picture], methods: Sequence[str]) -> list[Picture]:
    return sorted(row, key=lambda one: list(methods).index(one.method))


# --------------------------------------------------------------------------------------------- worst and best


def worst_and_best(records: SweepRecords, extras: Extras) -> tuple[Figure, ...]:
    """One figure per source: for every method the foreign test image with the lowest Dice, and the one with the highest."""
    found = (_cases(records, source, _first_seed(extras.pictures, source)) for source in records.sources)
    return tuple(figure for figure in found if figure)


def _cases(records: SweepRecords, source: str, pictures: Sequence[Picture]) -> Figure | None:
    foreign = [one for one in pictures if one.target != source]
    methods = _shown_methods(records, {one.method for one in foreign})
    ends = {method: (_end(foreign, method, "worst"), _end(foreign, method, "best")) for method in methods}
    ends = {method: pair for method, pair in ends.items() if any(pair)}
    if not ends:
        return None
    rows = [[tile for end in pair for tile in _case_tiles(end)] for pair in ends.values()]
    heads = ["worst: image", "label", "found", "best: image", "label", "found"]
    title = f"Worst and best foreign cases of every method, trained on {source}"
    caption = (
        f"For every method the foreign test image with its lowest and with its highest Dice{Evidence.of(records).words.inside} (seed "
        f"{_seed(foreign)}); they differ between methods. Below: target, image, Dice. Colours: true positives, false positives and false negatives."
    )
    texts = [f"{method_title(method)} {_range(pair)}" for method, pair in ends.items()]
    alt = f"Grid of each method's worst and best foreign test image. Dice: {listed(texts)}."
    with style():
        drawing = _grid([textwrap.fill(method_title(method), 14) for method in ends], heads, rows)
        return finish(drawing, file_name("worst_and_best", source), "comparison", title, caption, alt)


def _end(pictures: Sequence[Picture], method: str, role: Role) -> Picture | None:
    mine = [one for one in pictures if one.method == method and role in one.roles]
    key = {one.name: (one.score if role == "worst" else -one.score, one.name) for one in mine}
    return min(mine, key=lambda one: key[one.name], default=None)


def _case_tiles(picture: Picture | None) -> list[Tile | None]:
    if picture is None:
        return [None, None, None]
    where = f"{picture.target}\n{_short(picture.image)}"
    return [(picture.photo, where), (picture.label, ""), (picture.found, plain(picture.score))]


def _range(pair: tuple[Picture | None, Picture | None]) -> str:
    return " to ".join(plain(one.score) for one in pair if one is not None)


# ------------------------------------------------------------------------------------------------------ drawing


def _grid(labels: Sequence[str], heads: Sequence[str], rows: Sequence[Sequence[Tile | None]]) -> Drawing:
    """A grid of pictures as wide as a page; rows as tall as their tallest picture and its words."""
    side = (PAGE - _MARGIN) / len(heads)
    decoded = [[None if tile is None else (_small(tile[0], side), tile[1]) for tile in row] for row in rows]
    heights = [_row_height(row, side) for row in decoded]
    drawing = sheet(PAGE, sum(heights) + 0.55)
    axes = drawing.subplots(
        len(rows), len(heads), squeeze=False, gridspec_kw={"height_ratios": heights, "wspace": 0.02, "hspace": 0.02}
    )
    for row, label, tiles in zip(axes, labels, decoded, strict=True):
        for one, tile in zip(row, tiles, strict=True):
            _show(one, tile)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=4)
    for one, head in zip(axes[0], heads, strict=True):
        one.set_title(textwrap.fill(head, 16), loc="center", fontsize=7)
    legend(drawing, _handles())
    return drawing


def _row_height(row: Sequence[tuple[Pixels, str] | None], side: float) -> float:
    shown = [tile for tile in row if tile is not None]
    tallest = max((tile[0].shape[0] / tile[0].shape[1] for tile in shown), default=1.0)
    lines = max((tile[1].count("\n") + 1 for tile in shown if tile[1]), default=0)
    return side * tallest + 0.13 * lines


def _show(axes: Axes, tile: tuple[Pixels, str] | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if tile is None:
        axes.text(0.5, 0.5, "not kept", transform=axes.transAxes, ha="center", va="center", color=MUTED)
        return
    axes.imshow(tile[0], interpolation="none")
    axes.set_xlabel(tile[1], labelpad=2)


def _small(content: bytes, side: float) -> Pixels:
    """(height, width, 3) RGB of PNG bytes, no wider than it is shown at 160 pixels per inch."""
    import cv2

    is_png = content.startswith(PNG)
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB) if is_png else None
    if picture is None:
        raise GkdBenchError(
            f"a picture of the report is no PNG ({len(content)} bytes); make the report's pictures again"
        )
    width = min(picture.shape[1], round(side * _DOTS))
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _handles() -> list[Artist]:
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=colour, edgecolor=INK, linewidth=0.4, label=name) for name, colour in error_colours().items()
    ]


# ------------------------------------------------------------------------------------------------------ choosing


def _first_seed(pictures: Sequence[Picture], source: str) -> list[Picture]:
    mine = [one for one in pictures if one.source == source]
    first = min((one.seed for one in mine), default=0)
    return [one for one in mine if one.seed == first]


def _shown_methods(records: SweepRecords, found: set[str]) -> list[str]:
    """As many as fit: variants and the student before continuation make room first, then what is not among the best."""
    ordered = records.in_order(found)
    less = [name for name in ordered if name in records.origin.variants] + [
        name for name in ordered if name == "baseline"
    ]
    out = set(less if len(ordered) >= _MOST_METHODS else ())
    return named_methods(records, [name for name in ordered if name not in out], _MOST_METHODS)


def _seed(pictures: Sequence[Picture]) -> int:
    return pictures[0].seed


def _place(names: Sequence[str], name: str) -> int:
    return list(names).index(name) if name in names else len(names)


def _short(name: str, most: int = 14) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"

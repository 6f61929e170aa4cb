"""Full-size pictures of a report: image, label and what was found side by side, named in a strip above."""

from __future__ import annotations

import cv2
import numpy as np

from gkd_bench.errors import GkdBenchError
from gkd_bench.metrics.pictures import encode_png, legend_strip, text_strip
from gkd_bench.report.extras import Picture
from gkd_bench.report.page.album import decoded

_GAP = 4
_DARK = 24


def picture_panel(picture: Picture) -> bytes:
    """PNG bytes of one picture's three parts in a row, with its cell and Dice above and the meaning of the colours below.

    Raises:
        GkdBenchError: a part is no PNG, or the three differ in size.
    """
    parts = [cv2.cvtColor(decoded(part), cv2.COLOR_BGR2RGB) for part in (picture.photo, picture.label, picture.found)]
    if len({part.shape for part in parts}) > 1:
        sizes = ", ".join(f"{part.shape[1]} x {part.shape[0]}" for part in parts)
        raise GkdBenchError(
            f"picture {picture.name}: its three parts have different sizes ({sizes}); evaluate its network again"
        )
    gap = np.full((parts[0].shape[0], _GAP, 3), _DARK, np.uint8)
    row = np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)
    strips = text_strip(panel_text(picture), row.shape[1]), legend_strip(row.shape[1])
    return encode_png(np.concatenate([strips[0], row, strips[1]], axis=0))


def panel_text(picture: Picture) -> str:
    """The strip above a panel: which network, which image, why this one, and how good."""
    cell = f"{picture.source} -> {picture.target}, {picture.method}, seed {picture.seed}"
    return f"{cell}: {picture.image} ({', '.join(picture.roles)}), Dice {picture.score:.3f}"

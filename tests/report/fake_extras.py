"""Made-up pictures and vectors that fit the made-up records. No number means anything."""

from __future__ import annotations

import cv2
import numpy as np

from gkd_bench.metrics.pictures import Picture as Pixels
from gkd_bench.metrics.pictures import encode_png, overlay
from gkd_bench.report.extras import Extras, Picture, Role, VectorSet

from .made_up import DOMAINS, LEVEL

ROLES: tuple[tuple[Role, ...], ...] = (("fixed", "median"), ("worst",), ("best",))


def make_extras(side: int = 96, tiles: int = 30, sources: tuple[str, ...] = DOMAINS) -> Extras:
    """Three pictures and some vectors of every cell of the first seed."""
    rng = np.random.default_rng(0)
    pairs = [(source, target) for source in sources for target in DOMAINS]
    pictures = [one for pair in pairs for method in LEVEL for one in make_pictures(rng, *pair, method, side)]
    vectors = [make_vectors(rng, *pair, method, tiles) for pair in pairs for method in LEVEL if method != "baseline"]
    return Extras(tuple(pictures), tuple(vectors))


def make_pictures(rng: np.random.Generator, source: str, target: str, method: str, side: int) -> list[Picture]:
    level = LEVEL[method] - 0.1 * (source != target)
    found = [drawn(rng, at, side) for at in range(len(ROLES))]
    return [
        Picture(source, target, method, 0, f"s{at}", f"s{at}a", level + 0.05 * (at - 1), roles, *found[at])
        for at, roles in enumerate(ROLES)
    ]


def drawn(rng: np.random.Generator, kind: int, side: int) -> tuple[bytes, bytes, bytes]:
    """A disc with branching lines, its label, and a prediction that misses some and adds some."""
    fov = np.zeros((side, side * 9 // 8), np.uint8)
    cv2.circle(fov, (side * 9 // 16, side // 2), side // 2 - 2, 1, -1)
    label = np.zeros_like(fov)
    for at in range(4 + kind):
        ends = [int(value) for value in np.random.default_rng(10 * kind + at).integers(0, side, 4)]
        cv2.line(label, (ends[0], ends[1]), (ends[2], ends[3]), 1, max(1, side // 60))
    label *= fov
    found = label * (rng.random(label.shape) > 0.2) | (fov * (rng.random(label.shape) > 0.99))
    photo: Pixels = (fov * (150 - 60 * label + rng.integers(0, 20, label.shape))).astype(np.uint8)
    return encode_png(photo), encode_png(overlay(photo, label, label)), encode_png(overlay(photo, label, found))


def make_vectors(rng: np.random.Generator, source: str, target: str, method: str, tiles: int) -> VectorSet:
    """Normal vectors, shifted on foreign domains, less for better methods."""
    shift = (source != target) * 3 * (1 - LEVEL[method])
    centre = np.random.default_rng(DOMAINS.index(target)).normal(0, 1, 16) * shift
    values = rng.normal(0, 1, (tiles, 16)) * np.linspace(1.5, 0.1, 16) + centre
    return VectorSet(source, method, 0, target, values.astype(np.float32))

"""Made-up pictures and figures for pages: thin wavy lines as vessels. No number means anything."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.metrics.pictures import encode_png, overlay
from gkd_bench.report.extras import Extras, Picture, Role
from gkd_bench.report.figures.base import Figure

from .made_up import DOMAINS, METHODS

SIZE = (96, 120)
IMAGES: tuple[tuple[str, str, tuple[Role, ...]], ...] = (
    ("s0a", "s0", ("worst",)), ("s1a", "s1", ("fixed", "median")), ("s2b", "s2", ("best",)),
)  # fmt: skip


def mask(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    canvas = np.zeros(size, np.uint8)
    across = np.linspace(0, size[1] - 1, 40)
    for _ in range(7):
        height, slope, wave = rng.uniform(0, size[0]), rng.normal(0, 0.5), rng.uniform(2, 9)
        down = height + slope * across + wave * np.sin(across / rng.uniform(8, 30))
        points = np.stack([across, down], axis=1).round().astype(np.int32)
        cv2.polylines(canvas, [points], False, 1, int(rng.integers(1, 3)))
    return canvas


def make_pictures(
    methods: tuple[str, ...] = METHODS, seeds: tuple[int, ...] = (0, 1), size: tuple[int, int] = SIZE
) -> tuple[Picture, ...]:
    """Three images of every cell; the photo and the label of an image are the same for all methods."""
    return tuple(
        picture(source, target, method, seed, at, size)
        for source, target, method, seed in product(DOMAINS, DOMAINS, methods, seeds)
        for at in range(len(IMAGES))
    )


def picture(source: str, target: str, method: str, seed: int, at: int, size: tuple[int, int] = SIZE) -> Picture:
    image, subject, roles = IMAGES[at]
    rng = np.random.default_rng([DOMAINS.index(target), at])
    label = mask(rng, size)
    photo = (120 + rng.normal(0, 9, size) - 50 * label).clip(0, 255).astype(np.uint8)
    missed = np.random.default_rng([METHODS.index(method), seed]).random(size) < 0.2
    found = np.where(missed, 0, label) | (np.roll(label, 5, axis=0) & missed)
    grey = [encode_png(np.repeat(part[..., None], 3, axis=2)) for part in (photo, label * 255)]
    marked = encode_png(overlay(photo, label, found))
    return Picture(source, target, method, seed, subject, image, 0.6 + 0.1 * at, roles, *grey, marked)


def make_figures() -> tuple[Figure, ...]:
    """Two figures; the SVG has a style of its own, which must not reach the page."""
    svg = (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="252pt" height="120pt" viewBox="0 0 252 120">'
        b'<style>*{fill: red}</style><rect width="252" height="120" fill="#eee"/><circle cx="60" cy="60" r="30"/></svg>'
    )
    png = encode_png(np.full((40, 84, 3), 200, np.uint8))
    words = ("Gain of every method", "n = 3 seeds; bars: 95 % interval.", "GKD gains 0.04 on every pair.")
    return (
        Figure("forest", "comparison", *words, svg, b"%PDF made up", png),
        Figure(
            "stress_curves",
            "stress",
            "Dice under corruptions",
            "n = 3.",
            "Dice falls by 0.04 a step.",
            svg,
            b"%PDF",
            png,
        ),
    )


def make_extras() -> Extras:
    return Extras(make_pictures(seeds=(0,)))

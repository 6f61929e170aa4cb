"""Generated vessel domains: curving, branching, tapering trees on a fundus-like background; no files, fixed by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.domain import DomainCard, PhotographReader, RawImage, RawPixels

SUBJECTS = 12
OVERSAMPLING = 4
FloatImage = NDArray[np.float32]


@dataclass(frozen=True)
class PhantomStyle:
    """How the photographs of one generated domain look.

    Attributes:
        seed: seed of the whole domain.
        size: side of the square image in pixels.
        root_width: width of a vessel where it leaves the optic disc, as a fraction of ``size``.
        contrast: how dark vessels are in the green channel, 0 to 1.
        brightness: factor on all light.
        uneven: strength of the slow changes of illumination, 0 to 1.
        noise: standard deviation of sensor noise, 8-bit levels.
        blur: standard deviation of the optics' blur, pixels.
        colour: red, green, blue of the healthy background, 0 to 1.
    """

    seed: int
    size: int
    root_width: float
    contrast: float
    brightness: float
    uneven: float
    noise: float
    blur: float
    colour: tuple[float, float, float]


class Phantom(PhotographReader):
    """Twelve generated subjects of one style, one image each."""

    style: ClassVar[PhantomStyle]

    def images(self) -> list[RawImage]:
        """12 images, one per subject."""
        return [RawImage(f"{self.card.name}_{i:02d}", f"{i:02d}") for i in range(1, SUBJECTS + 1)]

    def read(self, raw: RawImage) -> RawPixels:
        """Draw the image; the same subject always gives the same pixels."""
        return draw_phantom(self.style, int(raw.subject))

    def content(self, digest: Callable[[Path], str]) -> Mapping[str, Any]:
        """The style's numbers; there are no files."""
        return asdict(self.style)


def _card(name: str, title: str, vessel_width: float) -> DomainCard:
    return DomainCard(name, title, "generated", "none", "", 45.0, vessel_width, "every image")


class PhantomClear(Phantom):
    """Sharp, even, well lit."""

    card = _card("phantom_clear", "Phantom, clear", 0.0138)
    style = PhantomStyle(11, 192, 0.026, 0.52, 1.0, 0.12, 2.0, 0.4, (0.78, 0.46, 0.22))


class PhantomDim(Phantom):
    """Dark, unevenly lit and noisy, with more pixels and wider vessels."""

    card = _card("phantom_dim", "Phantom, dim", 0.0144)
    style = PhantomStyle(22, 224, 0.031, 0.40, 0.68, 0.45, 5.0, 0.8, (0.72, 0.40, 0.26))


class PhantomWarm(Phantom):
    """Red cast, pale and blurred vessels, fewer pixels."""

    card = _card("phantom_warm", "Phantom, warm", 0.0135)
    style = PhantomStyle(33, 176, 0.024, 0.36, 0.95, 0.28, 3.0, 0.9, (0.92, 0.42, 0.12))


def draw_phantom(style: PhantomStyle, subject: int) -> RawPixels:
    """One synthetic photograph, (size, size, 3) uint8, with its exact vessel mask and field of view."""
    rng = np.random.default_rng([style.seed, subject])
    disc = (float(rng.choice([0.22, 0.78])), float(rng.uniform(0.44, 0.56)))
    fov = _field_of_view(style.size)
    depth = _vessels(style, disc, rng)
    label = (depth > 0.36) & fov  # half of a pixel covered by an artery, the paler vessels
    light = _background(style, disc, rng) * _absorption(style, depth)
    return RawPixels(_photograph(style, light, fov, rng), label, fov)


def _grid(size: int) -> tuple[FloatImage, FloatImage]:
    """x and y of every pixel centre, 0 to 1."""
    line = np.linspace(0.5 / size, 1 - 0.5 / size, size, dtype=np.float32)
    return np.broadcast_to(line, (size, size)), np.broadcast_to(line[:, None], (size, size))


def _field_of_view(size: int) -> NDArray[np.bool_]:
    x, y = _grid(size)
    return np.asarray((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.475**2)


def _vessels(style: PhantomStyle, disc: tuple[float, float], rng: np.random.Generator) -> FloatImage:
    """(size, size) share of each pixel that is vessel, arteries drawn paler than veins; 0 to 1."""
    side = style.size * OVERSAMPLING
    canvas = np.zeros((side, side), dtype=np.float32)
    towards = 0.0 if disc[0] < 0.5 else np.pi
    for number, angle in enumerate((1.15, -1.15, 0.8, -0.8, 2.2, -2.2)):
        artery = number in (0, 3, 4)
        width = style.root_width * float(rng.uniform(0.8, 1.1)) * (0.75 if abs(angle) > 2 else 1.0)
        start = towards + angle + float(rng.normal(0, 0.12))
        bend = -0.5 * float(np.sign(angle)) * float(rng.uniform(0.7, 1.3))
        _grow(canvas, disc, start, bend, width, 0.72 if artery else 1.0, rng)
    area = cv2.resize(canvas, (style.size, style.size), interpolation=cv2.INTER_AREA)
    return np.asarray(area, dtype=np.float32)


def _grow(
    canvas: FloatImage,
    start: tuple[float, float],
    angle: float,
    bend: float,
    width: float,
    shade: float,
    rng: np.random.Generator,
) -> None:
    """Draw one vessel as a bending random walk that tapers, and its branches; lengths are fractions of the image."""
    side = canvas.shape[0]
    x, y = start
    step, until_branch = 0.012, float(rng.uniform(0.06, 0.22))
    while width * side > 0.9 * OVERSAMPLING and (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.3:
        nx, ny = x + step * float(np.cos(angle)), y + step * float(np.sin(angle))
        ends = ((round(x * side), round(y * side)), (round(nx * side), round(ny * side)))
        cv2.line(canvas, *ends, shade, max(1, round(width * side)), cv2.LINE_8)
        x, y = nx, ny
        angle += step * bend * 4 + float(rng.normal(0, 0.08))
        width *= 0.988
        until_branch -= step
        if until_branch < 0:
            fork = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(0.4, 0.9))
            _grow(canvas, (x, y), angle + fork, -0.5 * bend, width * float(rng.uniform(0.45, 0.7)), shade, rng)
            until_branch, width = float(rng.uniform(0.1, 0.26)), width * 0.93


def _smooth(size: int, cells: int, rng: np.random.Generator) -> FloatImage:
    """(size, size) slowly varying random field, about -1 to 1, with ``cells`` bumps along a side."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _spot(size: int, centre: tuple[float, float], radius: float) -> FloatImage:
    x, y = _grid(size)
    distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
    return np.asarray(np.exp(-((distance / radius**2) ** 2)), dtype=np.float32)


def _background(style: PhantomStyle, disc: tuple[float, float], rng: np.random.Generator) -> FloatImage:
    """(size, size, 3) light of the retina without vessels: vignette, texture, optic disc and macula."""
    size = style.size
    x, y = _grid(size)
    vignette = 1.0 - 0.9 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    light = vignette * (1 + style.uneven * _smooth(size, 3, rng)) * (1 + 0.07 * _smooth(size, 12, rng))
    light *= 1 + 0.05 * _smooth(size, 40, rng)
    light *= 1 - 0.35 * _spot(size, (1 - disc[0] - (0.5 - disc[0]) * 0.5, 0.52), 0.1)
    colour = np.asarray(style.colour, dtype=np.float32)
    disc_colour = np.asarray((0.22, 0.38, 0.26), dtype=np.float32)
    return np.asarray(light[..., None] * (colour + _spot(size, disc, 0.075)[..., None] * disc_colour), dtype=np.float32)


def _absorption(style: PhantomStyle, depth: FloatImage) -> FloatImage:
    """(size, size, 3) share of light that vessels let through; blood absorbs green most and red least."""
    strength = style.contrast * np.asarray((0.45, 1.0, 0.7), dtype=np.float32)
    return np.asarray(1.0 - depth[..., None] * strength, dtype=np.float32)


def _photograph(
    style: PhantomStyle, light: FloatImage, fov: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Optics and sensor: blur, black surround, noise, 8 bits."""
    sharp = light * (style.brightness * 255.0) * fov[..., None]
    seen = cv2.GaussianBlur(sharp, (0, 0), style.blur)
    noisy = seen + rng.normal(0.0, style.noise, light.shape)
    return np.asarray(np.clip(np.rint(noisy), 0, 255), dtype=np.uint8)

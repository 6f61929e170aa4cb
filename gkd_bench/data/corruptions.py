"""A fixed, seeded bank of scanner-like corruptions: what another lamp, lens, sensor or hand could have made of an image.

Every corruption is a pure function of the raw pixels, a strength and a seed, and acts inside the field of view only.
Strength 1 is mild, 3 severe but still readable by a person. Lengths are multiples of the domain's nominal vessel width
(a constant share of the field of view's diameter), so that every domain is hit alike after preparation has matched
their scales. The strength changes how much, the seed decides which way: images with even seeds become brighter, with
odd seeds darker (or the like), so that neighbouring seeds show both.

The constants are our own choice, made by looking at contact sheets and at the validation Dice of two teachers (CHASE_DB1
and HRF, on their own validation subjects); ``BANK_VERSION`` is raised when one changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.config.schema import CorruptionName
from gkd_bench.data.imagefiles import fov_diameter
from gkd_bench.errors import ConfigError

BANK_VERSION = 1
GRAIN = 0.25
"""Side of a grain of noise in vessel widths: one pixel where vessels are four pixels wide."""
OFF_CENTRE = 0.25
"""How far the light of ``illumination`` is off the centre, in diameters of the field of view."""
FIELD_SIDE = 128
"""Pixels of the coarse grid that the smooth field of light is computed on."""

Pixels = NDArray[np.uint8 | np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """What a corruption knows besides the pixels.

    Attributes:
        fov: (height, width) bool, true inside the field of view.
        detail: nominal width of vessels, native pixels.
        up: which of its two directions a corruption takes, if it has two.
        rng: source of everything random; the same for all strengths, so that only the strength differs.
    """

    fov: Mask
    detail: float
    up: bool
    rng: np.random.Generator


Change = Callable[[Pixels, Scene, float], Pixels]


@dataclass(frozen=True)
class Corruption:
    """One member of the bank.

    Attributes:
        name: name in sweep files and records.
        description: what it stands for, what its levels mean, and which two directions it has.
        levels: its parameter at strengths 1, 2 and 3.
        change: computes the corrupted pixels; what it does outside the field of view is thrown away.
    """

    name: CorruptionName
    description: str
    levels: tuple[float, float, float]
    change: Change

    def apply(self, pixels: Pixels, fov: Mask, detail: float, strength: int, seed: int) -> Pixels:
        """The corrupted image, a new array of the same shape and type.

        Args:
            pixels: (height, width, 3) or (height, width); uint8, or float32 in [0, 1].
            fov: (height, width) bool, true inside the field of view; pixels outside are handed back as they are.
            detail: nominal width of vessels in pixels, above 0.
            strength: 1 (mild) to 3 (severe).
            seed: 0 or more; decides the direction (even or odd) and all that is random.

        Raises:
            ConfigError: no such strength.
            TypeError: pixels of another type.
        """
        if strength not in range(1, len(self.levels) + 1):
            raise ConfigError([f"strength of {self.name}: must be 1, 2 or 3, found {strength}"], "the stress bank")
        if pixels.dtype not in (np.uint8, np.float32):
            raise TypeError(f"pixels must be uint8, or float32 in [0, 1], not {pixels.dtype}")
        scene = Scene(fov, detail, seed % 2 == 0, np.random.default_rng([seed, *self.name.encode()]))
        changed = self.change(_pasted(pixels, np.zeros_like(pixels), fov), scene, self.levels[strength - 1])
        return _pasted(_in_range(changed), pixels.copy(), fov)


def find_corruption(name: str) -> Corruption:
    """The member of the bank with this name. Raises ConfigError for an unknown name."""
    for corruption in BANK:
        if corruption.name == name:
            return corruption
    known = ", ".join(corruption.name for corruption in BANK)
    raise ConfigError([f"unknown corruption {name!r}; known are {known}"], "the stress bank")


# ---------------------------------------------------------------- the seven changes


def _gamma(pixels: Pixels, scene: Scene, gamma: float) -> Pixels:
    exponent = 1 / gamma if scene.up else gamma
    if pixels.dtype != np.uint8:
        return _array(np.clip(pixels, 0, 1) ** np.float32(exponent))
    table = np.rint(255 * np.linspace(0, 1, 256) ** exponent).astype(np.uint8)
    return _array(cv2.LUT(pixels, table))


def _contrast(pixels: Pixels, scene: Scene, factor: float) -> Pixels:
    gain = factor if scene.up else 1 / factor**2
    means = np.asarray(_means(pixels, scene.fov))
    return _affine(pixels, np.column_stack([gain * np.eye(len(means)), (1 - gain) * means]))


def _colour_cast(pixels: Pixels, scene: Scene, share: float) -> Pixels:
    if pixels.ndim == 2:
        return pixels
    kept = 1 - share
    warm = [[1, 0, 0], [share, kept, 0], [0, share, kept]]
    cold = [[kept, share, 0], [0, kept, share], [0, 0, 1]]
    return _affine(pixels, np.asarray(warm if scene.up else cold, np.float64))


def _blur(pixels: Pixels, scene: Scene, widths: float) -> Pixels:
    deviation = widths * scene.detail
    return _smoothed(pixels, scene, lambda values: cv2.GaussianBlur(values, (0, 0), deviation))


def _noise(pixels: Pixels, scene: Scene, deviation: float) -> Pixels:
    height, width = pixels.shape[:2]
    grain = max(1.0, GRAIN * scene.detail)
    coarse = (max(1, round(height / grain)), max(1, round(width / grain)))
    noise = scene.rng.standard_normal((*coarse, *pixels.shape[2:]), np.float32)
    noise *= np.float32(deviation * _full(pixels))
    return _combined(cv2.add, pixels, cv2.resize(noise, (width, height), interpolation=cv2.INTER_NEAREST))


def _resolution(pixels: Pixels, scene: Scene, widths: float) -> Pixels:
    height, width = pixels.shape[:2]
    pitch = max(1.0, widths * scene.detail)
    size = (max(1, round(width / pitch)), max(1, round(height / pitch)))

    def smooth(values: Any) -> Any:
        coarse = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
        return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)

    return _smoothed(pixels, scene, smooth)


def _illumination(pixels: Pixels, scene: Scene, loss: float) -> Pixels:
    """Light falls off, or recovers, with the squared distance from a point off the centre of the field of view."""
    height, width = scene.fov.shape
    diameter = fov_diameter(scene.fov)
    centre = [(float(line[0]) + float(line[-1])) / 2 for line in (np.flatnonzero(scene.fov.any(1 - a)) for a in (0, 1))]
    angle = scene.rng.uniform(0, 2 * np.pi)
    y0, x0 = centre[0] + OFF_CENTRE * diameter * np.sin(angle), centre[1] + OFF_CENTRE * diameter * np.cos(angle)
    y = np.linspace(0, height - 1, min(height, FIELD_SIDE))[:, None]
    x = np.linspace(0, width - 1, min(width, FIELD_SIDE))
    farthest = (0.5 + OFF_CENTRE) * diameter
    distance = np.minimum(((y - y0) ** 2 + (x - x0) ** 2) / farthest**2, 1.0)
    field = (1 - loss * (distance if scene.up else 1 - distance)).astype(np.float32)
    light = cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR)
    return _combined(cv2.multiply, pixels, cv2.merge([light] * 3) if pixels.ndim == 3 else light)


BANK: tuple[Corruption, ...] = (
    Corruption(
        "gamma",
        "Another tone curve: level ** (1 / gamma) is brighter, level ** gamma darker. Levels: gamma.",
        (1.25, 1.6, 2.2),
        _gamma,
    ),
    Corruption(
        "contrast",
        "Every channel stretched away from its mean by a factor, or pulled towards it by the factor's square, since "
        "stretching also loses what leaves the range. Levels: the factor.",
        (1.2, 1.35, 1.55),
        _contrast,
    ),
    Corruption(
        "colour_cast",
        "Another lamp or white balance: a share of each channel comes from its neighbour of longer (warm) or shorter "
        "(cold) waves, so that every channel shows other tissue. Grey images stay as they are. Levels: the share.",
        (0.1, 0.25, 0.4),
        _colour_cast,
    ),
    Corruption(
        "blur",
        "Out of focus or hazy: a Gaussian. Levels: standard deviation in vessel widths.",
        (0.25, 0.45, 0.65),
        _blur,
    ),
    Corruption(
        "noise",
        "A weak sensor: independent Gaussian noise in every channel and grain. Levels: standard deviation as a share "
        "of full scale.",
        (0.01, 0.02, 0.035),
        _noise,
    ),
    Corruption(
        "resolution",
        "A coarser sensor: averaged to larger pixels and interpolated back. Levels: pixel size in vessel widths.",
        (0.5, 0.75, 1.0),
        _resolution,
    ),
    Corruption(
        "illumination",
        "Uneven light: a vignette whose bright point is off the centre, or a shadow of that shape. Levels: share of "
        "light lost where it is darkest.",
        (0.4, 0.65, 0.85),
        _illumination,
    ),
)
"""All corruptions, in the order of reports."""


# ---------------------------------------------------------------- helpers


def _pasted(inside: Pixels, outside: Pixels, fov: Mask) -> Pixels:
    """``outside`` with the field of view of ``inside`` written into it."""
    cv2.copyTo(inside, fov.astype(np.uint8), outside)
    return outside


def _in_range(pixels: Pixels) -> Pixels:
    return pixels if pixels.dtype == np.uint8 else _array(np.clip(pixels, 0, 1))


def _smoothed(pixels: Pixels, scene: Scene, smooth: Callable[[Any], Any]) -> Pixels:
    """A smoothing of the field of view alone: the darkness around it does not run into it."""
    share = smooth(scene.fov * pixels.dtype.type(_full(pixels)))
    if pixels.ndim == 3:
        share = cv2.merge([share] * pixels.shape[2])
    return _array(cv2.divide(smooth(pixels), share, scale=_full(pixels)))


def _means(pixels: Pixels, fov: Mask) -> tuple[float, ...]:
    """Mean of each channel inside the field of view."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    return tuple(cv2.mean(pixels, fov.astype(np.uint8))[:channels])


def _affine(pixels: Pixels, matrix: NDArray[np.float64]) -> Pixels:
    """(channels, channels [+ 1]) matrix applied to every pixel; 8-bit results are rounded and saturated."""
    return _array(cv2.transform(pixels, matrix))


def _combined(operation: Callable[..., Any], pixels: Pixels, other: Any) -> Pixels:
    """``operation`` of cv2 on pixels and a float32 array, in the type of the pixels, rounded and saturated."""
    return _array(operation(pixels, other, dtype=cv2.CV_8U if pixels.dtype == np.uint8 else cv2.CV_32F))


def _full(pixels: Pixels) -> float:
    return 255.0 if pixels.dtype == np.uint8 else 1.0


def _array(values: Any) -> Pixels:
    """What cv2 gives back, typed."""
    result: Pixels = np.asarray(values)
    return result

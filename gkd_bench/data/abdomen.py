"""Drawn abdomens: organs of ellipsoids in a body, as a CT or an MR scanner would see them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gkd_bench.data.domain import Modality, Spacing

FloatVolume = NDArray[np.float32]
Mask = NDArray[np.bool_]
Triple = tuple[float, float, float]


class Tissue(IntEnum):
    """What a voxel is made of; the order is that of :attr:`VolumeStyle.levels`."""

    OUTSIDE = 0
    TABLE = auto()
    FAT = auto()
    MUSCLE = auto()
    BONE = auto()
    MARROW = auto()
    LUNG = auto()
    GAS = auto()
    HEART = auto()
    FLUID = auto()
    STOMACH = auto()
    BOWEL = auto()
    ARTERY = auto()
    VEIN = auto()
    LIVER = auto()
    LIVER_VESSEL = auto()
    RIGHT_KIDNEY = auto()
    LEFT_KIDNEY = auto()
    SPLEEN = auto()


CLASS_OF = {Tissue.LIVER: 1, Tissue.LIVER_VESSEL: 1, Tissue.RIGHT_KIDNEY: 2, Tissue.LEFT_KIDNEY: 3, Tissue.SPLEEN: 4}
CLASS_NUMBERS = np.asarray([CLASS_OF.get(tissue, 0) for tissue in Tissue], dtype=np.uint8)
SOFT = np.asarray([tissue >= Tissue.HEART for tissue in Tissue])
"""By tissue number: whose mean differs between subjects."""

TABLE_GAP = 114.0
"""Millimetres from the middle of the picture to the skin of the back."""

LEVELS_OF = {
    Tissue.OUTSIDE: (-1000, 0.0),
    Tissue.TABLE: (300, 0.0),
    Tissue.FAT: (-100, 1.0),
    Tissue.MUSCLE: (60, 0.4),
    Tissue.BONE: (550, 0.12),
    Tissue.MARROW: (230, 0.3),
    Tissue.LUNG: (-820, 0.05),
    Tissue.GAS: (-950, 0.02),
    Tissue.HEART: (135, 0.3),
    Tissue.FLUID: (12, 0.15),
    Tissue.STOMACH: (35, 0.25),
    Tissue.BOWEL: (75, 0.42),
    Tissue.ARTERY: (165, 0.16),
    Tissue.VEIN: (145, 0.24),
    Tissue.LIVER: (110, 0.58),
    Tissue.LIVER_VESSEL: (150, 0.36),
    Tissue.RIGHT_KIDNEY: (170, 0.48),
    Tissue.LEFT_KIDNEY: (170, 0.48),
    Tissue.SPLEEN: (125, 0.36),
}
"""Mean value of every tissue, in portal-venous CT in Hounsfield units, and in T1-weighted MR as a share of the fat's."""


@dataclass(frozen=True)
class VolumeStyle:
    """How the volumes of one generated domain look.

    Attributes:
        seed: seed of the whole domain.
        modality: ct or mr.
        shape: slices, rows and columns.
        spacing: millimetres between slices, rows and columns.
        levels: mean value of every tissue: Hounsfield units for CT, a share of the fat's for MR.
        vary: standard deviation of an organ's mean between subjects, in the unit of ``levels``.
        texture: standard deviation of the slow changes inside a tissue, in the unit of ``levels``.
        blur: standard deviation of the scanner's blur in a slice, pixels.
        noise: standard deviation of the scanner's noise, in the unit of ``levels``.
        bias: strength of the slow changes of the coil's sensitivity; unused for CT.
        scale: lowest and highest value of fat between subjects, for MR, which has no units; unused for CT.
        table: whether the patient lies on a table that can be seen.
    """

    seed: int
    modality: Modality
    shape: tuple[int, int, int]
    spacing: Spacing
    levels: tuple[float, ...]
    vary: float
    texture: float
    blur: float
    noise: float
    bias: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    table: bool = False


class Drawn(NamedTuple):
    """A volume in the package's order, both (slices, rows, columns) and read-only.

    Attributes:
        values: int16, Hounsfield units for CT.
        label: uint8, numbers of the classes.
    """

    values: NDArray[np.int16]
    label: NDArray[np.uint8]


@lru_cache(maxsize=4)
def draw_volume(style: VolumeStyle, subject: int) -> Drawn:
    """One synthetic abdomen with its exact labels; the same subject always has the same voxels."""
    rng = np.random.default_rng([style.seed, subject])
    canvas = Canvas(style, rng)
    _paint_wall(canvas)
    _paint_chest(canvas)
    _paint_gut(canvas)
    _paint_organs(canvas)
    _paint_liver_vessels(canvas)
    _paint_spine(canvas)
    drawn = Drawn(_scan(style, canvas.tissue, rng), CLASS_NUMBERS[canvas.tissue])
    for array in drawn:
        array.setflags(write=False)  # the cache hands out the same arrays again
    return drawn


class Canvas:
    """A body that tissues are painted into, one over the other; its crooked coordinates bend whatever is painted.

    Args:
        style: how the domain looks.
        rng: where all that differs between subjects comes from.

    Attributes:
        x: from the patient's right, -1 at the skin, to the left, 1; (slices, rows, columns) as all others.
        y: from anterior, -1, to posterior, 1.
        z: from the lowest slice, 0, to the highest, 1; organs are flattened to fit between them.
        depth: 0 in the middle of the body, 1 at the skin.
        tissue: numbers of :class:`Tissue`.
        cavity: inside of the abdominal wall.
    """

    def __init__(self, style: VolumeStyle, rng: np.random.Generator) -> None:
        self.rng = rng
        shape, (_, high, wide) = style.shape, style.spacing
        half_width, half_depth = self.between(128, 144), self.between(96, 114)
        x = (np.arange(shape[2]) - (shape[2] - 1) / 2) * wide / half_width
        y = ((np.arange(shape[1]) - (shape[1] - 1) / 2) * high + TABLE_GAP - half_depth) / half_depth
        z = (np.arange(shape[0]) + 0.5) / shape[0]
        self.z, y, x = (part.astype(np.float32) for part in np.meshgrid(z, y, x, indexing="ij"))
        self.tissue = np.full(shape, Tissue.OUTSIDE, dtype=np.uint8)
        if style.table:
            self.paint(Tissue.TABLE, (np.abs(y + 0.12 * x**2 - 1.05) < 0.03) & (np.abs(x) < 1))
        x, y = x + 0.02 * self.smooth((2, 3, 3)), y + 0.02 * self.smooth((2, 3, 3))
        self.depth = (np.abs(x) ** 2.3 + np.abs(y) ** 2.3) ** np.float32(1 / 2.3)
        self.x, self.y = x + 0.018 * self.smooth((3, 7, 7)), y + 0.018 * self.smooth((3, 7, 7))
        self.cavity: Mask = self.depth < 0

    def between(self, low: float, high: float) -> float:
        """A random number of this subject."""
        return float(self.rng.uniform(low, high))

    def smooth(self, cells: tuple[int, int, int]) -> FloatVolume:
        """A slowly varying random field of this subject, mean 0 and standard deviation 1."""
        return _smooth(self.tissue.shape, cells, self.rng)

    def paint(self, tissue: Tissue, where: Mask) -> None:
        """Cover what was painted before."""
        self.tissue[where] = tissue

    def organ(self, centre: Triple, radii: Triple, turn: float = 0.0, vary: float = 1.0) -> Mask:
        """Inside of an ellipsoid (x, y, z) whose place, size and turn in the slice differ a little between subjects."""
        jitter, growth = self.rng.uniform(-0.03, 0.03, 3) * vary, 1 + self.rng.uniform(-0.13, 0.13, 3) * vary
        turn += self.between(-0.2, 0.2) * vary
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        x, y, z = (
            part - np.float32(at + by) for part, at, by in zip((self.x, self.y, self.z), centre, jitter, strict=True)
        )
        a, b, c = (np.float32(radius * by) for radius, by in zip(radii, growth, strict=True))
        inside = ((cos * x + sin * y) / a) ** 2 + ((cos * y - sin * x) / b) ** 2 + (z / c) ** 2 < 1
        return np.asarray(inside)


def _smooth(shape: tuple[int, ...], cells: tuple[int, int, int], rng: np.random.Generator) -> FloatVolume:
    """Slowly varying Gaussian field of a shape, mean 0, standard deviation 1, with ``cells`` bumps along the sides."""
    field = rng.standard_normal(cells).astype(np.float32)
    for side, number in zip(shape, cells, strict=True):
        places = (np.arange(side)[:, None] + 0.5) * number / side - 0.5
        weights = np.exp(-2.0 * (places - np.arange(number)) ** 2)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        field = np.tensordot(field, weights.astype(np.float32), (0, 1))  # the next side comes to the front
    return np.asarray(field, dtype=np.float32)


def _paint_wall(canvas: Canvas) -> None:
    """The fat below the skin, a ring of muscle with slanted ribs in it, and the fat of the cavity."""
    ring = 1 - canvas.between(0.07, 0.17)
    canvas.paint(Tissue.FAT, canvas.depth < 1)
    canvas.paint(Tissue.MUSCLE, canvas.depth < ring)
    angle = np.arctan2(canvas.y, np.abs(canvas.x))
    slanted = np.cos(9 * angle - 7 * canvas.z + canvas.between(0, 6.3)) > 0.72
    middle = np.abs(canvas.depth - ring + 0.045) < 0.028
    canvas.paint(Tissue.BONE, middle & slanted & (np.abs(canvas.x) > 0.4))
    back = 0.09 + 0.3 * np.clip(canvas.y - 0.4, 0, 1)
    canvas.cavity = canvas.depth < ring - back
    canvas.paint(Tissue.FAT, canvas.cavity)


def _paint_chest(canvas: Canvas) -> None:
    """Lungs above a dome that falls towards the wall, and the heart between them."""
    dome = canvas.between(0.92, 0.98) - 0.42 * canvas.depth**2
    canvas.paint(Tissue.LUNG, canvas.cavity & (canvas.z > dome))
    canvas.paint(Tissue.HEART, canvas.organ((0.12, -0.25, 1.05), (0.33, 0.3, 0.2)) & canvas.cavity)


def _paint_gut(canvas: Canvas) -> None:
    """Loops of bowel in the lower slices, and the stomach with its gas, which lies on top of its contents."""
    loops = canvas.smooth((4, 10, 10)) + 0.5 - 3 * np.clip(canvas.z - 0.35, 0, 1) - 3 * np.clip(canvas.y - 0.1, 0, 1)
    canvas.paint(Tissue.BOWEL, canvas.cavity & (loops > 0.2))
    canvas.paint(Tissue.GAS, canvas.cavity & (loops > 1.5) & (canvas.y < -0.1))
    at, size = (canvas.between(0.28, 0.4), canvas.between(-0.36, -0.26), 0.66), (0.27, 0.26, 0.3)
    canvas.paint(Tissue.MUSCLE, canvas.organ(at, size, 0.5, 0) & canvas.cavity)
    inner = canvas.organ(at, (0.23, 0.215, 0.26), 0.5, 0) & canvas.cavity
    canvas.paint(Tissue.STOMACH, inner)
    canvas.paint(Tissue.GAS, inner & (canvas.y < at[1] + canvas.between(-0.14, 0.0)))


def _paint_organs(canvas: Canvas) -> None:
    """Pancreas, spleen, liver, gall bladder and kidneys, whose hilum is fat; none reaches the first or last slice."""
    cavity = canvas.cavity
    canvas.paint(Tissue.BOWEL, canvas.organ((0.08, 0.02, 0.42), (0.32, 0.08, 0.12), -0.25) & cavity)
    canvas.paint(Tissue.SPLEEN, canvas.organ((0.62, 0.22, 0.62), (0.17, 0.33, 0.26), 0.35) & cavity)
    liver = canvas.organ((-0.44, -0.02, 0.53), (0.36, 0.52, 0.34), 0.1)
    liver |= canvas.organ((-0.12, -0.36, 0.67), (0.44, 0.2, 0.2), 0.12)
    liver |= canvas.organ((-0.52, 0.25, 0.5), (0.26, 0.34, 0.32), -0.2)
    canvas.paint(Tissue.LIVER, liver & cavity)
    if canvas.between(0, 1) < 0.75:  # the others had theirs removed
        canvas.paint(Tissue.FLUID, canvas.organ((-0.3, -0.3, 0.36), (0.09, 0.12, 0.14)) & cavity)
    for tissue, side, height in ((Tissue.RIGHT_KIDNEY, -1, 0.36), (Tissue.LEFT_KIDNEY, 1, 0.41)):
        kidney = canvas.organ((side * 0.4, 0.42, height), (0.165, 0.21, 0.24), side * 0.4)
        fat = canvas.organ((side * 0.4, 0.42, height), (0.21, 0.255, 0.27), side * 0.4)
        hilum = canvas.organ((side * 0.25, 0.36, height), (0.09, 0.08, 0.1))
        canvas.paint(Tissue.FAT, fat & cavity)
        canvas.paint(tissue, kidney & ~hilum & cavity)


def _paint_liver_vessels(canvas: Canvas) -> None:
    """Winding tubes: where two random fields are both near zero."""
    tube = canvas.smooth((4, 6, 6)) ** 2 + canvas.smooth((4, 6, 6)) ** 2 < 0.06
    canvas.paint(Tissue.LIVER_VESSEL, tube & (canvas.tissue == Tissue.LIVER))


def _paint_spine(canvas: Canvas) -> None:
    """Vertebrae with their processes, the muscles beside them, and the great vessels in front of them."""
    x, y = np.abs(canvas.x), canvas.y
    canvas.paint(Tissue.MUSCLE, (((x - 0.2) / 0.13) ** 2 + ((y - 0.52) / 0.15) ** 2 < 1) & (canvas.z < 0.6))
    canvas.paint(Tissue.MUSCLE, (((x - 0.2) / 0.2) ** 2 + ((y - 0.75) / 0.15) ** 2 < 1) & (canvas.depth < 0.95))
    vertebra = (x / 0.17) ** 2 + ((y - 0.47) / 0.18) ** 2
    process = ((x < 0.035) & (y > 0.5) & (y < 0.86)) | ((x < 0.3) & (np.abs(y - 0.66 - 0.2 * x) < 0.035))
    canvas.paint(Tissue.BONE, (vertebra < 1) | process)
    canvas.paint(Tissue.MARROW, vertebra < 0.72)
    canvas.paint(Tissue.FLUID, (x / 0.065) ** 2 + ((y - 0.66) / 0.07) ** 2 < 1)  # the spinal canal
    place = canvas.between(0.0, 0.1)
    canvas.paint(Tissue.ARTERY, ((canvas.x - place) / 0.075) ** 2 + ((y - 0.22) / 0.1) ** 2 < 1)
    canvas.paint(Tissue.VEIN, ((canvas.x + 0.17) / 0.085) ** 2 + ((y - 0.2) / 0.085) ** 2 < 1)


def _scan(style: VolumeStyle, tissue: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.int16]:
    """(slices, rows, columns) of what the scanner makes of the tissues."""
    means = np.asarray(style.levels) + np.where(SOFT, rng.normal(0, style.vary, len(Tissue)), 0)
    values = means.astype(np.float32)[tissue]
    mottle = np.where(SOFT, 1.0, 0.5).astype(np.float32) * (np.arange(len(Tissue)) > Tissue.TABLE)
    values += style.texture * mottle[tissue] * _grain(tissue.shape, 1.5, rng)
    values = gaussian_filter(values, (0, style.blur, style.blur))
    if style.modality == "ct":
        values = np.clip(values + style.noise * _grain(tissue.shape, 0.5, rng), -1024, 3071)
    else:
        values = _magnitude(style, values * np.exp(style.bias * _smooth(tissue.shape, (2, 3, 3), rng)), rng)
    return np.asarray(np.rint(values), dtype=np.int16)


def _magnitude(style: VolumeStyle, signal: FloatVolume, rng: np.random.Generator) -> FloatVolume:
    """Length of a complex signal with noise in both parts, which is Rician, in the scanner's units of the day."""
    real, imaginary = rng.normal(0, style.noise, (2, *signal.shape))
    low, high = np.log(style.scale)
    return np.asarray(np.hypot(signal + real, imaginary) * np.exp(rng.uniform(low, high)), dtype=np.float32)


def _grain(shape: tuple[int, ...], width: float, rng: np.random.Generator) -> FloatVolume:
    """Random field of mean 0 and standard deviation 1 whose grains are ``width`` pixels wide in a slice."""
    field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (0, width, width))
    return np.asarray(field / field.std(), dtype=np.float32)

"""A made-up abdomen in a few pixels, and data sets of it in the layouts of the official downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gkd_bench.data.domain import Stack
from gkd_bench.data.volumewriters import write_dicom_series, write_mask_pngs, write_nifti

SPACING = (3.0, 1.5, 2.0)
ORGAN_LEVELS = (63, 126, 189, 252)


class Body(NamedTuple):
    """Values and labels in the package's order and orientation: (slices, rows, columns)."""

    values: NDArray[np.int16]
    label: NDArray[np.uint8]


def body(slices: int = 5, rows: int = 24, columns: int = 32, seed: int = 0, classes: int = 1) -> Body:
    """Air, fat, a liver on the left, bone at the bottom; every slice and voxel differs from every other."""
    z, y, x = np.mgrid[:slices, :rows, :columns]
    inside = ((y - rows / 2) / (rows * 0.42)) ** 2 + ((x - columns / 2) / (columns * 0.45)) ** 2 < 1
    liver = inside & (x < columns * 0.45) & (abs(y - rows / 2) < rows * 0.2) & (z > 0)
    values = np.where(inside, -80, -1000)
    values[inside & (y > rows * 0.72) & (abs(x - columns / 2) < columns * 0.12)] = 600
    values[liver] = 110
    values = values + np.random.default_rng(seed).integers(0, 20, values.shape) + z
    label = liver.astype(np.uint8)
    for number in range(2, classes + 1):
        label[:, 8 * (number - 2) + 1 : 8 * (number - 2) + 5, columns - 6 : columns - 2] = number
    return Body(values.astype(np.int16), label)


def arrays(stack: Stack) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """All of a small stack: values and labels, (slices, rows, columns)."""
    planes = list(stack.planes())
    return np.stack([plane.values for plane in planes]), np.stack([plane.label for plane in planes])


def write_chaos_ct(folder: Path, made: Body, **options: Any) -> None:
    """One patient's folder of CHAOS CT; the first file is the one nearest to the head, as in the real one."""
    axcodes = options.pop("axcodes", "LPI")
    write_dicom_series(folder / "DICOM_anon", made.values, SPACING, intercept=-1000, axcodes=axcodes, **options)
    write_mask_pngs(folder / "Ground", made.label, (255,), axcodes=axcodes)


def write_chaos_mr(folder: Path, made: Body) -> None:
    """One patient's folder of CHAOS MR: three series, two sets of masks."""
    numbers = {"T1DUAL/DICOM_anon/InPhase": 0, "T1DUAL/DICOM_anon/OutPhase": 1, "T2SPIR/DICOM_anon": 2}
    values = made.values - made.values.min()
    for below, more in numbers.items():
        options: dict[str, Any] = {"modality": "MR", "intercept": 0, "names": "IMG-0004-{:05d}.dcm"}
        write_dicom_series(folder / below, values + 100 * more, SPACING, **options)
    for sequence in ("T1DUAL", "T2SPIR"):
        write_mask_pngs(folder / sequence / "Ground", made.label, ORGAN_LEVELS, "IMG-0004-{:05d}.png")


def write_lits(folder: Path, number: int, made: Body, axcodes: str = "LPS", spacing: Any = SPACING) -> None:
    """One volume of LiTS with tumour in a corner of its liver."""
    levels = made.label.copy()
    levels[-1, made.label[-1] > 0] = 2
    write_nifti(folder / f"volume-{number}.nii", made.values, spacing, axcodes)
    write_nifti(folder / f"segmentation-{number}.nii", levels, spacing, axcodes)


def write_ircadb(folder: Path, made: Body) -> None:
    """One patient of 3D-IRCADb-01: DICOM masks, names without an ending that do not sort as text."""
    write_dicom_series(folder / "PATIENT_DICOM", made.values, SPACING, names="image_{:d}", axcodes="LPI")
    options: dict[str, Any] = {"names": "image_{:d}", "axcodes": "LPI", "intercept": 0}
    write_dicom_series(folder / "MASKS_DICOM" / "liver", made.label.astype(np.int16) * 255, SPACING, **options)


def write_slices(folder: Path, names: list[str], ending: Literal["jpg", "png"] = "png") -> None:
    """Loose slices with their masks."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        made = body(2, seed=number)
        grey = np.clip(made.values[1], 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / "images" / f"{name}.{ending}")
        Image.fromarray(made.label[1] * np.uint8(255)).save(folder / "masks" / f"{name}.png")

"""Small pictures in the layouts of the official downloads, and a prepared generated domain."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.prepare import prepare_domain

WIDTH, HEIGHT = 60, 52
STARE_NUMBERS = "0001 0002 0003 0004 0005 0044 0077 0081 0082 0139 0162 0163 0235 0236 0239 0240 0255 0291 0319 0324"


def made_up_pixels(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """(photograph, label 0/255, field of view 0/255) of a bright disc with two dark bars."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    fov = (x - 30) ** 2 + (y - 26) ** 2 < 24**2
    label = fov & ((abs(x - 20 - seed % 5) < 2) | (abs(y - 30) < 2))
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rgb[fov] = (200, 120, 60)
    rgb[label] = (150, 50, 40)
    rgb += np.random.default_rng(seed).integers(0, 5, rgb.shape, np.uint8)
    return rgb, (label * 255).astype(np.uint8), (fov * 255).astype(np.uint8)


def save(array: NDArray[np.uint8], path: Path, one_bit: bool = False) -> None:
    """Write a picture in the format of its name; ``.ppm.gz`` is gzipped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if one_bit:
        picture = picture.convert("1")
    if path.suffix == ".gz":
        stream = io.BytesIO()
        picture.save(stream, "PPM")
        path.write_bytes(gzip.compress(stream.getvalue()))
    else:
        picture.save(path)


def write_chase(root: Path) -> None:
    for i in range(28):
        rgb, label, _ = made_up_pixels(i)
        name = f"Image_{i // 2 + 1:02d}{'LR'[i % 2]}"
        save(rgb, root / "CHASEDB1" / f"{name}.jpg")
        save(label, root / "CHASEDB1" / f"{name}_1stHO.png", one_bit=True)


def write_stare(root: Path) -> None:
    for i, number in enumerate(STARE_NUMBERS.split()):
        rgb, label, _ = made_up_pixels(i)
        ending = "ppm" if i % 2 else "ppm.gz"
        save(rgb, root / "STARE" / "stare-images" / f"im{number}.{ending}")
        save(label, root / "STARE" / "labels-ah" / f"im{number}.ah.{ending}")


def write_drive(root: Path, test_labels: bool = False) -> None:
    numbers = range(1 if test_labels else 21, 41)
    for number in numbers:
        part = "training" if number > 20 else "test"
        rgb, label, fov = made_up_pixels(number)
        folder = root / "DRIVE" / part
        save(rgb, folder / "images" / f"{number:02d}_{part}.tif")
        save(label, folder / "1st_manual" / f"{number:02d}_manual1.gif")
        save(fov, folder / "mask" / f"{number:02d}_{part}_mask.gif")


def write_hrf(root: Path) -> None:
    for patient in range(1, 16):
        for group, ending in (("dr", "JPG"), ("g", "jpg"), ("h", "jpg")):
            rgb, label, fov = made_up_pixels(patient)
            name = f"{patient:02d}_{group}"
            (root / "HRF" / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(rgb).save(root / "HRF" / "images" / f"{name}.{ending}", "JPEG")
            save(label, root / "HRF" / "manual1" / f"{name}.tif")
            save(fov, root / "HRF" / "mask" / f"{name}_mask.tif")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "chase_db1": write_chase,
    "stare": write_stare,
    "drive": write_drive,
    "hrf": write_hrf,
}


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., Path]:
    """Writes a made-up data set in its official layout and gives the data root; phantoms need no files."""

    def write(name: str, **options: bool) -> Path:
        if name in LAYOUTS:
            LAYOUTS[name](tmp_path, **options)
        return tmp_path

    return write


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> PreparedDomain:
    """``phantom_clear`` with default settings."""
    return prepare_domain("phantom_clear", Catalogue(), tmp_path_factory.mktemp("cache"))

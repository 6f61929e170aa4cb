"""The real photographs below GKD_DATA_ROOT: counts, computed fields of view, nominal constants, thin vessels."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gkd_bench.config.schema import Prepare
from gkd_bench.data.catalogue import Catalogue, open_reader
from gkd_bench.data.check import best_shift, vessel_width
from gkd_bench.data.imagefiles import fov_diameter
from gkd_bench.data.prepare import prepare_domain, prepare_image, scale_factor

ROOT = Path(os.environ.get("GKD_DATA_ROOT", "/nonexistent"))
DOMAINS = {"chase_db1": (28, (960, 999), 919), "stare": (20, (605, 700), 649), "hrf": (45, None, None)}

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not ROOT.is_dir(), reason="GKD_DATA_ROOT does not name a folder with the real data sets"),
]


def require(name: str) -> None:
    if not (ROOT / open_reader(name, ROOT).card.folder).is_dir():
        pytest.skip(f"{name} is not below GKD_DATA_ROOT")


@pytest.mark.parametrize("name", DOMAINS)
def test_data_set_is_complete_and_labels_lie_on_vessels(name: str) -> None:
    require(name)
    reader = open_reader(name, ROOT)
    count, size, _ = DOMAINS[name]
    assert reader.problems(deep=True) == []
    assert len(reader.images()) == count
    for raw in reader.images()[::5]:
        pixels = reader.read(raw)
        assert size is None or pixels.label.shape == size
        green = np.ascontiguousarray(pixels.rgb[..., 1])
        shift, contrast = best_shift(green, pixels.label.astype(np.uint8), pixels.fov.astype(np.uint8))
        assert shift == (0, 0)
        assert contrast > 3


@pytest.mark.parametrize(("name", "folder"), [("chase_db1", "CHASEDB1"), ("stare", "STARE")])
def test_computed_field_of_view_agrees_with_hand_made_masks(name: str, folder: str) -> None:
    require(name)
    if not (ROOT / "fov" / folder).is_dir():
        pytest.skip("no hand-made masks below GKD_DATA_ROOT")
    reader = open_reader(name, ROOT)
    dice = {}
    for raw in reader.images():
        with Image.open(ROOT / "fov" / folder / f"{raw.name}.png") as picture:
            truth = np.asarray(picture.convert("L")) > 127
        fov = reader.read(raw).fov
        dice[raw.name] = 2 * (fov & truth).sum() / (fov.sum() + truth.sum())
    assert min(dice.values()) > 0.98, dice


@pytest.mark.parametrize("name", DOMAINS)
def test_nominal_vessel_width_is_that_of_the_training_subjects(name: str) -> None:
    require(name)
    reader = open_reader(name, ROOT)
    splits = reader.splits()
    train = [reader.read(raw) for raw in reader.images() if splits[raw.subject] == "train"]
    measured = float(np.mean([vessel_width(p.label) / fov_diameter(p.fov) for p in train]))
    assert measured == pytest.approx(reader.card.vessel_width, rel=0.02)


@pytest.mark.parametrize("name", DOMAINS)
def test_vessels_survive_at_the_working_scale(name: str) -> None:
    require(name)
    reader = open_reader(name, ROOT)
    for raw in reader.images()[:4]:
        pixels = reader.read(raw)
        height, width = pixels.label.shape
        factor = scale_factor(Prepare().scale, reader.card, fov_diameter(pixels.fov))
        _, label, _ = prepare_image(pixels, Prepare(), (round(height * factor), round(width * factor)))
        back = cv2.resize(label * np.uint8(255), (width, height), interpolation=cv2.INTER_LINEAR) >= 128
        dice = 2 * (back & pixels.label).sum() / (back.sum() + pixels.label.sum())
        assert dice > 0.95


def test_preparation_of_real_photographs(tmp_path: Path) -> None:
    require("chase_db1")
    domain = prepare_domain("chase_db1", Catalogue(ROOT), tmp_path)
    assert domain.manifest.fov_diameter == DOMAINS["chase_db1"][2]
    splits = domain.source_splits()
    assert (len(splits.train), len(splits.val), len(domain.test_split().images)) == (16, 4, 8)

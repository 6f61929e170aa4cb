from __future__ import annotations

import time

import numpy as np
import pytest

from gkd_bench.data.catalogue import open_reader
from gkd_bench.data.check import vessel_width
from gkd_bench.data.domain import RawPixels
from gkd_bench.data.imagefiles import fov_diameter

PHANTOMS = ("phantom_clear", "phantom_dim", "phantom_warm")


def draw(name: str) -> list[RawPixels]:
    reader = open_reader(name)
    return [reader.read(raw) for raw in reader.images()]


@pytest.mark.parametrize("name", PHANTOMS)
def test_same_subject_has_the_same_pixels_and_subjects_differ(name: str) -> None:
    first, second = draw(name), draw(name)
    assert all(np.array_equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))
    assert len({pixels.label.tobytes() for pixels in first}) == len(first)


@pytest.mark.parametrize("name", PHANTOMS)
def test_domain_is_drawn_within_a_second_of_processor_time(name: str) -> None:
    start = time.process_time()
    draw(name)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("name", PHANTOMS)
def test_vessels_look_like_vessels(name: str) -> None:
    for pixels in draw(name):
        share = pixels.label.sum() / pixels.fov.sum()
        assert 0.05 < share < 0.35
        assert not (pixels.label & ~pixels.fov).any()
        assert pixels.rgb[~pixels.fov].mean() < 12
        widths = vessel_width(pixels.label) / fov_diameter(pixels.fov)
        assert 0.008 < widths < 0.025


def test_domains_differ_in_brightness_contrast_noise_size_and_colour() -> None:
    facts = {}
    for name in PHANTOMS:
        pixels = draw(name)[0]
        green = pixels.rgb[..., 1].astype(float)
        inside = green[pixels.fov & ~pixels.label].mean()
        vessel = green[pixels.fov & pixels.label].mean()
        red = pixels.rgb[..., 0][pixels.fov].mean()
        noise = green[:12, :12].std()  # a corner, outside the field of view
        facts[name] = (pixels.fov.shape[0], inside, (inside - vessel) / inside, noise, red / inside)
    clear, dim, warm = (facts[name] for name in PHANTOMS)
    assert warm[0] < clear[0] < dim[0]
    assert dim[1] < 0.8 * clear[1]
    assert max(dim[2], warm[2]) < clear[2]
    assert dim[3] > warm[3] > clear[3]
    assert warm[4] > 1.15 * clear[4]


@pytest.mark.parametrize("name", PHANTOMS)
def test_nominal_vessel_width_fits_the_training_subjects(name: str) -> None:
    train = draw(name)[:6]
    measured = float(np.mean([vessel_width(p.label) / fov_diameter(p.fov) for p in train]))
    assert measured == pytest.approx(open_reader(name).card.vessel_width, rel=0.03)

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from gkd_bench.metrics import pictures

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
COLOUR_BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(linear: np.ndarray) -> np.ndarray:
    clipped = np.clip(linear, 0, 1)
    rgb = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(rgb.astype(np.float32)[None, None], cv2.COLOR_RGB2Lab)[0, 0]


def linear(colour: pictures.Colour) -> np.ndarray:
    value = np.array(colour) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("kind", ["none", *COLOUR_BLINDNESS])
def test_colours_stay_apart_for_colour_blind_eyes(kind: str) -> None:
    matrix = np.array(COLOUR_BLINDNESS.get(kind, np.eye(3)))
    seen = [lab(matrix @ linear(colour)) for _, colour in pictures.LEGEND]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 30


def test_overlay_colours_right_wrong_and_missed_pixels_and_darkens_the_rest() -> None:
    image = np.array([[200, 200, 200, 201]], np.uint8)
    picture = pictures.overlay(image, np.array([[1, 0, 1, 0]]), np.array([[True, True, False, False]]))
    expected = [pictures.TRUE_POSITIVE, pictures.FALSE_POSITIVE, pictures.FALSE_NEGATIVE, (100, 100, 100)]
    assert picture[0].tolist() == [list(colour) for colour in expected]


@pytest.mark.parametrize("shape", [(4, 5), (5, 4, 1)])
def test_masks_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        pictures.overlay(np.zeros((5, 4), np.uint8), np.zeros(shape, bool), np.zeros((5, 4), bool))


def test_image_that_is_not_8_bit_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        pictures.overlay(np.zeros((5, 4), np.float32), np.zeros((5, 4)), np.zeros((5, 4)))  # type: ignore[arg-type]


def test_panel_shows_image_label_and_overlay_side_by_side() -> None:
    image, label = np.full((60, 80), 90, np.uint8), np.zeros((60, 80), bool)
    label[10:20] = True
    panel = pictures.panel(image, label, label, "hrf -> stare: Dice 1.000")
    assert panel.shape == (22 + 60 + 22, 3 * 80 + 8, 3)
    assert (panel[22:82, :80] == 90).all()
    assert (panel[22 + 10 : 22 + 20, 84:164] == 255).all()
    assert (panel[22 + 10 : 22 + 20, 168:] == pictures.TRUE_POSITIVE).all()
    assert panel[:22].max() > 128


def test_panel_is_resized_to_the_asked_height() -> None:
    image, mask = np.zeros((60, 90), np.uint8), np.zeros((60, 90), bool)
    assert pictures.panel(image, mask, mask, height=30).shape == (22 + 30 + 22, 3 * 45 + 8, 3)


def test_panel_explains_its_colours_unless_told_not_to() -> None:
    image, mask = np.zeros((50, 140), np.uint8), np.zeros((50, 140), bool)
    panel, bare = pictures.panel(image, mask, mask, "x"), pictures.panel(image, mask, mask, "x", legend=False)
    assert (panel[-22:] == pictures.legend_strip(panel.shape[1])).all()
    assert (panel[:-22] == bare).all()


def test_legend_shows_every_colour() -> None:
    strip = pictures.legend_strip(420)
    for _, colour in pictures.LEGEND:
        assert (strip == colour).all(axis=2).any()


def test_text_outside_ascii_and_too_long_does_not_fail() -> None:
    assert pictures.text_strip("Übersicht → " * 40, 100).shape == (22, 100, 3)


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)])
def test_png_reads_back_the_same_pixels_and_same_bytes(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    encoded = pictures.encode_png(picture)
    flag = cv2.IMREAD_GRAYSCALE if len(shape) == 2 else cv2.IMREAD_COLOR_RGB
    assert (cv2.imdecode(np.frombuffer(encoded, np.uint8), flag) == picture).all()
    assert encoded == pictures.encode_png(picture)

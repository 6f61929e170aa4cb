from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gkd_bench.data.windows import Blend, Floats, blend_weights, reflected, slide, window_corners, window_starts

TILE = 16
BLENDS: tuple[Blend, ...] = ("uniform", "gaussian")


def random_image(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def edge_aware(tiles: Floats) -> Floats:
    """(n, c, tile, tile) -> (n, tile, tile), which depends on where in its window a pixel is."""
    slope = np.linspace(0.2, 1.0, tiles.shape[-1], dtype=np.float32)
    return np.asarray(tiles.mean(axis=1) * slope[:, None] * slope, np.float32)


def three_classes(tiles: Floats) -> Floats:
    """(n, c, tile, tile) -> (n, 3, tile, tile)."""
    return np.stack([edge_aware(tiles) * share for share in (0.5, 0.3, 0.2)], axis=1).astype(np.float32)


def grey_before(image: NDArray[np.uint8], tile: int, overlap: float, batch: int) -> Floats:
    """``slide`` as it was when it knew one grey channel, one class and uniform weights only."""
    height, width = image.shape
    missing = [(0, max(tile - length, 0)) for length in image.shape]
    padded = np.pad(image, missing, mode="reflect").astype(np.float32) / np.float32(255.0)
    rows, columns = (window_starts(length, tile, overlap) for length in padded.shape)
    corners = [(y, x) for y in rows for x in columns]
    total, count = np.zeros(padded.shape, np.float32), np.zeros(padded.shape, np.float32)
    for first in range(0, len(corners), batch):
        chosen = corners[first : first + batch]
        windows = np.stack([padded[None, y : y + tile, x : x + tile] for y, x in chosen])
        for (y, x), values in zip(chosen, edge_aware(windows), strict=True):
            total[y : y + tile, x : x + tile] += values
            count[y : y + tile, x : x + tile] += 1
    result: Floats = (total / count)[:height, :width]
    return result


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("tile", [1, 2, 15, 16, 96, 128])
@pytest.mark.parametrize(("blend", "mode"), [("uniform", "constant"), ("gaussian", "gaussian")])
def test_weights_are_those_of_monai(tile: int, blend: Blend, mode: str) -> None:
    utils = pytest.importorskip("monai.data.utils")
    theirs: NDArray[Any] = utils.compute_importance_map((tile, tile), mode=mode, sigma_scale=0.125).numpy()
    ours = blend_weights(tile, blend)
    assert ours.shape == (tile, tile) and ours.dtype == theirs.dtype == np.float32
    assert np.allclose(ours, theirs, rtol=1e-6, atol=0)


def test_gaussian_weights_are_symmetric_fall_from_the_centre_and_never_vanish() -> None:
    weights = blend_weights(65, "gaussian")
    assert np.array_equal(weights, weights.T) and np.array_equal(weights, weights[::-1, ::-1])
    assert weights[32, 32] == weights.max() == 1.0
    assert weights.min() == np.float32(1e-3)
    assert np.all(np.diff(weights[32, 32:]) <= 0)
    assert weights[32, 32 + 8] == pytest.approx(np.exp(-0.5 * (8 / (65 / 8)) ** 2), rel=1e-6)


def test_an_unknown_blend_is_refused() -> None:
    with pytest.raises(ValueError, match="'hann'"):
        blend_weights(8, "hann")  # type: ignore[arg-type]


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize("size", [(16, 16), (40, 57), (100, 33)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_corners_cover_every_pixel_and_stay_inside(size: tuple[int, int], overlap: float) -> None:
    covered = np.zeros(size, int)
    for y, x in window_corners(size, TILE, overlap):
        assert 0 <= y <= size[0] - TILE and 0 <= x <= size[1] - TILE
        covered[y : y + TILE, x : x + TILE] += 1
    assert covered.min() >= 1


def test_only_the_last_two_axes_are_reflected() -> None:
    images = random_image(3, 2, 5, 20)
    padded = reflected(images, 8)
    assert padded.shape == (3, 2, 8, 20)
    assert np.array_equal(padded[..., :5, :], images)
    assert np.array_equal(padded[..., 5:, :], images[..., 3:0:-1, :])
    assert reflected(images, 5) is images


# ---------------------------------------------------------------- slide


@pytest.mark.parametrize("size", [(40, 57), (33, 16), (16, 16), (7, 30), (1, 3)])
@pytest.mark.parametrize("batch", [1, 5, 32])
def test_grey_uniform_probabilities_are_bit_for_bit_those_of_before(size: tuple[int, int], batch: int) -> None:
    image = random_image(*size)
    for overlap in (0.0, 0.25, 0.5):
        assert np.array_equal(slide(image, TILE, edge_aware, overlap, batch), grey_before(image, TILE, overlap, batch))


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("shape", [(40, 57), (40, 57, 3), (9, 50, 3), (5, 6)])
def test_every_pixel_is_the_weighted_mean_of_the_windows_over_it(shape: tuple[int, ...], blend: Blend) -> None:
    image = random_image(*shape)
    height, width = shape[:2]
    planes = reflected(np.moveaxis(np.atleast_3d(image), 2, 0), TILE) / np.float64(255)
    weights = blend_weights(TILE, blend).astype(np.float64)
    sums, norm = np.zeros((3, *planes.shape[1:])), np.zeros(planes.shape[1:])
    rows, columns = (window_starts(length, TILE, 0.5) for length in planes.shape[1:])
    for y, x in itertools.product(rows, columns):
        at = (slice(y, y + TILE), slice(x, x + TILE))
        sums[:, *at] += weights * three_classes(planes[None, :, *at].astype(np.float32))[0]
        norm[at] += weights
    found = slide(image, TILE, three_classes, 0.5, 4, blend)
    assert found.shape == (3, height, width) and found.dtype == np.float32
    assert np.allclose(found, (sums / norm)[:, :height, :width], atol=1e-6)


@pytest.mark.parametrize("blend", BLENDS)
def test_what_does_not_depend_on_the_window_is_left_as_it_is(blend: Blend) -> None:
    image = random_image(50, 37)
    found = slide(image, TILE, lambda tiles: tiles[:, 0], 0.25, 7, blend)
    assert found.shape == image.shape
    assert np.allclose(found, image / 255.0, atol=1e-6)

from __future__ import annotations

import math
import warnings
from itertools import product

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from gkd_bench.metrics import surface
from gkd_bench.metrics.surface import hausdorff95, surface_metrics

Mask = NDArray[np.bool_]
Places = NDArray[np.float64]


def _blobs(seed: int, shape: tuple[int, ...], level: float = 0.6) -> Mask:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    return np.asarray(noise > np.quantile(noise, level))


def _vessels(seed: int, shape: tuple[int, int], count: int = 8) -> Mask:
    """Wandering lines, one to four pixels wide."""
    generator, (height, width) = np.random.default_rng(seed), shape
    canvas = np.zeros(shape, np.uint8)
    for _ in range(count):
        turns = generator.uniform(0, 2 * math.pi) + generator.normal(scale=0.4, size=20).cumsum()
        path = generator.uniform(0, (width, height)) + 6.0 * np.stack([np.cos(turns), np.sin(turns)], 1).cumsum(axis=0)
        cv2.polylines(canvas, [np.round(path).astype(np.int32)], False, 1, int(generator.integers(1, 5)))
    return canvas > 0


def _surface_places(mask: Mask, spacing: tuple[float, ...]) -> Places:
    """Foreground pixels with a direct neighbour that is background or outside, written as the definition says."""
    padded = np.pad(mask, 1)
    kept = []
    for place in np.argwhere(mask):
        steps = [
            step
            for axis in range(mask.ndim)
            for step in (np.eye(mask.ndim, dtype=int)[axis], -np.eye(mask.ndim, dtype=int)[axis])
        ]
        if not all(padded[tuple(place + 1 + step)] for step in steps):
            kept.append(place * np.array(spacing))
    return np.array(kept)


def _brute_force(a: Mask, b: Mask, spacing: tuple[float, ...], tolerance: float) -> dict[str, float]:
    """All three metrics from the full matrix of distances."""
    pairs = cdist(_surface_places(a, spacing), _surface_places(b, spacing))
    ways = pairs.min(axis=1), pairs.min(axis=0)
    every = np.concatenate(ways)
    return {
        "hd95": max(float(np.quantile(way, 0.95)) for way in ways),
        "assd": float(every.sum() / len(every)),
        "nsd": float((every <= tolerance).sum() / len(every)),
    }


SHAPES_2D = [(40, 57), (64, 31), (1, 50), (50, 1)]


# ---------------------------------------------------------------- against brute force


@pytest.mark.parametrize("shape", SHAPES_2D)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 0.7), (1.0, 2.5)])
def test_random_blobs_equal_brute_force(shape: tuple[int, int], seed: int, spacing: tuple[float, float]) -> None:
    a, b = _blobs(seed, shape), _blobs(seed + 100, shape, 0.8)
    assert surface_metrics(a, b, spacing, 1.3) == pytest.approx(_brute_force(a, b, spacing, 1.3), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_vessels_equal_brute_force(seed: int) -> None:
    a = _vessels(seed, (90, 120))
    b = np.roll(a, 1, axis=0) & (np.random.default_rng(seed).random(a.shape) < 0.97)
    assert surface_metrics(a, b, tolerance=1.0) == pytest.approx(_brute_force(a, b, (1.0, 1.0), 1.0), rel=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8)])
def test_volumes_equal_brute_force(spacing: tuple[float, float, float]) -> None:
    a, b = _blobs(0, (9, 18, 14), 0.8), _blobs(1, (9, 18, 14), 0.8)
    assert surface_metrics(a, b, spacing, 2.0) == pytest.approx(_brute_force(a, b, spacing, 2.0), rel=1e-12)


@pytest.mark.parametrize("density", [0.001, 0.02, 0.5])
def test_scattered_pixels_equal_brute_force(density: float) -> None:
    generator = np.random.default_rng(5)
    a, b = generator.random((2, 70, 45)) < density
    assert surface_metrics(a, b, tolerance=3.0) == pytest.approx(_brute_force(a, b, (1.0, 1.0), 3.0), rel=1e-12)


@pytest.mark.parametrize("shape", [(40, 600), (600, 40)])
def test_distances_near_and_beyond_the_reach_of_the_transform_are_exact(shape: tuple[int, int]) -> None:
    a, b = np.zeros((2, *shape), bool)
    along = shape.index(600)
    np.moveaxis(a, along, 0)[2, 5] = True
    for place in (130, 131, 300, 599):
        np.moveaxis(b, along, 0)[place, 1 : place % 30 + 5] = True
    assert surface_metrics(a, b, tolerance=128.0) == pytest.approx(_brute_force(a, b, (1.0, 1.0), 128.0), rel=1e-12)


def test_tall_images_take_the_tree_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _blobs(0, (40, 57)), _blobs(1, (40, 57))
    expected = surface_metrics(a, b)
    monkeypatch.setattr(surface, "_NO_SURFACE", 40)
    assert surface_metrics(a, b) == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------- against MONAI


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.5), (0.7, 1.9)])
@pytest.mark.parametrize("kind", ["blobs", "vessels", "volume"])
def test_values_equal_monai(kind: str, spacing: tuple[float, float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai = pytest.importorskip("monai.metrics")
        torch = pytest.importorskip("torch")
        if kind == "vessels":
            a, b = _vessels(3, (150, 190)), _vessels(4, (150, 190))
        else:
            shape = (12, 24, 20) if kind == "volume" else (60, 80)
            a, b = _blobs(3, shape, 0.8), _blobs(4, shape, 0.8)
        steps = (2.0, *spacing) if kind == "volume" else spacing
        one_hot = [torch.from_numpy(mask)[None, None] for mask in (a, b)]
        shared = {"include_background": True, "spacing": list(steps)}
        hd95 = float(monai.compute_hausdorff_distance(*one_hot, percentile=95, **shared))
        assd = float(monai.compute_average_surface_distance(*one_hot, symmetric=True, **shared))
        nsd = float(monai.compute_surface_dice(*one_hot, class_thresholds=[1.6], **shared))
    ours = surface_metrics(a, b, steps, 1.6)
    assert ours == pytest.approx({"hd95": hd95, "assd": assd, "nsd": nsd}, rel=1e-6)


# ---------------------------------------------------------------- degenerate masks


def test_perfect_prediction_has_no_distance() -> None:
    a = _vessels(0, (40, 50))
    assert surface_metrics(a, a, tolerance=0.0) == {"hd95": 0.0, "assd": 0.0, "nsd": 1.0}


@pytest.mark.parametrize("shape", [(3, 4), (5, 3, 4)])
def test_both_empty_is_perfect(shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape)
    spacing = [2.0] * len(shape)
    assert surface_metrics(empty, empty, spacing) == {"hd95": 0.0, "assd": 0.0, "nsd": 1.0}
    assert hausdorff95(empty, empty, spacing) == 0.0


@pytest.mark.parametrize("swapped", [False, True])
def test_missing_structure_scores_worst_distance(swapped: bool) -> None:
    masks = (np.zeros((30, 40)), np.zeros((30, 40)))
    masks[0][7, 7] = 1
    pair = masks[::-1] if swapped else masks
    assert surface_metrics(*pair, spacing=(2.0, 2.0)) == {"hd95": 100.0, "assd": 100.0, "nsd": 0.0}
    assert hausdorff95(*pair) == 50.0


def test_missing_structure_is_worse_than_any_found_one() -> None:
    corners = np.zeros((2, 30, 40), bool)
    corners[0, 0, 0] = corners[1, -1, -1] = True
    assert hausdorff95(*corners) < hausdorff95(corners[0], np.zeros((30, 40)))
    assert surface_metrics([[1]], [[0]])["hd95"] > 0.0


def test_missing_structure_in_a_volume_scores_its_diagonal_in_millimetres() -> None:
    volume = np.zeros((2, 3, 6))
    volume[0, 0, 0] = 1
    assert surface_metrics(volume, np.zeros_like(volume), (3.0, 2.0, 0.5))["assd"] == pytest.approx(math.hypot(6, 6, 3))


@pytest.mark.parametrize(
    ("distance", "expected"), [(0, 0.0), (1, 1.0), (127, 127.0), (128, 128.0), (129, 129.0), (200, 200.0)]
)
@pytest.mark.parametrize("axis", [0, 1])
def test_single_pixels_have_the_distance_between_them(distance: int, expected: float, axis: int) -> None:
    a, b = np.zeros((2, 300, 300), bool)
    a[40, 40] = True
    b[(40 + distance, 40) if axis == 0 else (40, 40 + distance)] = True
    assert surface_metrics(a, b, tolerance=float(distance)) == {"hd95": expected, "assd": expected, "nsd": 1.0}


def test_parallel_lines_one_pixel_wide() -> None:
    a, b = np.zeros((2, 20, 33), bool)
    a[3], b[8] = True, True
    assert surface_metrics(a, b, spacing=(0.1, 0.1), tolerance=0.5) == pytest.approx(
        {"hd95": 0.5, "assd": 0.5, "nsd": 1.0}
    )
    assert surface_metrics(a, b, spacing=(0.1, 0.1), tolerance=0.49)["nsd"] == 0.0


def test_full_mask_has_its_surface_on_the_border_of_the_image() -> None:
    full, centre = np.ones((7, 9), bool), np.zeros((7, 9), bool)
    centre[3, 4] = True
    assert surface_metrics(full, full) == {"hd95": 0.0, "assd": 0.0, "nsd": 1.0}
    assert surface_metrics(full, centre, tolerance=3.0) == pytest.approx(_brute_force(full, centre, (1.0, 1.0), 3.0))


def test_empty_image_is_a_perfect_result() -> None:
    assert surface_metrics(np.zeros((0, 5)), np.zeros((0, 5))) == {"hd95": 0.0, "assd": 0.0, "nsd": 1.0}


# ---------------------------------------------------------------- what must not matter


def test_swapping_and_moving_both_masks_changes_nothing() -> None:
    a, b = np.pad(_blobs(0, (40, 50)), 30), np.pad(_blobs(1, (40, 50)), 30)
    expected = surface_metrics(a, b)
    assert surface_metrics(b, a) == pytest.approx(expected)
    moved = [np.roll(mask, (-20, 13), axis=(0, 1)) for mask in (a, b)]
    assert surface_metrics(*moved) == pytest.approx(expected)


def test_labels_of_255_lists_and_strided_views_are_masks() -> None:
    a, b = _blobs(0, (40, 50)), _blobs(1, (40, 50))
    expected = surface_metrics(a, b)
    assert surface_metrics(a.astype(np.uint8) * 255, b.astype(float).tolist()) == expected
    wide = np.zeros((80, 100), bool)
    wide[::2, ::2] = a
    assert surface_metrics(wide[::2, ::2], np.asfortranarray(b)) == expected


def test_hd95_alone_is_the_one_of_all_three() -> None:
    a, b = _vessels(0, (80, 60)), _vessels(1, (80, 60))
    assert hausdorff95(a, b, (0.3, 0.3)) == surface_metrics(a, b, (0.3, 0.3))["hd95"]


def test_masks_are_left_as_they_are() -> None:
    a, b = _blobs(0, (40, 50)), _blobs(1, (40, 50))
    copies = a.copy(), b.copy()
    surface_metrics(a, b)
    assert all((mask == copy).all() for mask, copy in zip((a, b), copies, strict=True))


# ---------------------------------------------------------------- wrong input


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        surface_metrics(np.zeros((3, 3)), np.zeros((3, 4)))


@pytest.mark.parametrize("shape", [(5,), (2, 2, 2, 2)])
def test_other_numbers_of_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not shape"):
        surface_metrics(np.ones(shape), np.ones(shape), [1.0] * len(shape))


@pytest.mark.parametrize(
    "spacing", [(1.0,), (1.0, 1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (0.0, 1.0), (1.0, -1.0)]
)
def test_unusable_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    for function, mask in product((surface_metrics, hausdorff95), (np.zeros((4, 4)), np.eye(4))):
        with pytest.raises(ValueError, match="spacing must be 2 positive"):
            function(mask, mask, spacing)


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_unusable_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        surface_metrics(np.eye(4), np.eye(4), tolerance=tolerance)

"""Distances between the surfaces of two masks: HD95, ASSD and normalised surface Dice (NSD), in 2-D and 3-D.

The surface is the mask minus its erosion by the cross of direct neighbours, and a mask that touches the border of the
image has a surface there: MONAI's definition. DeepMind's ``surface-distance`` agrees on what counts as border, but puts its surface
elements between the pixels and weighs them by area, so its values differ by fractions of a pixel; nothing is weighed here.

A missed structure, exactly one mask empty, scores the worst value: the diagonal of the image for distances, 0 for NSD. Two
empty masks are a perfect result: 0, 0 and 1. No value is ever undefined, so no subject drops out of a mean.

Every distance is exact. Both masks are cropped to the box of their union, outside of which nothing changes. Images of equal
spacing then take the two passes of a Euclidean distance transform (Saito and Toriwaki, Pattern Recognition 27:1551, 1994) in
integers, the second one only where a distance is asked for; what lies farther than 128 pixels, volumes, and images of unequal
spacing ask a k-d tree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]
Columns = NDArray[np.int16]
Squares = NDArray[np.int32]

DEFAULT_TOLERANCE = 2.0

_REACH = 128
_NO_SURFACE = 1 << 14  # rows to a surface that does not exist: beyond every reach, and its square still is an int32
_ROUNDING = 1e-9


def surface_metrics(
    prediction: ArrayLike,
    label: ArrayLike,
    spacing: Sequence[float] = (1.0, 1.0),
    tolerance: float = DEFAULT_TOLERANCE,
) -> dict[str, float]:
    """HD95, ASSD and NSD of one image or volume, all from one pair of distance searches.

    * ``hd95``: the larger of the two directed 95th percentiles of surface distances, interpolated linearly: what MONAI's
      ``compute_hausdorff_distance(percentile=95)`` gives. In [0, diagonal], lower is better.
    * ``assd``: mean of the distances of all surface pixels of both masks together, MONAI's symmetric average surface
      distance. In [0, diagonal], lower is better.
    * ``nsd``: share of all these distances that are at most ``tolerance`` (Nikolov et al., arXiv 1809.04430, with pixels counted
      instead of areas). In [0, 1], higher is better.

    Args:
        prediction: (height, width) or (depth, height, width) mask; anything but zero is foreground.
        label: mask of the same shape.
        spacing: size of a pixel along each axis of the mask: 1.0 gives pixels, millimetres give millimetres.
        tolerance: distance, in the units of ``spacing``, that NSD forgives; 0 or more.

    Raises:
        ValueError: the shapes differ, the masks are neither 2-D nor 3-D, or spacing or tolerance are not usable numbers.
    """
    found, truth, steps = _checked(prediction, label, spacing)
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance must be a finite number of at least 0, not {tolerance}")
    distances = _both_ways(found, truth, steps)
    if distances is None:
        alike, diagonal = _without_surface(found, truth, steps)
        return {"hd95": diagonal, "assd": diagonal, "nsd": float(alike)}
    every = np.concatenate(distances)
    near = float(np.mean(every <= tolerance * (1 + _ROUNDING)))
    return {"hd95": _larger_percentile(distances), "assd": float(every.mean()), "nsd": near}


def hausdorff95(prediction: ArrayLike, label: ArrayLike, spacing: Sequence[float] = (1.0, 1.0)) -> float:
    """HD95 alone; see :func:`surface_metrics`, also for the errors."""
    found, truth, steps = _checked(prediction, label, spacing)
    distances = _both_ways(found, truth, steps)
    return _without_surface(found, truth, steps)[1] if distances is None else _larger_percentile(distances)


def _checked(prediction: ArrayLike, label: ArrayLike, spacing: Sequence[float]) -> tuple[Mask, Mask, Distances]:
    found, truth = np.asarray(prediction, bool), np.asarray(label, bool)
    if found.shape != truth.shape:
        raise ValueError(f"prediction and label must have one shape, not {found.shape} and {truth.shape}")
    if found.ndim not in (2, 3):
        raise ValueError(f"surfaces are measured on (height, width) or (depth, height, width), not shape {found.shape}")
    steps = np.asarray(spacing, np.float64)
    if steps.shape != (found.ndim,) or not (np.isfinite(steps).all() and (steps > 0).all()):
        raise ValueError(f"spacing must be {found.ndim} positive finite numbers, one per axis, not {tuple(spacing)}")
    return found, truth, steps


def _without_surface(found: Mask, truth: Mask, steps: Distances) -> tuple[bool, float]:
    """(both masks are empty, their distance): 0 when both are, else the diagonal of the image, the worst there is."""
    if not (found.any() or truth.any()):
        return True, 0.0
    return False, float(np.linalg.norm(steps * found.shape))


def _larger_percentile(distances: tuple[Distances, Distances]) -> float:
    return max(float(np.percentile(way, 95)) for way in distances)


def _both_ways(found: Mask, truth: Mask, steps: Distances) -> tuple[Distances, Distances] | None:
    """Distances of each surface pixel of one mask to the other's surface, in no order; None when a mask is empty."""
    box = _union_box(found, truth)
    first, second = _surface(found[box]), _surface(truth[box])
    if not (first.any() and second.any()):
        return None
    if found.ndim == 2 and steps[0] == steps[1] and len(first) < _NO_SURFACE:
        return _pixel_distances(first, second) * steps[0], _pixel_distances(second, first) * steps[0]
    places, others = np.argwhere(first) * steps, np.argwhere(second) * steps
    return _tree_distances(places, others), _tree_distances(others, places)


def _union_box(found: Mask, truth: Mask) -> tuple[slice, ...]:
    """The smallest box that holds both masks; empty when both are."""
    union = found | truth
    axes = range(union.ndim)
    used = [np.flatnonzero(union.any(axis=tuple(a for a in axes if a != axis))) for axis in axes]
    return tuple(slice(int(u[0]), int(u[-1]) + 1) if len(u) else slice(0, 0) for u in used)


def _surface(mask: Mask) -> Mask:
    """Foreground with a direct neighbour in the background or outside of the box."""
    if mask.ndim == 3 or not mask.size:
        inside: Mask = binary_erosion(mask)
        return mask & ~inside
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(mask.view(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & ~inner.view(np.bool_)


def _pixel_distances(surface: Mask, other: Mask) -> Distances:
    """Distances in pixels from each surface pixel to the other surface, (n,), in no order."""
    places = np.flatnonzero(surface)
    squares, far = _near_squares(places, _rows_to_surface(other))
    if not len(far):
        return np.sqrt(squares)
    rows, columns = (np.stack(np.divmod(at, surface.shape[1]), axis=1) for at in (far, np.flatnonzero(other)))
    return np.concatenate([np.sqrt(squares), _tree_distances(rows, columns)])


def _tree_distances(places: NDArray[np.float64 | np.int64], others: NDArray[np.float64 | np.int64]) -> Distances:
    """Distance of each of (n, axes) points to the nearest of (m, axes) others: (n,)."""
    distances: Distances = cKDTree(others, balanced_tree=False, compact_nodes=False).query(places)[0]
    return distances


def _rows_to_surface(surface: Mask) -> Columns:
    """First pass of the transform: rows from every pixel to the nearest surface pixel of its own column."""
    height = len(surface)
    down = np.arange(_NO_SURFACE, _NO_SURFACE + height, dtype=np.int16)[:, None]
    up = down[::-1]
    above, below = surface * down, surface * up
    # Row by row instead of ``maximum.accumulate``: a row stays in the cache and the maximum of two rows is vectorised.
    for before, row in pairwise(above):
        np.maximum(before, row, out=row)
    for before, row in pairwise(below[::-1]):
        np.maximum(before, row, out=row)
    rows: Columns = np.minimum(down - above, up - below)
    return rows


def _near_squares(places: NDArray[np.int64], rows: Columns) -> tuple[Squares, NDArray[np.int64]]:
    """Second pass: squared distances of the flat places that have one within reach, and the places that have none.

    One column farther to the left and right at a time; a place is settled once the next column is as far as its best.
    """
    width = rows.shape[1]
    padded = np.pad(rows, ((0, 0), (_REACH, _REACH)), constant_values=_NO_SURFACE)
    flat, shift = padded.ravel(), 2 * _REACH
    at = places + (places // width) * shift + _REACH
    best = np.square(flat.take(at), dtype=np.int32)
    settled = []
    for step in range(1, _REACH + 1):
        open_ = best > step * step
        settled.append(best[~open_])
        best, at = best[open_], at[open_]
        if not len(at):
            break
        nearer = np.minimum(flat.take(at - step), flat.take(at + step))
        best = np.minimum(best, np.square(nearer, dtype=np.int32) + step * step)
    near = best <= _REACH * _REACH
    padded_width, at = width + shift, at[~near]
    return np.concatenate([*settled, best[near]]), at // padded_width * width + at % padded_width - _REACH

"""Whether a prediction is connected like its label: centre-line Dice and the error in the number of connected parts. 2-D only."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.morphology import skeletonize

Mask = NDArray[np.bool_]

_EIGHT_NEIGHBOURS = 8


def topology_metrics(prediction: ArrayLike, label: ArrayLike) -> dict[str, float]:
    """Centre-line Dice and component error of one image.

    * ``cldice``: harmonic mean of the share of the prediction's centre line inside the label and the share of the label's
      centre line inside the prediction (Shit et al., CVPR 2021, equations 1 to 3), with the thinning of Zhang and Suen (Comm.
      ACM 27:236, 1984). In [0, 1], higher is better; 1 when both masks are empty, 0 when exactly one is.
    * ``components``: ``|b0(prediction) - b0(label)|``, b0 = number of 8-connected parts. In [0, inf), lower is better. It
      compares numbers only, not places: read it beside an overlap metric.

    Args:
        prediction: (height, width) mask; anything but zero is foreground.
        label: mask of the same shape.

    Raises:
        ValueError: the shapes differ or are not 2-D.
    """
    found, truth = np.asarray(prediction, bool), np.asarray(label, bool)
    if found.shape != truth.shape or found.ndim != 2:
        raise ValueError(
            f"prediction and label must have one shape (height, width), not {found.shape} and {truth.shape}"
        )
    return {"cldice": _cldice(found, truth), "components": float(abs(_components(found) - _components(truth)))}


def _cldice(found: Mask, truth: Mask) -> float:
    if not (found.any() and truth.any()):
        return float(found.any() == truth.any())
    precision = _share_inside(_centre_line(found), truth)
    sensitivity = _share_inside(_centre_line(truth), found)
    total = precision + sensitivity
    return 2.0 * precision * sensitivity / total if total else 0.0


def _share_inside(line: Mask, mask: Mask) -> float:
    return np.count_nonzero(line & mask) / np.count_nonzero(line)


def _centre_line(mask: Mask) -> Mask:
    """Skeleton of a mask that is not empty, thinned in its own box: what is background all around changes nothing."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    box = slice(top, top + height), slice(left, left + width)
    line = np.zeros_like(mask)
    line[box] = skeletonize(mask[box])  # type: ignore[no-untyped-call]
    return line


def _components(mask: Mask) -> int:
    if not mask.size:
        return 0
    with_background, _ = cv2.connectedComponents(mask.view(np.uint8), connectivity=_EIGHT_NEIGHBOURS)
    return int(with_background) - 1

"""Which way up an abdominal CT lies, told from the anatomy where headers cannot be believed: the spine and the liver know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.domain import Plane, Stack
from gkd_bench.data.volumefiles import Turn

BONE = 250.0  # Hounsfield units; contrast in vessels and kidneys seldom reaches it
BODY = -300.0  # between fat and air
LEAST_LIVER = 0.02  # of the body: slices with less of it say little about its side
CLEAR = 0.02  # of the body's width: offsets below this are no evidence
AGREED = 0.6  # of the slices must say the same


def find_turn(planes: Iterable[Plane]) -> Turn | None:
    """What brings slices of an abdominal CT to the one orientation: spine at the bottom, liver on the left.

    The spine lies off the body's middle towards the back, the liver off the middle to the patient's right, and a body that
    lies is wider than deep. Medians over slices, since contrast in the bowel looks like bone.

    Args:
        planes: some slices of one volume, as they lie; those without liver or bone are passed over.

    Returns:
        Never with ``reverse``; none when the slices do not tell.
    """
    found = [offsets for plane in planes if (offsets := _offsets(plane)) is not None]
    if not found:
        return None
    extent, bone, liver = np.median(np.array(found), axis=0)
    transpose = bool(extent[0] > extent[1] and abs(bone[1]) > abs(bone[0]))
    if transpose:
        bone, liver = bone[::-1], liver[::-1]
    votes = np.array(found)[
        :, (1, 2), (1, 0) if transpose else (0, 1)
    ]  # of each slice: bone along rows, liver along columns
    agreed = np.mean(np.sign(votes) == np.sign([bone[0], liver[1]]), axis=0)
    if abs(bone[0]) < CLEAR or abs(liver[1]) < CLEAR or agreed.min() < AGREED:
        return None
    return Turn(transpose=transpose, flip_rows=bool(bone[0] < 0), flip_columns=bool(liver[1] > 0))


def turned(stack: Stack, turn: Turn | None) -> Stack:
    """A stack, turned further, with a remark that says how; as it is where the anatomy does not tell."""
    if turn is None:
        return replace(stack, remark="the anatomy does not tell how it lies: as in its header")

    def planes() -> Iterator[Plane]:
        for values, label in stack.planes():
            yield Plane(np.ascontiguousarray(turn.plane(values)), np.ascontiguousarray(turn.plane(label)))

    spacing = turn.sizes(stack.spacing) if stack.spacing else None
    return Stack(turn.sizes(stack.shape), spacing, planes, words(turn))


def words(turn: Turn) -> str:
    """What was done, such as "turned by anatomy: rows"."""
    steps = (("transposed", turn.transpose), ("rows", turn.flip_rows), ("columns", turn.flip_columns))
    done = [name for name, yes in steps if yes]
    return f"turned by anatomy: {', '.join(done)}" if done else "as is by anatomy"


def _offsets(plane: Plane) -> NDArray[np.float64] | None:
    """(3, 2) along rows and columns: the body's extent, and from its middle to the spine and to the liver, in body widths."""
    body = _largest(plane.values > max(BODY, float(plane.values.min())))
    liver = plane.label > 0
    if liver.sum() < max(1.0, LEAST_LIVER * body.sum()):
        return None
    bone = _largest((plane.values > BONE) & body)
    if not bone.any():
        return None
    rows, columns = np.nonzero(body)
    extent = np.array([np.ptp(rows), np.ptp(columns)]) + 1.0
    middle = np.array([rows.min() + rows.max(), columns.min() + columns.max()]) / 2
    return np.stack([extent, *((_centre(one) - middle) / extent.max() for one in (bone, liver))])


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part: the table is a part of its own, and so are ribs."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if len(stats) < 2:
        return np.zeros_like(mask)
    return np.asarray(parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])), np.bool_)


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.array([np.mean(axis) for axis in np.nonzero(mask)])

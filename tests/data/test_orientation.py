"""The anatomy tells how a CT lies: made-up bodies under every turn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gkd_bench.data.domain import Plane, Stack
from gkd_bench.data.orientation import find_turn, turned, words
from gkd_bench.data.volumefiles import Turn
from tests.data.made_up_volumes import arrays, body

AS_IS = Turn()
TURNS = [Turn(False, *flags) for flags in itertools.product((False, True), repeat=3)]


def planes(turn: Turn = AS_IS, slices: int = 6) -> list[Plane]:
    made = body(slices, 60, 80)
    pairs = zip(made.values.astype(np.float32), made.label, strict=True)
    return [Plane(turn.plane(values), turn.plane(label)) for values, label in pairs]


def stack_of(some: list[Plane]) -> Stack:
    return Stack((len(some), *some[0].values.shape), (3.0, 1.0, 2.0), lambda: iter(some))


@pytest.mark.parametrize("turn", TURNS)
def test_every_turn_is_found_and_undone(turn: Turn) -> None:
    lying = planes(turn)
    stack = turned(stack_of(lying), find_turn(lying))
    values, label = arrays(stack)
    assert stack.shape == values.shape == (6, 60, 80)
    assert (values == np.stack([plane.values for plane in planes()])).all()
    assert (label == np.stack([plane.label for plane in planes()])).all()
    assert stack.spacing == ((3.0, 2.0, 1.0) if turn.transpose else (3.0, 1.0, 2.0))


def test_remark_says_what_was_done() -> None:
    assert words(Turn()) == "as is by anatomy"
    assert words(Turn(flip_rows=True)) == "turned by anatomy: rows"
    assert words(Turn(transpose=True, flip_columns=True)) == "turned by anatomy: transposed, columns"
    assert turned(stack_of(planes()), Turn(flip_rows=True)).remark == "turned by anatomy: rows"


def test_without_liver_bone_or_agreement_nothing_is_said_and_nothing_turned() -> None:
    lying = planes()
    assert find_turn([]) is None
    assert find_turn([plane._replace(label=np.zeros_like(plane.label)) for plane in lying]) is None
    assert find_turn([plane._replace(values=np.minimum(plane.values, 200)) for plane in lying]) is None
    assert find_turn(lying[:2] + planes(Turn(flip_rows=True))[:2]) is None
    stack = turned(stack_of(lying), None)
    assert "as in its header" in stack.remark and stack.shape == (6, 60, 80)


def test_contrast_in_the_bowel_of_some_slices_does_not_mislead() -> None:
    lying = planes(slices=8)
    for plane in lying[1:3]:
        plane.values[8:25, 25:60] = 900
    assert find_turn(lying) == Turn()


def test_table_behind_the_body_does_not_mislead() -> None:
    lying = planes()
    for plane in lying:
        plane.values[58:, :] = 400
    assert find_turn(lying) == Turn()

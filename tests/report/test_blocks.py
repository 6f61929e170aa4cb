from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gkd_bench.report.blocks import Block, by_shape, places_of, shared_values

NAN = float("nan")


def block(seeds: list[int], subjects: list[int], values: list[list[float]]) -> Block:
    return Block(np.array(seeds), np.array(subjects), np.array(values, np.float64))


def test_seed_mean_leaves_undefined_subjects_out_and_seeds_without_any() -> None:
    cell = block([0, 1, 2], [0, 1], [[0.5, NAN], [0.6, 0.8], [NAN, NAN]])
    assert cell.seed_means == {0: pytest.approx(0.5), 1: pytest.approx(0.7)}


def test_complete_scores_are_of_subjects_that_every_scored_seed_has() -> None:
    cell = block([0, 1, 2], [4, 5], [[0.5, NAN], [0.6, 0.8], [NAN, NAN]]).complete
    assert (cell.seeds.tolist(), cell.subjects.tolist(), cell.values.tolist()) == ([0, 1], [4], [[0.5], [0.6]])


def test_difference_pairs_seeds_and_subjects() -> None:
    first = block([0, 1], [0, 1, 2], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    second = block([1, 2], [1, 2, 3], [[0.5, 0.25, 9.0], [9.0, 9.0, 9.0]])
    found = first.minus(second)
    assert (found.seeds.tolist(), found.subjects.tolist(), found.values.tolist()) == ([1], [1, 2], [[4.5, 5.75]])
    assert first.minus(first).values.tolist() == [[0.0] * 3, [0.0] * 3]


def test_shared_values_are_cut_to_what_all_have_completely() -> None:
    first = block([0, 1], [0, 1, 2], [[1.0, 2.0, NAN], [4.0, 5.0, 6.0]])
    second = block([1, 2], [0, 1, 2], [[40.0, 50.0, 60.0], [70.0, 80.0, 90.0]])
    third = block([0, 1], [0, 1, 3], [[9.0, 9.0, 9.0], [0.4, 0.5, 0.6]])
    assert [values.tolist() for values in shared_values([first, second])] == [[[4.0, 5.0, 6.0]], [[40.0, 50.0, 60.0]]]
    assert [values.tolist() for values in shared_values([first, third])] == [
        [[1.0, 2.0], [4.0, 5.0]],
        [[9.0, 9.0], [0.4, 0.5]],
    ]


def test_scores_find_their_seed_and_subject_whatever_their_order() -> None:
    rows = [
        ("a", "b", "m", 1, "y", 4.0),
        ("a", "b", "m", 0, "x", 1.0),
        ("a", "b", "m", 1, "x", 3.0),
        ("a", "c", "m", 0, "x", 9.0),
    ]
    frame = pd.DataFrame(rows, columns=["source", "target", "method", "seed", "subject", "dice"])
    first, second = places_of(frame)
    values = frame["dice"].to_numpy()
    np.testing.assert_array_equal(first.block(values).values, [[1.0, NAN], [3.0, 4.0]])
    assert (second.key, second.block(values).values.tolist()) == (("a", "c", "m"), [[9.0]])


def test_items_of_one_shape_are_handled_at_once_and_keep_their_names() -> None:
    calls = []

    def sizes(group: list[str]) -> list[int]:
        calls.append(len(group))
        return [len(one) for one in group]

    assert by_shape({"a": "xx", "b": "y", "c": "zz"}, lambda one: (len(one),), sizes) == {"a": 2, "b": 1, "c": 2}
    assert sorted(calls) == [1, 2]

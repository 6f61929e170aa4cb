"""Scores of a cell as an array of seeds x test subjects: what every interval and test of the report is computed from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gkd_bench.report.statistics import Array

Key = tuple[str, str, str]
"""(source, target, method)"""
Codes = NDArray[np.int64]
_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, eq=False)
class Block:
    """Scores of one cell, or differences of two.

    Attributes:
        seeds: (s,) seeds in order.
        subjects: (m,) codes of the test subjects in order; one code is one subject of a target in the whole report.
        values: (s, m), NaN where a metric is undefined or a subject was not scored.
    """

    seeds: Codes
    subjects: Codes
    values: Array

    @cached_property
    def defined(self) -> NDArray[np.bool_]:
        """(s,) seeds that have any score."""
        return np.asarray(np.isfinite(self.values).any(axis=1), np.bool_)

    @cached_property
    def seed_means(self) -> dict[int, float]:
        """Seed -> mean over its defined subjects; seeds without any are left out."""
        rows = self.values[self.defined]
        means = rows.mean(axis=1) if np.isfinite(rows).all() else np.nanmean(rows, axis=1)
        return dict(zip(self.seeds[self.defined].tolist(), means.tolist(), strict=True))

    @cached_property
    def complete(self) -> Block:
        """The seeds with a score, and the subjects that are defined for all of them."""
        return self if np.isfinite(self.values).all() else self.of_seeds(self.seeds[self.defined].tolist())

    def of_seeds(self, seeds: Iterable[int]) -> Block:
        """Some of the seeds, and the subjects that are defined for all of them."""
        chosen = _members(self.seeds, set(seeds))
        rows = self.values[chosen]
        whole = np.isfinite(rows).all(axis=0)
        return Block(self.seeds[chosen], self.subjects[whole], rows[:, whole])

    def minus(self, other: Block) -> Block:
        """Differences on the seeds and subjects that both have."""
        if np.array_equal(self.seeds, other.seeds) and np.array_equal(self.subjects, other.subjects):
            return Block(self.seeds, self.subjects, self.values - other.values)
        seeds, a, b = np.intersect1d(self.seeds, other.seeds, assume_unique=True, return_indices=True)
        subjects, c, d = np.intersect1d(self.subjects, other.subjects, assume_unique=True, return_indices=True)
        return Block(seeds, subjects, self.values[np.ix_(a, c)] - other.values[np.ix_(b, d)])


def shared_values(blocks: Sequence[Block]) -> list[Array]:
    """The values of several blocks on the seeds and subjects that all of them have completely; shapes are equal."""
    seeds = set.intersection(*(set(block.seeds.tolist()) for block in blocks))
    subjects = set.intersection(*(set(block.subjects.tolist()) for block in blocks))
    arrays = [
        block.values[
            np.ix_(*(_members(codes, wanted) for codes, wanted in ((block.seeds, seeds), (block.subjects, subjects))))
        ]
        for block in blocks
    ]
    whole = np.isfinite(np.stack(arrays)).all(axis=(0, 1))
    return [array[:, whole] for array in arrays]


def _members(codes: Codes, wanted: set[int]) -> NDArray[np.bool_]:
    return np.array([code in wanted for code in codes.tolist()], np.bool_)


@dataclass(frozen=True, eq=False)
class Place:
    """Where the scores of one cell are: its rows of the subject scores, and where each of them goes in its array."""

    key: Key
    rows: slice
    seeds: Codes
    subjects: Codes
    into: Codes

    def block(self, scores: Array) -> Block:
        """The cell's scores out of a whole column."""
        values = np.full(len(self.seeds) * len(self.subjects), np.nan)
        values[self.into] = scores[self.rows]
        return Block(self.seeds, self.subjects, values.reshape(len(self.seeds), len(self.subjects)))


def places_of(frame: pd.DataFrame) -> Iterator[Place]:
    """The cells of subject scores.

    Args:
        frame: columns ``source``, ``target``, ``method``, ``seed``, ``subject``, sorted by the first three; each
            (cell, seed, subject) once.
    """
    cells = frame.groupby(["source", "target", "method"], sort=False).ngroup().to_numpy()
    ends = [*np.flatnonzero(np.diff(cells, prepend=-1)).tolist(), len(frame)]
    names = [frame[name].to_numpy(object) for name in ("source", "target", "method")]
    seeds, codes = frame["seed"].to_numpy(np.int64), pd.factorize(frame["subject"], sort=True)[0]
    for start, end in pairwise(ends):
        mine, row = np.unique(seeds[start:end], return_inverse=True)
        people, column = np.unique(codes[start:end], return_inverse=True)
        key = (str(names[0][start]), str(names[1][start]), str(names[2][start]))
        yield Place(key, slice(start, end), mine, people, row * len(people) + column)


def by_shape(
    items: Mapping[_K, _T],
    shape_of: Callable[[_T], tuple[int, ...]],
    batch: Callable[[list[_T]], Iterable[_R]],
) -> dict[_K, _R]:
    """Results of a function that takes all items of one shape at once, by item."""
    groups: dict[tuple[int, ...], list[_K]] = {}
    for key, item in items.items():
        groups.setdefault(shape_of(item), []).append(key)
    results: dict[_K, _R] = {}
    for keys in groups.values():
        results.update(zip(keys, batch([items[key] for key in keys]), strict=True))
    return results

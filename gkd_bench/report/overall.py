"""Means over several pairs of domains, with one interval and one test for all of them.

Seeds are resampled once for all pairs, since seed k starts every training alike, and the subjects of a target once for
all the sources it is scored from: they are the same patients.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike

from gkd_bench.report.blocks import Block, Key
from gkd_bench.report.cells import Cell, t_half
from gkd_bench.report.significance import PairedTest, paired_tests
from gkd_bench.report.statistics import Array, GapClosed, HierarchicalBootstrap, gap_closed


@dataclass(frozen=True)
class PairsBootstrap(HierarchicalBootstrap):
    """Resamples of seeds and of every target's subjects, for scores of several pairs side by side.

    Attributes:
        targets: per pair, its target and how many subjects its scores have; ``subjects`` is their sum.
    """

    targets: tuple[tuple[str, int], ...] = ()

    def replicates(self, values: ArrayLike) -> Array:
        """(cells, draws) means of the resampled scores; values: (cells, seeds, subjects), scaled as ``Several`` does."""
        chosen = HierarchicalBootstrap(self.seeds, 1, self.draws).weights
        met = _met(self.targets, self.draws)
        return np.stack([((chosen @ cell) * met).sum(axis=1) for cell in np.asarray(values, np.float64)])


@lru_cache(maxsize=4)  # every method and metric of a report is averaged over the same pairs
def _met(targets: tuple[tuple[str, int], ...], draws: int) -> Array:
    """(draws, subjects) how much each score weighs; a target's subjects are drawn alike for all its sources."""
    sizes = dict.fromkeys(targets)
    drawn = {
        one: HierarchicalBootstrap(1, one[1], draws, zlib.crc32(one[0].encode())).weights * one[1] for one in sizes
    }
    return np.concatenate([drawn[one] for one in targets], axis=1) / sum(size for _, size in targets)


@dataclass(frozen=True, eq=False)
class Several:
    """The scores, or differences, of one method in several cells, cut to the same seeds.

    Attributes:
        keys: the cells.
        blocks: their scores; every one has all seeds, and at least one subject.
    """

    keys: Sequence[Key]
    blocks: Sequence[Block]

    @property
    def subjects(self) -> int:
        """Different test subjects, each counted once however many sources it is scored from."""
        return len(
            {(key[1], code) for key, block in zip(self.keys, self.blocks, strict=True) for code in block.subjects}
        )

    @property
    def pair_means(self) -> list[float]:
        """Mean of every cell over its subjects and seeds."""
        return [float(block.values.mean()) for block in self.blocks]

    @cached_property
    def values(self) -> Array:
        """(seeds, scores of all cells side by side), scaled so that their mean is the mean over cells."""
        scores = sum(block.values.shape[1] for block in self.blocks)
        scaled = [block.values * (scores / (len(self.blocks) * block.values.shape[1])) for block in self.blocks]
        return np.concatenate(scaled, axis=1)

    @cached_property
    def bootstrap(self) -> PairsBootstrap:
        """Resamples that fit ``values``."""
        sizes = [block.values.shape[1] for block in self.blocks]
        targets = tuple((key[1], size) for key, size in zip(self.keys, sizes, strict=True))
        return PairsBootstrap(len(self.values), sum(sizes), targets=targets)

    @cached_property
    def cell(self) -> Cell:
        """Mean over the cells, per seed and then over seeds, with both intervals."""
        means = self.values.mean(axis=1)
        bounds = self.bootstrap.intervals(self.values[None])[0]
        low, high = (None, None) if bounds is None else (bounds.low, bounds.high)
        return Cell(float(means.mean()), t_half(means), low, high, len(means), self.subjects)


def gather(blocks: Mapping[Key, Block], keys: Sequence[Key], seeds: Sequence[int]) -> Several | None:
    """Several cells cut to some seeds and their complete subjects; none where a cell, a seed or all subjects are missing."""
    found = [blocks[key].of_seeds(seeds) for key in keys if key in blocks]
    if not found or len(found) < len(keys) or not seeds:
        return None
    whole = all(len(block.seeds) == len(seeds) and block.values.size for block in found)
    return Several(keys, found) if whole else None


def overall_cell(several: Several | None) -> Cell:
    """Mean over the cells with both intervals; empty where there is nothing to average."""
    return Cell() if several is None else several.cell


def overall_gap(
    teacher: Several | None, alone: Several | None, distilled: Several | None, *, higher_is_better: bool = True
) -> GapClosed | None:
    """Gap closed by the means over the cells; none where one of them is missing or rests on other subjects."""
    if teacher is None or alone is None or distilled is None:
        return None
    ends = [several.values[None] for several in (teacher, alone, distilled)]
    if len({end.shape for end in ends}) > 1:
        return None
    return gap_closed(ends[0], ends[1], ends[2], alone.bootstrap, higher_is_better=higher_is_better)[0]


def overall_test(several: Several) -> PairedTest:
    """Paired test of the mean difference over the cells.

    Every test subject counts once: its differences are averaged over seeds and summed over sources, weighted so that
    their mean is the mean over cells.
    """
    sums: dict[tuple[str, int], float] = {}
    for key, block in zip(several.keys, several.blocks, strict=True):
        for code, value in zip(block.subjects.tolist(), block.values.mean(axis=0).tolist(), strict=True):
            sums[key[1], code] = sums.get((key[1], code), 0.0) + value / len(block.subjects)
    return paired_tests([np.array(list(sums.values())) * len(sums) / len(several.keys)])[0]

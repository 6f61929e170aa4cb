"""Double similarity distillation: similarity of pixels across layers, and of classes across the image.

* ``pixel_similarity``: with the unit attention vectors q_l of the layers (:mod:`gkd_bench.distillation.at`) and residual
  attention r_lm = (q_m - q_l) / ||q_m - q_l||, the mean over pairs of layers and samples of ||r_S - r_T||^2, 0 to 4;
* ``category_similarity``: with s_c the softmax over positions of logit c at temperature T and M_cd = the number of
  positions times the sum over them of s_c s_d, the mean over samples of ||M_S - M_T||^2 / ||M_T||^2.

Source: Y. Feng et al., "Double Similarity Distillation for Semantic Image Segmentation", IEEE TIP 2021, arXiv
2107.08591, its pixel-wise (PSD) and category-wise (CSD) modules. Published implementations divide PSD by the
positions, and M there shrinks with them, which weights of 1000 and 10 make up for; the form here does not depend on the
size of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import DsdOptions
from gkd_bench.distillation.at import as_unit, attention
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import maps_of, resized, teacher_maps
from gkd_bench.distillation.divergence import full_precision
from gkd_bench.distillation.relative import relative_error
from gkd_bench.networks.base import SegmentationNetwork

EPS = 1e-6


class DoubleSimilarity(Method):
    """Terms ``pixel_similarity`` and ``category_similarity``."""

    def __init__(self, options: DsdOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options = options

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on, on the anchors."""
        if not self.weights():
            return {}
        terms, taps = {}, self.options.taps
        mine, theirs = maps_of(own.features, own.decoded), teacher_maps(self.teacher, batch.images)
        if self.options.psd:
            terms["pixel_similarity"] = pixel_similarity_loss(mine.at(taps), theirs.at(taps))
        if self.options.csd:
            first, second = (class_correlation(maps.logits, self.options.temperature) for maps in (mine, theirs))
            terms["category_similarity"] = relative_error(first, second)
        return terms


def pixel_similarity_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Squared distance of residual attention; two or more maps (batch, any channels, any grid) per network."""
    maps = [*student, *teacher]
    grid = (min(m.shape[-2] for m in maps), min(m.shape[-1] for m in maps))
    gap = residual_attention(student, grid) - residual_attention(teacher, grid)
    return gap.square().sum(-1).mean()


def residual_attention(maps: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """(pairs, batch, positions): differences of the attention of every two maps on a grid, of length 1."""
    units = [as_unit(resized(attention(m), grid)) for m in maps]
    return torch.stack([F.normalize(second - first, dim=1, eps=EPS) for first, second in combinations(units, 2)])


def class_correlation(logits: Tensor, temperature: float) -> Tensor:
    """(batch, classes, height, width) -> (batch, classes, classes) positive, 1 everywhere for flat logits; float32."""
    with full_precision(logits):
        scores = logits.float().flatten(2)
        spread = F.softmax(scores / temperature, dim=2)
        return spread @ spread.transpose(1, 2) * scores.shape[2]

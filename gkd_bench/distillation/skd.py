"""Structured knowledge distillation: pixel by pixel, pair by pair and as a whole.

* ``pixel``: KL(softmax(z_T) || softmax(z_S)), the mean over pixels;
* ``pair``: mean over pairs of nodes of (a_S - a_T)^2, where a is the cosine of the features of two nodes and a node the
  average of a patch of the last feature map before the classifier;
* ``holistic``: minus the score that a critic, which sees image and prediction, gives the student (WGAN-GP).

Source: Y. Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019, arXiv 1903.04197,
section 3.1 (pixel, pair) and 3.2 (holistic, :mod:`gkd_bench.distillation.adversary`).
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import SkdOptions
from gkd_bench.distillation.adversary import Opponent
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import teacher_maps
from gkd_bench.distillation.divergence import full_precision, kl_divergence
from gkd_bench.networks.base import SegmentationNetwork

EPS = 1e-6


class StructuredDistillation(Method):
    """Terms ``pixel``, ``pair`` and ``holistic``; only the last one has an opponent."""

    def __init__(self, options: SkdOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options = options
        if options.holistic:
            self.opponent = Opponent(options.critic, student.in_channels, student.classes)

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on, on the anchors."""
        if not self.weights():
            return {}
        terms, theirs = {}, teacher_maps(self.teacher, batch.images)
        if self.options.pixel:
            terms["pixel"] = kl_divergence(theirs.logits, own.decoded.logits)
        if self.options.pair:
            terms["pair"] = pair_loss(own.decoded.tap, theirs.deep, math.ceil(1 / self.options.pool_scale))
        if self.opponent is not None:
            terms["holistic"] = self.opponent.student_term(batch.images, theirs.logits, own.decoded.logits)
        return terms


def pair_loss(student: Tensor, teacher: Tensor, nodes: int) -> Tensor:
    """Mean squared difference of two affinity graphs over the same nodes.

    Args:
        student, teacher: (batch, any channels, any grid).
        nodes: nodes along a side; at most the positions of the smaller map.
    """
    sides = [min(nodes, *sizes) for sizes in zip(student.shape[-2:], teacher.shape[-2:], strict=True)]
    grid = (sides[0], sides[1])
    return F.mse_loss(affinity(student, grid), affinity(teacher, grid))


def affinity(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cosines of the average features of all cells of a grid: (batch, c, h, w) -> (batch, n, n), float32."""
    with full_precision(maps):
        cells = F.normalize(F.adaptive_avg_pool2d(maps.float(), grid).flatten(2), dim=1, eps=EPS)
        return cells.transpose(1, 2) @ cells

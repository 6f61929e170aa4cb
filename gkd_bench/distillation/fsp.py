"""Flow of the solution procedure: how features of a shallow layer go together with those of a deep one.

The FSP matrix of a network is G_ij = mean over positions of f_shallow,i * f_deep,j; the loss is the mean over
samples of ||G_S - G_T||^2 / ||G_T||^2.

Source: J. Yim et al., "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
Learning", CVPR 2017, equations 1 and 2. The paper needs equal channel counts; here learned 1x1 projections bring the
student's two maps to the teacher's channels. It sums squares, of whatever size the teacher's are, and trains in two
stages; here the loss is in units of the teacher's matrix and stands beside cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_bench.config.method_options import FspOptions
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import Bridge, maps_of, same_size, teacher_maps
from gkd_bench.distillation.divergence import full_precision
from gkd_bench.distillation.relative import relative_error
from gkd_bench.networks.base import SegmentationNetwork


class FlowOfSolution(Method):
    """One term, ``flow``: the relative squared difference of the two networks' FSP matrices."""

    def __init__(self, options: FspOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.bridge = Bridge(student, self.teacher, ("shallow", "deep"))

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """Difference of the flows from shallow to deep on the anchors."""
        if not self.weights():
            return {}
        shallow, deep = self.bridge(maps_of(own.features, own.decoded), teacher_maps(self.teacher, batch.images))
        return {"flow": relative_error(flow(shallow[0], deep[0]), flow(shallow[1], deep[1]))}


def flow(first: Tensor, second: Tensor) -> Tensor:
    """FSP matrices: (batch, c, h, w) and (batch, d, any grid) -> (batch, c, d), float32."""
    first, second = same_size(first, second)
    with full_precision(first):
        one, other = first.float().flatten(2), second.float().flatten(2)
        return torch.einsum("bcn,bdn->bcd", one, other) / one.shape[2]

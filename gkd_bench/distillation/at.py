"""Attention transfer: teacher and student look at the same places.

With the attention map Q = mean over channels of |f|^p, taken as a vector over positions, the loss of a tap is
|| Q_S / ||Q_S|| - Q_T / ||Q_T|| ||^2, between 0 and 2.

Source: S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional
Neural Networks via Attention Transfer", ICLR 2017, arXiv 1612.03928, equation 2. The paper sums norms over taps; here
squared norms are averaged over taps and samples, as in the authors' code except for their division by the positions,
which would let the weight depend on the size of a tile.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import AtOptions
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import maps_of, same_size, teacher_maps
from gkd_bench.networks.base import SegmentationNetwork


class AttentionTransfer(Method):
    """One term, ``attention``: the mean over the taps of the squared distance of the two attention vectors."""

    def __init__(self, options: AtOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options = options

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """Distance of the student's attention from the teacher's on the anchors."""
        if not self.weights():
            return {}
        mine, theirs = maps_of(own.features, own.decoded), teacher_maps(self.teacher, batch.images)
        taps = zip(mine.at(self.options.taps), theirs.at(self.options.taps), strict=True)
        return {"attention": torch.stack([attention_loss(s, t, self.options.power) for s, t in taps]).mean()}


def attention_loss(student: Tensor, teacher: Tensor, power: float) -> Tensor:
    """Mean over samples of the squared distance of two attention vectors; maps (batch, any channels, any grid)."""
    first, second = same_size(attention(student, power), attention(teacher, power))
    return (as_unit(first) - as_unit(second)).square().sum(1).mean()


def attention(maps: Tensor, power: float = 2.0) -> Tensor:
    """(batch, channels, h, w) -> (batch, 1, h, w): mean over channels of |map|^power, float32."""
    return maps.float().abs().pow(power).mean(1, keepdim=True)


def as_unit(maps: Tensor) -> Tensor:
    """(batch, 1, h, w) -> (batch, h * w) of length 1; a map of zeros stays zero."""
    return F.normalize(maps.flatten(1), dim=1)

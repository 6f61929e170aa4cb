"""Channel-wise knowledge distillation: every channel as a distribution over positions.

With phi(y_c) = softmax over positions of y_c / T, the loss is T^2 / C sum_c KL(phi(y_T,c) || phi(y_S,c)), the mean over
samples.

Source: C. Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, arXiv 2011.13256,
section 3.2. ``logits`` compares the class scores; ``features`` the maps of the option's taps, the student's projected
to the teacher's channels by a learned 1x1 convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_bench.config.method_options import CwdOptions
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import Bridge, maps_of, teacher_maps
from gkd_bench.distillation.divergence import softmax_divergence
from gkd_bench.networks.base import SegmentationNetwork


class ChannelWise(Method):
    """Terms ``logits`` and ``features``."""

    def __init__(self, options: CwdOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options = options
        self.bridge = Bridge(student, self.teacher, options.taps) if options.features else None

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on, on the anchors."""
        if not self.weights():
            return {}
        terms, temperature = {}, self.options.temperature
        mine, theirs = maps_of(own.features, own.decoded), teacher_maps(self.teacher, batch.images)
        if self.options.weight:
            terms["logits"] = channel_divergence(theirs.logits, mine.logits, temperature)
        if self.bridge is not None:
            pairs = self.bridge(mine, theirs)
            terms["features"] = torch.stack([channel_divergence(t, s, temperature) for s, t in pairs]).mean()
        return terms


def channel_divergence(target: Tensor, maps: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL of two networks' channels as distributions over positions; both (batch, channels, h, w); scalar in nats."""
    first, second = target.float().flatten(2), maps.float().flatten(2)
    return temperature**2 * softmax_divergence(first, second, temperature, dim=2).mean()

"""Knowledge distillation, pixel by pixel: T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)).

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_bench.config.method_options import KdOptions
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.divergence import kl_divergence
from gkd_bench.networks.base import SegmentationNetwork


class KnowledgeDistillation(Method):
    """One term, ``kd``: the mean over pixels of the divergence between softened predictions."""

    def __init__(self, options: KdOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options = options

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """Divergence of the student's logits from the teacher's on the anchors."""
        if not self.options.weight:
            return {}
        with torch.no_grad():
            target = self.teacher(batch.images)
        return {"kd": kl_divergence(target, own.decoded.logits, self.options.temperature)}

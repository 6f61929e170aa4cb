"""DiGA's warm-up, "DiGA: Distil to Generalize and then Adapt for Domain Adaptive Semantic Segmentation".

F. Shen, A. Gurram, Z. Liu, H. Wang, A. Knoll, CVPR 2023, arXiv 2304.02222; formulas and weights as in the
authors' code. The teacher's prediction on one view of an image teaches the student on the other,

    forward = KL(softmax(z_t(x)) || softmax(z_s(view))),   backward = KL(softmax(z_t(view)) || softmax(z_s(x))),

mean over pixels and views. They write cross-entropies, which have the same gradient; the minimum here is 0.
The port: the paper's teacher is a moving average of the student, ours is the trained teacher; mixing with translated
target images and the second stage (self-training on the target) need target images and are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_bench.config.method_options import DigaOptions, ViewKind
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.divergence import kl_divergence
from gkd_bench.distillation.relations import require_aligned
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.norm import view_statistics


class SymmetricWarmUp(Method):
    """Terms ``forward`` (clean teaches augmented) and ``backward`` (augmented teaches clean).

    Raises:
        ValueError: a view kind moves pixels.
    """

    def __init__(self, options: DigaOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        require_aligned(options.views, "diga")
        self.options = options

    @property
    def views(self) -> tuple[ViewKind, ...]:
        """The option's view kinds; none when both terms are off."""
        return self.options.views if self.weights() else ()

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on."""
        options, count, terms = self.options, len(batch.views), {}
        views = batch.views.flatten(0, 1)
        if options.forward:
            with torch.no_grad():
                clean = self.teacher(batch.images)
            with view_statistics(student, options.view_statistics):
                augmented = student(views)
            terms["forward"] = kl_divergence(clean.repeat(count, 1, 1, 1), augmented)
        if options.backward:
            with torch.no_grad():
                taught = self.teacher(views)
            terms["backward"] = kl_divergence(taught, own.decoded.logits.repeat(count, 1, 1, 1))
        return terms

"""Control: augmented views pass through the student and move its batch statistics; there is no loss on them.

What a method gains merely because its views of the images reach the student's BatchNorm, this control gains as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_bench.config.method_options import BnViewsOptions, ViewKind
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.networks.base import SegmentationNetwork


class BatchNormViews(Method):
    """No term beside the supervised loss."""

    def __init__(self, options: BnViewsOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options = options

    @property
    def views(self) -> tuple[ViewKind, ...]:
        """The option's view kinds."""
        return self.options.views

    @torch.no_grad()
    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """No terms; all views pass through the student in one batch."""
        student(batch.views.flatten(0, 1))
        return {}

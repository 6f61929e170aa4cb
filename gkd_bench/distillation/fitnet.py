"""FitNets: the student's features, through a learned 1x1 projection r, match the teacher's: ||r(f_S) - f_T||^2 / ||f_T||^2.

Source: A. Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550, equation 3 (there half the
squared norm; here in units of the teacher's features, so that a weight means the same for every size and teacher). The
paper trains the hint first and the student after it; here both losses are minimised together, as later work does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_bench.config.method_options import FitnetOptions
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import Bridge, maps_of, teacher_maps
from gkd_bench.distillation.relative import relative_error
from gkd_bench.networks.base import SegmentationNetwork


class FitNet(Method):
    """One term, ``hint``: the mean over the taps of the relative squared difference to the teacher's features."""

    def __init__(self, options: FitnetOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.bridge = Bridge(student, self.teacher, options.taps)

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """Difference of the projected student features and the teacher's on the anchors."""
        if not self.weights():
            return {}
        pairs = self.bridge(maps_of(own.features, own.decoded), teacher_maps(self.teacher, batch.images))
        return {"hint": torch.stack([relative_error(mine, theirs) for mine, theirs in pairs]).mean()}

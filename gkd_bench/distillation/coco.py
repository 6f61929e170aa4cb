"""CoCo, "CoCo DistillNet: a Cross-layer Correlation Distillation Network for Pathological Gastric Cancer Segmentation".

W. Zou, M. Sun et al., BIBM 2021, arXiv 2108.12173. The criterion was never published; this is
a reconstruction from the abstract ("the correlations of channel-mixed spatial similarity between different layers"):

    G_l(p, q) = cos(F_l(p), F_l(q))                     spatial similarity of layer l, all channels mixed
    R(p, q) = corr(G_shallow(p, .), G_deep(q, .))       Pearson, the correlation across layers
    L = mean over p, q of (R_student(p, q) - R_teacher(p, q))^2

The similarities need no equal channels, so the paper's paraphraser, which made them equal, is left out. ``adversarial``:
a Wasserstein critic on the predictions, as in SKD's holistic term.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import CocoOptions
from gkd_bench.distillation.adversary import Opponent
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import Maps, maps_of, teacher_maps
from gkd_bench.distillation.divergence import full_precision
from gkd_bench.distillation.relations import cosines, on_common_grid, unit_positions
from gkd_bench.networks.base import SegmentationNetwork


class CoCoDistillNet(Method):
    """Terms ``correlation`` and ``adversarial``."""

    def __init__(self, options: CocoOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options = options
        if options.adversarial:
            self.opponent = Opponent(options.critic, student.in_channels, student.classes)

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on, on the anchors."""
        if not self.weights():
            return {}
        theirs, mine = teacher_maps(self.teacher, batch.images), maps_of(*own)
        terms = {}
        if self.options.weight:
            terms["correlation"] = correlation_loss(mine, theirs)
        if self.opponent is not None:
            terms["adversarial"] = self.opponent.student_term(batch.images, theirs.logits, mine.logits)
        return terms


def correlation_loss(student: Maps, teacher: Maps) -> Tensor:
    """Mean squared difference of two networks' cross-layer correlations."""
    grids = on_common_grid(student.shallow, student.deep, teacher.shallow, teacher.deep)
    return F.mse_loss(cross_layer(*grids[:2]), cross_layer(*grids[2:]))


def cross_layer(shallow: Tensor, deep: Tensor) -> Tensor:
    """Correlations of the rows of two layers' spatial similarities.

    Args:
        shallow, deep: (batch, channels of their own, h, w) on one grid of n = h * w positions.

    Returns:
        (batch, n, n) in [-1, 1]; a position that is equally similar to all others has correlation 0.
    """
    with full_precision(shallow):
        units = (unit_positions(maps) for maps in (shallow, deep))
        rows = [cosines(unit, unit) for unit in units]
        return cosines(*(F.normalize(r - r.mean(-1, keepdim=True), dim=-1, eps=1e-3) for r in rows))

"""EMKD, "Efficient Medical Image Segmentation Based on Knowledge Distillation".

D. Qin et al., IEEE TMI 2021, arXiv 2108.09987; formulas and sums over layers as in the authors' code.

* ``prediction`` (PMD): T^2 KL(softmax(z_t / T) || softmax(z_s / T)), mean over pixels;
* ``importance`` (IMD): sum over the shallow and the deep map of || Q_s / |Q_s| - Q_t / |Q_t| ||^2 with the attention
  map Q = mean over channels of |F|^p;
* ``region`` (RAD): sum over both maps of (c_s - c_t)^2, c = cos(mean vector of one class's region, of another's).

The authors have an organ and its background; with more classes ``region`` is the mean over their pairs. A class that a
tile does not hold forms no pair. Regions are class shares of the cells, not nearest labels, and there are no smoothing
constants.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import EmkdOptions, Tap
from gkd_bench.distillation.at import as_unit, attention
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import labels_at, maps_of, same_size, teacher_maps
from gkd_bench.distillation.divergence import full_precision, kl_divergence
from gkd_bench.distillation.relations import class_means
from gkd_bench.networks.base import SegmentationNetwork

TAPS: tuple[Tap, Tap] = ("shallow", "deep")


class EfficientMedical(Method):
    """Terms ``prediction``, ``importance`` and ``region``."""

    def __init__(self, options: EmkdOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options, self.classes = options, student.classes

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on, on the anchors."""
        options, zero = self.options, torch.zeros((), device=batch.images.device)
        theirs, mine = teacher_maps(self.teacher, batch.images), maps_of(*own)
        pairs = [same_size(s, t) for s, t in zip(mine.at(TAPS), theirs.at(TAPS), strict=True)]
        terms = {}
        if options.pmd:
            terms["prediction"] = kl_divergence(theirs.logits, mine.logits, options.temperature)
        if options.imd:
            terms["importance"] = sum((importance(s, t, options.power) for s, t in pairs), zero)
        if options.rad:
            terms["region"] = sum((self._affinity(s, t, batch.labels) for s, t in pairs), zero)
        return terms

    def _affinity(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        shares = labels_at(labels, (student.shape[-2], student.shape[-1]), self.classes)
        return region_affinity(student, teacher, shares)


def importance(student: Tensor, teacher: Tensor, power: float) -> Tensor:
    """Squared distance of two unit attention maps, mean over the batch; maps (batch, any channels, h, w), one grid."""
    return (unit_attention(student, power) - unit_attention(teacher, power)).square().sum(-1).mean()


def unit_attention(maps: Tensor, power: float) -> Tensor:
    """(batch, channels, h, w) -> (batch, h * w) of length 1; independent of the maps' scale, which keeps powers finite."""
    largest = maps.detach().float().abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    return as_unit(attention(maps.float() / largest, power))


def region_affinity(student: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:
    """Mean squared difference of the cosines of class means, over the pairs of classes of every sample.

    Args:
        student, teacher: (batch, any channels, h, w) on one grid.
        shares: (batch, classes, h, w) class shares of the cells.
    """
    with full_precision(student):
        (mine, there), (theirs, _) = (
            class_means(m.float().flatten(2).transpose(1, 2), shares) for m in (student, teacher)
        )
        first, second = torch.triu_indices(shares.shape[1], shares.shape[1], offset=1, device=shares.device)
        both = (there[:, first] & there[:, second]).float()
        contrast = [
            F.cosine_similarity(means[:, first], means[:, second], dim=-1, eps=1e-6) for means in (mine, theirs)
        ]
        return (both * (contrast[0] - contrast[1]).square()).sum() / both.sum().clamp_min(1.0)

"""Intra-class feature variation distillation: how far every pixel's feature is from the centre of its class.

With M(p) = cos(f(p), mean of f over the pixels of p's class in the image), the loss is the mean over pixels of
(M_S(p) - M_T(p))^2, on the last feature map before the classifier.

Source: Y. Wang et al., "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020, section 3. There
a feature has the class of its nearest label; here it belongs to every class by the class's share of its cell, because
thin vessels vanish from nearest labels. With one class per cell the two are the same. ``pixel`` is the pixel-wise
divergence of the paper's full loss.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import IfvdOptions
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import labels_at, same_size, teacher_maps
from gkd_bench.distillation.divergence import full_precision, kl_divergence
from gkd_bench.distillation.relations import class_means, cosines
from gkd_bench.networks.base import SegmentationNetwork

EPS = 1e-6


class IntraClassVariation(Method):
    """Terms ``ifv`` and ``pixel``."""

    def __init__(self, options: IfvdOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options = options

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on, on the anchors."""
        if not self.weights():
            return {}
        terms, theirs = {}, teacher_maps(self.teacher, batch.images)
        if self.options.weight:
            mine, others = same_size(own.decoded.tap, theirs.deep)
            shares = labels_at(batch.labels, (mine.shape[-2], mine.shape[-1]), student.classes)
            terms["ifv"] = variation_loss(mine, others, shares)
        if self.options.pixel:
            terms["pixel"] = kl_divergence(theirs.logits, own.decoded.logits)
        return terms


def variation_loss(student: Tensor, teacher: Tensor, shares: Tensor) -> Tensor:
    """Mean over positions of the squared difference of the two variation maps, each class by its share.

    Args:
        student, teacher: (batch, any channels, h, w).
        shares: (batch, classes, h, w), summing to 1 over the classes; a class may be absent.
    """
    gap = class_similarity(student, shares) - class_similarity(teacher, shares)
    return (shares * gap.square()).sum(1).mean()


def class_similarity(maps: Tensor, shares: Tensor) -> Tensor:
    """Cosine of every position's feature with every class's centre; 0 for an absent class.

    Args:
        maps: (batch, channels, h, w).
        shares: (batch, classes, h, w).

    Returns:
        (batch, classes, h, w) in [-1, 1], float32.
    """
    with full_precision(maps):
        features = maps.float().flatten(2).transpose(1, 2)
        means, _ = class_means(features, shares)
        centres, units = (F.normalize(vectors, dim=2, eps=EPS) for vectors in (means, features))
        return cosines(centres, units).view_as(shares)

"""CCDistill, "Cross-Domain Correlation Distillation for Unsupervised Domain Adaptation in Nighttime Semantic Segmentation".

H. Gao, J. Guo, G. Wang, Q. Zhang, CVPR 2022, arXiv 2205.00858. The idea, whose code was never published: the difference
between two images of unlike domains, in content and in style, is the same for whoever looks, and is distilled. The port,
ours throughout: the two images are a tile x and a photometric view x', student and teacher are the two who look,

    content: C(p, q) = cos(F_x(p), F_x'(q)), the correlation of all positions of the deep map;
             mean over p, q of (C_s - C_t)^2
    style:   D = G_x' - G_x with the unit Gram matrix G = F F^T / || F F^T || of the shallow map, the student's projected
             to the teacher's channels; || D_s - D_t ||^2, mean over tiles and views.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import CcdistillOptions, ViewKind
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import Bridge, Maps, maps_of, network_maps, teacher_maps
from gkd_bench.distillation.divergence import full_precision
from gkd_bench.distillation.relations import cosines, on_common_grid, require_aligned, unit_positions
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.norm import view_statistics


class ContentCorrelation(Method):
    """Terms ``content`` and ``style``.

    Raises:
        ValueError: a view kind moves pixels.
    """

    def __init__(self, options: CcdistillOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        require_aligned(options.views, "ccdistill")
        self.options = options
        self.bridge = Bridge(student, self.teacher, ("shallow",)) if options.style else None

    @property
    def views(self) -> tuple[ViewKind, ...]:
        """The option's view kinds; none when both terms are off."""
        return self.options.views if self.weights() else ()

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on."""
        if not self.weights():
            return {}
        views = batch.views.flatten(0, 1)
        with view_statistics(student, self.options.view_statistics):
            mine = network_maps(student, views)
        theirs = teacher_maps(self.teacher, views)
        clean, clean_t = repeated(maps_of(*own), len(batch.views)), teacher_maps(self.teacher, batch.images)
        clean_t = repeated(clean_t, len(batch.views))
        terms = {}
        if self.options.content:
            terms["content"] = content_loss((clean.deep, mine.deep), (clean_t.deep, theirs.deep))
        if self.bridge is not None:
            ((anchor, anchor_t),), ((styled, styled_t),) = self.bridge(clean, clean_t), self.bridge(mine, theirs)
            terms["style"] = style_loss((anchor, styled), (anchor_t, styled_t))
        return terms


def repeated(maps: Maps, times: int) -> Maps:
    """The maps of a batch, as often as there are views of it."""
    return Maps(*(m.repeat(times, 1, 1, 1) for m in maps))


def content_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared difference of the position correlations of two pairs of maps (batch, channels, h, w)."""
    grids = on_common_grid(*student, *teacher)
    with full_precision(grids[0]):
        units = [unit_positions(grid) for grid in grids]
        return F.mse_loss(cosines(units[0], units[1]), cosines(units[2], units[3]))


def style_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Squared distance of two pairs' changes of style, mean over the batch; all maps have the same channels."""
    change, change_t = (unit_gram(after) - unit_gram(before) for before, after in (student, teacher))
    return (change - change_t).square().sum(dim=(1, 2)).mean()


def unit_gram(maps: Tensor) -> Tensor:
    """(batch, channels, h, w) -> (batch, channels, channels), the Gram matrix over positions, of Frobenius norm 1."""
    with full_precision(maps):
        rows = maps.float().flatten(2)
        gram = rows @ rows.transpose(1, 2) / rows.shape[-1]
        unit: Tensor = gram / torch.linalg.matrix_norm(gram, keepdim=True).clamp_min(1e-6)
        return unit

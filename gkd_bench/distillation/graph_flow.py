"""Graph Flow, "Cross-layer Graph Flow Distillation for Dual Efficient Medical Image Segmentation".

W. Zou et al., IEEE TMI 2022, arXiv 2203.08667. The criterion was never published;
this is a reconstruction from the abstract and the training code. The saliences of a layer are a graph: its vertices
are the channels' pictures on the unit sphere, u_c, its edges their cosines, E_cd = u_c . u_d. What flows from the
shallow to the deep layer is the change of the graph, and the student's change is to equal the teacher's:

    vertices = mean over c of || (u_c^deep - u_c^shallow)_s - (u_c^deep - u_c^shallow)_t ||^2
    edges = mean over c, d of ((E_cd^deep - E_cd^shallow)_s - (E_cd^deep - E_cd^shallow)_t)^2

beside ``pixel``, KL(softmax(z_t) || softmax(z_s)), and ``adversarial``, a Wasserstein critic on the predictions. The
authors' weights, 1e-5 and 1e-8, belong to sums; these are means, with weights of order one. A learned projection of the
student to the teacher's channels stands in for the paper's paraphraser of the teacher; where a teacher's two layers
differ in channels, neighbouring channels of the wider one are averaged.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import GraphFlowOptions
from gkd_bench.distillation.adversary import Opponent
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import Bridge, Maps, maps_of, teacher_maps
from gkd_bench.distillation.divergence import full_precision, kl_divergence
from gkd_bench.distillation.relations import cosines, on_common_grid, unit_channels
from gkd_bench.networks.base import SegmentationNetwork

GRID_SIDE = 32  # channels are pictures here: their cost grows with the positions, not with the square


class GraphFlow(Method):
    """Terms ``vertices``, ``edges``, ``pixel`` and ``adversarial``."""

    def __init__(self, options: GraphFlowOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options = options
        graphs = options.vertices or options.edges
        self.bridge = Bridge(student, self.teacher, ("shallow", "deep")) if graphs else None
        if options.adversarial:
            self.opponent = Opponent(options.critic, student.in_channels, student.classes)

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on, on the anchors."""
        theirs, mine = teacher_maps(self.teacher, batch.images), maps_of(*own)
        terms = self._graph_terms(self.bridge, mine, theirs) if self.bridge is not None else {}
        if self.options.pixel:
            terms["pixel"] = kl_divergence(theirs.logits, mine.logits)
        if self.opponent is not None:
            terms["adversarial"] = self.opponent.student_term(batch.images, theirs.logits, mine.logits)
        return terms

    def _graph_terms(self, bridge: Bridge, mine: Maps, theirs: Maps) -> dict[str, Tensor]:
        (shallow, shallow_t), (deep, deep_t) = bridge(mine, theirs)
        grids = on_common_grid(shallow, deep, shallow_t, deep_t, longest=GRID_SIDE)
        student, teacher = same_channels(*grids[:2]), same_channels(*grids[2:])
        terms = {}
        if self.options.vertices:
            terms["vertices"] = (vertex_flow(*student) - vertex_flow(*teacher)).square().sum(-1).mean()
        if self.options.edges:
            terms["edges"] = F.mse_loss(edge_flow(*student), edge_flow(*teacher))
        return terms


def same_channels(shallow: Tensor, deep: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (batch, channels, h, w) with the fewer channels of the two, groups of neighbours averaged."""
    fewer = min(shallow.shape[1], deep.shape[1])
    return _grouped(shallow, fewer), _grouped(deep, fewer)


def vertex_flow(shallow: Tensor, deep: Tensor) -> Tensor:
    """Change of the channels' unit pictures, (batch, channels, positions); maps of equal shape (batch, channels, h, w)."""
    return unit_channels(deep) - unit_channels(shallow)


def edge_flow(shallow: Tensor, deep: Tensor) -> Tensor:
    """Change of the cosines of all pairs of channels, (batch, channels, channels)."""
    with full_precision(deep):
        before, after = (cosines(unit, unit) for unit in (unit_channels(shallow), unit_channels(deep)))
        return after - before


def _grouped(maps: Tensor, channels: int) -> Tensor:
    if maps.shape[1] == channels:
        return maps
    flat = F.adaptive_avg_pool1d(maps.flatten(2).transpose(1, 2), channels).transpose(1, 2)
    return flat.reshape(len(maps), channels, *maps.shape[-2:])

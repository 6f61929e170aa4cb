"""GKD: L = L_CE + intra L_intra + inter L_inter + cross L_cross (DCGD and DICD together).

Source: X. Qi et al., "Exploring Generalizable Distillation for Efficient Medical Image Segmentation", JBHI 2024,
arXiv 2207.12995. The equations are a reconstruction; every weight, norm and temperature is an option.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_bench.config.method_options import GkdOptions, ViewKind
from gkd_bench.distillation import dcgd, dicd
from gkd_bench.distillation.base import Aligned, Batch, Guides, Method, StudentOutput
from gkd_bench.networks.base import Features, SegmentationNetwork, class_probabilities
from gkd_bench.networks.norm import view_statistics


class GeneralizableDistillation(Method):
    """Terms ``intra``, ``inter`` and ``cross``; teacher, TAN and SAN are frozen, the student alone is trained."""

    def __init__(self, options: GkdOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        assert guides.tan is not None and guides.san is not None  # the base class has looked
        self.options, self.tan, self.san = options, guides.tan, guides.san

    @property
    def views(self) -> tuple[ViewKind, ...]:
        """The option's view kinds; none are drawn when both graph terms are off."""
        return self.options.views if self.options.intra or self.options.inter else ()

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on, unweighted."""
        with torch.no_grad():
            features = self.teacher.encode(batch.images)
        terms = self._graph_terms(student, own, features, batch) if self.views else {}
        if self.options.cross:
            terms["cross"] = self._cross_term(student, own, features)
        return terms

    def health(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, float]:
        """Spread of the graphs' edges (near 0: both graph losses vanish), and how much q1 depends on the student's vector."""
        features = self.teacher.encode(batch.images)
        found = {}
        if self.views:
            mine = self._graph_vectors(self.san, student, own.features.bottleneck, batch.views)
            theirs = self._graph_vectors(self.tan, self.teacher, features.bottleneck, batch.views)
            for name, vectors in (("student", mine), ("teacher", theirs)):
                found[f"edge spread {name}"] = float(dcgd.complete_edges(vectors[1:].detach()).std())
        if self.options.cross:
            vectors = self.san.vectors(own.features.bottleneck).detach().requires_grad_()
            q1 = dicd.teacher_decodes_student(self.teacher, self.tan, vectors, features)
            (gradient,) = torch.autograd.grad(class_probabilities(q1).sum(dim=1).mean(), vectors)
            found["q1 gradient to the student vector"] = float((gradient * self.san.sd).norm())
        return found

    def _graph_terms(
        self, student: SegmentationNetwork, own: StudentOutput, features: Features, batch: Batch
    ) -> dict[str, Tensor]:
        """DCGD on the anchors' and the views' vectors, the student's views in one pass."""
        with torch.no_grad():
            teacher = self._graph_vectors(self.tan, self.teacher, features.bottleneck, batch.views)
        with view_statistics(student, self.options.view_statistics):
            mine = self._graph_vectors(self.san, student, own.features.bottleneck, batch.views)
        form, tau = self.options.graph_loss, self.options.graph_temperature
        terms = {}
        if self.options.intra:
            terms["intra"] = dcgd.intra_loss(teacher, mine, form, tau)
        if self.options.inter:
            terms["inter"] = dcgd.inter_loss(teacher[1:], mine[1:], form, tau, self.options.inter_scope)
        return terms

    def _graph_vectors(self, aligned: Aligned, network: SegmentationNetwork, anchor: Tensor, views: Tensor) -> Tensor:
        """(views + 1, batch, dim) vectors, anchor first, in float32."""
        encoded = network.encode(views.flatten(0, 1)).bottleneck
        vectors = aligned.vectors(torch.cat([anchor, encoded]), self.options.standardise)
        return vectors.float().view(len(views) + 1, -1, vectors.shape[-1])

    def _cross_term(self, student: SegmentationNetwork, own: StudentOutput, features: Features) -> Tensor:
        """DICD on the anchors."""
        teacher, options = self.teacher, self.options
        with torch.no_grad():
            target = teacher.decode(features.bottleneck, features.skips).logits
            taught = self.tan.vectors(features.bottleneck)
        vectors = self.san.vectors(own.features.bottleneck)
        q1 = dicd.teacher_decodes_student(teacher, self.tan, vectors, features, options.teacher_skip_drop)
        with view_statistics(student, self.options.view_statistics):
            q2 = dicd.student_decodes_teacher(student, self.san, taught, own)
        return dicd.cross_loss(target, q1, q2, options.divergence, options.temperature)

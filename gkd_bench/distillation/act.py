"""ACT, Alignment Consistency Training: the five terms that tie an alignment network to its host and to the P-SAE.

Reconstruction (Qi et al., arXiv 2207.12995, name and purpose from the abstract; terms and weights are ours and config
keys). Host frozen: f bottleneck, s skips, p prediction; v = E(f), f' = H(v), p' = decode(f', s), v* = P-SAE vector of
the label map y:

* align = mean_j ((v_j - v*_j) / sd_j)^2, 1.0 when every vector is P-SAE's mean;
* rec = mean (f' - f)^2, plus the same for the mid-decoder tap;
* con = KL(p || p') + CE(p', y);
* sem = BCE(P-SAE mask of v, y);
* view = mean_j ((v_j - v_j(photometric view)) / sd_j)^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.config.schema import AlignmentWeights
from gkd_bench.distillation.divergence import kl_divergence
from gkd_bench.networks.alignment import AlignmentNetwork
from gkd_bench.networks.base import SegmentationNetwork, Skips
from gkd_bench.networks.semantic import SemanticPrior


class HostOutputs(NamedTuple):
    """What ACT needs of a frozen host for a batch; constant, so it may be computed once and reused.

    Attributes:
        bottleneck: (batch, channels, h, w).
        skips: the host's own skips.
        logits: (batch, classes, height, width), the host's own prediction.
        tap: the host's own mid-decoder map.
        view_bottleneck: (batch, channels, h, w) of a photometric view of the same tiles.
        labels: (batch, height, width) int64.
        target: (batch, dim) P-SAE vectors of the labels.
    """

    bottleneck: Tensor
    skips: Skips
    logits: Tensor
    tap: Tensor
    view_bottleneck: Tensor
    labels: Tensor
    target: Tensor


@torch.no_grad()
def host_outputs(
    host: SegmentationNetwork, prior: SemanticPrior, images: Tensor, views: Tensor, labels: Tensor
) -> HostOutputs:
    """Run the frozen host and P-SAE on tiles (batch, 1, height, width) and a photometric view of each."""
    features = host.encode(images)
    decoded = host.decode(features.bottleneck, features.skips)
    view = host.encode(views).bottleneck
    target = prior.vector(prior.masks(labels))
    return HostOutputs(features.bottleneck, features.skips, decoded.logits, decoded.tap, view, labels, target)


class AlignmentTraining(nn.Module):
    """Alignment network plus the frozen parts its loss runs through; ``forward`` gives the unweighted terms."""

    def __init__(
        self, network: AlignmentNetwork, host: SegmentationNetwork, prior: SemanticPrior, weights: AlignmentWeights
    ) -> None:
        super().__init__()
        self.network, self.host, self.prior = network, host, prior
        self.frozen = nn.ModuleList([host, prior]).eval().requires_grad_(False)
        self.term_weights = {name: value for name, value in weights.model_dump().items() if value}
        if not {"rec", "con"} & set(self.term_weights):  # nothing trains the header
            network.mirror.requires_grad_(False)
            network.unmix.requires_grad_(False)

    def train(self, mode: bool = True) -> AlignmentTraining:
        """Training mode reaches the alignment network only."""
        super().train(mode)
        self.frozen.eval()
        return self

    def weights(self) -> Mapping[str, float]:
        """Weights of the terms that are switched on."""
        return self.term_weights

    def forward(self, outputs: HostOutputs) -> dict[str, Tensor]:
        """Scalar terms of a batch of host outputs."""
        vectors = self.network.encode(torch.cat([outputs.bottleneck, outputs.view_bottleneck]))
        own, view = vectors.chunk(2)
        deviation = self.prior.v_sd.clamp_min(1e-6)
        terms = {
            "align": (((own - outputs.target) / deviation) ** 2).mean(),
            "view": (((own - view) / deviation) ** 2).mean(),
        }
        if "sem" in self.term_weights:
            terms["sem"] = self._semantic(own, outputs.labels)
        if "rec" in self.term_weights or "con" in self.term_weights:
            terms |= self._reconstruction(own, outputs)
        return {name: terms[name] for name in self.term_weights}

    def _semantic(self, vectors: Tensor, labels: Tensor) -> Tensor:
        height, width = labels.shape[-2:]
        logits = self.prior.mask_logits(vectors, (height, width))
        return F.binary_cross_entropy_with_logits(logits.float(), self.prior.masks(labels))

    def _reconstruction(self, vectors: Tensor, outputs: HostOutputs) -> dict[str, Tensor]:
        height, width = outputs.bottleneck.shape[-2:]
        rebuilt = self.network.header(vectors, (height, width))
        decoded = self.host.decode(rebuilt, outputs.skips)
        divergence = kl_divergence(outputs.logits, decoded.logits)
        return {
            "rec": F.mse_loss(rebuilt, outputs.bottleneck) + F.mse_loss(decoded.tap, outputs.tap),
            "con": divergence + F.cross_entropy(decoded.logits.float(), outputs.labels),
        }

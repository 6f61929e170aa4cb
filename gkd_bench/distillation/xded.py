"""XDED, "Cross-Domain Ensemble Distillation for Domain Generalization".

K. Lee, S. Kim, S. Kwak, ECCV 2022, arXiv 2211.14058; formula as in the authors' code, which
classifies images: the predictions for all samples of a class, whatever their domain, are pulled to their ensemble, the
softmax of the class's mean logit:

    ensemble = mean over classes y, over samples i of y, of T^2 KL(softmax(mean_j z_j / T) || softmax(z_i / T))

with no gradient through the ensemble. The port to segmentation from one source: samples are pixels, domains are
photometric views of the batch, and, since the paper has no teacher, ``pixel`` distils ours beside it (T^2 KL per pixel).
The paper's batches hold equally many samples of every class; ours do not, hence the mean over classes. Its second part,
UniStyle, changes the network's normalisation at test time and is left out. The minimum, 0, is a student with one
prediction per class, not one that equals its teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gkd_bench.config.method_options import ViewKind, XdedOptions
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.divergence import full_precision, kl_divergence, softmax_divergence
from gkd_bench.distillation.relations import require_aligned
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.norm import view_statistics


class CrossDomainEnsemble(Method):
    """Terms ``ensemble`` and ``pixel``.

    Raises:
        ValueError: a view kind moves pixels, whose labels would be wrong.
    """

    def __init__(self, options: XdedOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        require_aligned(options.views, "xded")
        self.options = options

    @property
    def views(self) -> tuple[ViewKind, ...]:
        """The option's view kinds; none when the ensemble term is off."""
        return self.options.views if self.options.weight else ()

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on."""
        options, terms = self.options, {}
        if options.weight:
            with view_statistics(student, options.view_statistics):
                styled = student(batch.views.flatten(0, 1))
            logits = torch.cat([own.decoded.logits, styled])
            terms["ensemble"] = ensemble_loss(
                logits, batch.labels.repeat(len(batch.views) + 1, 1, 1), options.temperature
            )
        if options.pixel:
            with torch.no_grad():
                target = self.teacher(batch.images)
            terms["pixel"] = kl_divergence(target, own.decoded.logits, options.temperature)
        return terms


def ensemble_loss(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Divergence of every pixel's prediction from its class's ensemble, mean over the classes that are there.

    Args:
        logits: (samples, classes, height, width).
        labels: (samples, height, width) int64.
        temperature: of both softmaxes.
    """
    classes = logits.shape[1]
    pixels = logits.float().movedim(1, -1).flatten(0, -2)
    members = F.one_hot(labels.flatten(), classes).float()
    counts = members.sum(0)
    with torch.no_grad(), full_precision(logits):
        ensembles = members.T @ pixels / counts.clamp_min(1.0)[:, None]
    divergence = softmax_divergence(ensembles[labels.flatten()], pixels, temperature, dim=-1)
    share = (members / counts.clamp_min(1.0)).sum(-1) / (counts > 0).sum()
    return temperature**2 * (share * divergence).sum()

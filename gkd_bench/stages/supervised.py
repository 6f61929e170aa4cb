"""Stages ``teacher`` and ``baseline``: a network trained alone with cross-entropy (and, if asked, soft Dice)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.config.schema import Augment, DistillStage, SupervisedStage
from gkd_bench.data.tiles import TileBatch, TileSampler
from gkd_bench.networks.base import SegmentationNetwork, class_probabilities
from gkd_bench.networks.semantic import one_hot_masks
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.loop import Loop, Task
from gkd_bench.stages.models import new_network
from gkd_bench.stages.numerics import derived_seed
from gkd_bench.stages.results import network_draft
from gkd_bench.stages.validation import validation_dice
from gkd_bench.store.artefacts import Draft

DISTILL_STREAM = 12


def segmentation_terms(logits: Tensor, labels: Tensor, with_dice: bool) -> dict[str, Tensor]:
    """``ce``, mean over pixels, and, if asked, ``dice``, one minus the batch's soft Dice, mean over foreground classes."""
    terms = {"ce": F.cross_entropy(logits.float(), labels)}
    if with_dice:
        probability, truth = class_probabilities(logits), one_hot_masks(labels, logits.shape[1] - 1)
        shared, sizes = (values.sum(dim=(0, 2, 3)) for values in (probability * truth, probability + truth))
        terms["dice"] = (1 - 2 * shared / sizes.clamp_min(1.0)).mean()
    return terms


class SupervisedTraining(nn.Module):
    """A network and its supervised loss terms."""

    def __init__(self, network: SegmentationNetwork, with_dice: bool) -> None:
        super().__init__()
        self.network, self.with_dice = network, with_dice

    def forward(self, batch: TileBatch) -> dict[str, Tensor]:
        """Unweighted terms of a batch of tiles."""
        return segmentation_terms(self.network(batch.images), batch.labels, self.with_dice)


def supervised_weights(training: SupervisedStage | DistillStage) -> dict[str, float]:
    """Weights of the supervised terms."""
    return {"ce": 1.0} | ({"dice": training.dice_weight} if training.dice_weight else {})


def source_sampler(context: StageContext) -> TileSampler:
    """Sampler over the source's training subjects with the sweep's augmentation.

    Distillation draws other tiles than the training it goes on from, the same for all methods of a seed. Their style is
    changed where the method asks for that.
    """
    images = context.domain().source_splits().train
    augment = context.settings("augment", Augment)
    seed = derived_seed(context.node.seed, DISTILL_STREAM) if context.node.kind == "distill" else context.node.seed
    style = bool(context.node.settings.get("style"))
    sampling = context.node.settings.get("sampling", "centred")
    tile = int(context.setting("tile"))
    return TileSampler(images, tile, context.device, augment=augment, style=style, seed=seed, sampling=sampling)


def run_supervised(context: StageContext) -> Draft:
    """Train a network on the source domain; ``network`` in the draft is the epoch that ``keep`` asks for."""
    training = context.settings("training", SupervisedStage)
    network = new_network(context.setting("network"), context.node.seed, context.device)
    sampler, place = source_sampler(context), context.place
    validation = context.domain().source_splits().val
    task = Task(
        module=SupervisedTraining(network, training.dice_weight > 0),
        kept=network,
        draw=lambda step: sampler.draw(step, training.batch, place.rank, place.workers),
        weights=supervised_weights(training),
        validate=lambda: validation_dice(network, validation, context),
        keep=training.keep,
    )
    trained = Loop(task, training, context).run()
    return network_draft(context, network, trained)

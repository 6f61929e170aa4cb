"""Stage ``semantic``: P-SAE in its two steps, the mask autoencoder, then the vector part on the frozen autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.config.schema import Header, SemanticStage
from gkd_bench.data.tiles import TileSampler
from gkd_bench.networks.base import count_parameters
from gkd_bench.networks.semantic import SemanticAutoencoder, SemanticPrior, one_hot_masks
from gkd_bench.stages import checks
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.loop import Loop, Span, Task, Trained
from gkd_bench.stages.models import new_prior
from gkd_bench.stages.results import cost_record, epoch_records, health
from gkd_bench.stages.supervised import source_sampler
from gkd_bench.stages.tiling import domain_tiles
from gkd_bench.store.artefacts import Draft

STATISTICS_TILES = 1024
VALIDATION_TILES = 1024  # at most: volumes have thousands of slices


class AutoencoderTraining(nn.Module):
    """Step one: BCE(autoencoder(y), y)."""

    def __init__(self, autoencoder: SemanticAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, masks: Tensor) -> dict[str, Tensor]:
        """Terms of masks (batch, classes, height, width) in {0, 1}."""
        return {"bce": F.binary_cross_entropy_with_logits(self.autoencoder(masks).float(), masks)}


class VectorTraining(nn.Module):
    """Step two, autoencoder frozen: mean (z' - z)^2 + BCE(decoded z', y)."""

    def __init__(self, prior: SemanticPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, masks: Tensor) -> dict[str, Tensor]:
        """Terms of masks (batch, classes, height, width) in {0, 1}."""
        result = self.prior(masks)
        mask = F.binary_cross_entropy_with_logits(result.logits.float(), masks)
        return {"rec": F.mse_loss(result.rebuilt.float(), result.bottleneck.float()), "bce": mask}


def run_semantic(context: StageContext) -> Draft:
    """Train P-SAE on the source's label maps alone; ``prior`` in the draft holds both parts and the vector statistics."""
    stage = context.settings("semantic", SemanticStage)
    header = context.settings("header", Header)
    width, tile = context.setting("width"), context.setting("tile")
    prior = new_prior(header, width, tile, context.node.seed, context.device, context.classes)
    sampler = source_sampler(context)
    validation = domain_tiles(context.domain().source_splits().val, context, VALIDATION_TILES)
    held_out = prior.masks(validation.labels.to(context.device))
    first = _train_autoencoder(context, stage, prior, sampler, held_out)
    second = _train_vector(context, stage, prior, sampler, held_out)
    statistics = sampler.draw_labels(0, STATISTICS_TILES, stage.empty_share)
    prior.fit_statistics(mask_vectors(prior, prior.masks(statistics)))
    records = [*epoch_records([*first.history, *second.history]), *semantic_health(prior, held_out)]
    steps, seconds = first.steps + second.steps, first.seconds + second.seconds
    records.append(cost_record(context, count_parameters(prior.requires_grad_()), steps, seconds))
    summary = {"val/mask_dice": second.score, "val/autoencoder_dice": first.score, "seconds": seconds}
    return Draft(tensors={"prior": prior.state_dict()}, records=records, summary=summary)


def _train_autoencoder(
    context: StageContext, stage: SemanticStage, prior: SemanticPrior, sampler: TileSampler, held_out: Tensor
) -> Trained:
    autoencoder, training = prior.autoencoder.requires_grad_(), stage.autoencoder
    task = Task(
        module=AutoencoderTraining(autoencoder),
        kept=autoencoder,
        draw=_mask_draw(context, sampler, stage, training.batch),
        weights={"bce": 1.0},
        validate=lambda: {"val/mask_dice": checks.mask_dice(_decoded(autoencoder, held_out), held_out)},
        score="val/mask_dice",
        keep=training.keep,
    )
    span = Span(f"{context.node.key}-autoencoder", 0, training.epochs + stage.vector.epochs)
    trained = Loop(task, training, context, span).run()
    autoencoder.requires_grad_(False)
    return trained


def _train_vector(
    context: StageContext, stage: SemanticStage, prior: SemanticPrior, sampler: TileSampler, held_out: Tensor
) -> Trained:
    training = stage.vector
    task = Task(
        module=VectorTraining(prior),
        kept=prior.vector_part,
        draw=_mask_draw(context, sampler, stage, training.batch),
        weights={"rec": stage.feature_weight, "bce": stage.mask_weight},
        validate=lambda: {"val/mask_dice": checks.mask_dice(decoded_masks(prior, held_out), held_out)},
        score="val/mask_dice",
        keep=training.keep,
    )
    first = stage.autoencoder.epochs
    return Loop(task, training, context, Span(f"{context.node.key}-vector", first, first + training.epochs)).run()


def _mask_draw(
    context: StageContext, sampler: TileSampler, stage: SemanticStage, batch: int
) -> Callable[[int], Tensor]:
    place = context.place
    classes = context.classes

    def draw(step: int) -> Tensor:
        labels = sampler.draw_labels(step, batch, stage.empty_share, place.rank, place.workers)
        return one_hot_masks(labels, classes)

    return draw


@torch.no_grad()
def _decoded(autoencoder: SemanticAutoencoder, masks: Tensor) -> Tensor:
    return torch.cat([torch.sigmoid(autoencoder(masks[rows]).float()) for rows in checks.batches(len(masks))])


@torch.no_grad()
def decoded_masks(prior: SemanticPrior, masks: Tensor) -> Tensor:
    """Probabilities (tiles, classes, height, width) decoded from the masks' vectors."""
    return torch.cat([torch.sigmoid(prior(masks[rows]).logits.float()) for rows in checks.batches(len(masks))])


@torch.no_grad()
def mask_vectors(prior: SemanticPrior, masks: Tensor) -> Tensor:
    """Vectors (tiles, dim) of masks (tiles, classes, height, width), in float32."""
    return torch.cat([prior.vector(masks[rows]).float() for rows in checks.batches(len(masks))])


def semantic_health(prior: SemanticPrior, masks: Tensor) -> list[dict[str, Any]]:
    """What P-SAE's vector still knows of held-out masks, beside predicting foreground everywhere."""
    decoded = decoded_masks(prior, masks)
    baseline = checks.all_foreground_dice(masks)
    best = checks.best_threshold_dice(decoded, masks)
    warning = None
    if best < baseline + 0.05:
        warning = (
            f"P-SAE's vector decodes to {best:.2f} Dice, all-foreground gives {baseline:.2f}: it carries only density"
        )
    rank = checks.effective_rank(mask_vectors(prior, masks))
    return [
        health("P-SAE autoencoder mask Dice", checks.mask_dice(_decoded(prior.autoencoder, masks), masks), baseline),
        health("P-SAE mask Dice at 0.5", checks.mask_dice(decoded, masks), baseline),
        health("P-SAE mask Dice at best threshold", best, baseline, ok=warning is None, warning=warning),
        health("P-SAE effective rank", rank, None),
    ]

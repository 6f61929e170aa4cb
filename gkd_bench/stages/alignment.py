"""Stage ``alignment``: one alignment network (TAN or SAN) trained with ACT on a frozen host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gkd_bench.config.schema import AlignmentStage, Header
from gkd_bench.data.augment import Rows, make_views, step_generator
from gkd_bench.data.tiles import TileSampler
from gkd_bench.distillation.act import AlignmentTraining, HostOutputs, host_outputs
from gkd_bench.networks.alignment import AlignmentNetwork
from gkd_bench.networks.base import SegmentationNetwork, Skips, class_probabilities, count_parameters
from gkd_bench.networks.semantic import SemanticPrior, vector_moments
from gkd_bench.stages import checks
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.loop import Loop, Task, Trained
from gkd_bench.stages.models import input_network, load_prior, new_alignment
from gkd_bench.stages.results import cost_record, epoch_records, health
from gkd_bench.stages.supervised import source_sampler
from gkd_bench.stages.tiling import domain_tiles
from gkd_bench.store.artefacts import Draft

VIEW_STREAM = 11
STATISTICS_TILES = 256
VALIDATION_TILES = 384
"""Validation tiles at most: the skips of all of them are kept. Volumes have thousands of slices."""


class Parts(NamedTuple):
    """The networks of the stage; only ``network`` is trained."""

    network: AlignmentNetwork
    host: SegmentationNetwork
    prior: SemanticPrior


def run_alignment(context: StageContext) -> Draft:
    """Train the alignment network; ``statistics`` in the draft are its own vectors' mean and deviation."""
    stage = context.settings("alignment", AlignmentStage)
    host = input_network(context, "host")
    network = new_alignment(host, context.settings("header", Header), context.setting("tile"), context.node.seed)
    parts = Parts(network, host, load_prior(context.input("semantic"), context.device))
    sampler, held_out = source_sampler(context), validation_outputs(context, parts)
    training = AlignmentTraining(network, host, parts.prior, stage.weights)
    task = Task(
        module=training,
        kept=network,
        draw=_draw(context, stage, parts, sampler),
        weights=training.weights(),
        validate=lambda: _validation(training, held_out),
        score="val/act",
        maximise=False,
        patience=stage.patience,
        keep=stage.keep,
    )
    untrained = bool(context.node.settings.get("untrained"))
    trained = as_initialised(task) if untrained else Loop(task, stage, context).run()
    records = [*epoch_records(trained.history), *alignment_health(parts, held_out, str(context.setting("host")))]
    records.append(cost_record(context, count_parameters(network), trained.steps, trained.seconds))
    statistics = vector_statistics(parts, sampler)
    summary = {"val/act": trained.score, "epoch": trained.epoch, "seconds": trained.seconds}
    return Draft(tensors={"network": network.state_dict(), "statistics": statistics}, records=records, summary=summary)


def as_initialised(task: Task) -> Trained:
    """The ablation without ACT: no step is done; the validation score is that of the initial weights."""
    task.module.eval()
    return Trained([], 0, task.validate()[task.score], 0, 0.0)


# ---------------------------------------------------------------- batches


def outputs_of(
    parts: Parts, images: Tensor, labels: Tensor, generator: torch.Generator, rows: Rows | None = None
) -> HostOutputs:
    """Host outputs of tiles (batch, 1, height, width) and of one photometric view of each."""
    views = make_views(images, ("photometric",), generator, rows)[0]
    return host_outputs(parts.host, parts.prior, images, views, labels)


def _draw(
    context: StageContext, stage: AlignmentStage, parts: Parts, sampler: TileSampler
) -> Callable[[int], HostOutputs]:
    """Batches of host outputs: of fresh tiles, or rows of a fixed set that is computed once."""
    place, seed = context.place, context.node.seed

    def fresh(step: int) -> HostOutputs:
        rows = Rows(stage.batch, place.rank, place.workers)
        tiles = sampler.draw(step, rows.batch, rows.rank, rows.workers)
        return outputs_of(parts, tiles.images, tiles.labels, step_generator(seed, step, VIEW_STREAM), rows)

    if not stage.cached_tiles:
        return fresh
    kept = cached_outputs(context, stage.cached_tiles, parts, sampler)

    def cached(step: int) -> HostOutputs:
        picked = torch.randint(stage.cached_tiles, (stage.batch,), generator=step_generator(seed, step, VIEW_STREAM))
        return take_rows(kept, picked[place.rank :: place.workers].to(context.device))

    return cached


def cached_outputs(context: StageContext, count: int, parts: Parts, sampler: TileSampler) -> HostOutputs:
    """Host outputs of ``count`` tiles drawn once."""
    tiles = sampler.draw(0, count)
    generator = step_generator(context.node.seed, 0, VIEW_STREAM)
    return join_outputs([outputs_of(parts, tiles.images[r], tiles.labels[r], generator) for r in checks.batches(count)])


def join_outputs(pieces: list[HostOutputs]) -> HostOutputs:
    """Host outputs of several batches as one."""
    maps = [torch.cat(parts) for parts in zip(*(piece.skips.maps for piece in pieces), strict=True)]
    joined = {
        name: torch.cat([getattr(piece, name) for piece in pieces]) for name in HostOutputs._fields if name != "skips"
    }
    return HostOutputs(skips=Skips(tuple(maps), pieces[0].skips.size), **joined)


def take_rows(outputs: HostOutputs, rows: Tensor | slice) -> HostOutputs:
    """Host outputs of some tiles."""
    skips = Skips(tuple(part[rows] for part in outputs.skips.maps), outputs.skips.size)
    picked = {name: getattr(outputs, name)[rows] for name in HostOutputs._fields if name != "skips"}
    return HostOutputs(skips=skips, **picked)


def validation_outputs(context: StageContext, parts: Parts) -> HostOutputs:
    """Host outputs of grid tiles of the source's validation subjects."""
    tiles = domain_tiles(context.domain().source_splits().val, context, VALIDATION_TILES)
    generator = step_generator(0, 0, VIEW_STREAM)
    slices = checks.batches(len(tiles.images))
    device = context.device
    pieces = ((tiles.images[rows].to(device), tiles.labels[rows].to(device)) for rows in slices)
    return join_outputs([outputs_of(parts, images, labels, generator) for images, labels in pieces])


# ---------------------------------------------------------------- measurements


@torch.no_grad()
def _validation(training: AlignmentTraining, held_out: HostOutputs) -> dict[str, float]:
    """Every term, and their weighted sum ``val/act``, on the validation tiles."""
    count = len(held_out.labels)
    sums = dict.fromkeys(training.weights(), 0.0)
    for rows in checks.batches(count):
        part = take_rows(held_out, rows)
        for name, term in training(part).items():
            sums[name] += float(term) * len(part.labels) / count
    total = sum(weight * sums[name] for name, weight in training.weights().items())
    return {"val/act": total, **{f"val/{name}": value for name, value in sums.items()}}


@torch.no_grad()
def vectors_of(network: AlignmentNetwork, outputs: HostOutputs) -> Tensor:
    """Vectors (tiles, dim) of the host's bottlenecks, float32."""
    slices = checks.batches(len(outputs.labels))
    return torch.cat([network.encode(outputs.bottleneck[rows]).float() for rows in slices])


def vector_statistics(parts: Parts, sampler: TileSampler) -> dict[str, Tensor]:
    """Mean and deviation (dim,) of the network's vectors over training tiles."""
    tiles = sampler.draw(0, STATISTICS_TILES)
    slices = checks.batches(STATISTICS_TILES)
    with torch.no_grad():
        vectors = [parts.network.encode(parts.host.encode(tiles.images[rows]).bottleneck) for rows in slices]
    mean, deviation = vector_moments(torch.cat(vectors))
    return {"mu": mean.float(), "sd": deviation.float()}


def alignment_health(parts: Parts, held_out: HostOutputs, host: str) -> list[dict[str, Any]]:
    """Alignment error, retrieval, effective rank, and reconstruction beside its two controls, on validation tiles."""
    vectors = vectors_of(parts.network, held_out)
    mean, deviation = parts.prior.v_mu, parts.prior.v_sd
    error, of_mean = (float((((v - held_out.target) / deviation) ** 2).mean()) for v in (vectors, mean))
    chance = 1.0 / len(vectors)
    retrieval = checks.retrieval_at_1((vectors - mean) / deviation, (held_out.target - mean) / deviation)
    warning = None
    if error > 0.95 * of_mean:
        warning = (
            f"the {host}'s vectors are no nearer to the mask's than the mean is (error {error:.2f}, mean {of_mean:.2f})"
        )
    return [
        _bottleneck_health(held_out.bottleneck, host),
        health("alignment error", error, of_mean, host=host, ok=warning is None, warning=warning),
        health("retrieval@1", retrieval, chance, host=host),
        health("effective rank", checks.effective_rank(vectors), None, host=host),
        *_reconstruction_health(parts, held_out, vectors, host),
    ]


def _bottleneck_health(maps: Tensor, host: str) -> dict[str, Any]:
    """Hosts with skips can train their bottleneck to death: weight decay wins where no gradient is."""
    live = checks.live_channels(maps)
    warning = None
    if live < 0.1:
        warning = (
            f"{live:.0%} of the {host}'s bottleneck channels vary: the skips do the work, there is nothing to align"
        )
    return health("live bottleneck channels", live, 1.0, host=host, ok=warning is None, warning=warning)


def _reconstruction_health(parts: Parts, held_out: HostOutputs, vectors: Tensor, host: str) -> list[dict[str, Any]]:
    """Host Dice from its own, the rebuilt, another tile's rebuilt, and the mean bottleneck."""
    truth = parts.prior.masks(held_out.labels)
    mean = held_out.bottleneck.mean(dim=0, keepdim=True)
    size = (int(mean.shape[-2]), int(mean.shape[-1]))

    def dice(bottleneck_of: Callable[[slice], Tensor]) -> float:
        parts_of = [_decode(parts.host, bottleneck_of(rows), held_out, rows) for rows in checks.batches(len(truth))]
        return checks.mask_dice(torch.cat(parts_of), truth)

    moved = checks.shuffled(vectors)
    own = dice(lambda rows: held_out.bottleneck[rows])
    rebuilt = dice(lambda rows: parts.network.header(vectors[rows], size))
    other = dice(lambda rows: parts.network.header(moved[rows], size))
    blank = dice(lambda rows: mean.expand(len(truth[rows]), -1, -1, -1))
    warning = None
    if rebuilt < max(other, blank) + 0.005:
        warning = f"the {host} decodes as well from another tile's vector ({other:.3f}) or the mean ({blank:.3f}) as from its own ({rebuilt:.3f}): the skips do the work, DICD has no content here"
    return [
        health("own bottleneck Dice", own, None, host=host),
        health("reconstructed Dice", rebuilt, own, host=host, ok=warning is None, warning=warning),
        health("shuffled-vector Dice", other, own, host=host),
        health("mean-bottleneck Dice", blank, own, host=host),
    ]


@torch.no_grad()
def _decode(host: SegmentationNetwork, bottleneck: Tensor, outputs: HostOutputs, rows: slice) -> Tensor:
    skips = Skips(tuple(part[rows] for part in outputs.skips.maps), outputs.skips.size)
    return class_probabilities(host.decode(bottleneck, skips).logits)

"""Frechet Semantic Distances of a model on a target domain: three uses, with their controls. See docs/method.md."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gkd_bench.config.schema import EvaluateStage, Header
from gkd_bench.data.tiles import GridTiles, grid_tiles
from gkd_bench.distillation.base import Aligned
from gkd_bench.metrics.frechet import frechet_report
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.semantic import SemanticPrior
from gkd_bench.stages.checks import batches
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.models import input_network, load_aligned, load_prior, new_alignment
from gkd_bench.stages.semantic import as_masks, mask_vectors

Vectors = NDArray[np.float64]
FLOOR_HALVES = 10


def fsd_records(context: StageContext, network: SegmentationNetwork, stage: EvaluateStage) -> list[dict[str, Any]]:
    """``fsd`` records: source training tiles against target test tiles in every space, and, with alignment networks,
    against the masks' P-SAE vectors and the teacher's vectors."""
    tile = int(context.setting("tile"))
    source = thinned(grid_tiles(context.domain().source_splits().train, tile), stage.fsd_tiles)
    target = thinned(grid_tiles(context.domain("target").test_split().images, tile), stage.fsd_tiles)
    maps = [bottlenecks(network, tiles.images.to(context.device)) for tiles in (source, target)]
    records = [_domain(stage, "bottleneck", *(_array(part.mean(dim=(2, 3))) for part in maps))]
    if "alignment" in context.node.inputs:
        aligned = load_aligned(context.input("alignment"), network)
        prior = load_prior(context.input("semantic"), context.device)
        records += _aligned_records(context, stage, network, aligned, prior, maps, target)
    return records


def _aligned_records(
    context: StageContext,
    stage: EvaluateStage,
    network: SegmentationNetwork,
    aligned: Aligned,
    prior: SemanticPrior,
    maps: list[Tensor],
    target: GridTiles,
) -> list[dict[str, Any]]:
    source_vectors, vectors = (vectors_of(aligned, part) for part in maps)
    raw = _random_header(context, network)
    untrained = [_array(vectors_of(raw, part)) for part in maps]
    masks = mask_vectors(prior, as_masks(target.labels).to(context.device))
    records = [
        _domain(stage, "aligned", _by_prior(source_vectors, prior), _by_prior(vectors, prior)),
        _domain(stage, "aligned_own", *_by_first(_array(source_vectors), _array(vectors))),
        _domain(stage, "random_header", *_by_first(*untrained)),
        _record(stage, "semantic", "aligned", _by_prior(masks, prior), _by_prior(vectors, prior)),
    ]
    if "teacher" in context.node.inputs:
        records.append(_teacher_student(context, stage, prior, vectors, target))
    return records


def _teacher_student(
    context: StageContext, stage: EvaluateStage, prior: SemanticPrior, vectors: Tensor, target: GridTiles
) -> dict[str, Any]:
    teacher = input_network(context, "teacher")
    tan = load_aligned(context.input("tan"), teacher)
    taught = vectors_of(tan, bottlenecks(teacher, target.images.to(context.device)))
    return _record(stage, "teacher_student", "aligned", _by_prior(taught, prior), _by_prior(vectors, prior))


def _random_header(context: StageContext, network: SegmentationNetwork) -> Aligned:
    """The control: an alignment network of the same shape that was never trained."""
    header = Header.model_validate(context.input("alignment").node.settings["header"])
    fresh = new_alignment(network, header, int(context.setting("tile")), context.node.seed).eval()
    zeros = torch.zeros(header.dim, device=context.device)
    return Aligned(fresh, zeros, torch.ones_like(zeros))


# ---------------------------------------------------------------- vectors


def thinned(tiles: GridTiles, most: int) -> GridTiles:
    """At most ``most`` tiles, evenly spaced over all."""
    count = len(tiles.images)
    if count <= most:
        return tiles
    rows = torch.linspace(0, count - 1, most).round().long()
    return GridTiles(tiles.images[rows], tiles.labels[rows], tiles.index[rows])


@torch.no_grad()
def bottlenecks(network: SegmentationNetwork, images: Tensor) -> Tensor:
    """Bottleneck maps (tiles, channels, h, w), float32."""
    return torch.cat([network.encode(images[rows]).bottleneck.float() for rows in batches(len(images))])


@torch.no_grad()
def vectors_of(aligned: Aligned, maps: Tensor) -> Tensor:
    """Vectors (tiles, dim) of bottleneck maps."""
    return torch.cat([aligned.vectors(maps[rows]).float() for rows in batches(len(maps))])


def _array(values: Tensor) -> Vectors:
    return values.double().cpu().numpy()


def _by_prior(vectors: Tensor, prior: SemanticPrior) -> Vectors:
    """Standardised with P-SAE's mean and deviation."""
    return _array((vectors - prior.v_mu) / prior.v_sd)


def _by_first(first: Vectors, second: Vectors) -> tuple[Vectors, Vectors]:
    """Both standardised with the first set's mean and root-mean-square deviation, for spaces without a scale of their own."""
    mean, deviation = first.mean(axis=0), max(float(first.std(axis=0).mean()), 1e-12)
    return (first - mean) / deviation, (second - mean) / deviation


# ---------------------------------------------------------------- records


def _domain(stage: EvaluateStage, space: str, source: Vectors, target: Vectors) -> dict[str, Any]:
    if space == "bottleneck":
        source, target = _by_first(source, target)
    return _record(stage, "domain", space, source, target)


def _record(stage: EvaluateStage, use: str, space: str, first: Vectors, second: Vectors) -> dict[str, Any]:
    """One ``fsd`` record: value, counts, bootstrap interval, and the null between halves of the first set."""
    report = frechet_report(first, second, bootstrap=stage.fsd_bootstrap, halves=FLOOR_HALVES)
    return {"record": "fsd", "split": "test", "use": use, "space": space, **report.record()}

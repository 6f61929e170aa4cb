"""Frechet Semantic Distances of a model on a target domain: three uses, with their controls. See docs/method.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gkd_bench.config.schema import EvaluateStage, Header
from gkd_bench.data.tiles import GridTiles, spread_rows
from gkd_bench.distillation.base import Aligned
from gkd_bench.metrics.frechet import frechet_report
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.semantic import SemanticPrior
from gkd_bench.stages.checks import batches
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.models import input_network, load_aligned, load_prior, new_alignment
from gkd_bench.stages.semantic import mask_vectors
from gkd_bench.stages.tiling import domain_tiles
from gkd_bench.store.artefacts import Draft

Vectors = NDArray[np.float64]
FLOOR_HALVES = 10


@dataclass(frozen=True)
class Ruler:
    """A network with what turns its bottleneck into vectors: its trained alignment network and an untrained one.

    Attributes:
        network: the network, frozen.
        aligned: TAN or SAN, frozen; none when the sweep has no alignment networks.
        untrained: the control, an alignment network of the same shape that was never trained.
    """

    network: SegmentationNetwork
    aligned: Aligned | None = None
    untrained: Aligned | None = None

    @torch.no_grad()
    def vectors(self, images: Tensor) -> dict[str, Tensor]:
        """Space -> (tiles, dim) float32 of tiles (tiles, 1, height, width): ``bottleneck`` (pooled), and, with alignment
        networks, ``aligned`` and ``random_header``. One batch of feature maps is in memory at a time."""
        device = next(self.network.parameters()).device
        parts: dict[str, list[Tensor]] = {}
        for rows in batches(len(images)):
            maps = self.network.encode(images[rows].to(device)).bottleneck.float()
            parts.setdefault("bottleneck", []).append(maps.mean(dim=(2, 3)))
            for space, aligned in (("aligned", self.aligned), ("random_header", self.untrained)):
                if aligned is not None:
                    parts.setdefault(space, []).append(aligned.vectors(maps).float())
        return {space: torch.cat(pieces) for space, pieces in parts.items()}


def make_ruler(context: StageContext, network: SegmentationNetwork) -> Ruler:
    """The ruler of a network, with the alignment network among the stage's inputs, if there is one."""
    if "alignment" not in context.node.inputs:
        return Ruler(network)
    aligned = load_aligned(context.input("alignment"), network)
    return Ruler(network, aligned, _random_header(context, network))


def fsd_draft(context: StageContext, network: SegmentationNetwork, stage: EvaluateStage) -> Draft:
    """``fsd`` records: source training tiles against target test tiles in every space, and, with alignment networks,
    against the masks' P-SAE vectors and the teacher's vectors. Tensors: some vectors of both domains, in P-SAE units."""
    source = domain_tiles(context.domain().source_splits().train, context, stage.fsd_tiles)
    target = domain_tiles(context.scored_images(), context, stage.fsd_tiles)
    ruler = make_ruler(context, network)
    first, second = ruler.vectors(source.images), ruler.vectors(target.images)
    records = [_record(stage, "domain", "bottleneck", *_own_scale(first, second, "bottleneck"))]
    if ruler.aligned is None:
        return Draft(records=records)
    prior = load_prior(context.input("semantic"), context.device)
    masks = mask_vectors(prior, prior.masks(target.labels).to(context.device))
    near, far = _by_prior(first["aligned"], prior), _by_prior(second["aligned"], prior)
    records += [
        _record(stage, "domain", "aligned", near, far),
        _record(stage, "domain", "aligned_own", *_own_scale(first, second, "aligned")),
        _record(stage, "domain", "random_header", *_own_scale(first, second, "random_header")),
        _record(stage, "semantic", "aligned", _by_prior(masks, prior), far),
    ]
    if "teacher" in context.node.inputs:
        records.append(_record(stage, "teacher_student", "aligned", _teacher_vectors(context, prior, target), far))
    kept = {"source": _some(near, stage.vectors), "target": _some(far, stage.vectors)}
    return Draft(records=records, tensors={"vectors": kept})


def _teacher_vectors(context: StageContext, prior: SemanticPrior, target: GridTiles) -> Vectors:
    teacher = input_network(context, "teacher")
    ruler = Ruler(teacher, load_aligned(context.input("tan"), teacher))
    return _by_prior(ruler.vectors(target.images)["aligned"], prior)


def _random_header(context: StageContext, network: SegmentationNetwork) -> Aligned:
    """The control: an alignment network of the same shape that was never trained."""
    header = Header.model_validate(context.input("alignment").node.settings["header"])
    fresh = new_alignment(network, header, int(context.setting("tile")), context.node.seed).eval()
    zeros = torch.zeros(header.dim, device=context.device)
    return Aligned(fresh, zeros, torch.ones_like(zeros))


def _some(vectors: Vectors, most: int) -> Tensor:
    return torch.from_numpy(vectors)[spread_rows(len(vectors), most)].float()


def _array(values: Tensor) -> Vectors:
    return values.double().cpu().numpy()


def _by_prior(vectors: Tensor, prior: SemanticPrior) -> Vectors:
    """Standardised with P-SAE's mean and deviation."""
    return _array((vectors - prior.v_mu) / prior.v_sd)


def _own_scale(first: dict[str, Tensor], second: dict[str, Tensor], space: str) -> tuple[Vectors, Vectors]:
    return by_first(_array(first[space]), _array(second[space]))


def by_first(first: Vectors, second: Vectors) -> tuple[Vectors, Vectors]:
    """Both standardised with the first set's mean and root-mean-square deviation, for spaces without a scale of their own."""
    mean, deviation = first.mean(axis=0), max(float(first.std(axis=0).mean()), 1e-12)
    return (first - mean) / deviation, (second - mean) / deviation


# ---------------------------------------------------------------- records


def _record(stage: EvaluateStage, use: str, space: str, first: Vectors, second: Vectors) -> dict[str, Any]:
    """One ``fsd`` record: value, counts, bootstrap interval, and the null between halves of the first set."""
    report = frechet_report(first, second, bootstrap=stage.fsd_bootstrap, halves=FLOOR_HALVES)
    return {"record": "fsd", "split": "test", "use": use, "space": space, **report.record()}

"""BatchNorm adaptation at test time: batch statistics of the images to be segmented instead of the source's.

Uses images of the target, but no label of it, so results are marked. Sources: S. Schneider et al., "Improving robustness
against common corruptions by covariate shift adaptation", NeurIPS 2020; Z. Nado et al., "Evaluating Prediction-Time Batch
Normalization for Robustness under Covariate Shift", 2020.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from gkd_bench.data.cache import AnyImages
from gkd_bench.errors import StageError
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.stages.averaging import batch_norms, estimate_statistics
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.tiling import domain_tiles

ADAPT_TILES = 512
BATCH = 32
SOURCE_TILES = 16.0  # ours: next to nothing beside a whole test set, a hold where a target has only a few tiles


def as_deployed(context: StageContext, network: SegmentationNetwork, images: AnyImages) -> SegmentationNetwork:
    """The network as it would segment ``images``: a copy adapted to them where the stage asks for that, else itself.

    Adapts to at most ``ADAPT_TILES`` tiles that lie at least half inside the field of view, evenly spaced over all images.

    Raises:
        StageError: the network has no batch normalisation, or the stage asks for an adaptation that does not exist.
    """
    wanted = context.node.settings.get("adapt")
    if wanted is None:
        return network
    if wanted != "batch_norm":
        raise StageError(f"{context.node}: adaptation {wanted!r} is not known; the only one is 'batch_norm'")
    if not batch_norms(network):
        raise StageError(
            f"{context.node}: {type(network).__name__} has no batch normalisation to adapt; leave the remedy bn_adapt out of"
            " the method's options, or take a network with batch normalisation"
        )
    return adapted(network, domain_tiles(images, context, ADAPT_TILES).images)


@torch.no_grad()
def adapted(network: SegmentationNetwork, tiles: Tensor, source_tiles: float = SOURCE_TILES) -> SegmentationNetwork:
    """A copy of ``network`` in eval mode whose running statistics are those of ``tiles``; the two share their weights.

    Mean and variance of every batch norm become ``N / (N + n) * source + n / (N + n) * target`` (Schneider et al., equation
    1), with ``n`` tiles. The target's are the mean over batches that each hold tiles from everywhere.

    Args:
        network: with batch normalisation.
        tiles: (n, 1, tile, tile) float32 in [0, 1], n > 0.
        source_tiles: N, how many tiles the statistics of the training count for; 0 = forget them.
    """
    copied = copy.deepcopy(network, {id(weight): weight for weight in network.parameters()})
    device = next(network.parameters()).device
    count = -(-len(tiles) // BATCH)
    seen = estimate_statistics(copied, (tiles[first::count].to(device) for first in range(count)))
    keep = source_tiles / (source_tiles + seen)
    for new, old in zip(batch_norms(copied), batch_norms(network), strict=True):
        assert new.running_mean is not None and new.running_var is not None
        assert old.running_mean is not None and old.running_var is not None
        new.running_mean.lerp_(old.running_mean, keep)
        new.running_var.lerp_(old.running_var, keep)
    return copied

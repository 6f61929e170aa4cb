"""Build networks from settings and load them from artefacts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gkd_bench.config.schema import Header
from gkd_bench.distillation.base import Aligned, freeze
from gkd_bench.networks.alignment import AlignmentNetwork
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.build import build, seeded
from gkd_bench.networks.semantic import SemanticAutoencoder, SemanticPrior
from gkd_bench.stages.context import StageContext
from gkd_bench.store.artefacts import Artefact

SEMANTIC_STRIDE = 8


def new_network(spec: Mapping[str, Any], seed: int, device: torch.device) -> SegmentationNetwork:
    """A segmentation network with seeded weights, from a ``{name, width[, in_channels, classes]}`` block; channels last, which
    is faster."""
    sizes = {"in_channels": spec.get("in_channels", 1), "classes": spec.get("classes", 2)}
    network = build(spec["name"], spec["width"], **sizes, seed=seed)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def load_network(artefact: Artefact, device: torch.device, weights: str = "network") -> SegmentationNetwork:
    """The segmentation network of a teacher, baseline or distill artefact, frozen; ``weights``: ``network`` or ``last``."""
    network = new_network(artefact.node.settings["network"], 0, device)
    network.load_state_dict(artefact.tensors(weights))
    freeze(network)
    return network


def kept_networks(artefact: Artefact, device: torch.device) -> dict[str, SegmentationNetwork]:
    """The kept epochs of a trained network: ``best``, and ``last`` where that is another one."""
    kept = {"best": load_network(artefact, device)}
    if "last/epoch" in artefact.summary:
        kept["last"] = load_network(artefact, device, "last")
    return kept


def new_alignment(host: SegmentationNetwork, header: Header, tile: int, seed: int) -> AlignmentNetwork:
    """An untrained alignment network for a host's bottleneck, with seeded weights, on the host's device."""
    side = -(-tile // host.stride)  # encode pads to a multiple of the stride
    device = next(host.parameters()).device
    with seeded(seed):
        network = AlignmentNetwork(
            host.bottleneck_channels, (side, side), header.kind, header.dim, header.hidden, mixing=header.mixing
        )
    return network.to(device)


def load_aligned(artefact: Artefact, host: SegmentationNetwork) -> Aligned:
    """TAN or SAN with its vector statistics, frozen, on the host's device."""
    settings = artefact.node.settings
    network = new_alignment(host, Header.model_validate(settings["header"]), settings["tile"], 0)
    network.load_state_dict(artefact.tensors("network"))
    statistics = artefact.tensors("statistics")
    aligned = Aligned(network, statistics["mu"], statistics["sd"]).to(next(host.parameters()).device)
    freeze(aligned)
    return aligned


def new_prior(
    header: Header, width: float, tile: int, seed: int, device: torch.device, classes: int = 1
) -> SemanticPrior:
    """An untrained P-SAE of so many foreground classes: mask autoencoder and vector part, with seeded weights."""
    side = max(1, tile // SEMANTIC_STRIDE)
    with seeded(seed):
        autoencoder = SemanticAutoencoder(width, classes)
        vector_part = AlignmentNetwork(
            autoencoder.bottleneck_channels, (side, side), header.kind, header.dim, header.hidden, mixing="when_needed"
        )
    return SemanticPrior(autoencoder, vector_part).to(device)


def load_prior(artefact: Artefact, device: torch.device) -> SemanticPrior:
    """The trained P-SAE of a semantic artefact, frozen."""
    settings = artefact.node.settings
    header = Header.model_validate(settings["header"])
    prior = new_prior(header, settings["width"], settings["tile"], 0, device, len(settings.get("classes", ())) or 1)
    prior.load_state_dict(artefact.tensors("prior"))
    freeze(prior)
    return prior


def input_network(context: StageContext, role: str) -> SegmentationNetwork:
    """The frozen network of the stage in this role."""
    return load_network(context.input(role), context.device)

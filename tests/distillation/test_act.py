"""ACT's terms: values, their minima, and what they train."""

from __future__ import annotations

import copy

import pytest
import torch

from gkd_bench.config.schema import AlignmentWeights
from gkd_bench.distillation.act import AlignmentTraining, HostOutputs, host_outputs
from gkd_bench.distillation.base import Batch, freeze
from gkd_bench.networks.alignment import AlignmentNetwork
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.build import build, seeded
from gkd_bench.networks.semantic import SemanticAutoencoder, SemanticPrior

DIM = 32


@pytest.fixture
def host() -> SegmentationNetwork:
    network = build("unet", 0.05, seed=1)
    freeze(network)
    return network


@pytest.fixture
def prior() -> SemanticPrior:
    with seeded(2):
        autoencoder = SemanticAutoencoder(0.05)
        prior = SemanticPrior(autoencoder, AlignmentNetwork(autoencoder.bottleneck_channels, (4, 4), "flat", DIM))
    freeze(prior)
    prior.v_sd.fill_(2.0)
    return prior


@pytest.fixture
def outputs(host: SegmentationNetwork, prior: SemanticPrior, batch: Batch) -> HostOutputs:
    return host_outputs(host, prior, batch.images, batch.views[0], batch.labels)


def training(host: SegmentationNetwork, prior: SemanticPrior, **weights: float) -> AlignmentTraining:
    with seeded(3):
        network = AlignmentNetwork(host.bottleneck_channels, (2, 2), "flat", DIM)
    return AlignmentTraining(network, host, prior, AlignmentWeights(**weights)).train()


def test_all_five_terms_are_finite_and_train_the_alignment_network_only(
    host: SegmentationNetwork, prior: SemanticPrior, outputs: HostOutputs
) -> None:
    module = training(host, prior)
    before = copy.deepcopy(module.frozen.state_dict())
    terms = module(outputs)
    assert set(terms) == {"align", "rec", "con", "sem", "view"}
    sum(terms.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.network.parameters())
    assert all(p.grad is None for p in module.frozen.parameters())
    assert not any(inner.training for part in module.frozen for inner in part.modules())
    assert all(torch.equal(before[key], value) for key, value in module.frozen.state_dict().items())


def test_alignment_error_is_in_units_of_the_priors_deviation(
    host: SegmentationNetwork, prior: SemanticPrior, outputs: HostOutputs
) -> None:
    module = training(host, prior).eval()
    with torch.no_grad():
        vectors = module.network.encode(outputs.bottleneck)
        expected = ((vectors - outputs.target) / 2.0).square().mean()
        assert module(outputs)["align"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert module(outputs._replace(target=vectors))["align"].item() == pytest.approx(0.0, abs=1e-10)


def test_view_term_is_zero_for_a_view_that_changes_nothing(
    host: SegmentationNetwork, prior: SemanticPrior, outputs: HostOutputs
) -> None:
    module = training(host, prior).eval()
    assert module(outputs)["view"].item() > 0
    assert module(outputs._replace(view_bottleneck=outputs.bottleneck))["view"].item() == pytest.approx(0.0, abs=1e-12)


def test_terms_without_weight_are_left_out(
    host: SegmentationNetwork, prior: SemanticPrior, outputs: HostOutputs
) -> None:
    module = training(host, prior, align=0.0, sem=0.0)
    assert set(module(outputs)) == set(module.weights()) == {"rec", "con", "view"}

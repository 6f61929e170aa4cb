"""BatchNorm adaptation: what the statistics become, what is left alone, and what the stages make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gkd_bench.data.cache import TestImages as TargetImages
from gkd_bench.data.cache import open_prepared
from gkd_bench.data.stress import Condition
from gkd_bench.errors import StageError
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.norm import BatchNorm2d, InstanceNorm2d
from gkd_bench.stages import evaluate, stress
from gkd_bench.stages.adapt import BATCH, adapted, as_deployed
from gkd_bench.stages.averaging import batch_norms
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.models import load_network
from gkd_bench.stages.monitor import Workplace
from gkd_bench.store.node import StageNode

from .lab import DOMAINS, Lab, Recorder

SOURCE, TARGET = DOMAINS
CPU = torch.device("cpu")


class OneNorm(SegmentationNetwork):
    """Normalises the image, which makes the expected statistics those of the pixels."""

    stride, bottleneck_channels = 1, 1

    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.scale = torch.nn.Parameter(torch.ones(1))

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        return self.norm(images) * self.scale, (), ()

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return torch.cat([-bottleneck, bottleneck], dim=1), bottleneck


def source_network() -> OneNorm:
    network = OneNorm(BatchNorm2d(1))
    network.norm.running_mean.fill_(0.8)  # type: ignore[operator]
    network.norm.running_var.fill_(0.3)  # type: ignore[operator]
    return network.eval()


def target_tiles(count: int) -> Tensor:
    """Tiles that grow brighter and brighter, as a patient's images follow another's."""
    generator = torch.Generator().manual_seed(0)
    return torch.linspace(0, 0.5, count).view(-1, 1, 1, 1) + 0.2 * torch.rand(count, 1, 8, 8, generator=generator)


def statistics(network: SegmentationNetwork) -> tuple[float, float]:
    (norm,) = batch_norms(network)
    return float(norm.running_mean), float(norm.running_var)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [5, BATCH, 3 * BATCH + 5])
def test_without_a_prior_the_statistics_are_those_of_the_tiles(count: int) -> None:
    tiles = target_tiles(count)
    mean, variance = statistics(adapted(source_network(), tiles, source_tiles=0))
    assert mean == pytest.approx(float(tiles.mean()), rel=1e-4)
    assert variance == pytest.approx(float(tiles.var()), rel=0.03)  # one batch of neighbours would be far off


def test_source_statistics_count_as_many_tiles_as_they_are_given() -> None:
    tiles = target_tiles(30)
    mean, variance = statistics(adapted(source_network(), tiles, source_tiles=10))
    assert mean == pytest.approx(0.25 * 0.8 + 0.75 * float(tiles.mean()), rel=1e-4)
    assert variance == pytest.approx(0.25 * 0.3 + 0.75 * float(tiles.var()), rel=0.03)


def test_the_trained_network_is_left_alone_and_the_copy_is_ready_to_predict() -> None:
    network = source_network()
    copied = adapted(network, target_tiles(8))
    assert statistics(network) == pytest.approx((0.8, 0.3))
    assert copied.scale is network.scale
    assert not copied.training
    assert not any(part.training for part in copied.modules())


def test_adaptation_undoes_a_change_of_brightness_and_contrast() -> None:
    tiles = target_tiles(2 * BATCH)
    clean, changed = (adapted(source_network(), images, source_tiles=0) for images in (tiles, 0.4 * tiles + 0.3))
    torch.testing.assert_close(changed(0.4 * tiles + 0.3), clean(tiles), atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------- in the stages


def with_adaptation(node: StageNode, how: str = "batch_norm") -> StageNode:
    return StageNode(**{**node.to_json(), "settings": {**node.settings, "adapt": how}})


def context_of(lab: Lab, node: StageNode) -> StageContext:
    return StageContext(node, Workplace(lab.folder, lab.cache), Recorder(), lab.store)


def target_images(lab: Lab) -> TargetImages:
    return open_prepared(lab.cache, *lab.planner.references[TARGET].split("@")).test_split().images


def records(lab: Lab, node: StageNode, kind: str, **fields: Any) -> list[dict[str, Any]]:
    rows = [row for row in lab.store.get(node.key).records() if row["record"] == kind]
    return [row for row in rows if all(row[name] == value for name, value in fields.items())]


def first_mean(network: SegmentationNetwork) -> Tensor:
    mean = batch_norms(network)[0].running_mean
    assert mean is not None
    return mean


def student(lab: Lab) -> tuple[StageNode, SegmentationNetwork]:
    node = lab.planner.distill("scratch", SOURCE, 0)
    return node, load_network(lab.store.get(node.key), CPU)


def test_network_is_itself_where_nothing_is_asked_for(trained: Lab) -> None:
    node, network = student(trained)
    plain = trained.planner.evaluate(node, SOURCE, TARGET, 0)
    assert as_deployed(context_of(trained, plain), network, target_images(trained)) is network


def test_adaptation_never_looks_at_labels(trained: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    node, network = student(trained)
    context = context_of(trained, with_adaptation(trained.planner.evaluate(node, SOURCE, TARGET, 0)))
    before = as_deployed(context, network, target_images(trained))
    noise = np.random.default_rng(0)
    monkeypatch.setattr(
        TargetImages, "label", lambda self, index: noise.integers(0, 2, self.size(index)).astype(np.uint8)
    )
    after = as_deployed(context, network, target_images(trained))
    assert all(torch.equal(a, b) for a, b in zip(before.buffers(), after.buffers(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before.buffers(), network.buffers(), strict=True))


def test_a_network_without_batch_norm_is_one_clear_error(trained: Lab) -> None:
    node, _ = student(trained)
    context = context_of(trained, with_adaptation(trained.planner.evaluate(node, SOURCE, TARGET, 0)))
    with pytest.raises(StageError, match=r"OneNorm has no batch normalisation.*leave the remedy bn_adapt out"):
        as_deployed(context, OneNorm(InstanceNorm2d(1)), target_images(trained))


def test_an_unknown_adaptation_is_refused(trained: Lab) -> None:
    node, network = student(trained)
    context = context_of(trained, with_adaptation(trained.planner.evaluate(node, SOURCE, TARGET, 0), "magic"))
    with pytest.raises(StageError, match="'magic' is not known"):
        as_deployed(context, network, target_images(trained))


def test_evaluation_scores_measures_and_pictures_the_adapted_network(
    trained: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained.planner.evaluate(student(trained)[0], SOURCE, TARGET, 0)
    node = with_adaptation(plain)
    seen: dict[str, list[SegmentationNetwork]] = {}
    for name, place in (("score_all", 0), ("fsd_draft", 1), ("pictures", 0)):
        monkeypatch.setattr(evaluate, name, spy(getattr(evaluate, name), place, seen.setdefault(name, [])))
    trained.make(plain)
    unadapted = [networks[0] for networks in seen.values()]
    for networks in seen.values():
        networks.clear()
    trained.make(node)
    network = seen["score_all"][0]
    assert all(networks[0] is network for networks in seen.values())
    assert all(not torch.equal(first_mean(network), first_mean(one)) for one in unadapted)
    before, after = (records(trained, one, "image", variant="best") for one in (plain, node))
    assert [row["image"] for row in before] == [row["image"] for row in after]
    assert [row["auc_fov"] for row in before] != [row["auc_fov"] for row in after]


def spy(function: Any, place: int, seen: list[SegmentationNetwork]) -> Any:
    def called(*arguments: Any) -> Any:
        seen.append(arguments[place])
        return function(*arguments)

    return called


def test_stress_adapts_to_every_condition_by_itself(trained: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trained.planner.stress(student(trained)[0], SOURCE, 0)
    node = with_adaptation(plain)
    met: dict[Condition, SegmentationNetwork] = {}
    dice_records = stress.dice_records

    def watch(context: StageContext, deployed: stress.Deployed, bank: Any) -> Any:
        met.update(deployed)
        return dice_records(context, deployed, bank)

    monkeypatch.setattr(stress, "dice_records", watch)
    monkeypatch.setattr(stress, "count_macs", lambda *_: 0)  # slow, and the same either way
    trained.make(node)
    means = {condition: first_mean(network) for condition, network in met.items()}
    assert set(means) == {("none", 0), ("gamma", 1), ("gamma", 3), ("noise", 1), ("noise", 3)}
    assert not torch.equal(means[Condition("gamma", 1)], means[Condition("gamma", 3)])
    trained.make(plain)
    assert len({id(network) for network in met.values()}) == 1
    for kind in ("stress", "stress_fsd"):
        before, after = (records(trained, one, kind, variant="best") for one in (plain, node))
        assert len(before) == len(after) > 0
    assert [row["value"] for row in before] != [row["value"] for row in after]

"""CoCo and Graph Flow: relations between a shallow and a deep layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gkd_bench.config.method_options import METHOD_OPTIONS
from gkd_bench.distillation import coco, graph_flow
from gkd_bench.distillation.base import Batch, Guides, StudentOutput
from gkd_bench.distillation.bridge import Maps
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.registry import METHODS


def wave(*shape: int, step: float = 1.0) -> torch.Tensor:
    return torch.sin(step * torch.arange(1.0, 1.0 + int(np.prod(shape)))).view(shape)


def maps(shallow: torch.Tensor, deep: torch.Tensor) -> Maps:
    return Maps(shallow, deep, deep, deep)


def own(student: SegmentationNetwork, batch: Batch) -> StudentOutput:
    features = student.encode(batch.images)
    return StudentOutput(features, student.decode(features.bottleneck, features.skips))


# ---------------------------------------------------------------- CoCo


def test_cross_layer_correlation_matches_numpys_corrcoef() -> None:
    shallow, deep = wave(1, 3, 2, 3), wave(1, 5, 2, 3, step=0.7)

    def similarity(layer: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        vectors = layer[0].flatten(1).double().numpy().T
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors @ vectors.T)

    expected = np.corrcoef(similarity(shallow), similarity(deep))[:6, 6:]
    np.testing.assert_allclose(coco.cross_layer(shallow, deep)[0].numpy(), expected, atol=1e-5)


def test_correlation_loss_takes_any_channels_and_grids_and_sees_a_change() -> None:
    teacher = maps(wave(1, 6, 4, 6), wave(1, 2, 8, 6, step=0.3))
    same = maps(teacher.shallow * 3, -teacher.deep)
    other = maps(wave(1, 3, 5, 6, step=0.7), wave(1, 4, 4, 7, step=1.3))
    assert coco.correlation_loss(same, teacher).item() == pytest.approx(0.0, abs=1e-9)
    assert coco.correlation_loss(other, teacher).item() > 1e-3


def test_a_single_position_has_nothing_to_correlate_with() -> None:
    one = maps(wave(2, 3, 1, 1).requires_grad_(), wave(2, 4, 1, 1))
    loss = coco.correlation_loss(one, maps(wave(2, 3, 1, 1), wave(2, 3, 1, 1)))
    (gradient,) = torch.autograd.grad(loss, one.shallow)
    assert loss.item() == 0.0 and torch.isfinite(gradient).all()


# ---------------------------------------------------------------- Graph Flow


def test_vertex_and_edge_flow_match_a_loop_over_channels() -> None:
    shallow, deep = wave(1, 3, 2, 2), wave(1, 3, 2, 2, step=0.7)
    before, after = (
        m[0].flatten(1).double().numpy() / np.linalg.norm(m[0].flatten(1).double().numpy(), axis=1, keepdims=True)
        for m in (shallow, deep)
    )
    np.testing.assert_allclose(graph_flow.vertex_flow(shallow, deep)[0].numpy(), after - before, atol=1e-6)
    for c in range(3):
        for d in range(3):
            expected = after[c] @ after[d] - before[c] @ before[d]
            assert graph_flow.edge_flow(shallow, deep)[0, c, d].item() == pytest.approx(expected, abs=1e-6)


def test_flow_ignores_the_strength_of_a_channel_and_follows_their_order() -> None:
    shallow, deep = wave(2, 3, 2, 2), wave(2, 3, 2, 2, step=0.7)
    strength = torch.tensor([0.5, 2.0, 30.0]).view(1, 3, 1, 1)
    for flow in (graph_flow.vertex_flow, graph_flow.edge_flow):
        assert torch.allclose(flow(shallow * strength, deep * 7), flow(shallow, deep), atol=1e-6)
    order = [2, 0, 1]
    moved = graph_flow.edge_flow(shallow[:, order], deep[:, order])
    assert torch.allclose(moved, graph_flow.edge_flow(shallow, deep)[:, order][:, :, order])


def test_nothing_flows_between_equal_layers() -> None:
    layer = wave(1, 3, 2, 2)
    assert graph_flow.vertex_flow(layer, layer).abs().max() == graph_flow.edge_flow(layer, layer).abs().max() == 0.0


def test_layers_of_unequal_channels_meet_at_the_fewer() -> None:
    shallow, deep = graph_flow.same_channels(wave(1, 4, 2, 3), wave(1, 2, 2, 3))
    assert shallow.shape == deep.shape == (1, 2, 2, 3)
    assert torch.allclose(shallow[:, 0], wave(1, 4, 2, 3)[:, :2].mean(1))


# ---------------------------------------------------------------- the adversarial option


@pytest.mark.parametrize("name", ["coco", "graph_flow"])
def test_a_critic_is_there_only_when_its_weight_is_not_zero(
    name: str, student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    plain, fighting = (
        METHODS.load(name)(METHOD_OPTIONS[name].model_validate({"adversarial": weight}), guides, student)
        for weight in (0.0, 0.1)
    )
    assert plain.opponent is None and fighting.opponent is not None
    terms = fighting.terms(student, own(student, batch), batch)
    assert set(terms) == set(fighting.weights()) == set(plain.weights()) | {"adversarial"}
    gradients = torch.autograd.grad(terms["adversarial"], list(student.parameters()), allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
    assert not any(p.requires_grad for p in fighting.opponent.parameters())
    assert torch.isfinite(fighting.opponent.loss())

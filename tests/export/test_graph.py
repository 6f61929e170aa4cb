from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gkd_bench.config.schema import Prepare
from gkd_bench.export.facts import Facts, Network, Working
from gkd_bench.export.graph import (
    Exportable,
    export_program,
    floored_remainder,
    least_side,
    onnx_model,
    pool_to_grid,
    save_program,
)
from gkd_bench.networks.base import SegmentationNetwork, foreground_probability
from gkd_bench.networks.build import build
from gkd_bench.registry import NETWORKS

WIDTH = 0.05
SIZES = ((1, 1, 96, 96), (5, 1, 33, 200), (2, 1, 64, 37), (1, 1, 128, 131))
FACTS = Facts(
    package_version="0", sweep="s", task="vessel", source="a", method="gkd", seed=0, key="k", variant="best", epoch=1,
    network=Network(name="unet", width=WIDTH, stride=16, least_side=2), tile=32, overlap=0.1, threshold=0.5,
    prepare=Prepare(), working=Working(factor=0.5, fov_width=400.0, vessel_width=3.0), factors={}, rule="source_val",
    chosen="c", versions={},
)  # fmt: skip


def slim(name: str) -> SegmentationNetwork:
    return build(name, WIDTH, seed=0).eval()


@torch.no_grad()
def expected(network: SegmentationNetwork, images: torch.Tensor) -> torch.Tensor:
    return foreground_probability(network(images))[:, None]


@pytest.mark.parametrize("size", [(7, 5), (24, 36), (2, 3), (19, 100)])
@pytest.mark.parametrize("grid", [(3, 3), (6, 6), (12, 12)])
def test_pooling_by_matrices_is_adaptive_average_pooling(size: tuple[int, int], grid: tuple[int, int]) -> None:
    features = torch.rand(2, 3, *size, dtype=torch.float64)
    assert torch.allclose(pool_to_grid(features, grid), F.adaptive_avg_pool2d(features, grid), atol=1e-12)


def test_remainder_is_torchs_for_negative_numbers_too() -> None:
    values = torch.arange(-9, 10)
    assert torch.equal(floored_remainder(values, 4), torch.remainder(values, 4))


@pytest.mark.parametrize("size", [(2, 3), (16, 32), (33, 50)])
def test_gathers_pad_and_crop_as_the_network_does(size: tuple[int, int]) -> None:
    network, images = slim("unet"), torch.rand(2, 1, *size)
    with torch.no_grad():
        assert torch.allclose(Exportable(network)(images), expected(network, images), atol=1e-6)


def test_network_in_channels_last_is_exported_and_left_as_it_is() -> None:
    network = slim("unet").to(memory_format=torch.channels_last)
    program = export_program(network)
    images = torch.rand(1, 1, 40, 50)
    assert torch.allclose(program.module()(images), expected(network, images), atol=1e-5)
    assert next(network.parameters()).is_contiguous(memory_format=torch.channels_last)


def test_files_name_no_path_of_the_machine_that_wrote_them(tmp_path: Path) -> None:
    program = export_program(slim("little_unet"))
    save_program(program, FACTS, tmp_path / "model.pt2")
    here = str(Path(__file__).parents[2]).encode()
    assert here not in (tmp_path / "model.pt2").read_bytes()
    assert here not in onnx_model(program, FACTS).SerializeToString()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_computes_the_same_in_both_formats_for_any_batch_and_size(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = slim(name)
    program = export_program(network)
    session = onnxruntime.InferenceSession(onnx_model(program, FACTS).SerializeToString())
    assert [axis if isinstance(axis, int) else str(axis) for axis in session.get_inputs()[0].shape] == [
        "batch", 1, "height", "width",
    ]  # fmt: skip
    least, run = least_side(program, network), program.module()
    for size in (*SIZES, (1, 1, least, least + 1)):
        images = torch.rand(*size)
        right = expected(network, images).numpy()
        assert np.abs(run(images).detach().numpy() - right).max() < 1e-5
        assert np.abs(session.run(None, {"images": images.numpy()})[0] - right).max() < 1e-4

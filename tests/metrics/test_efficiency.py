from __future__ import annotations

import json
import time

import pytest
import torch
from torch import Tensor, nn

from gkd_bench.metrics.efficiency import count_macs, measure
from gkd_bench.networks.build import build
from gkd_bench.registry import NETWORKS

SHAPE = (1, 1, 48, 48)


def _small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(4, 1, 1, bias=False))


class _Pause(nn.Module):
    """Takes longer and longer: 1, 2, 3 ... milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        time.sleep(self.calls * 1e-3)
        return images


# ---------------------------------------------------------------- multiply-accumulates


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 10 * 12 * 8 * 3 * 9),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), (1, 4, 10, 12), 5 * 6 * 8 * 1 * 9),
        (nn.ConvTranspose2d(4, 2, 2, stride=2), (1, 4, 5, 6), 5 * 6 * 4 * 2 * 4),
        (nn.Linear(7, 5), (3, 7), 3 * 7 * 5),
        (nn.BatchNorm2d(3), (2, 3, 4, 4), 0),
    ],
)
def test_macs_of_single_layers_are_their_closed_forms(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert count_macs(layer, shape) == expected


def test_macs_grow_with_batch_and_area() -> None:
    network = build("unet", width=0.1, seed=0)
    one = count_macs(network, (1, 1, 32, 32))
    assert count_macs(network, (2, 1, 32, 32)) == 2 * one
    assert count_macs(network, (1, 1, 64, 32)) == 2 * one


def test_macs_of_a_large_image_compute_nothing() -> None:
    assert count_macs(_small(), (1, 1, 100_000, 100_000)) == 10**10 * (36 + 4)


# ---------------------------------------------------------------- every network


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_every_network_can_be_measured_and_stays_as_it_was(name: str, training: bool) -> None:
    network = build(name, width=0.1, seed=0).train(training)
    next(network.children()).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    cost = measure(network, SHAPE, repeats=2, warmup=1)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.macs == count_macs(network, SHAPE) > 0
    assert 0.0 < cost.latency_p50_ms <= cost.latency_p95_ms
    assert cost.peak_memory_mb * 1e6 > 4 * cost.parameters + 4 * 48 * 48


def test_wider_network_costs_more() -> None:
    slim, wide = (measure(build("unet", width=width, seed=0), SHAPE, repeats=1) for width in (0.1, 0.2))
    assert slim.parameters < wide.parameters
    assert slim.macs < wide.macs
    assert slim.peak_memory_mb < wide.peak_memory_mb


# ---------------------------------------------------------------- latency


def test_latency_percentiles_leave_the_warm_up_out() -> None:
    cost = measure(_Pause(), (1, 1), repeats=9, warmup=3)
    # After three passes of warm-up, the timed ones sleep 4 ... 12 ms: their median is 8, with the warm-up it would be 6.5.
    assert cost.latency_p50_ms >= 7.9
    assert cost.latency_p95_ms >= 11.5


@pytest.mark.parametrize("threads", [1, 2])
def test_asked_number_of_threads_is_used_and_put_back(threads: int) -> None:
    seen: list[int] = []

    class Spy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return images

    before = torch.get_num_threads()
    measure(Spy(), (1, 1), threads=threads, repeats=1, warmup=0)
    assert threads in seen and torch.get_num_threads() == before


def test_threads_are_put_back_after_a_failure() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        measure(nn.Linear(3, 3), (1, 5), threads=before + 1)
    assert torch.get_num_threads() == before


# ---------------------------------------------------------------- memory


def test_peak_memory_is_what_a_hand_count_gives() -> None:
    weights, images, hidden = 4 * (36 + 4), 4 * 100, 4 * 400
    cost = measure(_small(), (1, 1, 10, 10), repeats=1)
    assert cost.peak_memory_mb * 1e6 == pytest.approx(weights + images + 2 * hidden)


def test_memory_that_tensors_share_counts_once() -> None:
    class Views(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten().view(10, 10).t().relu_()

    assert measure(Views(), (1, 1, 10, 10), repeats=1).peak_memory_mb * 1e6 == pytest.approx(400)


def test_memory_that_is_released_is_not_counted_twice() -> None:
    class Chain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            for _ in range(20):
                images = images + 1.0
            return images

    assert measure(Chain(), (1, 1, 10, 10), repeats=1).peak_memory_mb * 1e6 == pytest.approx(3 * 400)


def test_peak_memory_is_the_same_in_every_run() -> None:
    network = build("mobile_unet", width=0.1, seed=0)
    assert measure(network, SHAPE, repeats=1).peak_memory_mb == measure(network, SHAPE, repeats=3).peak_memory_mb


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_is_measured() -> None:
    cost = measure(build("unet", width=0.1, seed=0), SHAPE, device="cuda", repeats=3)
    assert cost.device == "cuda"
    assert cost.peak_memory_mb * 1e6 > 4 * cost.parameters


# ---------------------------------------------------------------- record and wrong input


def test_record_is_flat_json() -> None:
    cost = measure(_small(), (1, 1, 96, 64), repeats=1)
    record = json.loads(json.dumps(cost.record()))
    assert record["input"] == "1x1x96x64"
    assert set(record) == {
        *("input", "parameters", "macs", "device", "threads"),
        *("latency_p50_ms", "latency_p95_ms", "peak_memory_mb"),
    }


def test_frozen_parameters_count() -> None:
    network = _small()
    network[0].weight.requires_grad_(False)
    assert measure(network, (1, 1, 8, 8), repeats=1).parameters == 40


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"threads": 0}, {"warmup": -1}, {"shape": (1, 0, 4)}, {"shape": ()}])
def test_impossible_settings_are_refused(wrong: dict[str, int | tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="must be"):
        measure(_small(), **{"shape": (1, 1, 8, 8), **wrong})  # type: ignore[arg-type]
    if "shape" in wrong:
        with pytest.raises(ValueError, match="must be"):
            count_macs(_small(), wrong["shape"])  # type: ignore[arg-type]

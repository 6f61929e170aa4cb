"""Small parts of the stages: schedules, gradient report, health measures, windows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gkd_bench.data.windows import window_starts
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.stages import checks
from gkd_bench.stages.numerics import derived_seed, reproducible
from gkd_bench.stages.predict import predict_slices
from gkd_bench.stages.probe import gradient_report
from gkd_bench.stages.schedule import learning_rate_factor, warm_up


@pytest.mark.parametrize("schedule", ["constant", "cosine", "poly", "step"])
def test_schedules_start_at_one_stay_positive_and_never_rise(schedule: str) -> None:
    factors = [learning_rate_factor(schedule, step, 300) for step in range(300)]
    assert factors[0] == pytest.approx(1.0)
    assert all(0 < later <= earlier for earlier, later in itertools.pairwise(factors))


def test_step_schedule_is_the_authors() -> None:
    rates = [3e-3 * learning_rate_factor("step", epoch, 300) for epoch in (49, 50, 99, 100, 199, 200, 299)]
    assert rates == pytest.approx([3e-3, 3e-4, 3e-4, 3e-5, 3e-5, 5e-6, 5e-6])


def test_warm_up_rises_linearly_to_one() -> None:
    assert [warm_up(step, 4) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert warm_up(0, 0) == 1.0


def test_gradient_report_knows_size_and_direction() -> None:
    x = nn.Parameter(torch.tensor([1.0, 0.0]))
    terms = {"ce": x[0], "same": 3 * x[0], "against": -x[0], "across": x[1], "constant": torch.zeros(())}
    report = gradient_report(terms, "ce", [x])
    assert report["grad_ratio/same"] == pytest.approx(3) and report["grad_cosine/same"] == pytest.approx(1)
    assert report["grad_cosine/against"] == pytest.approx(-1)
    assert report["grad_cosine/across"] == pytest.approx(0)
    assert report["grad_ratio/constant"] == 0.0


def test_derived_seeds_differ_in_every_part() -> None:
    seeds = {derived_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125
    assert derived_seed(1, 2) == derived_seed(1, 2)


def test_reproducible_leaves_global_torch_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with reproducible(torch.device("cpu"), 1):
        assert torch.are_deterministic_algorithms_enabled()
        torch.manual_seed(99)
        torch.rand(5)
    assert torch.equal(torch.rand(1), expected)
    assert not torch.are_deterministic_algorithms_enabled()


# ---------------------------------------------------------------- health measures


def test_mask_dice_of_equal_empty_and_disjoint_masks() -> None:
    mask = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert checks.mask_dice(mask, mask) == 1.0
    assert checks.mask_dice(torch.zeros(2, 2), torch.zeros(2, 2)) == 1.0
    assert checks.mask_dice(1 - mask, mask) == 0.0
    assert checks.all_foreground_dice(mask) == pytest.approx(2 * 2 / (4 + 2))


def test_best_threshold_finds_a_badly_calibrated_mask() -> None:
    truth = torch.tensor([1.0, 1.0, 0.0, 0.0])
    probability = truth * 0.2 + 0.1
    assert checks.mask_dice(probability, truth) == 0.0
    assert checks.best_threshold_dice(probability, truth) == 1.0


def test_retrieval_finds_each_vector_and_falls_to_chance() -> None:
    answers = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    assert checks.retrieval_at_1(answers + 0.01, answers) == 1.0
    assert checks.retrieval_at_1(torch.zeros_like(answers), answers) == pytest.approx(1 / 200)


def test_effective_rank_counts_equal_directions() -> None:
    orthogonal = torch.eye(4).repeat(2, 1) * torch.tensor([1.0] * 4 + [-1.0] * 4)[:, None]
    assert checks.effective_rank(orthogonal) == pytest.approx(4.0)
    assert checks.effective_rank(torch.arange(5.0)[:, None] * torch.ones(1, 7)) == pytest.approx(1.0)


def test_dead_channels_are_counted() -> None:
    maps = torch.rand(4, 3, 2, 2)
    maps[:, 1] = 0.7
    assert checks.live_channels(maps) == pytest.approx(2 / 3)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize(("length", "tile", "overlap"), [(100, 32, 0.5), (33, 32, 0.0), (32, 32, 0.5), (500, 96, 0.25)])
def test_windows_cover_everything_and_overlap_enough(length: int, tile: int, overlap: float) -> None:
    starts = window_starts(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] == length - tile
    assert all(later - earlier <= tile * (1 - overlap) + 1 for earlier, later in itertools.pairwise(starts))


class Brightness(SegmentationNetwork):
    """Foreground where the image is bright, pixel by pixel: its prediction does not depend on the window."""

    stride, bottleneck_channels = 1, 1

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        return images, (), ()

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        logit = 8 * (bottleneck - 0.5)
        return torch.cat([torch.zeros_like(logit), logit], dim=1), bottleneck


@pytest.mark.parametrize("size", [(40, 57), (100, 33), (20, 20), (7, 90)])
def test_sliding_windows_give_what_the_whole_image_gives(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    expected = 1 / (1 + np.exp(-8 * (image / 255.0 - 0.5)))
    result = predict_slices(Brightness().eval(), image[None], 32, torch.device("cpu"), 0.5, batch=3)[0, 0]
    assert result.shape == size
    assert np.allclose(result, expected, atol=1e-5)

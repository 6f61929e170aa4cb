"""Random styles: range, clean share, curves, random convolutions, borrowed statistics, shares of workers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from scipy import signal, stats
from torch import Tensor

from gkd_bench.config.schema import Augment
from gkd_bench.data import style
from gkd_bench.data.augment import Rows, step_generator
from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.style import (
    CLEAN_SHARE,
    RandomLayer,
    apply_curves,
    bezier_curves,
    mix_statistics,
    random_convolution,
    random_layers,
    restyle,
)
from gkd_bench.data.tiles import TileSampler

Picture = np.ndarray[Any, Any]


def tiles(batch: int = 6, side: int = 32) -> Tensor:
    """Bright tiles with a dark bar and noise, each at a brightness of its own."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 1, 1, 1, generator=generator) * 0.4 + 0.4
    images = images + 0.05 * torch.randn(batch, 1, side, side, generator=generator)
    images[..., side // 2 - 2 : side // 2 + 2] -= 0.3
    return images.clamp(0, 1)


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_styles_stay_in_range_and_repeat_with_the_seed() -> None:
    before = tiles(32)
    kept = before.clone()
    after = restyle(before, step_generator(0, 0))
    assert after.shape == before.shape
    assert after.dtype == torch.float32
    assert after.min() >= 0
    assert after.max() <= 1
    assert torch.equal(after, restyle(before, step_generator(0, 0)))
    assert not torch.equal(after, restyle(before, step_generator(0, 1)))
    assert torch.equal(before, kept)


def test_a_quarter_of_the_tiles_stays_clean_and_the_rest_changes_clearly() -> None:
    before = tiles(400, 16)
    change = (restyle(before, step_generator(0, 0)) - before).abs().mean((1, 2, 3))
    clean = int((change == 0).sum())
    assert stats.binomtest(clean, 400, CLEAN_SHARE).pvalue > 0.001
    assert change[change > 0].median() > 0.03


def test_dark_structures_stay_dark_and_visible() -> None:
    before = tiles(64)
    after = restyle(before, step_generator(2, 0))
    bar, around = after[..., 15:17].mean((1, 2, 3)), after[..., :10].mean((1, 2, 3))
    assert (bar <= around).float().mean() > 0.95


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_tiles_are_no_trouble(value: float) -> None:
    after = restyle(torch.full((8, 1, 16, 16), value), step_generator(0, 0))
    assert torch.isfinite(after).all()
    assert after.min() >= 0
    assert after.max() <= 1


# ---------------------------------------------------------------- intensity curves


def test_curves_rise_from_zero_to_one_and_keep_the_order_of_grey_levels() -> None:
    curves = bezier_curves(uniform(200, 2, 2))
    assert torch.equal(curves[:, 0], torch.zeros(200))
    assert torch.equal(curves[:, -1], torch.ones(200))
    assert (curves.diff(dim=1) >= 0).all()
    ramp = torch.linspace(0, 1, 1000).view(1, 1, 1, -1).expand(200, -1, -1, -1)
    assert (apply_curves(ramp, curves).diff(dim=-1) >= -1e-6).all()


def test_curves_lie_on_the_bezier_polynomial() -> None:
    inner = torch.tensor([[[0.7, 0.1], [0.2, 0.6]]], dtype=torch.float64)  # sorted: (0.2, 0.1), (0.7, 0.6)
    curve = bezier_curves(inner)[0].double().numpy()
    for t in np.linspace(0.05, 0.95, 19):
        basis = np.array([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
        x, y = basis @ [0, 0.2, 0.7, 1], basis @ [0, 0.1, 0.6, 1]
        assert np.interp(x, np.linspace(0, 1, len(curve)), curve) == pytest.approx(y, abs=1e-3)


def test_control_points_on_the_diagonal_change_nothing() -> None:
    thirds = torch.tensor([[1 / 3, 1 / 3], [2 / 3, 2 / 3]], dtype=torch.float64).expand(6, 2, 2)
    assert torch.allclose(apply_curves(tiles(), bezier_curves(thirds)), tiles(), atol=1e-5)


# ---------------------------------------------------------------- random convolutions


def test_share_zero_of_the_random_network_is_the_image() -> None:
    layers = random_layers(6, step_generator(0, 0))
    assert torch.allclose(random_convolution(tiles(), layers, torch.zeros(6, 1, 1, 1)), tiles(), atol=1e-5)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_random_network_agrees_with_scipy_sample_by_sample(share: float) -> None:
    layers = random_layers(6, step_generator(0, 1))
    result = random_convolution(tiles(), layers, torch.full((6, 1, 1, 1), share))
    for sample in range(6):
        image = tiles()[sample, 0].double().numpy()
        own = [RandomLayer(kernel[sample].double(), shift[sample].double()) for kernel, shift in layers]
        expected = reference_convolution(image, own, share)
        assert np.allclose(result[sample, 0].numpy(), expected, atol=1e-4)


def reference_convolution(image: Picture, layers: list[RandomLayer], share: float) -> Picture:
    plain = (image - image.mean()) / image.std()
    maps = [plain]
    for number, (kernel, shift) in enumerate(layers):
        padded = [np.pad(one if number == 0 else np.where(one > 0, one, style.SLOPE * one), 1, "edge") for one in maps]
        pairs = zip(kernel.numpy(), shift.flatten().tolist(), strict=True)
        maps = [
            sum(signal.correlate2d(one, k, "valid") for one, k in zip(padded, ks, strict=True)) + b for ks, b in pairs
        ]
    new = (maps[0] - maps[0].mean()) / maps[0].std()
    new = new * (1 if (new * plain).mean() >= 0 else -1)
    mixed = share * new + (1 - share) * plain
    mixed *= np.linalg.norm(plain) / np.linalg.norm(mixed)
    return np.asarray(mixed * image.std() + image.mean())


def test_random_convolution_keeps_mean_and_deviation() -> None:
    images = tiles()
    after = random_convolution(images, random_layers(6, step_generator(0, 2)), torch.full((6, 1, 1, 1), 0.7))
    assert torch.allclose(after.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-4)
    assert torch.allclose(after.std((1, 2, 3)), images.std((1, 2, 3)), atol=1e-4)


def test_kernels_are_of_size_one_or_three() -> None:
    kernel = random_layers(200, step_generator(0, 0))[0].kernel.flatten(1, 2)
    around = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.bool)
    small = (kernel[..., around] == 0).all(-1).all(-1)
    large = (kernel[..., around] != 0).all(-1).all(-1)
    assert (small ^ large).all()
    assert 60 < int(small.sum()) < 140
    assert (kernel[..., 1, 1] != 0).all()


# ---------------------------------------------------------------- style mixing


def test_mixing_takes_mean_and_deviation_of_the_partner_by_its_share() -> None:
    images, partners = tiles(3), torch.tensor([1, 2, 0])
    mixed = mix_statistics(images, partners, torch.tensor([1.0, 0.0, 0.25]).view(3, 1, 1, 1))
    mean, deviation = images.mean((1, 2, 3)), images.std((1, 2, 3), correction=0)
    assert torch.allclose(mixed[0], images[0], atol=1e-6)
    assert mixed[1].mean() == pytest.approx(float(mean[2]), abs=1e-5)
    assert mixed[1].std(correction=0) == pytest.approx(float(deviation[2]), abs=1e-5)
    assert mixed[2].mean() == pytest.approx(float(0.25 * mean[2] + 0.75 * mean[0]), abs=1e-5)
    assert np.corrcoef(mixed[2].flatten(), images[2].flatten())[0, 1] == pytest.approx(1, abs=1e-5)


def test_shares_of_the_mixing_follow_mixstyles_beta_distribution() -> None:
    shares = style._beta(torch.rand(2000, generator=torch.Generator().manual_seed(0)))
    for level in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99):
        assert (shares <= level).float().mean() == pytest.approx(stats.beta(0.1, 0.1).cdf(level), abs=0.04)


# ---------------------------------------------------------------- workers and sampler


def test_workers_see_the_rows_of_one_but_for_their_partners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(style, "mix_statistics", lambda images, partners, own: images)
    images = tiles(7)
    whole = restyle(images, step_generator(3, 4))
    for rank in range(2):
        part = restyle(images[rank::2], step_generator(3, 4), Rows(7, rank, 2))
        assert torch.allclose(part, whole[rank::2], atol=1e-5)


def test_worker_mixes_only_tiles_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    partners: list[Tensor] = []

    def spy(images: Tensor, rows: Tensor, own: Tensor) -> Tensor:
        partners.append(rows)
        return images

    monkeypatch.setattr(style, "mix_statistics", spy)
    restyle(tiles(7)[1::2], step_generator(3, 4), Rows(7, 1, 2))
    assert sorted(partners[0].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("level", ["none", "strong"])
def test_sampler_restyles_the_very_tiles_it_draws_without(
    phantom: PreparedDomain, level: Literal["none", "strong"]
) -> None:
    train, augment = phantom.source_splits().train, Augment(photometric=level)
    plain = TileSampler(train, 32, augment=augment, seed=1).draw(2, 40)
    styled = TileSampler(train, 32, augment=augment, style=True, seed=1).draw(2, 40)
    assert torch.equal(styled.labels, plain.labels)
    assert torch.equal(styled.fov, plain.fov)
    same = (styled.images == plain.images).all(-1).all(-1).flatten()
    assert 2 <= int(same.sum()) <= 20

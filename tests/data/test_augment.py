from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from gkd_bench.config.schema import ViewKind
from gkd_bench.data.augment import STRENGTHS, Level, Rows, gaussian_blur, make_views, photometric, step_generator

KINDS: tuple[ViewKind, ...] = ("hflip", "vflip", "rot90", "photometric", "noise_blur", "strong")


def tiles(batch: int = 6, side: int = 32) -> torch.Tensor:
    return torch.rand(batch, 1, side, side, generator=torch.Generator().manual_seed(0))


def test_level_none_changes_nothing() -> None:
    assert torch.equal(photometric(tiles(), "none", step_generator(0, 0)), tiles())


@pytest.mark.parametrize("level", [level for level in STRENGTHS if level != "none"])
def test_each_level_changes_every_sample_and_stays_in_range(level: Level) -> None:
    before = tiles()
    after = photometric(before, level, step_generator(0, 0))
    assert after.shape == before.shape
    assert after.min() >= 0
    assert after.max() <= 1
    assert ((after - before).abs().amax((1, 2, 3)) > 1e-3).all()


def test_strong_changes_more_than_light() -> None:
    before = tiles(64)
    change = {
        level: (photometric(before, level, step_generator(0, 1)) - before).abs().mean() for level in ("light", "strong")
    }
    assert change["strong"] > 1.5 * change["light"]


def test_strength_differs_from_sample_to_sample() -> None:
    same = torch.full((16, 1, 32, 32), 0.5)
    after = photometric(same, "photometric", step_generator(0, 0))
    assert after.mean((1, 2, 3)).std() > 0.02


@pytest.mark.parametrize("level", ["light", "strong"])
def test_rows_of_workers_make_up_the_whole_batch(level: Level) -> None:
    images = tiles(7)
    whole = photometric(images, level, step_generator(3, 4))
    for rank in range(2):
        part = photometric(images[rank::2], level, step_generator(3, 4), Rows(7, rank, 2))
        assert torch.equal(part, whole[rank::2])


def test_blur_agrees_with_scipy() -> None:
    images = tiles(3, 24)
    deviation = torch.tensor([0.5, 0.8, 1.0]).view(3, 1, 1, 1)
    blurred = gaussian_blur(images, deviation)
    for image, sigma, result in zip(images[:, 0], (0.5, 0.8, 1.0), blurred[:, 0], strict=True):
        expected = ndimage.gaussian_filter(image.numpy().astype(np.float64), sigma, mode="mirror", radius=2)
        assert np.allclose(result.numpy(), expected, atol=1e-5)


def test_blur_of_no_width_keeps_the_image() -> None:
    assert torch.allclose(gaussian_blur(tiles(), torch.zeros(6, 1, 1, 1)), tiles())


def test_views_have_one_plane_per_kind() -> None:
    images = tiles()
    views = make_views(images, KINDS, step_generator(0, 0))
    assert views.shape == (6, *images.shape)
    assert torch.equal(views[0].flip(-1), images)
    assert torch.equal(views[1].flip(-2), images)
    assert torch.equal(views[2].rot90(-1, (-2, -1)), images)
    assert all(not torch.equal(view, images) for view in views)


def test_two_views_of_one_kind_differ_and_seeds_repeat() -> None:
    views = make_views(tiles(), ("photometric", "photometric"), step_generator(0, 0))
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views, make_views(tiles(), ("photometric", "photometric"), step_generator(0, 0)))


def test_views_of_workers_make_up_the_whole_batch() -> None:
    images = tiles(8)
    whole = make_views(images, KINDS, step_generator(1, 1))
    part = make_views(images[1::2], KINDS, step_generator(1, 1), Rows(8, 1, 2))
    assert torch.equal(part, whole[:, 1::2])


def test_streams_steps_and_seeds_are_independent() -> None:
    first = {
        torch.rand(1, generator=step_generator(*key)).item()
        for key in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)]
    }
    assert len(first) == 5

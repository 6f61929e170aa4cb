from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gkd_bench.config.schema import Augment
from gkd_bench.data.cache import PreparedDomain, SourceImages, _Arrays
from gkd_bench.data.manifest import PreparedImage
from gkd_bench.data.tiles import TileBatch, TileSampler, grid_tiles
from gkd_bench.errors import DataError, LeakError

UPRIGHT = Augment(flips=False, rotations=False)
STRONG = Augment(photometric="strong")


def source(images: list[np.ndarray[Any, Any]], labels: list[np.ndarray[Any, Any]] | None = None) -> SourceImages:
    """Source images with a full field of view, of any sizes."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    labels = labels or [image % 2 for image in images]

    def stack(arrays: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        out = np.zeros((len(arrays), height, width), np.uint8)
        for row, array in zip(out, arrays, strict=True):
            row[: array.shape[0], : array.shape[1]] = array
        return out

    fov = stack([np.ones_like(image) for image in images])
    arrays = _Arrays(stack(images), stack(labels), fov, stack(labels), fov)
    entries = tuple(
        PreparedImage(name=str(i), subject=str(i), split="train", size=image.shape, native_size=image.shape)
        for i, image in enumerate(images)
    )
    return SourceImages("made_up", entries, tuple(range(len(images))), arrays)


def noise_image(height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def equal(first: TileBatch, second: TileBatch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ---------------------------------------------------------------- form and determinism


def test_batch_has_the_documented_form(phantom: PreparedDomain) -> None:
    batch = TileSampler(phantom.source_splits().train, 64, augment=STRONG).draw(3, 5)
    assert batch.images.shape == (5, 1, 64, 64)
    assert batch.images.dtype == torch.float32
    assert 0 <= batch.images.min() < batch.images.max() <= 1
    assert batch.labels.shape == batch.fov.shape == (5, 64, 64)
    assert batch.labels.dtype == torch.int64
    assert batch.fov.dtype == torch.bool
    assert set(batch.labels.flatten().tolist()) == {0, 1}


def test_batch_is_a_pure_function_of_seed_and_step(phantom: PreparedDomain) -> None:
    train = phantom.source_splits().train
    one, other = (TileSampler(train, 48, augment=STRONG, seed=7) for _ in range(2))
    for step in (0, 5, 1):  # other order than the second sampler's
        one.draw(step, 6)
    torch.manual_seed(1)
    assert equal(one.draw(2, 6), other.draw(2, 6))
    assert not equal(one.draw(2, 6), one.draw(3, 6))
    assert not equal(one.draw(2, 6), TileSampler(train, 48, augment=STRONG, seed=8).draw(2, 6))


def test_batches_stay_those_that_stored_stages_were_trained_on() -> None:
    """Numbers of the first release; whoever changes them must raise the versions of the stages that draw tiles."""
    image = np.arange(36, dtype=np.uint8).reshape(6, 6)
    grey = (TileSampler(source([image]), 33, seed=7).draw(3, 8).images[:, 0] * 255).round().long()
    assert grey[:, 16, 16].tolist() == [0, 19, 3, 3, 22, 33, 11, 33]
    assert grey[:, 0, 16].tolist() == [24, 23, 27, 3, 10, 33, 35, 9]


def test_drawing_leaves_global_random_state_alone(phantom: PreparedDomain) -> None:
    sampler = TileSampler(phantom.source_splits().train, 48, augment=STRONG)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    sampler.draw(0, 4)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("batch", "workers"), [(8, 2), (7, 3)])
def test_workers_together_see_exactly_the_batch_of_one(batch: int, workers: int, phantom: PreparedDomain) -> None:
    sampler = TileSampler(phantom.source_splits().train, 48, augment=STRONG)
    whole = sampler.draw(4, batch)
    for rank in range(workers):
        part = sampler.draw(4, batch, rank, workers)
        assert equal(part, TileBatch(*(values[rank::workers] for values in whole)))
    labels = sampler.draw_labels(4, batch, 0.2)
    assert torch.equal(sampler.draw_labels(4, batch, 0.2, 1, workers), labels[1::workers])


# ---------------------------------------------------------------- places


def test_upright_tiles_are_windows_of_the_mirrored_image() -> None:
    images = [noise_image(40, 50), noise_image(30, 20, 1)]
    sampler = TileSampler(source(images), 64, augment=UPRIGHT)
    padded = [np.pad(image, 64, mode="reflect") for image in images]
    windows = {
        p[y : y + 64, x : x + 64].tobytes()
        for p in padded
        for y in range(p.shape[0] - 63)
        for x in range(p.shape[1] - 63)
    }
    tiles = (sampler.draw(0, 12).images * 255).round().to(torch.uint8).numpy()[:, 0]
    assert all(tile.tobytes() in windows for tile in tiles)
    assert len({tile.tobytes() for tile in tiles}) > 6


@pytest.mark.parametrize(
    ("augment", "symmetries"),
    [
        (UPRIGHT, {(0, 0)}),
        (Augment(flips=True, rotations=False), {(0, 0), (0, 1), (2, 0), (2, 1)}),
        (Augment(flips=False, rotations=True), {(k, 0) for k in range(4)}),
        (Augment(), {(k, f) for k in range(4) for f in range(2)}),
    ],
)
def test_flips_and_rotations_give_exactly_their_symmetries(augment: Augment, symmetries: set[tuple[int, int]]) -> None:
    image = noise_image(97, 89)
    tile = 16
    windows: dict[bytes, tuple[int, int]] = {}
    for y in range(image.shape[0] - tile + 1):
        for x in range(image.shape[1] - tile + 1):
            window = image[y : y + tile, x : x + tile]
            for k in range(4):
                for flip in range(2):
                    windows[np.rot90(window[:, ::-1] if flip else window, k).tobytes()] = (k, flip)
    batch = TileSampler(source([image]), tile, augment=augment).draw(0, 400)
    pixels = (batch.images * 255).round().to(torch.uint8).numpy()[:, 0]
    found = [windows[p.tobytes()] for p in pixels if p.tobytes() in windows]  # mirrored borders are in none
    assert len(found) > 200
    assert set(found) == symmetries


def test_labels_and_field_of_view_move_with_the_image() -> None:
    image = noise_image(60, 70)
    batch = TileSampler(source([image]), 32).draw(0, 64)
    grey = (batch.images[:, 0] * 255).round().long()
    assert torch.equal(batch.labels, grey % 2)
    assert batch.fov.all()


def test_tiles_are_centred_inside_the_field_of_view(phantom: PreparedDomain) -> None:
    batch = TileSampler(phantom.source_splits().train, 33, augment=UPRIGHT).draw(0, 500)
    assert batch.fov[:, 16, 16].all()
    assert not batch.fov.all()


def test_tile_centres_are_uniform_over_the_field_of_view() -> None:
    image = np.arange(36, dtype=np.uint8).reshape(6, 6)
    batch = TileSampler(source([image]), 33, augment=UPRIGHT).draw(0, 36 * 100)
    centre = (batch.images[:, 0, 16, 16] * 255).round().long()
    counts = torch.bincount(centre, minlength=36).float()
    assert ((counts - 100) ** 2 / 100).sum() < 75  # chi-squared, 35 degrees of freedom, p = 1e-4


def test_label_batches_keep_the_limit_on_empty_tiles() -> None:
    label = np.zeros((200, 200), np.uint8)
    label[100, 100] = 1
    sampler = TileSampler(source([noise_image(200, 200)], [label]), 32)
    for step in range(5):
        for share, allowed in ((0.0, 0), (0.25, 4), (1.0, 16)):
            labels = sampler.draw_labels(step, 16, share)
            assert labels.shape == (16, 32, 32)
            empty = int((labels.sum((1, 2)) == 0).sum())
            assert empty <= allowed
    assert empty > 8


def test_image_without_any_vessel_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no pixel of the foreground"):
        TileSampler(source([noise_image(20, 20)], [np.zeros((20, 20), np.uint8)]), 16)


# ---------------------------------------------------------------- leaks


def test_sampler_refuses_the_test_split_and_its_images(phantom: PreparedDomain) -> None:
    test: Any = phantom.test_split()
    for planted in (test, test.images):
        with pytest.raises(LeakError, match="test split"):
            TileSampler(planted, 32)
    other: Any = [1, 2]
    with pytest.raises(TypeError):
        TileSampler(other, 32)


LEAK = """
from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.tiles import TileSampler

def train(domain: PreparedDomain) -> None:
    TileSampler(domain.source_splits().train, 32)
    TileSampler(domain.test_split().images, 32)
"""


@pytest.mark.slow
def test_type_checker_refuses_the_planted_leak(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    planted = tmp_path / "planted.py"
    planted.write_text(LEAK)
    settings = tmp_path / "mypy.ini"  # libraries are skipped: reading torch's types takes a minute
    settings.write_text("[mypy]\nfollow_imports = silent\n[mypy-torch.*,numpy.*,pydantic.*]\nfollow_imports = skip\n")
    options = ["--config-file", str(settings), "--cache-dir", str(tmp_path), "--ignore-missing-imports"]
    command = [sys.executable, "-m", "mypy", *options, str(planted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert ":7: error" in errors[0]
    assert 'expected "SourceImages"' in errors[0]


# ---------------------------------------------------------------- grids


def test_grid_tiles_do_not_overlap_and_cover_the_field_of_view(phantom: PreparedDomain) -> None:
    test = phantom.test_split().images
    grid = grid_tiles(test, 32)
    images, labels, index = grid.images, grid.labels, grid.index
    assert images.shape[1:] == (1, 32, 32)
    assert len(images) == len(labels) == len(index)
    assert set(index.tolist()) == set(range(len(test)))
    for i in range(len(test)):
        vessel = int((test.label(i) & test.fov(i)).sum())
        assert 0.8 * vessel < int(labels[index == i].sum()) <= vessel


def test_grid_of_an_exact_multiple_gives_back_the_image() -> None:
    image = noise_image(64, 96)
    grid = grid_tiles(source([image]), 32)
    rows = grid.images[:, 0].reshape(2, 3, 32, 32).permute(0, 2, 1, 3).reshape(64, 96)
    assert np.array_equal((rows * 255).round().to(torch.uint8).numpy(), image)
    assert grid.index.tolist() == [0] * 6


def test_grid_leaves_out_tiles_that_are_mostly_outside_the_field_of_view(phantom: PreparedDomain) -> None:
    test = phantom.test_split().images
    side = test.size(0)[0]
    all_tiles = (-(-side // 32)) ** 2
    assert len(grid_tiles(test, 32).images) / len(test) < all_tiles

from __future__ import annotations

from typing import Any, get_args

import cv2
import numpy as np
import pytest
from scipy import ndimage

from gkd_bench.config.schema import CorruptionName
from gkd_bench.data.catalogue import open_reader
from gkd_bench.data.corruptions import BANK, Corruption, find_corruption
from gkd_bench.errors import ConfigError

Array = np.ndarray[Any, Any]
NAMES = [corruption.name for corruption in BANK]
BRIGHTER, DARKER = 0, 1  # an even and an odd seed
SIDE, DETAIL = 96, 4.0


def disc(side: int = SIDE, radius: float = 0.44) -> Array:
    y, x = np.mgrid[:side, :side]
    centre = (side - 1) / 2
    return np.asarray((y - centre) ** 2 + (x - centre) ** 2 < (radius * side) ** 2)


def flat(level: int, colour: bool = True) -> Array:
    """A disc of one level on black."""
    grey = np.where(disc(), level, 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2) if colour else grey


def photograph() -> tuple[Array, Array]:
    reader = open_reader("phantom_clear")
    pixels = reader.read(reader.images()[0])
    return pixels.rgb, pixels.fov


def changed(
    name: str, pixels: Array, fov: Array, strength: int = 3, seed: int = BRIGHTER, detail: float = DETAIL
) -> Array:
    return np.asarray(find_corruption(name).apply(pixels, fov, detail, strength, seed))


# ---------------------------------------------------------------- what all of them keep to


def test_bank_has_exactly_the_corruptions_that_sweep_files_may_name() -> None:
    assert sorted(NAMES) == sorted(get_args(CorruptionName))
    assert all(corruption.description for corruption in BANK)


@pytest.mark.parametrize("corruption", BANK, ids=NAMES)
@pytest.mark.parametrize("seed", [BRIGHTER, DARKER])
def test_change_is_inside_the_field_of_view_and_a_pure_function(corruption: Corruption, seed: int) -> None:
    pixels, fov = photograph()
    before = pixels.copy()
    results = [np.asarray(corruption.apply(pixels, fov, DETAIL, 2, seed)) for _ in range(2)]
    assert np.array_equal(pixels, before)
    assert np.array_equal(results[0], results[1])
    assert results[0].shape == pixels.shape
    assert results[0].dtype == pixels.dtype
    assert np.array_equal(results[0][~fov], pixels[~fov])
    assert (results[0][fov] != pixels[fov]).mean() > 0.25


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [BRIGHTER, DARKER])
def test_higher_strength_changes_more(name: str, seed: int) -> None:
    pixels, fov = photograph()
    results = [changed(name, pixels, fov, strength, seed).astype(float) for strength in (1, 2, 3)]
    distances = [np.abs(result - pixels)[fov].mean() for result in results]
    assert 0.3 < distances[0] < 0.9 * distances[1] < 0.9**2 * distances[2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [BRIGHTER, DARKER])
def test_vessels_can_still_be_read_at_the_highest_strength(name: str, seed: int) -> None:
    reader = open_reader("phantom_clear")
    rgb, label, fov = reader.read(reader.images()[0])
    grey = changed(name, rgb, fov, 3, seed, detail=2.5)[..., 1].astype(float)
    around = ndimage.gaussian_filter(grey * fov, 8) / np.maximum(ndimage.gaussian_filter(fov.astype(float), 8), 1e-6)
    darkness = around - grey
    inner = ndimage.binary_erosion(fov, iterations=4)
    assert darkness[label & inner].mean() > 4 + darkness[~label & inner].mean()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [BRIGHTER, DARKER])
@pytest.mark.parametrize("colour", [True, False])
def test_float_images_change_as_8_bit_images_do(name: str, seed: int, colour: bool) -> None:
    rgb, fov = photograph()
    pixels = rgb if colour else rgb[..., 1].copy()
    levels = changed(name, pixels, fov, 2, seed)
    floats = changed(name, (pixels / 255).astype(np.float32), fov, 2, seed)
    assert floats.dtype == np.float32
    assert floats.shape == levels.shape
    assert floats.min() >= 0 and floats.max() <= 1
    assert np.abs(255 * floats - levels).max() < 3  # 8-bit smoothing rounds twice, and its mask once


@pytest.mark.parametrize("name", ["blur", "resolution", "noise", "illumination"])
def test_domains_of_other_pixel_sizes_are_hit_alike(name: str) -> None:
    pixels, fov = photograph()
    large = cv2.resize(pixels, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    wide = cv2.resize(fov.astype(np.uint8), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST) > 0
    small = changed(name, pixels, fov, 3, detail=4.0).astype(float)
    shrunk = cv2.resize(changed(name, large, wide, 3, detail=12.0), pixels.shape[:2], interpolation=cv2.INTER_AREA)
    inner = ndimage.binary_erosion(fov, iterations=3)
    effect = np.abs(small - pixels)[inner].mean()
    assert np.abs(shrunk - pixels.astype(float))[inner].mean() == pytest.approx(effect, rel=0.15)


@pytest.mark.parametrize("name", ["blur", "resolution"])
def test_darkness_around_the_field_of_view_does_not_run_into_it(name: str) -> None:
    assert np.abs(changed(name, flat(180), disc())[disc()].astype(int) - 180).max() <= 2


def test_noise_and_light_differ_between_seeds_but_not_between_strengths() -> None:
    def pattern(name: str, strength: int, seed: int) -> Array:
        return np.asarray((changed(name, flat(120), disc(), strength, seed).astype(float) - 120)[disc()].ravel())

    for name in ("noise", "illumination"):
        severe = pattern(name, 3, 4)
        assert np.corrcoef(pattern(name, 1, 4), severe)[0, 1] > 0.95
        assert min(abs(np.corrcoef(severe, pattern(name, 3, seed))[0, 1]) for seed in (6, 8, 10)) < 0.5


# ---------------------------------------------------------------- what each of them does


@pytest.mark.parametrize(("seed", "exponent"), [(BRIGHTER, 1 / 1.6), (DARKER, 1.6)])
def test_gamma_is_a_power_of_the_level(seed: int, exponent: float) -> None:
    pixels, fov = photograph()
    expected = np.rint(255 * (pixels / 255) ** exponent)
    assert np.array_equal(changed("gamma", pixels, fov, 2, seed)[fov], expected[fov])


@pytest.mark.parametrize(("seed", "gain"), [(BRIGHTER, 1.35), (DARKER, 1.35**-2)])
def test_contrast_scales_distances_from_the_mean_of_each_channel(seed: int, gain: float) -> None:
    pixels, fov = photograph()
    mean = pixels[fov].mean(0)
    expected = np.clip(mean + gain * (pixels - mean), 0, 255)
    assert np.abs(changed("contrast", pixels, fov, 2, seed)[fov] - expected[fov]).max() <= 0.51


@pytest.mark.parametrize(("seed", "expected"), [(BRIGHTER, (200, 140, 64)), (DARKER, (160, 76, 40))])
def test_colour_cast_mixes_neighbouring_channels(seed: int, expected: tuple[int, ...]) -> None:
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[disc()] = (200, 100, 40)
    assert tuple(changed("colour_cast", pixels, disc(), 3, seed)[SIDE // 2, SIDE // 2]) == expected


def test_colour_cast_leaves_grey_images_as_they_are() -> None:
    grey = flat(90, colour=False)
    assert np.array_equal(changed("colour_cast", grey, disc()), grey)


def test_blur_is_a_gaussian_over_the_field_of_view_alone() -> None:
    pixels, fov = photograph()
    deviation = 0.65 * DETAIL
    weight = ndimage.gaussian_filter(fov.astype(float), deviation, mode="mirror")
    inside = np.where(fov, pixels[..., 1], 0).astype(float)
    expected = ndimage.gaussian_filter(inside, deviation, mode="mirror") / np.maximum(weight, 1e-6)
    assert np.abs(changed("blur", pixels, fov)[..., 1][fov] - expected[fov]).max() < 3


def test_noise_has_its_stated_deviation_and_no_bias() -> None:
    noise = changed("noise", flat(120), disc(), detail=1.0)[disc()].astype(float) - 120
    assert noise.std() == pytest.approx(0.035 * 255, rel=0.03)
    assert abs(noise.mean()) < 0.3
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.05


def test_resolution_loses_stripes_below_its_pixel_size_and_keeps_wide_ones() -> None:
    column = np.arange(SIDE)
    for period, kept in ((4, (0.0, 0.2)), (24, (0.75, 1.0))):
        stripes = np.where(disc(), 120 + 60 * np.sign(np.sin(2 * np.pi * (column + 0.5) / period)), 0).astype(np.uint8)
        inner = disc(radius=0.35)
        left = changed("resolution", stripes, disc(), detail=6.0)[inner].std() / stripes[inner].std()
        assert kept[0] <= left <= kept[1]


@pytest.mark.parametrize("seed", [BRIGHTER, DARKER, 12, 13])
def test_illumination_is_a_smooth_off_centre_loss_of_light(seed: int) -> None:
    light = changed("illumination", flat(200), disc(), 3, seed)[..., 0] / 200.0
    inside = light[disc()]
    assert inside.max() == pytest.approx(1.0, abs=0.04)
    assert inside.min() == pytest.approx(0.15, abs=0.04)
    assert np.abs(np.diff(light, axis=0))[disc()[1:] & disc()[:-1]].max() < 0.05
    near = (0.25 / 0.75) ** 2  # the centre is a quarter of the diameter from the light, the far rim three quarters
    middle = 1 - 0.85 * (near if seed % 2 == 0 else 1 - near)
    assert light[SIDE // 2, SIDE // 2] == pytest.approx(middle, abs=0.02)


def test_vignette_is_brightest_and_shadow_darkest_off_the_centre() -> None:
    def place(seed: int, best: Any) -> float:
        light = np.where(disc(), changed("illumination", flat(250), disc(), 3, seed)[..., 0].astype(float), np.nan)
        y, x = np.unravel_index(best(light), light.shape)
        return float(np.hypot(y - SIDE / 2, x - SIDE / 2) / (0.88 * SIDE))

    assert place(BRIGHTER, np.nanargmax) == pytest.approx(0.25, abs=0.05)
    assert place(DARKER, np.nanargmin) == pytest.approx(0.25, abs=0.05)


# ---------------------------------------------------------------- wrong use


@pytest.mark.parametrize("strength", [0, 4])
def test_unknown_strength_is_refused(strength: int) -> None:
    with pytest.raises(ConfigError, match=f"must be 1, 2 or 3, found {strength}"):
        changed("blur", flat(100), disc(), strength)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'fog'; known are gamma, contrast"):
        find_corruption("fog")


def test_pixels_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        changed("blur", flat(100).astype(np.float64), disc())

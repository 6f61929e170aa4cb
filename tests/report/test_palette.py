from __future__ import annotations

from itertools import combinations

import pytest

from gkd_bench.metrics.pictures import LEGEND
from gkd_bench.report.palette import (
    DIVERGING,
    MORE_COLOURS,
    SEQUENTIAL,
    error_colours,
    luminance,
    method_colours,
    method_markers,
    rgb,
    shade,
    text_colour,
)


def test_method_keeps_its_colour_whatever_else_is_in_the_report() -> None:
    few, many = method_colours(["gkd"]), method_colours(["teacher", "fitnet", "kd", "gkd", "gkd_intra"])
    assert few["gkd"] == many["gkd"] == "#009E73" and many["kd"] == "#E69F00" and many["teacher"] == "#000000"


def test_other_methods_take_spare_colours_in_the_given_order_and_start_again() -> None:
    names = [f"m{at}" for at in range(5)]
    colours = method_colours(["teacher", *names])
    assert [colours[name] for name in names] == [*MORE_COLOURS, MORE_COLOURS[0]]


def test_methods_that_share_a_colour_differ_in_their_marker() -> None:
    names = ["teacher", "baseline", "scratch", "kd", "gkd", *(f"m{at}" for at in range(6))]
    colours, markers = method_colours(names), method_markers(names)
    assert all((colours[a], markers[a]) != (colours[b], markers[b]) for a, b in combinations(names, 2))


@pytest.mark.parametrize("name", ["cividis", "PuOr"])
def test_scales_follow_the_published_ones(name: str) -> None:
    from matplotlib import colormaps

    stops = {"cividis": SEQUENTIAL, "PuOr": DIVERGING}[name]
    for at in range(33):
        expected = [round(255 * value) for value in colormaps[name](at / 32)[:3]]
        assert (
            max(abs(a - b) for a, b in zip(rgb(shade(stops, at / 32)), expected, strict=True)) <= 20
        )  # steps are straight in between


def test_shade_is_linear_between_stops_and_stays_at_the_ends() -> None:
    assert shade(("#000000", "#646464"), 0.5) == "#323232"
    assert shade(SEQUENTIAL, -1) == SEQUENTIAL[0] and shade(SEQUENTIAL, 2) == SEQUENTIAL[-1]


@pytest.mark.parametrize("stops", [SEQUENTIAL, DIVERGING])
def test_text_on_every_shade_has_a_contrast_of_at_least_4_5(stops: tuple[str, ...]) -> None:
    for at in range(101):
        ground = shade(stops, at / 100)
        light, dark = sorted([luminance(ground), luminance(text_colour(ground))], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_luminance_matches_the_guidelines_by_hand() -> None:
    assert luminance("#FFFFFF") == pytest.approx(1.0) and luminance("#000000") == 0.0
    assert luminance("#FF0000") == pytest.approx(0.2126)
    assert luminance("#808080") == pytest.approx((((128 / 255) + 0.055) / 1.055) ** 2.4)


def test_error_colours_are_those_of_the_pictures() -> None:
    assert {name: rgb(colour) for name, colour in error_colours().items()} == dict(LEGEND)

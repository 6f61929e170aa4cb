from __future__ import annotations

import math

import numpy as np
import pytest

from gkd_bench.metrics.catalogue import METRICS, MetricInfo, card_of
from gkd_bench.metrics.overlap import score_image
from gkd_bench.metrics.surface import surface_metrics
from gkd_bench.metrics.topology import topology_metrics

IN_MILLIMETRES = ("hd95_mm", "assd_mm", "nsd_mm")
"""The surface metrics of a volume, under names of their own."""


def _all_metrics(found: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    return {**score_image(found, truth).metrics(), **surface_metrics(found, truth), **topology_metrics(found, truth)}


def test_every_computed_metric_has_a_card_and_stays_in_its_range() -> None:
    generator = np.random.default_rng(0)
    for density in (0.0, 0.01, 0.3, 1.0):
        values = _all_metrics(*(generator.random((2, 20, 31)) < density))
        assert set(values) == set(METRICS) - {"fsd", *IN_MILLIMETRES}
        for name, value in values.items():
            assert value is None or METRICS[name].low <= value <= METRICS[name].high


def test_better_masks_move_every_metric_in_the_direction_of_its_card() -> None:
    truth = np.zeros((40, 60), bool)
    truth[10:14, 5:50], truth[20:30, 30:33] = True, True
    good, bad = np.roll(truth, 1, axis=1), np.roll(truth, 9, axis=0)
    bad[2:4, 2:4] = True
    better, worse = _all_metrics(good, truth), _all_metrics(bad, truth)
    for name, value in better.items():
        other, card = worse[name], METRICS[name]
        assert value is not None and other is not None
        assert value > other if card.higher_is_better else value < other, name


def test_metrics_that_are_never_undefined_say_so() -> None:
    empty = np.zeros((5, 6), bool)
    for found, truth in ((empty, empty), (empty, ~empty)):
        for name, value in {**surface_metrics(found, truth), **topology_metrics(found, truth)}.items():
            assert isinstance(value, float)
            assert METRICS[name].undefined.startswith("never")


@pytest.mark.parametrize("card", METRICS.values(), ids=METRICS.keys())
def test_cards_are_complete_and_consistent(card: MetricInfo) -> None:
    assert card.title and card.reference and card.undefined
    assert card.low < card.high and math.isfinite(card.best)
    assert 0 <= card.tie < card.high
    assert card.tie == 0.0 or card.tie >= 10.0**-card.decimals / 2, "a tie must be visible in the table"


def test_metrics_in_millimetres_are_those_in_pixels_in_another_unit() -> None:
    for name in IN_MILLIMETRES:
        card, twin = METRICS[name], METRICS[name.removesuffix("_mm")]
        assert (card.higher_is_better, card.low, card.high) == (twin.higher_is_better, twin.low, twin.high)
        assert (card.title, card.unit) != (twin.title, twin.unit), "readers must tell them apart"
    assert [METRICS[name].unit for name in IN_MILLIMETRES] == ["mm", "mm", ""]
    assert [METRICS[name].tie for name in IN_MILLIMETRES] == [1.0, 0.25, 0.005]


def test_metric_of_a_class_has_the_card_of_the_metric_under_the_name_of_the_class() -> None:
    card = card_of("hd95_mm/right_kidney")
    assert card is not None and (card.name, card.title) == ("hd95_mm/right_kidney", "HD95, right kidney")
    assert (card.unit, card.tie, card.higher_is_better) == ("mm", 1.0, False)
    assert card_of("dice") is METRICS["dice"]
    assert card_of("depth/liver") is None and card_of("depth") is None

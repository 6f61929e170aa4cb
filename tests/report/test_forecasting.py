from __future__ import annotations

import pytest

from gkd_bench.report.forecasting import forecast_points, forecast_table, forecast_verdict
from gkd_bench.report.frame import SweepRecords

from .made_up import Record, base
from .small import cells_of, image_rows
from .test_stress_tables import stressed

DOMAINS = "abcd"


def distance(source: str, target: str) -> float:
    return 1.0 + abs(ord(source) - ord(target)) + 0.1 * (ord(target) - ord("a"))


def fsd_rows(source: str, target: str, value: float) -> list[Record]:
    labels = base("evaluate", "gkd", source, target, 0) | {"record": "fsd", "variant": "best", "use": "domain"}
    nothing = dict.fromkeys(("low", "high", "floor", "floor_high"))
    other = {**labels, **nothing, "n_a": 9, "n_b": 9, "dim": 2}
    return [{**other, "space": "aligned_own", "value": value}, {**other, "space": "bottleneck", "value": 99.0}]


def stress_fsd(source: str, corruption: str, strength: int, value: float) -> Record:
    labels = base("stress", "gkd", source, None, 0, "val") | {"record": "stress_fsd", "variant": "best"}
    return {**labels, "corruption": corruption, "strength": strength, "space": "aligned_own", "value": value,
            "n_a": 9, "n_b": 9, "dim": 2}  # fmt: skip


def sweep(slope: float) -> SweepRecords:
    """Dice falls with the distance by ``slope``, and under stress by 0.05 per unit of distance."""
    rows: list[Record] = []
    for source in DOMAINS:
        for target in DOMAINS:
            value = distance(source, target)
            drop = slope * (value - 1.0) if source != target else 0.0
            rows += image_rows({"gkd": [0.8 - drop]}, source, target) + fsd_rows(source, target, value)
        rows += stressed("gkd", source, 0, none_0=0.8, blur_1=0.75, blur_2=0.7)
        rows += [stress_fsd(source, *one) for one in (("none", 0, 1.0), ("blur", 1, 2.0), ("blur", 2, 3.0))]
    return SweepRecords.from_dicts(rows)


def test_point_has_the_drop_of_the_same_network_and_the_distance_of_the_source_s_own_scale() -> None:
    point = next(one for one in forecast_points(sweep(0.05)) if (one.source, one.target) == ("a", "c"))
    assert (point.method, point.seed, point.fsd) == ("gkd", 0, pytest.approx(3.2))
    assert point.drop == pytest.approx(0.05 * 2.2)


def test_stress_gives_the_mean_drop_and_a_prediction_without_the_target_s_labels() -> None:
    point = next(one for one in forecast_points(sweep(0.3)) if (one.source, one.target) == ("a", "c"))
    assert point.stress_drop == pytest.approx((0.05 + 0.1) / 2)
    assert point.stress_curve_prediction == pytest.approx(0.05 * 2.2)


def test_in_domain_pairs_are_no_points() -> None:
    assert len(forecast_points(sweep(0.05))) == 4 * 3


def test_drop_that_follows_the_distance_is_foretold() -> None:
    records = sweep(0.05)
    row = cells_of(forecast_table(records))
    assert row["mae"].value == pytest.approx(0.0, abs=1e-9)
    assert row["skill"].value == pytest.approx(1.0)
    assert forecast_verdict(records).startswith(
        "The drop on a new domain can be foretold without its labels. FSD alone"
    )


def test_drop_that_does_not_is_said_to_be_unforetold(sweep_records: SweepRecords) -> None:
    assert forecast_verdict(sweep_records).startswith("Nothing here foretells the drop on a new domain")
    assert "predicts nothing" in forecast_table(sweep_records).caption


def test_without_distances_there_is_neither_table_nor_verdict() -> None:
    records = SweepRecords.from_dicts(image_rows({"gkd": [0.7]}))
    assert (forecast_table(records).rows, forecast_verdict(records)) == ((), "")

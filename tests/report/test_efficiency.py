from __future__ import annotations

import pytest

from gkd_bench.report.efficiency import efficiency_table
from gkd_bench.report.frame import SweepRecords

from .made_up import Record, efficiencies, make_origin
from .small import image_rows, row_of


def test_every_method_has_the_cost_of_its_network_beside_its_foreign_score(sweep_records: SweepRecords) -> None:
    table = efficiency_table(sweep_records)
    teacher, student = row_of(table, "teacher"), row_of(table, "GKD")
    assert (teacher["parameters"].value, student["parameters"].value) == (490_000, 17_000)
    assert student["macs"].value == pytest.approx(150 * 17_000 / 1e6)
    assert student["latency_p50_ms"].value == pytest.approx(1.7)
    assert student["foreign"].value == pytest.approx(0.64, abs=0.02)
    assert len(table.rows) == 6


def test_each_device_has_rows_of_its_own(made_up: list[Record]) -> None:
    gpu = [{**row, "device": "cuda", "latency_p50_ms": 0.1} for row in efficiencies()]
    table = efficiency_table(SweepRecords.from_dicts([*made_up, *gpu], make_origin()))
    assert [row[-2].value for row in table.rows] == ["cpu"] * 6 + ["cuda"] * 6
    assert [row[0].value for row in table.rows].count("teacher") == 2


def test_costs_are_shown_without_any_score() -> None:
    table = efficiency_table(SweepRecords.from_dicts([*efficiencies()]))
    assert [row[0].value for row in table.rows] == ["teacher", "student"]
    assert row_of(table, "student")["foreign"].value is None


def test_unmeasured_memory_is_no_result() -> None:
    rows = [{**row, "peak_memory_mb": None} for row in efficiencies()]
    table = efficiency_table(SweepRecords.from_dicts([*rows, *image_rows({"gkd": [0.5]})]))
    assert row_of(table, "GKD")["peak_memory_mb"].value is None

from __future__ import annotations

import pytest

from gkd_bench.report import diagnostics
from gkd_bench.report.frame import SweepRecords

from .made_up import Record, base
from .small import cells_of


def test_health_counts_failures_and_warns_in_plain_words(sweep_records: SweepRecords) -> None:
    rows = [cells_of(diagnostics.health_table(sweep_records), at) for at in range(2)]
    assert [row["failed"].value for row in rows] == ["0 of 3", "3 of 3"]
    assert "warning" in rows[1]["value"].flags
    assert "warning" not in rows[0]["value"].flags
    lines = diagnostics.health_warnings(sweep_records)
    assert lines[0].startswith("alignment student chase_db1: the bottleneck carries no information")
    assert lines[0].endswith("(in 3 runs, the first of them shown)")


def test_check_without_a_verdict_is_not_a_failure() -> None:
    check = {**base("semantic", "gkd", "hrf", None, 0), "record": "health", "check": "rank", "value": 4.0,
             "reference": None, "ok": None, "warning": None, "host": None}  # fmt: skip
    row = cells_of(diagnostics.health_table(SweepRecords.from_dicts([check])))
    assert (row["failed"].value, row["host"].value, row["reference"].value) == (None, None, None)


def test_cost_counts_every_stage_once(made_up: list[Record]) -> None:
    costs = [row for row in made_up if row["record"] == "cost"]
    again = [{**row, "trial": 3} for row in costs]
    row = cells_of(diagnostics.cost_table(SweepRecords.from_dicts([*costs, *again])))
    assert (row["runs"].value, row["total_seconds"].value) == (9, pytest.approx(9 * 13.5))
    assert row["parameters"].value == "17000"


def test_versions_are_one_line_per_set(sweep_records: SweepRecords) -> None:
    assert diagnostics.software_versions(sweep_records) == ["numpy = 2.4.6, torch = 2.13.0"]

from __future__ import annotations

import pytest

from gkd_bench.report.frame import SweepRecords

from .made_up import Record, make_records


@pytest.fixture(scope="session")
def made_up() -> list[Record]:
    return make_records()


@pytest.fixture(scope="session")
def sweep_records(made_up: list[Record]) -> SweepRecords:
    return SweepRecords.from_dicts(made_up)

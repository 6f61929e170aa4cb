"""`ray up` of the shipped file for machines at hand, a sweep on it, and a machine that is lost in the middle."""

from __future__ import annotations

import pytest
from cluster_run import Report, run_with_a_lost_machine

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def report(machines: None) -> Report:
    return run_with_a_lost_machine()


def test_the_sweep_ends_well_although_a_machine_is_lost(report: Report) -> None:
    assert report.exit == 0, report.output[-3000:]
    assert "failed" not in report.output


def test_the_lost_machine_held_a_running_stage_and_its_groups_came_back_on_the_other_one(report: Report) -> None:
    before = [state for state in report.states if state["nodes"].get(report.lost, False)]
    after = [state for state in report.states if not state["nodes"].get(report.lost, True)]
    assert any(report.lost in state["workers"] and len(state["running"]) == 2 for state in before)
    assert max(after[-1]["groups"].values()) == 2, "no group was started again"
    elsewhere = {address for state in after for address in state["workers"]} - {report.lost}
    assert len(elsewhere) == 1, "worker groups ran on the head"


def test_records_and_tables_are_those_of_one_machine(report: Report) -> None:
    assert report.compared > 200
    assert not report.records
    assert not report.tables


def test_nothing_of_ray_is_left_after_ray_down(report: Report) -> None:
    assert not {name: lines for name, lines in report.left.items() if lines}

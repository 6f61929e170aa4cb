from __future__ import annotations

import base64
import json
import zlib

import pytest

from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.runs import ChildRun, child_runs
from gkd_bench.report.views import (
    TAG_LIMIT,
    State,
    View,
    decode_state,
    encode_state,
    slug_of,
    supported,
    sweep_views,
    view_tags,
)

from .made_up import DOMAINS, METHODS


@pytest.fixture(scope="module")
def children(sweep_records: SweepRecords) -> list[ChildRun]:
    return child_runs(sweep_records)


@pytest.fixture(scope="module")
def views(children: list[ChildRun]) -> dict[str, View]:
    return {view.slug.rpartition("-")[2]: view for view in sweep_views("made_up", children)}


def shown_charts(state: State) -> list[dict[str, object]]:
    return [chart for chart in state["compareRunCharts"] if not chart["deleted"]]


def test_state_survives_the_round_trip() -> None:
    state = {"searchFilter": "tags.sweep = 'ä'", "selectedColumns": ["metrics.`dice/hrf`"], "groupBy": None}
    text = encode_state(state)
    assert decode_state(text) == state
    assert json.loads(zlib.decompress(base64.b64decode(text.removeprefix("deflate;")))) == state
    with pytest.raises(ValueError, match="deflate"):
        decode_state("gzip;abc")


def test_a_sweep_has_four_views_and_the_comparison_is_the_one_to_land_on(children: list[ChildRun]) -> None:
    views = sweep_views("made_up", children)
    assert [view.name for view in views] == [
        "made_up: methods compared", "made_up: source x target matrix", "made_up: every final training",
        "made_up: parameter search",
    ]  # fmt: skip
    assert [view.mode for view in views] == ["CHART", "TABLE", "TABLE", "CHART"]


def test_sweep_without_trials_has_no_search_view(children: list[ChildRun]) -> None:
    finals = [child for child in children if child.tags["kind"] == "final"]
    assert len(sweep_views("made_up", finals)) == 3
    assert sweep_views("made_up", []) == ()


@pytest.mark.parametrize(("name", "kind"), [("comparison", "final"), ("matrix", "final"), ("search", "trial")])
def test_views_show_one_kind_of_runs_of_their_own_sweep(views: dict[str, View], name: str, kind: str) -> None:
    assert views[name].state["searchFilter"] == f"tags.sweep = 'made_up' AND tags.kind = '{kind}'"


def test_comparison_has_a_closed_group_for_every_method(views: dict[str, View]) -> None:
    state = views["comparison"].state
    assert state["groupBy"] == {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "method"}],
    }
    assert state["groupsExpanded"].keys() >= {"tag.method.GKD", "tag.method.alone"}
    assert len(state["groupsExpanded"]) == len(METHODS)
    assert not any(state["groupsExpanded"].values())


def test_matrix_has_a_row_per_source_and_method_and_a_column_per_target(views: dict[str, View]) -> None:
    state = views["matrix"].state
    assert len(state["groupsExpanded"]) == len(METHODS) * len(DOMAINS)
    assert {f"metrics.`dice/{target}`" for target in DOMAINS} <= set(state["selectedColumns"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`foreign/dice`", False)


def test_columns_and_charts_are_of_metrics_that_there_are(children: list[ChildRun], views: dict[str, View]) -> None:
    known = {name for child in children for name in child.finals}
    known |= {point.name for child in children for point in child.curves}
    for view in views.values():
        columns = {name for name in view.state["selectedColumns"] if name.startswith("metrics.")}
        assert {name[9:-1] for name in columns} <= known
        assert {chart["metricKey"] for chart in shown_charts(view.state) if "metricKey" in chart} <= known


def test_search_leads_from_searched_parameters_to_objectives(views: dict[str, View]) -> None:
    (chart,) = [chart for chart in shown_charts(views["search"].state) if chart["type"] == "PARALLEL"]
    assert chart["selectedParams"] == ["methods.gkd.cross", "methods.gkd.intra"]
    expected = ["objective/source_val", "objective/source_val_stressed", "objective/stress_fsd"]
    assert chart["selectedMetrics"] == expected


def test_accuracy_stands_against_cost(views: dict[str, View]) -> None:
    axes = [(c["xaxis"], c["yaxis"]) for c in shown_charts(views["comparison"].state) if c["type"] == "SCATTER"]
    assert ({"key": "cost/macs", "type": "METRIC"}, {"key": "foreign/dice", "type": "METRIC"}) in axes


def test_every_chart_has_a_section_and_every_metric_is_shown_or_taken_off(
    children: list[ChildRun], views: dict[str, View]
) -> None:
    finals = {name for child in children if child.tags["kind"] == "final" for name in child.finals}
    state = views["comparison"].state
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in shown_charts(state)} == sections
    assert {chart["metricKey"] for chart in state["compareRunCharts"] if "metricKey" in chart} >= finals
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])


def test_tags_are_the_same_every_time_and_fit(views: dict[str, View]) -> None:
    tags = view_tags(views.values(), 1_700_000_000_000)
    assert tags == view_tags(views.values(), 1_700_000_000_000)
    for key, value in tags.items():
        assert key.startswith("mlflow.sharedViewState.gkd-made-up-")
        assert len(value) < TAG_LIMIT
        assert decode_state(json.loads(value)["state"])["lifecycleFilter"] == "Active"


def test_slugs_tell_sweeps_apart_whose_names_look_alike() -> None:
    assert slug_of("a.b", "search") != slug_of("a_b", "search")
    assert slug_of("A very long name " * 9, "search").endswith("-search")


@pytest.mark.parametrize(
    ("version", "known"),
    [("3.17.2", True), ("3.16.0", True), ("3.15.9", False), ("4.0.0", False), ("3.17.0rc1", True), ("odd", False)],
)
def test_views_are_written_for_known_versions_only(version: str, known: bool) -> None:
    assert supported(version) is known

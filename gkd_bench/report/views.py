"""Saved views of an experiment in MLflow: finished comparisons that a link opens.

A view is an experiment tag with the state of MLflow's runs page as compressed JSON. The format is one of the page's own
and no public interface, so it is written for the versions it was seen to work with, and only ever in addition: without
it the runs are the same, and only have to be arranged by hand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from gkd_bench.report.runs import ChildRun

TAG_PREFIX = "mlflow.sharedViewState."
KNOWN_VERSIONS = ((3, 16), (4, 0))
"""First version that the format works with, and the first one that it is not tried with."""
TAG_LIMIT = 20_000
_ENCODING = "deflate;"
_HEADLINE = "foreign/dice"
_OVERVIEW = (_HEADLINE, "in_domain/dice", "stressed/dice")
_TRAINING_COLUMNS = (
    _HEADLINE, "in_domain/dice", "source_val/dice", "stressed/dice", "foreign/hd95", "foreign/hd95_mm", "foreign/cldice", "foreign/ece",
    "cost/parameters", "cost/macs", "cost/latency_p50_ms", "training/seconds",
)  # fmt: skip
_SHOWN_CURVES = ("val/", "loss/", "grad_ratio/", "grad_cosine/")
_RUN_NAME = "attributes.`Run Name`"
State: TypeAlias = dict[str, Any]
Chart: TypeAlias = dict[str, Any]
Mode = Literal["CHART", "TABLE"]


@dataclass(frozen=True)
class View:
    """One saved view.

    Attributes:
        slug: its key, unique in the experiment.
        name: what the menu of views shows.
        mode: whether it is to be opened as charts or as a table.
        state: state of the runs page.
    """

    slug: str
    name: str
    mode: Mode
    state: State


@dataclass(frozen=True)
class Section:
    """Charts under one heading, ``across`` of them side by side."""

    title: str
    charts: tuple[Chart, ...]
    across: int = 3


def supported(version: str) -> bool:
    """Whether views are written for a version of MLflow such as ``3.17.2``."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return bool(found) and KNOWN_VERSIONS[0] <= (int(found[1]), int(found[2])) < KNOWN_VERSIONS[1]  # type: ignore[index]


def sweep_views(sweep: str, children: Sequence[ChildRun]) -> tuple[View, ...]:
    """The views of a sweep, the one to land on first; views that would be empty are left out.

    Args:
        sweep: name of the sweep; views show its runs only.
        children: its runs.
    """
    finals = [child for child in children if child.tags.get("kind") == "final"]
    trials = [child for child in children if child.tags.get("kind") == "trial"]
    views = [_comparison(sweep, finals), _matrix(sweep, finals), _trainings(sweep, finals)] if finals else []
    return (*views, *([_search(sweep, trials)] if trials else []))


def view_tags(views: Iterable[View], moment: int) -> dict[str, str]:
    """Experiment tags that hold the views.

    Args:
        views: the views.
        moment: when they were made, milliseconds since 1970; a fixed time of the sweep, so that a replay changes nothing.
    """
    return {
        f"{TAG_PREFIX}{view.slug}": json.dumps(
            {"name": view.name, "createdAt": moment, "updatedAt": moment, "state": encode_state(view.state)}
        )
        for view in views
    }


def encode_state(state: State) -> str:
    """A state as MLflow keeps it: compressed JSON in base 64."""
    packed = zlib.compress(json.dumps(state, sort_keys=True).encode(), 9)
    return _ENCODING + base64.b64encode(packed).decode()


def decode_state(text: str) -> State:
    """The state that ``encode_state`` wrote. Raises ValueError for any other text."""
    if not text.startswith(_ENCODING):
        raise ValueError("not a state of a view: it does not begin with 'deflate;'")
    state: State = json.loads(zlib.decompress(base64.b64decode(text.removeprefix(_ENCODING))))
    return state


def slug_of(sweep: str, view: str) -> str:
    """Key of a view: readable, and different for sweeps whose names differ only in odd characters."""
    plain = re.sub(r"[^0-9A-Za-z]+", "-", sweep).strip("-").lower()[:40]
    return f"gkd-{plain}-{hashlib.sha256(sweep.encode()).hexdigest()[:6]}-{view}"


# ---------------------------------------------------------------- the views


def _comparison(sweep: str, finals: Sequence[ChildRun]) -> View:
    """Methods side by side, each the mean over its trainings."""
    metrics, curves = _metrics(finals), _curves(finals)
    trades = (
        _scatter("in_domain/dice", _HEADLINE, "Own domain and unseen domains"),
        _scatter("cost/macs", _HEADLINE, "Cost and unseen domains"),
        _scatter("foreign/fsd", _HEADLINE, "Distance (FSD) and unseen domains"),
    )
    sections = [
        Section("Dice: unseen, own, own under corruption", tuple(map(_bar, _OVERVIEW))),
        Section("Dice on each target", tuple(map(_bar, _targets(metrics)))),
        Section("Own domain, cost and distance", trades),
        Section("Training curves", tuple(map(_line, curves))),
    ]
    page = _Page(sweep, "final", _columns(metrics, _OVERVIEW), sections, [*metrics, *curves], ("method",))
    return View(slug_of(sweep, "comparison"), f"{sweep}: methods compared", "CHART", _state(page, finals))


def _matrix(sweep: str, finals: Sequence[ChildRun]) -> View:
    """The source x target matrix: a row per source and method, a column per target, means over seeds."""
    metrics, curves = _metrics(finals), _curves(finals)
    columns = _columns(
        metrics, [_HEADLINE, *_targets(metrics), "in_domain/dice", "foreign/hd95", "foreign/hd95_mm", "stressed/dice"]
    )
    sections = [Section("Dice on each target", tuple(map(_bar, _targets(metrics))))]
    page = _Page(sweep, "final", columns, sections, [*metrics, *curves], ("model",))
    return View(slug_of(sweep, "matrix"), f"{sweep}: source x target matrix", "TABLE", _state(page, finals))


def _trainings(sweep: str, finals: Sequence[ChildRun]) -> View:
    """Every final training, best on unseen domains first."""
    metrics, curves = _metrics(finals), _curves(finals)
    columns = [*map(_tag, ("source", "method", "seed", "selected")), *_columns(metrics, _TRAINING_COLUMNS)]
    charts = (
        _scatter("source_val/dice", _HEADLINE, "What selection reads, and unseen domains"),
        _scatter("in_domain/dice", _HEADLINE, "Own domain and unseen domains"),
        _scatter("cost/macs", _HEADLINE, "Cost and unseen domains"),
    )
    sections = [Section("Every final training", charts), Section("Training curves", tuple(map(_line, curves)))]
    page = _Page(sweep, "final", columns, sections, [*metrics, *curves])
    return View(slug_of(sweep, "trainings"), f"{sweep}: every final training", "TABLE", _state(page, finals))


def _search(sweep: str, trials: Sequence[ChildRun]) -> View:
    """Trials: searched parameters against objectives."""
    metrics, curves = _metrics(trials), _curves(trials)
    params = sorted({name for trial in trials for name in trial.params})
    objectives = [name for name in metrics if name.startswith("objective/")] or ["objective/value"]
    first = objectives[0]
    each = [_scatter(name, first, f"{name} and {first}", "PARAM") for name in params]
    pairs = [_scatter(first, name, f"{first} and {name}") for name in objectives[1:]]
    sections = [
        Section("Searched parameters and objectives", (_parallel(params, objectives),), across=1),
        Section("Objective by parameter", tuple(each)),
        Section("Objectives against each other", tuple(pairs)),
        Section("Training curves", tuple(map(_line, curves))),
    ]
    columns = [_tag("source"), _tag("method"), _tag("state"), *map(_metric, objectives), *map(_param, params)]
    page = _Page(sweep, "trial", columns, sections, [*metrics, *curves], order=first)
    return View(slug_of(sweep, "search"), f"{sweep}: parameter search", "CHART", _state(page, trials))


# ---------------------------------------------------------------- the runs page


@dataclass(frozen=True)
class _Page:
    """What a view shows: runs of one kind of one sweep, columns of the table, charts, and tags to group by."""

    sweep: str
    kind: str
    columns: Sequence[str]
    sections: Sequence[Section]
    metrics: Sequence[str]
    groups: tuple[str, ...] = ()
    order: str = _HEADLINE


def _state(page: _Page, runs: Sequence[ChildRun]) -> State:
    """State of the runs page. Groups are closed, or the table would open on a page of single runs."""
    widths = {_RUN_NAME: 280} | dict.fromkeys(page.columns, 120)
    sections = [section for section in page.sections if section.charts]
    return {
        "searchFilter": f"tags.sweep = '{page.sweep}' AND tags.kind = '{page.kind}'",
        "orderByKey": _metric(page.order),
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(page.columns),
        "columnOrder": list(widths),
        "columnWidths": widths,
        "runsHiddenMode": "SHOW_ALL",
        "runListHidden": False,
        "viewMaximized": False,
        "hideEmptyCharts": True,
        "groupBy": _grouping(page.groups),
        "groupsExpanded": {_group_id(run, page.groups): False for run in runs} if page.groups else {},
        "useGroupedValuesInCharts": True,
        "isAccordionReordered": True,
        "autoRefreshEnabled": False,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": [_heading(at, section) for at, section in enumerate(sections)],
        "compareRunCharts": _charts(sections, page.metrics),
    }


def _charts(sections: Sequence[Section], metrics: Iterable[str]) -> list[Chart]:
    """Charts by section; metrics without one are marked as taken off, or MLflow adds a chart for each of them."""
    charts = [
        {**chart, "metricSectionId": f"section-{at}"} for at, part in enumerate(sections) for chart in part.charts
    ]
    shown = {chart.get("metricKey") for chart in charts}
    hidden = [{**_bar(name), "deleted": True} for name in sorted(set(metrics) - shown)]
    return [{**chart, "uuid": f"chart-{at}"} for at, chart in enumerate([*charts, *hidden])]


def _grouping(tags: Sequence[str]) -> Mapping[str, Any] | None:
    keys = [{"mode": "tag", "groupByData": tag} for tag in tags]
    return {"aggregateFunction": "average", "groupByKeys": keys} if keys else None


def _group_id(run: ChildRun, tags: Sequence[str]) -> str:
    return ",".join(f"tag.{tag}.{run.tags.get(tag)}" for tag in tags)


def _heading(at: int, section: Section) -> dict[str, Any]:
    flags = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": f"section-{at}", "name": section.title, "columns": section.across, "cardHeight": 360, **flags}


def _chart(kind: str, title: str, **settings: Any) -> Chart:
    common = {"type": kind, "displayName": title, "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    return {**common, **settings}


def _bar(metric: str) -> Chart:
    return _chart("BAR", metric, metricKey=metric)


def _line(metric: str) -> Chart:
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "yAxisKey": "metric"}
    more = {"lineSmoothness": 0, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True}
    return _chart("LINE", metric, metricKey=metric, selectedMetricKeys=[metric], **axes, **more)


def _scatter(x: str, y: str, title: str, x_type: str = "METRIC") -> Chart:
    return _chart("SCATTER", title, xaxis={"key": x, "type": x_type}, yaxis={"key": y, "type": "METRIC"})


def _parallel(params: Sequence[str], metrics: Sequence[str]) -> Chart:
    names = {"selectedParams": list(params), "selectedMetrics": list(metrics)}
    return _chart("PARALLEL", "Searched parameters to objectives", showAllRuns=True, **names)


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


def _param(name: str) -> str:
    return f"params.`{name}`"


def _tag(name: str) -> str:
    return f"tags.`{name}`"


def _metrics(children: Sequence[ChildRun]) -> list[str]:
    """Names of results without an epoch, in alphabetical order."""
    return sorted({name for child in children for name in child.finals})


def _targets(metrics: Iterable[str]) -> list[str]:
    """Names of the Dice on every target."""
    return [name for name in metrics if name.startswith("dice/")]


def _columns(metrics: Sequence[str], names: Iterable[str]) -> list[str]:
    """Columns of those metrics that there are."""
    return [_metric(name) for name in names if name in metrics]


def _curves(children: Sequence[ChildRun]) -> list[str]:
    """Names of the curves that a reader looks at: validation, then loss terms, then gradients."""
    names = {point.name for child in children for point in child.curves}
    return [name for start in _SHOWN_CURVES for name in sorted(names) if name.startswith(start)]

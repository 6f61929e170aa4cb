"""The stage graph: what decides a key, what does not, and what is shared."""

from __future__ import annotations

from typing import Any

import pytest

from gkd_bench.conduct import model_graphs
from gkd_bench.config.load import with_parameters
from gkd_bench.config.schema import Sweep
from gkd_bench.plan import Planner, graph
from gkd_bench.store.node import StageNode

REFERENCES = {name: f"{name}@{'0' * 8}" for name in ("phantom_clear", "phantom_dim", "phantom_warm")}


def sweep(**changes: Any) -> Sweep:
    base: dict[str, Any] = {"name": "plan", "data": {"domains": tuple(REFERENCES)}, "methods": {"kd": {}, "gkd": {}}}
    return Sweep.model_validate(base | changes)


@pytest.fixture
def planner() -> Planner:
    return Planner(sweep(), REFERENCES)


def keys(planner: Planner) -> dict[str, str]:
    source = "phantom_clear"
    nodes = {
        "teacher": planner.teacher(source, 0),
        "baseline": planner.baseline(source, 0),
        "semantic": planner.semantic(source, 0),
        "tan": planner.guides(source, 0)["tan"],
        "san": planner.guides(source, 0)["san"],
        "scratch": planner.distill("scratch", source, 0),
        "kd": planner.distill("kd", source, 0),
        "gkd": planner.distill("gkd", source, 0),
        "score": planner.evaluate(planner.distill("gkd", source, 0), source, "phantom_dim", 0),
    }
    return {name: node.key for name, node in nodes.items()}


def changed(planner: Planner, **parameters: Any) -> set[str]:
    """Names of the stages whose key another setting changes."""
    other = keys(Planner(with_parameters(planner.sweep, parameters), planner.references))
    return {name for name, key in keys(planner).items() if other[name] != key}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("methods.gkd.intra", 0.7, {"gkd", "score"}),
        ("methods.kd.weight", 0.7, {"kd"}),
        ("stages.alignment.weights.sem", 0.7, {"tan", "san", "gkd", "score"}),
        ("stages.distill.epochs", 7, {"scratch", "kd", "gkd", "score"}),
        ("stages.evaluate.threshold", 0.4, {"score"}),
        ("networks.teacher.width", 0.5, {"teacher", "tan", "kd", "gkd", "score"}),
        ("name", "other", set()),
        ("seeds", [0, 1, 2, 3], set()),
        ("tracking.enabled", False, set()),
        ("search.trials", 0, set()),
    ],
)
def test_a_setting_changes_the_keys_of_the_stages_that_read_it_and_no_others(
    planner: Planner, path: str, value: Any, expected: set[str]
) -> None:
    assert changed(planner, **{path: value}) == expected


def test_other_data_changes_every_key(planner: Planner) -> None:
    moved = Planner(planner.sweep, REFERENCES | {"phantom_clear": "phantom_clear@11111111"})
    assert not set(keys(planner).values()) & set(keys(moved).values())


def test_a_target_is_read_by_evaluation_only(planner: Planner) -> None:
    moved = Planner(planner.sweep, REFERENCES | {"phantom_dim": "phantom_dim@11111111"})
    assert {name for name, key in keys(planner).items() if keys(moved)[name] != key} == {"score"}


def test_labels_are_for_people_and_not_part_of_the_key(planner: Planner) -> None:
    node = planner.teacher("phantom_clear", 0)
    assert StageNode(**{**node.to_json(), "labels": {}}).key == node.key
    assert StageNode(**{**node.to_json(), "version": 2}).key != node.key


def test_nodes_survive_json(planner: Planner) -> None:
    node = planner.distill("gkd", "phantom_clear", 0)
    assert StageNode.from_json(node.to_json()).key == node.key


def test_inputs_come_before_the_stages_that_read_them(planner: Planner) -> None:
    nodes = list(planner.models("phantom_clear", 0, ("scratch", "kd", "gkd")))
    for method in ("scratch", "kd", "gkd"):
        nodes += planner.scores(planner.distill(method, "phantom_clear", 0), "phantom_clear", 0)
    seen: set[str] = set()
    for node in graph(nodes).nodes:
        assert set(node.inputs.values()) <= seen
        seen.add(node.key)


def test_one_teacher_serves_every_method_and_every_trial(planner: Planner) -> None:
    trial = Planner(with_parameters(planner.sweep, {"methods.gkd.intra": 0.9}), REFERENCES)
    nodes = graph([*planner.models("phantom_clear", 0, ("kd", "gkd")), *trial.models("phantom_clear", 0, ("gkd",))])
    counts = {kind: len(group) for kind, group in nodes.by_kind().items()}
    assert counts == {"teacher": 1, "baseline": 1, "semantic": 1, "alignment": 2, "distill": 3}


def test_without_alignment_networks_no_autoencoder_is_planned() -> None:
    planner = Planner(sweep(methods={"kd": {}}), REFERENCES)
    nodes = planner.models("phantom_clear", 0, ("scratch", "kd"))
    assert {node.kind for node in nodes} == {"teacher", "baseline", "distill"}
    score = planner.evaluate(planner.distill("kd", "phantom_clear", 0), "phantom_clear", "phantom_dim", 0)
    assert list(score.inputs) == ["model"]


def test_all_methods_of_a_source_are_measured_with_the_same_alignment_networks() -> None:
    """Also when a search gave one of them alignment networks of its own."""
    base = Planner(sweep(), REFERENCES)
    trial = Planner(with_parameters(base.sweep, {"stages.alignment.weights.align": 3.0}), REFERENCES)
    _, scores = model_graphs(base.sweep, {"scratch": base, "kd": base, "gkd": trial}, base, ["phantom_clear"])
    students = [node for node in scores.nodes if node.labels["method"] != "teacher" and node.seed == 0]
    assert {node.labels["method"] for node in students} == {"baseline", "scratch", "kd", "gkd"}
    assert len({node.inputs["alignment"] for node in students}) == 1
    gkd = trial.distill("gkd", "phantom_clear", 0)
    assert gkd.inputs["san"] != students[0].inputs["alignment"]
    assert gkd.key in {node.inputs["model"] for node in students}


def test_missing_domains_are_never_planned() -> None:
    planner = Planner(sweep(), {name: REFERENCES[name] for name in ("phantom_clear", "phantom_warm")})
    assert planner.sources() == ["phantom_clear", "phantom_warm"]
    assert planner.targets("phantom_warm") == ["phantom_warm", "phantom_clear"]


def test_a_source_is_scored_on_itself_even_when_it_is_no_target() -> None:
    planner = Planner(sweep(pairs={"sources": ["phantom_clear"], "targets": ["phantom_dim"]}), REFERENCES)
    assert planner.targets("phantom_clear") == ["phantom_clear", "phantom_dim"]

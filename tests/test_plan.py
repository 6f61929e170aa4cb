"""The stage graph: what decides a key, what does not, and what is shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gkd_bench.conduct import StudyResult, final_graphs, model_graphs
from gkd_bench.config.load import with_parameters
from gkd_bench.config.schema import Sweep
from gkd_bench.plan import Planner, graph
from gkd_bench.store.node import StageNode

REFERENCES = {name: f"{name}@{'0' * 8}" for name in ("phantom_clear", "phantom_dim", "phantom_warm")}
BANKS = {name: f"{name}-stress@{'1' * 8}" for name in REFERENCES}


def sweep(**changes: Any) -> Sweep:
    base: dict[str, Any] = {"name": "plan", "data": {"domains": tuple(REFERENCES)}, "methods": {"kd": {}, "gkd": {}}}
    return Sweep.model_validate(base | changes)


@pytest.fixture
def planner() -> Planner:
    return Planner(sweep(), REFERENCES, BANKS)


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
        "stress": planner.stress(planner.distill("gkd", source, 0), source, 0),
        "score": planner.evaluate(planner.distill("gkd", source, 0), source, "phantom_dim", 0),
        "student cost": planner.efficiency("student"),
    }
    return {name: node.key for name, node in nodes.items()}


def models(planner: Planner, methods: Sequence[str]) -> list[StageNode]:
    """Teacher, baseline and the methods' students of the first source, with all they build on; inputs first."""
    source = "phantom_clear"
    nodes = planner.ancestors(source, 0)
    return nodes + [node for method in methods for node in planner.student(method, source, 0)]


def changed(planner: Planner, **parameters: Any) -> set[str]:
    """Names of the stages whose key another setting changes."""
    other = keys(planner.of(with_parameters(planner.sweep, parameters)))
    return {name for name, key in keys(planner).items() if other[name] != key}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("methods.gkd.intra", 0.7, {"gkd", "stress", "score"}),
        ("methods.kd.weight", 0.7, {"kd"}),
        ("stages.alignment.weights.sem", 0.7, {"tan", "san", "gkd", "stress", "score"}),
        ("stages.distill.epochs", 7, {"scratch", "kd", "gkd", "stress", "score"}),
        ("stages.stress.fsd_tiles", 7, {"stress"}),
        ("stages.evaluate.threshold", 0.4, {"score"}),
        ("stages.efficiency.repeats", 4, {"student cost"}),
        ("networks.teacher.width", 0.5, {"teacher", "tan", "kd", "gkd", "stress", "score"}),
        ("selection.rule", "last", set()),
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
    moved = Planner(planner.sweep, REFERENCES | {"phantom_clear": "phantom_clear@11111111"}, BANKS)
    same = {name for name, key in keys(planner).items() if keys(moved)[name] == key}
    assert same == {"student cost"}


def test_another_stress_bank_changes_the_stress_stage_only(planner: Planner) -> None:
    moved = Planner(planner.sweep, REFERENCES, BANKS | {"phantom_clear": "phantom_clear-stress@22222222"})
    assert {name for name, key in keys(planner).items() if keys(moved)[name] != key} == {"stress"}


def test_a_variant_is_its_method_with_some_options_changed() -> None:
    methods = {"gkd": {"intra": 0.5}, "variants": {"gkd_intra": {"of": "gkd", "set": {"inter": 0.0, "cross": 0.0}}}}
    planner = Planner(sweep(methods=methods), REFERENCES, BANKS)
    node = planner.distill("gkd_intra", "phantom_clear", 0)
    assert (node.settings["method"], node.labels["method"]) == ("gkd", "gkd_intra")
    options = node.settings["options"]
    assert (options["intra"], options["inter"], options["cross"]) == (0.5, 0.0, 0.0)
    assert node.inputs == planner.distill("gkd", "phantom_clear", 0).inputs


def planned(**methods: Any) -> Planner:
    return Planner(sweep(methods=methods), REFERENCES, BANKS)


def test_controls_stand_in_every_table_unless_they_are_left_out() -> None:
    rows = planned(gkd={}).sweep.methods.chosen()
    assert list(rows) == ["scratch", "bn_views", "gkd", "scratch_photometric", "kd_photometric"]
    assert rows["kd_photometric"].guides == ("teacher",)
    assert list(planned(gkd={}, controls=[]).sweep.methods.chosen()) == ["scratch", "gkd"]


def test_a_control_changes_the_augmentation_of_the_students_training_only() -> None:
    planner = planned(kd={})
    plain, control = (planner.distill(name, "phantom_clear", 0) for name in ("kd", "kd_photometric"))
    assert control.settings == plain.settings | {"augment": control.settings["augment"]}
    assert (plain.settings["augment"]["photometric"], control.settings["augment"]["photometric"]) == ("none", "strong")
    assert control.inputs == plain.inputs


def test_a_control_that_changes_nothing_is_its_method_and_stands_once() -> None:
    planner = Planner(sweep(methods={"kd": {}}, augment={"photometric": "strong"}), REFERENCES, BANKS)
    nodes = [planner.distill(name, "phantom_clear", 0) for name in ("kd", "kd_photometric")]
    (kept,) = graph(nodes).nodes
    assert kept.labels["method"] == "kd"


def test_adaptation_at_test_time_shares_the_training_and_not_the_scores() -> None:
    planner = planned(kd={}, variants={"kd_adapted": {"of": "kd", "set": {"remedies": ["bn_adapt"]}}})
    plain, adapted = (planner.distill(name, "phantom_clear", 0) for name in ("kd", "kd_adapted"))
    assert adapted.key == plain.key
    for before, after in zip(*(planner.scores(n, "phantom_clear", 0) for n in (plain, adapted)), strict=True):
        assert after.settings == before.settings | {"adapt": "batch_norm"}
        assert (after.inputs, before.labels["method"], after.labels["method"]) == (before.inputs, "kd", "kd_adapted")


@pytest.mark.parametrize("remedy", ["style", "swa"])
def test_a_remedy_of_training_is_a_setting_of_the_distill_stage(remedy: str) -> None:
    planner = planned(kd={}, variants={"kd_more": {"of": "kd", "set": {"remedies": [remedy]}}})
    plain, more = (planner.distill(name, "phantom_clear", 0) for name in ("kd", "kd_more"))
    assert more.settings == plain.settings | {remedy: True}


def test_a_variant_with_other_alignment_settings_has_alignment_networks_of_its_own() -> None:
    variant = {"of": "gkd", "alignment": {"weights": {"align": 0.0}}}
    planner = planned(
        gkd={}, variants={"gkd_loose": variant, "gkd_raw": {"of": "gkd", "alignment": {"trained": False}}}
    )
    rows = {name: planner.of_row(name).student(name, "phantom_clear", 0) for name in ("gkd", "gkd_loose", "gkd_raw")}
    keys = {name: {node.key for node in nodes if node.kind == "alignment"} for name, nodes in rows.items()}
    assert all(len(found) == 2 for found in keys.values()) and len(set().union(*keys.values())) == 6
    loose, raw = (rows[name][0].settings for name in ("gkd_loose", "gkd_raw"))
    assert loose["alignment"]["weights"] == {"align": 0.0, "rec": 1.0, "con": 1.0, "sem": 0.5, "view": 0.1}
    assert raw["untrained"] is True and "untrained" not in loose


def test_a_variant_with_another_student_starts_from_that_student_alone() -> None:
    planner = planned(kd={}, variants={"kd_enet": {"of": "kd", "student": {"name": "enet", "width": 0.5}}})
    own = planner.of_row("kd_enet")
    node = own.distill("kd_enet", "phantom_clear", 0)
    assert node.settings["network"] == {"name": "enet", "width": 0.5}
    assert node.inputs["baseline"] == own.baseline("phantom_clear", 0).key != planner.baseline("phantom_clear", 0).key
    assert node.inputs["teacher"] == planner.teacher("phantom_clear", 0).key


def test_a_searched_student_is_measured_with_alignment_networks_of_its_own(planner: Planner) -> None:
    narrow = planner.of(with_parameters(planner.sweep, {"networks.student.width": 0.5}))
    *built, stress = narrow.candidate("gkd", "phantom_clear", 0, planner)
    san = next(node for node in built if node.key == stress.inputs["alignment"])
    baseline = next(node for node in built if node.key == san.inputs["host"])
    assert baseline.settings["network"]["width"] == 0.5
    assert stress.inputs["model"] == narrow.distill("gkd", "phantom_clear", 0).key


def test_a_target_is_read_by_evaluation_only(planner: Planner) -> None:
    moved = Planner(planner.sweep, REFERENCES | {"phantom_dim": "phantom_dim@11111111"}, BANKS)
    assert {name for name, key in keys(planner).items() if keys(moved)[name] != key} == {"score"}


def test_labels_are_for_people_and_not_part_of_the_key(planner: Planner) -> None:
    node = planner.teacher("phantom_clear", 0)
    assert StageNode(**{**node.to_json(), "labels": {}}).key == node.key
    assert StageNode(**{**node.to_json(), "version": 2}).key != node.key


def test_nodes_survive_json(planner: Planner) -> None:
    node = planner.distill("gkd", "phantom_clear", 0)
    assert StageNode.from_json(node.to_json()).key == node.key


def test_inputs_come_before_the_stages_that_read_them(planner: Planner) -> None:
    nodes = models(planner, ("scratch", "kd", "gkd"))
    for method in ("scratch", "kd", "gkd"):
        nodes += planner.scores(planner.distill(method, "phantom_clear", 0), "phantom_clear", 0)
    seen: set[str] = set()
    for node in graph(nodes).nodes:
        assert set(node.inputs.values()) <= seen
        seen.add(node.key)


def test_one_teacher_serves_every_method_and_every_trial(planner: Planner) -> None:
    trial = planner.of(with_parameters(planner.sweep, {"methods.gkd.intra": 0.9}))
    nodes = graph([*models(planner, ("kd", "gkd")), *models(trial, ("gkd",))])
    counts = {kind: len(group) for kind, group in nodes.by_kind().items()}
    assert counts == {"teacher": 1, "baseline": 1, "semantic": 1, "alignment": 2, "distill": 3}


def test_without_alignment_networks_no_autoencoder_is_planned() -> None:
    planner = Planner(sweep(methods={"kd": {}}), REFERENCES, BANKS)
    nodes = models(planner, ("scratch", "kd"))
    assert {node.kind for node in nodes} == {"teacher", "baseline", "distill"}
    score = planner.evaluate(planner.distill("kd", "phantom_clear", 0), "phantom_clear", "phantom_dim", 0)
    assert list(score.inputs) == ["model"]


def test_all_methods_of_a_source_are_measured_with_the_same_alignment_networks() -> None:
    """Also when a search gave one of them alignment networks of its own."""
    base = Planner(sweep(), REFERENCES, BANKS)
    trial = base.of(with_parameters(base.sweep, {"stages.alignment.weights.align": 3.0}))
    _, scores = model_graphs(base.sweep, {"scratch": base, "kd": base, "gkd": trial}, base, ["phantom_clear"])
    students = [node for node in scores.nodes if node.labels["method"] != "teacher" and node.seed == 0]
    assert {node.labels["method"] for node in students} == {"baseline", "scratch", "kd", "gkd"}
    assert len({node.inputs["alignment"] for node in students}) == 1
    gkd = trial.distill("gkd", "phantom_clear", 0)
    assert gkd.inputs["san"] != students[0].inputs["alignment"]
    assert gkd.key in {node.inputs["model"] for node in students}


def test_a_searched_student_is_the_student_of_every_method_of_its_source(planner: Planner) -> None:
    """Otherwise a wider student of one method would be compared with a narrow student alone."""
    space = {"gkd": {"networks.student.width": {"choice": [0.5, 1.0]}}}
    whole = planner.of(sweep(search={"trials": 2, "spaces": space}))
    taken = whole.of(with_parameters(whole.sweep, {"networks.student.width": 0.5, "methods.gkd.intra": 0.7}))
    models, scores = final_graphs(whole.sweep, whole, [StudyResult("phantom_clear", "gkd", taken)])
    widths: dict[str, set[float]] = {}
    for node in models.nodes:
        if node.kind in ("baseline", "distill"):
            widths.setdefault(node.labels["source"], set()).add(node.settings["network"]["width"])
    assert widths == {"phantom_clear": {0.5}, "phantom_dim": {1.0}, "phantom_warm": {1.0}}
    gkd = next(n for n in models.nodes if (n.labels.get("method"), n.labels["source"]) == ("gkd", "phantom_clear"))
    assert gkd.settings["options"]["intra"] == 0.7
    assert {node.settings["network"]["width"] for node in scores.by_kind()["efficiency"]} == {0.5, 1.0}


def test_missing_domains_are_never_planned() -> None:
    planner = Planner(sweep(), {name: REFERENCES[name] for name in ("phantom_clear", "phantom_warm")}, BANKS)
    assert planner.sources() == ["phantom_clear", "phantom_warm"]
    assert planner.targets("phantom_warm") == ["phantom_warm", "phantom_clear"]


def test_a_source_is_scored_on_itself_even_when_it_is_no_target() -> None:
    planner = Planner(sweep(pairs={"sources": ["phantom_clear"], "targets": ["phantom_dim"]}), REFERENCES, BANKS)
    assert planner.targets("phantom_clear") == ["phantom_clear", "phantom_dim"]


def everything(**changes: Any) -> dict[str, StageNode]:
    """Key -> stage, of all that a sweep without searches asks for."""
    asked = sweep(**{"seeds": [0], "pairs": {"sources": ["phantom_clear"], "targets": ["phantom_dim"]}, **changes})
    models, scores = final_graphs(asked, Planner(asked, REFERENCES, BANKS), [])
    return {node.key: node for node in (models + scores).nodes}


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"seeds": [0, 1]}, "seed", 1),
        (
            {"pairs": {"sources": ["phantom_clear"], "targets": ["phantom_dim", "phantom_warm"]}},
            "target",
            "phantom_warm",
        ),
        (
            {"pairs": {"sources": ["phantom_clear", "phantom_warm"], "targets": ["phantom_dim"]}},
            "source",
            "phantom_warm",
        ),
        ({"methods": {"kd": {}, "gkd": {}, "at": {}}}, "method", "at"),
    ],
)
def test_what_is_added_is_all_that_is_new(changes: dict[str, Any], name: str, value: object) -> None:
    before, after = everything(), everything(**changes)
    assert before.keys() < after.keys()
    new = [after[key] for key in after.keys() - before.keys()]
    assert {node.seed if name == "seed" else node.labels[name] for node in new} == {value}

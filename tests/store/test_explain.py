"""Why a stage is not in the store: fields that differ, the most similar stage of many, reasons that many stages share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gkd_bench.store import explain
from gkd_bench.store.artefacts import Draft, LocalStore, Store
from gkd_bench.store.explain import (
    Similar,
    causes,
    changes_since,
    difference,
    other_packages,
    reason,
    why_missing,
)
from gkd_bench.store.needed import write_needed
from gkd_bench.store.node import StageNode


def teacher(epochs: float = 100, seed: int = 0, **changes: Any) -> StageNode:
    settings = {"network": {"name": "unet", "width": 1.0}, "training": {"epochs": epochs}, "classes": ["vessel"]}
    labels = {"source": "stare", "method": "teacher"}
    return replace(StageNode("teacher", settings, seed, {"source": "stare@ab"}, labels=labels), **changes)


def distill(host: StageNode, weight: float = 0.5, epochs: int = 50, method: str = "kd", version: int = 3) -> StageNode:
    settings = {"method": method, "options": {"weight": weight}, "distill": {"epochs": epochs}}
    labels = {"source": "stare", "method": method}
    return StageNode("distill", settings, host.seed, dict(host.data), {"teacher": host.key}, version, labels)


def score(model: StageNode, version: int = 4) -> StageNode:
    labels = {"source": "stare", "target": "hrf", "method": model.labels["method"]}
    return StageNode("evaluate", {"tile": 96}, model.seed, dict(model.data), {"model": model.key}, version, labels)


def by_key(*nodes: StageNode) -> dict[str, StageNode]:
    return {node.key: node for node in nodes}


# ---------------------------------------------------------------- two stages


def test_differences_are_dotted_paths_with_both_values() -> None:
    new = teacher(50, seed=1, version=2, data={"source": "stare@cd"})
    assert difference(teacher(), new) == [
        "seed 0 -> 1",
        "version 1 -> 2",
        "data.source stare@ab -> stare@cd (prepared data changed)",
        "settings.training.epochs 100 -> 50",
    ]


def test_equal_stages_do_not_differ_and_labels_do_not_count() -> None:
    assert difference(teacher(), teacher(labels={"method": "other"})) == []
    from_json = StageNode.from_json({**teacher().to_json(), "settings": {**teacher().settings, "classes": ("vessel",)}})
    assert difference(teacher(), from_json) == []


def test_whatever_changes_the_key_is_told_even_if_it_looks_equal() -> None:
    for old, new in ((1, 1.0), (1, True), ("1", 1), ("x" * 80 + "a", "x" * 80 + "b"), ({}, None)):
        before, after = teacher(settings={"a": old}), teacher(settings={"a": new})
        assert before.key != after.key
        (line,) = difference(before, after)
        shown = line.removeprefix("settings.a ").split(" -> ")
        assert shown[0] != shown[1]


def test_a_setting_that_one_stage_lacks_is_not_set() -> None:
    assert difference(teacher(settings={}), teacher(settings={"a": None})) == ["settings.a (not set) -> null"]


def test_an_input_counts_only_when_nothing_else_differs() -> None:
    host, other = teacher(), teacher(50)
    assert reason(distill(host), distill(other)) == "builds on another teacher"
    assert reason(distill(host), distill(other, epochs=20)) == "settings.distill.epochs 50 -> 20"


def test_many_differences_are_cut() -> None:
    old, new = (teacher(settings={f"s{i}": i + shift for i in range(7)}) for shift in (0, 10))
    assert reason(old, new).endswith("settings.s3 3 -> 13, and 3 more fields")


def test_causes_follow_inputs_to_what_was_changed_and_tell_it_once() -> None:
    old, new = teacher(), teacher(50)
    before, after = distill(old), distill(new)
    both = [replace(one, inputs={**one.inputs, "again": one.inputs["teacher"]}) for one in (before, after)]
    lines = causes(*both, by_key(old, new))
    assert lines[0] == f"inputs.again {old.key} -> {new.key} (builds on another again)"
    assert lines[1] == "  settings.training.epochs 100 -> 50"
    assert lines[2:] == [f"inputs.teacher {old.key} -> {new.key} (builds on another teacher)"]


# ---------------------------------------------------------------- the most similar


def test_of_many_trials_the_one_with_the_same_parameters_is_the_most_similar() -> None:
    host, other = teacher(), teacher(50)
    trials = [distill(host, weight=0.01 * number) for number in range(60)]
    similar = Similar(by_key(*trials))
    assert similar.same_place(distill(other, weight=0.37, epochs=20)) == trials[37].key


def test_inputs_decide_between_stages_that_are_equal_otherwise() -> None:
    models = [distill(teacher(), weight=0.1 * number) for number in range(5)]
    scores = [score(model) for model in models]
    assert Similar(by_key(*scores)).same_place(score(models[3], version=5)) == scores[3].key


def test_labels_and_seed_come_first_elsewhere() -> None:
    stages = by_key(distill(teacher(), method="kd"), distill(teacher(seed=1), method="at"), teacher())
    similar = Similar(stages)
    new = distill(teacher(seed=2), method="at")
    assert similar.same_place(new) is None
    assert similar.anywhere(new) == distill(teacher(seed=1), method="at").key
    assert similar.novelty(new) == "seed 2"
    assert similar.novelty(distill(teacher(), method="at")) == "this combination of labels and seed"
    assert similar.anywhere(score(new)) is None
    assert similar.novelty(score(new)) == "nothing of this kind is in the store"


# ---------------------------------------------------------------- many stages


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    from gkd_bench.store.artefacts import open_store

    return open_store(tmp_path / "store" if request.param == "local" else request.getfixturevalue("s3_folder"))


def test_changes_since_the_last_run_are_grouped_by_reason(store: Store) -> None:
    hosts = [teacher(seed=seed) for seed in range(3)]
    students = [distill(host, method=method) for host in hosts for method in ("kd", "at")]
    old = [*hosts, *students, *(score(student) for student in students)]
    write_needed(store, "one", old)
    shorter = [distill(host, epochs=20, method=method) for host in hosts for method in ("kd", "at")]
    new = [*hosts, *shorter, *(score(student, version=5) for student in shorter)]
    there = by_key(*old)
    assert changes_since(store, "one", new, there.__contains__) == [
        "distill: settings.distill.epochs 50 -> 20 (6 stages)",
        "evaluate: version 4 -> 5 (6 stages)",
    ]
    assert changes_since(store, "one", old, there.__contains__) == []
    assert changes_since(store, "two", new, there.__contains__) == []


def test_only_what_was_computed_is_computed_again(tmp_path: Path) -> None:
    """Not a new seed or method, not what was never computed, and not what is there already."""
    store = LocalStore(tmp_path)
    host, other = teacher(), teacher(50)
    write_needed(store, "one", [host, distill(host)])
    there = by_key(host)
    grown = [host, distill(host, method="at"), teacher(seed=1)]
    assert changes_since(store, "one", grown, there.__contains__) == []
    assert changes_since(store, "one", [host, distill(host, epochs=9)], there.__contains__) == []
    assert changes_since(store, "one", [other], there.__contains__) == [
        "teacher: settings.training.epochs 100 -> 50 (1 stage)"
    ]
    assert changes_since(store, "one", [other], by_key(host, other).__contains__) == []


def test_other_packages_than_those_of_what_is_in_the_store_are_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = explain.package_versions()
    assert other_packages(store, [teacher()], store.has) == ""
    store.publish(teacher(), Draft())
    assert other_packages(store, [teacher(seed=1), teacher()], store.has) == ""
    monkeypatch.setattr(explain, "package_versions", lambda: {**here, "torch": "9.0"})
    told = other_packages(store, [teacher(seed=1), teacher()], store.has)
    assert told == f"{teacher()} was made with torch {here['torch']}, not 9.0"


def test_an_unreadable_list_of_stages_changes_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.blobs.write("sweeps/one/stages.json", b'{"format": 1, "stages"')
    assert changes_since(store, "one", [teacher()], lambda key: True) == []


def test_missing_stages_have_reasons_and_a_nearest_artefact() -> None:
    host = teacher()
    stored = by_key(host, distill(host))
    missing = by_key(distill(host, epochs=20), distill(teacher(seed=1)), distill(teacher(seed=2)), score(distill(host)))
    found = why_missing(missing, stored)
    assert [str(one) for one in found] == [
        "distill: settings.distill.epochs 50 -> 20 (1 stage)",
        "distill: new: seed 1 (1 stage)",
        "distill: new: seed 2 (1 stage)",
        "evaluate: new: nothing of this kind is in the store (1 stage)",
    ]
    assert [one.near for one in found] == [distill(host).key] * 3 + [None]
    assert [one.key for one in found] == list(missing)

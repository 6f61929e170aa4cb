"""``gkd-bench store`` as a user runs it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from gkd_bench import cli
from gkd_bench.conduct import Conductor
from gkd_bench.config.load import load_sweep
from gkd_bench.plan import Graph, Planner
from gkd_bench.preview import measured_rates, planned, preview, shape_of
from gkd_bench.store import packing
from gkd_bench.store.artefacts import Draft, LocalStore
from gkd_bench.store.needed import write_needed
from gkd_bench.store.node import StageNode
from gkd_bench.store.ownership import Ownership
from gkd_bench.sweep import prepare

from .stages.lab import TINY

SETTINGS = {
    **TINY,
    "pairs": {"sources": ["phantom_clear"], "targets": "all"},
    "methods": {"kd": {}, "controls": []},
    "compute": {"engine": "inprocess"},
}


def plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(plain(SETTINGS)))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / ".gkd_store")


class Run:
    """Runs the command; its output and errors."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert cli.main(["store", *arguments]) == code
        shown = self._capsys.readouterr()
        assert "Traceback" not in shown.err
        return shown.err if code == cli.EXIT_ERROR else shown.out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def teacher(epochs: int = 2, seed: int = 0) -> StageNode:
    settings = {"network": {"name": "unet", "width": 0.05}, "training": {"epochs": epochs}}
    return StageNode("teacher", settings, seed, {"source": "stare@ab"}, labels={"source": "stare"})


def distill(host: StageNode) -> StageNode:
    return StageNode("distill", {"tile": 32}, 0, {"source": "stare@ab"}, {"teacher": host.key}, 3, {"source": "stare"})


def publish(store: LocalStore, nodes: Sequence[StageNode], seconds: float = 1.0) -> None:
    for node in nodes:
        store.publish(node, Draft(files={"a.bin": b"x" * 2000}, summary={"seconds": seconds}))


def conductor(store: LocalStore) -> Conductor:
    """Of the sweep file, as ``--plan`` makes it."""
    from rich.console import Console

    sweep = load_sweep(Path("tiny.yaml")).sweep
    domains = prepare(sweep, store, False, Console(), dry=True)
    return Conductor(sweep, Planner(sweep, domains.references, domains.banks), store)


# ---------------------------------------------------------------- list


def test_list_counts_artefacts_and_bytes_by_kind_and_sweep(store: LocalStore, run: Run) -> None:
    publish(store, [teacher(), teacher(seed=1), distill(teacher())])
    write_needed(store, "one", [distill(teacher())])
    lines = [line.split() for line in run("list").splitlines() if line]
    assert [line[:2] for line in lines[:4]] == [
        ["kind", "artefacts"],
        ["distill", "1"],
        ["teacher", "2"],
        ["together", "3"],
    ]
    assert [line[:-2] for line in lines[5:]] == [["(no", "sweep)", "1"], ["one", "2"]]
    assert lines[3][-1] == "kB" and 6.0 < float(lines[3][-2]) < 12.0
    assert run("list", "--sweep", "one").split()[-3:-2] == ["2"]
    assert "teacher" not in run("list", "--kind", "distill")


def test_list_shows_artefacts_one_by_one(store: LocalStore, run: Run) -> None:
    nodes = [teacher(), distill(teacher())]
    publish(store, nodes)
    write_needed(store, "one", [teacher()])
    long = run("list", "--long").splitlines()
    assert [line.split()[0] for line in long] == sorted(node.key for node in nodes)
    (line,) = [line for line in long if line.startswith(teacher().key)]
    assert "  teacher stare seed 0  " in line and "kB  20" in line and "torch" in line and line.endswith("  one")
    (row,) = [json.loads(line) for line in run("list", "--json", "--kind", "distill").splitlines()]
    assert (row["key"], row["kind"], row["sweeps"], row["labels"]) == (nodes[1].key, "distill", [], {"source": "stare"})
    assert row["bytes"] > 2000 and row["versions"]["gkd_bench"] and not row["damaged"]


def test_a_damaged_artefact_is_listed_as_one(store: LocalStore, run: Run) -> None:
    publish(store, [teacher()])
    (store.root / "artefacts" / teacher().key[:2] / teacher().key / "manifest.json").write_text("{")
    assert "(damaged)" in run("list") and "(damaged)" in run("list", "--long")
    assert json.loads(run("list", "--json"))["damaged"] is True


# ---------------------------------------------------------------- verify


def test_verify_is_silent_about_a_whole_store_and_counts_problems(store: LocalStore, run: Run) -> None:
    publish(store, [teacher(), distill(teacher())])
    write_needed(store, "one", [distill(teacher())])
    assert run("verify") == "everything is whole\n"
    (store.root / "artefacts" / teacher().key[:2] / teacher().key / "a.bin").write_bytes(b"x")
    problem, summary = run("verify", code=1).splitlines()
    assert teacher().key in problem and "torn: 1 bytes, not 2000" in problem and "rm -r" in problem
    assert summary == "1 problem, 1 left"
    assert run("verify", "one", code=1).splitlines()[0] == problem
    assert run("verify", distill(teacher()).key) == "everything is whole\n"
    removed = run("verify", "--remove").splitlines()
    assert removed == [f"removed: {problem}", "1 problem, 0 left"]
    assert not store.has(teacher().key)
    assert "no artefact or sweep 'on' in the store" in run("verify", "on", code=cli.EXIT_ERROR)


# ---------------------------------------------------------------- explain


def test_explain_tells_what_an_artefact_is(store: LocalStore, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(packing, "package_versions", lambda: {"torch": "1.0", "made_up": "2.0"})
        publish(store, [distill(teacher())])
    write_needed(store, "one", [distill(teacher())])
    shown = run("explain", distill(teacher()).key)
    assert shown.startswith(f"{distill(teacher()).key}: distill stare seed 0\n")
    assert "with made_up 2.0, torch 1.0 (now 2." in shown
    assert "needed by one\n" in shown and "settings  tile: 32\n" in shown and "data      source: stare@ab" in shown
    assert f"builds on teacher: {teacher().key} (NOT in the store)" in shown
    publish(store, [teacher()])
    assert f"builds on teacher: {teacher().key} (in the store)" in run("explain", distill(teacher()).key)


def test_explain_tells_why_a_stage_is_not_there(store: LocalStore, run: Run) -> None:
    old, new = teacher(), teacher(3)
    publish(store, [old, distill(old)])
    write_needed(store, "one", [new, distill(new)])
    store.blobs.write(f"failures/{new.key}.txt", b"Traceback")
    store.checkpoint_save(new.key, {"step": 1})
    shown = run("explain", new.key)
    assert f"{new.key} is not in the store: teacher stare seed 0, which one asked for" in shown
    assert f"nearest artefact: {old.key}" in shown and "settings.training.epochs 2 -> 3" in shown
    assert f"it failed: failures/{new.key}.txt" in shown and "goes on from its checkpoint" in shown
    shown = run("explain", distill(new).key)
    assert f"inputs.teacher {old.key} -> {new.key} (builds on another teacher)" in shown
    assert "      settings.training.epochs 2 -> 3" in shown.splitlines()
    assert "did you mean" in run("explain", new.key[:-1], code=cli.EXIT_ERROR)


def test_explain_of_a_sweep_file_groups_what_is_not_cached(store: LocalStore, run: Run) -> None:
    nodes = planned(conductor(store)).nodes
    publish(store, nodes)
    write_needed(store, "tiny", [node for node in nodes if node.kind != "distill"])  # others are read from artefacts
    assert run("explain", "tiny.yaml") == f"all {len(nodes)} stages are in the store\n"
    lines = run("explain", "tiny.yaml", "--set", "stages.teacher.epochs=3").splitlines()
    assert lines[0] == f"8 of {len(nodes)} stages are not in the store:"
    assert [line.split(": key")[0].split(": such")[0].strip() for line in lines[1:]] == [
        "teacher: settings.training.epochs 2 -> 3 (1 stage)",
        "distill: builds on another teacher (1 stage)",
        "stress: builds on another model (2 stages)",
        "evaluate: builds on another model (4 stages)",
    ]
    lines = run("explain", "tiny.yaml", "--set", "seeds=[0, 1]", "--kind", "distill").splitlines()
    assert lines[0] == "2 of 4 stages are not in the store:"
    assert lines[1].strip().startswith("distill: new: seed 1 (2 stages): such as ")
    assert "no-such.yaml" in run("explain", "no-such.yaml", code=cli.EXIT_ERROR)


# ---------------------------------------------------------------- prune, remove


def test_prune_says_what_would_go_and_removes_it_when_told(
    store: LocalStore, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, [teacher(), teacher(seed=1)])
    write_needed(store, "one", [teacher()], ended=True)
    assert run("prune").splitlines() == [
        "kept: 1 artefact that no sweep needs, not that old yet (--older-than)",
        "nothing to remove",
    ]
    lines = run("prune", "--older-than", "0d").splitlines()
    assert lines[0].startswith("artefacts that no sweep needs: 1 artefact, ")
    assert lines[-1].startswith("would remove ") and lines[-1].endswith("the same command with --yes removes it")
    assert store.has(teacher(seed=1).key)
    assert run("prune", "--older-than", "0d", "--yes").splitlines()[-1].startswith("removed ")
    assert not store.has(teacher(seed=1).key) and store.has(teacher().key)
    run("prune", "--older-than", "0d", "--sweep", "one", "--yes")
    assert not store.has(teacher().key)
    assert "such as 1d" in run("prune", "--older-than", "1", code=cli.EXIT_ERROR)


def test_prune_refuses_while_a_sweep_runs(store: LocalStore, run: Run) -> None:
    publish(store, [teacher()])
    with Ownership(store.blobs, "one", lambda reason: None, say=lambda text: None):
        for options in ([], ["--yes"]):
            refusal = run("prune", "--older-than", "0d", *options, code=cli.EXIT_ERROR)
            assert "sweep one is being run by" in refusal and f"process {os.getpid()}" in refusal
    assert store.has(teacher().key)


def test_remove(store: LocalStore, run: Run) -> None:
    publish(store, [teacher()])
    assert run("remove", teacher().key, teacher().key) == f"removed {teacher().key}; no sweep needs it\n"
    assert not store.has(teacher().key)
    assert "no artefact" in run("remove", teacher().key, code=cli.EXIT_ERROR)


def test_the_command_that_an_object_store_names_removes_its_artefact(s3_folder: str, run: Run) -> None:
    from gkd_bench.store.artefacts import open_store

    store = open_store(s3_folder)
    store.publish(teacher(), Draft())
    program, command, *arguments = store.removal(teacher().key).split()
    assert (program, command) == ("gkd-bench", "store")
    run(*arguments)
    assert not store.has(teacher().key)


@pytest.mark.parametrize("command", [["list"], ["verify"], ["explain", "abc"], ["prune"], ["remove", "abc"]])
def test_a_store_that_is_not_there_is_not_an_empty_one(command: list[str], run: Run) -> None:
    assert "there is no store at elsewhere" in run(*command, "--store", "elsewhere", code=cli.EXIT_ERROR)
    assert not Path("elsewhere").exists()


@pytest.mark.parametrize(
    "command", [["list", "--sweep", "vesel"], ["prune", "--sweep", "vesel"], ["verify", "vesel"], ["explain", "vesel"]]
)
def test_unknown_sweeps_are_refused_with_the_nearest_name(store: LocalStore, command: list[str], run: Run) -> None:
    write_needed(store, "vessel", [])
    assert "did you mean vessel?" in run(*command, code=cli.EXIT_ERROR)


# ---------------------------------------------------------------- the plan


def test_the_plan_estimates_from_artefacts_that_sweeps_list_and_from_others(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time per step of the slowest of a shape; and no manifest is opened of a shape that nothing is missing of."""
    one = conductor(store)
    nodes = planned(one)
    listed, other = nodes.by_kind()["teacher"], nodes.by_kind()["baseline"]
    publish(store, [*listed, *other], seconds=4.0)
    write_needed(store, "tiny", listed)
    there = set(store.keys())
    wanted = {shape_of(node) for node in (*listed, *other)}
    assert measured_rates(store, there, wanted) == dict.fromkeys(wanted, 0.5)  # 4 s, 2 epochs of 4 steps
    assert measured_rates(store, there, wanted - {shape_of(other[0])}) == {shape_of(listed[0]): 0.5}

    rows = {row.kind: row for row in preview(one)}
    assert (rows["teacher"].cached, rows["teacher"].total, rows["teacher"].steps) == (1, 1, 0)
    assert (rows["distill"].cached, rows["distill"].seconds) == (0, None)
    opened: list[Any] = []
    monkeypatch.setattr(store, "read_file", lambda key, name: opened.append(key))
    measured_rates(store, there, {shape_of(listed[0])})
    assert opened == [listed[0].key]


def test_the_plan_has_every_stage_once(store: LocalStore) -> None:
    nodes = planned(conductor(store))
    kinds = {kind: len(found) for kind, found in Graph(nodes.nodes).by_kind().items()}
    assert kinds == {"teacher": 1, "baseline": 1, "distill": 2, "stress": 4, "evaluate": 8, "efficiency": 2}
    assert len({node.key for node in nodes.nodes}) == len(nodes.nodes)

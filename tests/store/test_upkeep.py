"""What sweeps need, what lies in a store, whether it is whole, and what pruning takes away; on every back end."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from gkd_bench.errors import ClusterError, StoreError
from gkd_bench.store import packing
from gkd_bench.store.artefacts import Draft, LocalStore, ObjectStore, Store, open_store
from gkd_bench.store.blobs import Blobs
from gkd_bench.store.listing import listing, published, read_facts
from gkd_bench.store.needed import needed_keys, read_needs, read_planned, sweep_names, write_needed
from gkd_bench.store.node import StageNode
from gkd_bench.store.ownership import Ownership, current_owner
from gkd_bench.store.upkeep import Pruning, parse_age, plan_pruning, prune, refuse_running, remove
from gkd_bench.store.verify import Problem, verify_artefacts, verify_named, verify_store

NO_AGE, DAY = timedelta(0), timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path / "store" if request.param == "local" else request.getfixturevalue("s3_folder"))


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def stage(kind: str = "teacher", seed: int = 0, **inputs: str) -> StageNode:
    return StageNode(kind, {"width": 0.5}, seed, {"source": "stare@ab"}, inputs, labels={"source": "stare"})


def chain(seed: int = 0) -> tuple[StageNode, StageNode, StageNode]:
    """A teacher, a student and its score."""
    teacher = stage(seed=seed)
    student = stage("distill", seed, teacher=teacher.key)
    return teacher, student, stage("evaluate", seed, model=student.key)


def publish(store: Store, nodes: Iterable[StageNode], made: datetime | None = None) -> None:
    """Publish small artefacts, as if at another time."""
    with pytest.MonkeyPatch.context() as patch:
        if made:
            patch.setattr(packing, "datetime", _Clock(made))
        for node in nodes:
            store.publish(node, Draft(files={"a.bin": b"x" * 100}, summary={"seconds": 2.0}))


class _Clock:
    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self, zone: object) -> datetime:
        return self._now


def say(text: str) -> None:
    pass


def keys(*nodes: StageNode) -> set[str]:
    return {node.key for node in nodes}


def going(pruning: Pruning, what: str = "artefact") -> set[str]:
    return {one.name for one in pruning.leftovers if one.what == what}


# ---------------------------------------------------------------- what sweeps need


def test_stages_come_back_equal_and_their_order_does_not_count(store: Store) -> None:
    nodes = [*chain(), *chain(1)]
    write_needed(store, "one", nodes, ended=True)
    content = store.blobs.read("sweeps/one/stages.json")
    assert read_planned(store, "one") == {node.key: node for node in nodes}
    write_needed(store, "one", [*reversed(nodes), nodes[0]], ended=True)
    assert store.blobs.read("sweeps/one/stages.json") == content
    assert all(key == node.key for key, node in read_planned(store, "one").items())


def test_equal_settings_are_written_once(local: LocalStore) -> None:
    nodes = [replace(stage(seed=seed), settings={"long": "x" * 1000}) for seed in range(50)]
    write_needed(local, "one", nodes)
    content = local.blobs.read("sweeps/one/stages.json")
    assert content is not None and len(content) < 1000 + 50 * 400
    assert read_planned(local, "one") == {node.key: node for node in nodes}


def test_a_sweep_needs_its_stages_its_report_and_all_that_they_build_on(store: Store) -> None:
    planned, reported, other = chain(), chain(1), chain(2)
    publish(store, [*planned, *reported, *other])
    write_needed(store, "one", [planned[2]])  # the student between it and its teacher is known by its artefact alone
    tree = {"origin": {}, "stages": [reported[2].to_json(), reported[1].to_json()]}
    store.blobs.write("sweeps/one/origin.json", json.dumps(tree).encode())
    write_needed(store, "one-two", [other[0]])
    needed = needed_keys(store)
    assert {key for key, sweeps in needed.items() if "one" in sweeps} == keys(*planned, *reported)
    assert {key for key, sweeps in needed.items() if "one-two" in sweeps} == keys(other[0])


def test_sweeps_are_told_by_what_they_wrote_not_by_who_ran_them(store: Store) -> None:
    with Ownership(store.blobs, "begun", say, say=say):
        pass
    store.log("sweeps/old/journal").append({"record": "trial"})
    write_needed(store, "one", [])
    assert sweep_names(store) == ["old", "one"]
    assert [(need.sweep, need.listed, need.torn) for need in read_needs(store)] == [
        ("old", False, ""),
        ("one", True, ""),
    ]


def test_the_beginning_of_runs_that_did_not_end_is_kept_until_one_does(local: LocalStore) -> None:
    def since() -> datetime | None:
        return read_needs(local)[0].since

    write_needed(local, "one", [])
    tree = json.loads(local.blobs.read("sweeps/one/stages.json") or b"")
    local.blobs.write("sweeps/one/stages.json", json.dumps({**tree, "begun": LONG_AGO.isoformat()}).encode())
    write_needed(local, "one", [])
    assert since() == LONG_AGO
    write_needed(local, "one", [], ended=True)
    assert since() is None
    write_needed(local, "one", [])
    assert (since() or LONG_AGO) > datetime.now(UTC) - timedelta(minutes=1)


def test_a_list_of_a_newer_version_is_refused(local: LocalStore) -> None:
    write_needed(local, "one", [])
    tree = json.loads(local.blobs.read("sweeps/one/stages.json") or b"")
    local.blobs.write("sweeps/one/stages.json", json.dumps({**tree, "format": 99}).encode())
    with pytest.raises(StoreError, match=r"sweeps/one/stages\.json: format 99 is newer; update gkd_bench"):
        plan_pruning(local)


# ---------------------------------------------------------------- what lies there


def test_one_listing_tells_keys_and_sizes_and_what_belongs_to_nothing(store: Store) -> None:
    nodes = chain()
    publish(store, nodes)
    store.publish(stage("semantic"), Draft())  # a manifest alone
    there = sorted([*keys(*nodes), stage("semantic").key])
    _leave_draft(store, "0" * 24)
    found = listing(store)
    assert published(store) == list(found.artefacts) == there == list(store.keys())
    manifest = store.read_file(nodes[0].key, "manifest.json") or b""
    assert 100 + len(manifest) <= found.artefacts[nodes[0].key] <= 100 + len(manifest) + 40
    assert sum(found.drafts.values()) == 3 and all("0" * 24 in name for name in found.drafts)


def test_of_several_drafts_of_a_key_the_published_one_is_its_own(s3_folder: str) -> None:
    store = open_store(s3_folder)
    publish(store, [stage()])
    _leave_draft(store, stage().key)
    assert list(listing(store).drafts) == [f"artefacts/{stage().key}/dead/a.bin"]
    assert listing(store).artefacts[stage().key] > 100


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert (published(store), listing(store).artefacts, sweep_names(store), needed_keys(store)) == ([], {}, [], {})
    assert list(verify_store(store)) == []


def test_facts_are_read_in_order_and_damaged_ones_say_so(local: LocalStore) -> None:
    nodes = {node.key: node for node in chain()}
    publish(local, nodes.values())
    torn, newer = sorted(nodes)[:2]
    _rewrite(local, torn, "manifest.json", b"{")
    _rewrite(local, newer, "manifest.json", b'{"format": 99}')
    facts = list(read_facts(local, [*sorted(nodes), "absent"]))
    assert [one.key for one in facts] == sorted(nodes)
    assert [one.node for one in facts] == [None, None, nodes[sorted(nodes)[2]]]
    assert [one.newer for one in facts] == [False, True, False]
    assert facts[2].seconds == 2.0 and facts[2].versions["torch"] == torch.__version__


def _leave_draft(store: Store, key: str) -> None:
    """What a publisher that died leaves behind."""
    place = f"artefacts/{key}/dead" if isinstance(store, ObjectStore) else f"artefacts/{key[:2]}/{key}"
    store.blobs.write(f"{place}/a.bin", b"xyz")


def _rewrite(store: Store, key: str, name: str, content: bytes) -> None:
    """Replace a file of an artefact, whatever the back end."""
    (place,) = [blob for blob, _ in store.blobs.names("artefacts") if key in blob and blob.endswith(f"/{name}")]
    store.blobs.write(place, content)


# ---------------------------------------------------------------- whether it is whole


def test_a_whole_store_has_no_problems(store: Store) -> None:
    publish(store, chain())
    write_needed(store, "one", chain())
    store.log("sweeps/one/journal").append({"record": "trial"})
    store.checkpoint_save("ab-vector", {"step": 1})
    _prepare(store)
    assert list(verify_store(store)) == []
    assert list(verify_named(store, "one")) == []
    assert list(verify_named(store, stage().key)) == []


def test_every_kind_of_damage_is_one_line_and_what_can_be_made_again_is_removed(store: Store) -> None:
    teacher, student, score = chain()
    publish(store, [teacher, student, score])
    write_needed(store, "one", [score, student])
    _rewrite(store, student.key, "a.bin", b"y" * 100)
    store.checkpoint_save(score.key, {"step": 1})
    store.blobs.write(f"checkpoints/{score.key}.pt", (store.blobs.read(f"checkpoints/{score.key}.pt") or b"")[:-3])
    _prepare(store)
    store.blobs.write("data/stare/ab/images.npy", b"other")
    _leave_draft(store, "0" * 24)
    store.blobs.write("sweeps/one/timings.jsonl", b"{]\n")
    problems = list(verify_store(store))
    assert [problem.text.split(":")[0] for problem in problems] == [
        f"artefact {student.key} (distill stare seed 0)",
        f"checkpoints/{score.key}.pt",
        "sweeps/one/timings.jsonl, line 1",
        "left by publishers that died",
        "data/stare/ab",
    ]
    assert "a.bin: does not match its checksum; remove it, and the next run" in problems[0].text
    assert all("\n" not in problem.text and problem.discard for problem in problems)
    assert {p.text for p in problems} - {p.text for p in verify_named(store, "one")} == {problems[3].text}
    _discard(problems)
    assert list(verify_store(store)) == []
    assert set(published(store)) == keys(teacher, score)
    assert store.blobs.read("data/stare/ab/manifest.json") is None


def test_a_torn_manifest_and_a_missing_file_are_found(store: Store) -> None:
    publish(store, chain())
    first, second, third = chain()
    if isinstance(store, ObjectStore):
        store.blobs.write(f"manifests/{first.key}", (store.blobs.read(f"manifests/{first.key}") or b"")[:60])
    else:
        _rewrite(store, first.key, "manifest.json", b"{")
    (lost,) = [name for name, _ in store.blobs.names("artefacts") if second.key in name and name.endswith("a.bin")]
    store.blobs.delete(lost)
    found = {next(k for k in keys(first, second) if k in p.text): p for p in verify_store(store)}
    assert "manifest.json: torn or not JSON" in found[first.key].text
    assert "a.bin: missing" in found[second.key].text
    _discard(found.values())
    assert published(store) == [third.key]


def test_what_only_a_person_can_mend_is_left(store: Store) -> None:
    write_needed(store, "one", [])
    log = "sweeps/one/journal.jsonl" if isinstance(store, LocalStore) else "sweeps/one/journal/00000001-a.jsonl"
    store.blobs.write(log, b'{"record": "trial"}\n{]\n{"record": "trial"}\n')
    store.blobs.write("sweeps/two/stages.json", b"{")
    problems = list(verify_store(store))
    assert [problem.discard for problem in problems] == [None, None]
    assert "line 2: not a JSON record" in problems[0].text and "sweeps/one" in problems[0].text
    assert problems[1].text.startswith("sweeps/two: stages.json is torn")


def test_an_artefact_of_a_newer_version_is_not_taken_for_damaged(local: LocalStore) -> None:
    publish(local, [stage()])
    manifest = json.loads(local.read_file(stage().key, "manifest.json") or b"")
    manifest |= {"format": 99}
    del manifest["checksum"]
    manifest["checksum"] = packing.sha256(packing.canonical_json(manifest).encode())
    _rewrite(local, stage().key, "manifest.json", json.dumps(manifest).encode())
    (problem,) = verify_store(local)
    assert problem.discard is None and "update gkd_bench" in problem.text
    assert plan_pruning(local, NO_AGE).remarks == ("kept: 1 artefact of a newer version of gkd_bench",)


def test_what_is_removed_while_it_is_verified_is_no_problem(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(local, [stage()])
    read = local.read_file

    def removing(key: str, name: str) -> bytes | None:
        content = read(key, name)
        local.delete(key)
        return content

    monkeypatch.setattr(local, "read_file", removing)
    assert list(verify_artefacts(local, [stage().key, "absent"])) == []


def test_drafts_are_no_problem_while_a_sweep_runs(store: Store) -> None:
    _leave_draft(store, "0" * 24)
    with Ownership(store.blobs, "one", say, say=say):
        assert list(verify_store(store)) == []
    assert len(list(verify_store(store))) == 1


def test_manifests_of_prepared_data_lead_nowhere_else(local: LocalStore) -> None:
    _prepare(local, {"../../../secret": packing.sha256(b"secret")})
    local.blobs.write("secret", b"secret")
    (problem,) = verify_store(local)
    assert "../../../secret missing or damaged" in problem.text
    _discard([problem])
    assert local.blobs.read("secret") == b"secret"


def _prepare(store: Store, checksums: dict[str, str] | None = None) -> None:
    store.blobs.write("data/stare/ab/images.npy", b"images")
    manifest = {"checksums": checksums or {"images.npy": packing.sha256(b"images")}}
    store.blobs.write("data/stare/ab/manifest.json", json.dumps(manifest).encode())
    store.blobs.write("data/stare/cd/images.npy", b"still being written")
    store.blobs.write("data/digests.json", b"{}")


def _discard(problems: Iterable[Problem]) -> None:
    for problem in problems:
        assert problem.discard is not None
        problem.discard()


# ---------------------------------------------------------------- pruning


def test_pruning_keeps_what_a_sweep_needs_and_removes_the_rest(store: Store) -> None:
    kept, loose, young = chain(), chain(1), chain(2)
    publish(store, [*kept, *loose], LONG_AGO)
    publish(store, young)
    write_needed(store, "one", [kept[2]], ended=True)
    for name in (kept[0].key, f"{loose[0].key}-vector", "f" * 24):
        store.checkpoint_save(name, {"step": 1})
    store.blobs.write(f"failures/{loose[1].key}.txt", b"Traceback")
    _leave_draft(store, "0" * 24)
    store.blobs.write("ray/1577836800-ab/run/state.json", b"{}")
    store.blobs.write(f"ray/{datetime.now(UTC).timestamp():.0f}-cd/state.json", b"{}")
    write_needed(store, "two", [stage("semantic")], ended=True)
    store.checkpoint_save(stage("semantic").key, {"step": 1})
    before = dict(store.blobs.names(""))

    planned = plan_pruning(store, DAY)
    assert going(planned) == keys(*loose)
    assert {name.partition("/")[2] for name in going(planned, "checkpoint")} == {
        f"{kept[0].key}.pt",
        f"{loose[0].key}-vector.pt",
        f"{'f' * 24}.pt",
    }
    assert going(planned, "traceback") == {f"failures/{loose[1].key}.txt"}
    assert len(going(planned, "draft")) == 1
    assert going(planned, "run folder") == {"ray/1577836800-ab/run/state.json"}
    assert planned.remarks == ("kept: 3 artefacts that no sweep needs, not that old yet (--older-than)",)
    assert dict(store.blobs.names("")) == before

    assert prune(store, DAY, (), say) == planned
    assert set(published(store)) == keys(*kept, *young)
    assert list(verify_store(store)) == []
    assert store.checkpoint_load(stage("semantic").key) == {"step": 1}
    left = [name for name, _ in store.blobs.names("ray")]
    assert len(left) == 1 and left[0].endswith("-cd/state.json")
    assert prune(store, DAY, (), say).leftovers == ()


def test_pruning_leaves_no_empty_folders(local: LocalStore) -> None:
    local.blobs.write("ray/1577836800-ab/run/state.json", b"{}")
    local.blobs.write("checkpoints/ff.pt", b"x")
    prune(local, DAY, (), say)
    assert not (local.root / "ray").exists() and local.root.is_dir()


def test_a_forgotten_sweep_protects_nothing(store: Store) -> None:
    both, own = chain(), chain(1)
    publish(store, [*both, *own], LONG_AGO)
    write_needed(store, "one", both, ended=True)
    write_needed(store, "one-small", [*both, *own])
    store.log("sweeps/one-small/journal").append({"record": "trial"})
    planned = plan_pruning(store, DAY, ["one-small"])
    assert going(planned) == keys(*own)
    assert all(name.startswith("sweeps/one-small/") for name in going(planned, "sweep"))
    prune(store, DAY, ["one-small"], say)
    assert set(published(store)) == keys(*both)
    assert sweep_names(store) == ["one"]
    assert store.log("sweeps/one-small/journal").read() == []


def test_an_unknown_sweep_is_not_forgotten(store: Store) -> None:
    write_needed(store, "vessel_cross", [])
    with pytest.raises(StoreError, match=r"no sweep 'vesel_cross' .* did you mean vessel_cross\?"):
        prune(store, DAY, ["vesel_cross"], say)


def test_what_a_run_that_did_not_end_may_have_made_is_kept(store: Store) -> None:
    """A trial's student is on no list before the trial has ended; the next run would train it again."""
    before, since = chain(), chain(1)
    publish(store, before, LONG_AGO)
    publish(store, since)
    store.checkpoint_save("f" * 24, {"step": 1})
    write_needed(store, "one", [])
    planned = plan_pruning(store, NO_AGE)
    assert going(planned) == keys(*before)
    assert going(planned, "checkpoint") == set()
    assert planned.remarks == (
        "kept: 3 artefacts that may be of one (not run to its end); run it to its end, or forget it with --sweep",
    )
    write_needed(store, "one", [], ended=True)
    planned = plan_pruning(store, NO_AGE)
    assert going(planned) == keys(*before, *since)
    assert len(going(planned, "checkpoint")) == 1


@pytest.mark.parametrize("stages", [None, b"{"])
def test_of_a_sweep_whose_stages_are_not_known_nothing_is_removed(local: LocalStore, stages: bytes | None) -> None:
    publish(local, chain(), LONG_AGO)
    local.log("sweeps/one/journal").append({"record": "trial"})
    if stages:
        local.blobs.write("sweeps/one/stages.json", stages)
    planned = plan_pruning(local, NO_AGE)
    assert going(planned) == set()
    assert ("torn" if stages else "no list of its stages") in planned.remarks[0]
    assert going(plan_pruning(local, NO_AGE, ["one"])) == keys(*chain())


def test_a_damaged_artefact_that_nobody_needs_goes(local: LocalStore) -> None:
    publish(local, [stage()])
    _rewrite(local, stage().key, "manifest.json", b"{")
    prune(local, DAY, (), say)
    assert published(local) == []


def test_nothing_is_pruned_while_a_sweep_runs(store: Store) -> None:
    publish(store, chain(), LONG_AGO)
    with Ownership(store.blobs, "begun", say, say=say):  # it has written nothing else yet
        with pytest.raises(ClusterError, match=rf"sweep begun is being run by .*\(process {os.getpid()}"):
            prune(store, DAY, (), say)
        with pytest.raises(ClusterError, match=rf"sweep begun is being run by .*\(process {os.getpid()}"):
            refuse_running(store)
    refuse_running(store)
    assert set(published(store)) == keys(*chain())


def test_no_sweep_starts_while_pruning(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(local, chain(), LONG_AGO)
    write_needed(local, "one", [], ended=True)
    delete, refused = local.delete, []

    def deleting(key: str) -> None:
        with pytest.raises(ClusterError, match="is being run by") as caught:
            Ownership(local.blobs, "one", say, say=say).__enter__()
        refused.append(caught)
        delete(key)

    monkeypatch.setattr(local, "delete", deleting)
    prune(local, DAY, (), say)
    assert len(refused) == 3 and published(local) == []
    assert current_owner(local.blobs, "one") is None


def test_nothing_is_pruned_when_a_sweep_begins_meanwhile(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is just writing looks like the rest of a publisher that died."""
    publish(local, chain(), LONG_AGO)

    def planning(*arguments: object) -> Pruning:
        Ownership(local.blobs, "new", say, say=say).__enter__().__exit__(None, None, None)
        return plan_pruning(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("gkd_bench.store.upkeep.plan_pruning", planning)
    with pytest.raises(ClusterError, match="sweep new was begun meanwhile"):
        prune(local, DAY, (), say)
    assert set(published(local)) == keys(*chain())


def test_pruning_stops_when_a_sweep_is_taken(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the machine slept: another driver took the sweep for ended, and runs it."""
    publish(local, [*chain(), *chain(1), *chain(2), *chain(3)], LONG_AGO)
    write_needed(local, "one", [], ended=True)
    heard = threading.Event()

    def quick(blobs: Blobs, sweep: str, lost: Callable[[str], None], say: Callable[[str], None]) -> Ownership:
        return Ownership(blobs, sweep, lambda reason: (lost(reason), heard.set())[0], beat=0.05, say=say)

    monkeypatch.setattr("gkd_bench.store.upkeep.Ownership", quick)
    delete = local.delete

    def deleting(key: str) -> None:
        owner = current_owner(local.blobs, "one")
        assert owner is not None
        local.blobs.write("sweeps/one/owner/00000002", json.dumps(asdict(owner)).encode())
        assert heard.wait(60)
        delete(key)

    monkeypatch.setattr(local, "delete", deleting)
    with pytest.raises(ClusterError, match="sweep one was taken over by"):
        prune(local, DAY, (), say)
    assert len(published(local)) >= 4


@pytest.mark.parametrize(("text", "age"), [("90m", 5400), ("12h", 43200), ("1d", 86400), ("1.5w", 907200), ("0d", 0)])
def test_ages(text: str, age: float) -> None:
    assert parse_age(text).total_seconds() == age


@pytest.mark.parametrize("text", ["1", "d", "-1d", "1y", "1 d", "1d2h", ""])
def test_other_ages_are_refused(text: str) -> None:
    with pytest.raises(StoreError, match="such as 1d"):
        parse_age(text)


# ---------------------------------------------------------------- removing one


def test_an_artefact_is_removed_with_its_checkpoints(store: Store) -> None:
    teacher, student, score = chain()
    publish(store, [teacher, student, score])
    write_needed(store, "one", [student])
    store.checkpoint_save(f"{teacher.key}-vector", {"step": 1})
    store.checkpoint_save(student.key, {"step": 2})
    assert remove(store, [teacher.key, score.key]) == [
        f"removed {teacher.key}; the next run of one computes it again",
        f"removed {score.key}; no sweep needs it",
    ]
    assert published(store) == [student.key]
    assert [name for name, _ in store.blobs.names("checkpoints")] == [f"checkpoints/{student.key}.pt"]


def test_a_damaged_artefact_is_removed(store: Store) -> None:
    publish(store, [stage()])
    name = f"manifests/{stage().key}" if isinstance(store, ObjectStore) else None
    if name:
        store.blobs.write(name, b"torn")
    else:
        _rewrite(store, stage().key, "manifest.json", b"torn")
    remove(store, [stage().key])
    assert published(store) == []


def test_of_unknown_keys_nothing_is_removed_and_the_nearest_is_named(store: Store) -> None:
    publish(store, [stage()])
    wrong = f"{stage().key[:-1]}{'0' if stage().key[-1] != '0' else '1'}"
    with pytest.raises(StoreError, match=rf"no artefact '{wrong}' in the store .*: did you mean {stage().key}\?"):
        remove(store, [stage().key, wrong])
    assert published(store) == [stage().key]
    with pytest.raises(StoreError, match="is not an artefact key"):
        remove(store, ["../x"])

"""One conformance suite for every store back end: a new back end is one more entry of ``BACK_ENDS``."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gkd_bench.errors import StoreError, StoreUnavailable
from gkd_bench.store.artefacts import Draft, LocalStore, Store, open_store
from gkd_bench.store.node import StageNode

ROOT = Path(__file__).parents[2]
BACK_ENDS = ("local", "s3")


def node(seed: int = 0, kind: str = "teacher") -> StageNode:
    return StageNode(kind, {"width": 0.5}, seed, {"source": "phantom_clear@abc"}, labels={"source": "phantom_clear"})


def draft(value: float = 1.0) -> Draft:
    weight = torch.full((3, 4), value)
    return Draft(
        tensors={"network": {"weight": weight, "tied": weight, "count": torch.tensor(7)}},
        files={"overlays/01.png": b"\x89PNG", "note.txt": b"hello"},
        records=[{"record": "epoch", "epoch": 1, "val/dice": 0.5}, {"record": "epoch", "epoch": 2, "val/dice": None}],
        summary={"score": 0.5, "value": value},
    )


@pytest.fixture(params=BACK_ENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty store of every back end."""
    if request.param == "local":
        return str(tmp_path / "store")
    address: str = request.getfixturevalue("s3_folder")
    return address


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def _damage(
    store: Store, key: str, name: str, change: Callable[[bytes], bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the back end return changed bytes for one file; works for any back end."""
    read = store.read_file

    def damaged(asked: str, file: str) -> bytes | None:
        content = read(asked, file)
        return change(content) if content is not None and (asked, file) == (key, name) else content

    monkeypatch.setattr(store, "read_file", damaged)


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


# ---------------------------------------------------------------- artefacts


def test_published_artefact_comes_back_equal(store: Store) -> None:
    assert not store.has(node().key)
    store.publish(node(), draft())
    artefact = store.get(node().key)
    assert store.has(node().key)
    assert (artefact.key, artefact.kind, artefact.node) == (node().key, "teacher", node())
    assert artefact.summary == {"score": 0.5, "value": 1.0}
    assert sorted(artefact.files()) == ["note.txt", "overlays/01.png"]
    assert artefact.bytes("overlays/01.png") == b"\x89PNG"
    assert [r["val/dice"] for r in artefact.records()] == [0.5, None]
    state = artefact.tensors("network")
    assert torch.equal(state["weight"], torch.ones(3, 4))
    assert torch.equal(state["tied"], torch.ones(3, 4))
    assert state["count"].item() == 7
    assert artefact.manifest["versions"]["torch"] == torch.__version__


def test_module_state_survives_bit_for_bit(store: Store) -> None:
    convolution = torch.nn.Conv2d(2, 4, 3)
    convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)
    assert not convolution.weight.is_contiguous()
    network = torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(4))
    store.publish(node(), Draft(tensors={"network": network.state_dict()}))
    loaded = store.get(node().key).tensors("network")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())


def test_empty_draft_is_an_artefact(store: Store) -> None:
    artefact = store.publish(node(), Draft())
    assert (artefact.files(), artefact.records(), artefact.summary) == ([], [], {})


def test_missing_artefact_says_key_and_advice(store: Store) -> None:
    with pytest.raises(StoreError, match=r"abcdef is not in the store; run the sweep"):
        store.get("abcdef")


def test_unknown_name_lists_what_there_is(store: Store) -> None:
    artefact = store.publish(node(), draft())
    with pytest.raises(StoreError, match=r"note\.txt"):
        artefact.bytes("nothing.txt")
    with pytest.raises(StoreError, match=r"network\.safetensors"):
        artefact.tensors("teacher")


def test_keys_by_kind_and_describe(store: Store) -> None:
    nodes = [node(0), node(1), node(0, "distill")]
    for each in nodes:
        store.publish(each, Draft())
    assert list(store.keys()) == sorted(n.key for n in nodes)
    assert list(store.keys("distill")) == [nodes[2].key]
    assert list(store.keys("nothing")) == []
    assert store.describe(nodes[2].key)["kind"] == "distill"


def test_deleted_artefact_is_gone_and_can_be_published_again(store: Store) -> None:
    store.publish(node(), draft(1.0))
    store.delete(node().key)
    store.delete(node().key)
    assert not store.has(node().key)
    assert store.publish(node(), draft(2.0)).summary["value"] == 2.0


def test_first_publication_stays(store: Store) -> None:
    store.publish(node(), draft(1.0))
    assert store.publish(node(), draft(2.0)).summary["value"] == 1.0
    assert float(store.get(node().key).tensors("network")["weight"][0, 0]) == 1.0


@pytest.mark.parametrize("summary", [{"x": math.nan}, {"x": object()}])
def test_summary_must_be_json(store: Store, summary: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="summary of teacher"):
        store.publish(node(), Draft(summary=summary))
    assert not store.has(node().key)


def test_nested_record_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="field 'params'"):
        store.publish(node(), Draft(records=[{"params": {"a": 1}}]))
    assert not store.has(node().key)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../b", "", "a//b", ".hidden", "a\\b", "a\x00b", "a/./b"])
def test_unsafe_file_names_are_refused(store: Store, name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unsafe name"):
        store.publish(node(), Draft(files={name: b"x"}))
    with pytest.raises(StoreError, match="unsafe name"):
        store.publish(node(), Draft(tensors={f"../{name}": {}}))
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", ["manifest.json", "records.jsonl", "network.safetensors"])
def test_reserved_file_names_are_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="reserved"):
        store.publish(node(), Draft(files={name: b"x"}))


@pytest.mark.parametrize("key", ["../x", "a/b", "", ".", "..", "a" * 200, "a\n"])
def test_unsafe_keys_are_refused_everywhere(store: Store, key: str) -> None:
    calls = (store.has, store.get, store.delete, store.describe, store.checkpoint_load, store.checkpoint_drop)
    for call in (*calls, lambda k: store.checkpoint_save(k, {}), lambda k: store.read_file(k, "manifest.json")):
        with pytest.raises(StoreError, match="not an artefact key"):
            call(key)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["manifest.json", "network.safetensors", "records.jsonl", "note.txt"])
@pytest.mark.parametrize("change", [_flip, lambda b: b[: len(b) // 2], lambda b: None], ids=["flip", "short", "gone"])
def test_damaged_file_is_found_on_open_and_named(
    store: Store, name: str, change: Callable[[bytes], bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(node(), draft())
    assert store.verify(node().key) == []
    _damage(store, node().key, name, change, monkeypatch)
    expected = (
        "not in the store" if name == "manifest.json" and change(b"12") is None else rf"{node().key}, file {name}"
    )
    with pytest.raises(StoreError, match=expected):
        store.get(node().key)
    assert len(store.verify(node().key)) == 1


def test_lazy_open_checks_each_file_when_it_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish(node(), draft())
    _damage(store, node().key, "network.safetensors", _flip, monkeypatch)
    artefact = store.get(node().key, verify=False)
    assert len(artefact.records()) == 2
    with pytest.raises(StoreError, match=r"network\.safetensors.*checksum"):
        artefact.tensors("network")


def test_checksum_is_computed_once_per_open(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish(node(), draft())
    artefact = store.get(node().key)
    monkeypatch.setattr("gkd_bench.store.packing.sha256", lambda content: pytest.fail("hashed again"))
    assert artefact.bytes("note.txt") == b"hello"
    assert artefact.tensors("network")


def test_manifest_of_another_key_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish(node(0), draft())
    store.publish(node(1), draft())
    other = store.read_file(node(1).key, "manifest.json")
    _damage(store, node(0).key, "manifest.json", lambda content: other, monkeypatch)
    with pytest.raises(StoreError, match=f"belongs to {node(1).key}"):
        store.get(node(0).key)


def test_damaged_artefact_is_discarded_and_a_whole_one_kept(local: LocalStore) -> None:
    artefact = local.publish(node(), draft())
    assert not local.discard_corrupt(node().key)
    path = next(local.root.rglob("network.safetensors"))
    path.write_bytes(_flip(path.read_bytes()))
    assert artefact.verify() == ["network.safetensors: does not match its checksum"]
    assert local.discard_corrupt(node().key)
    assert not local.has(node().key)


def test_a_store_that_is_away_does_not_cost_an_artefact(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    local.publish(node(), draft())

    def away(path: Path) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "read_bytes", away)
    for look in (local.discard_corrupt, local.verify, local.get):
        with pytest.raises(StoreUnavailable, match=r"cannot be reached \(Stale file handle\); .*same command again"):
            look(node().key)
    monkeypatch.undo()
    assert local.has(node().key)


@pytest.mark.parametrize("name", ["manifest.json", "network.safetensors"])
@pytest.mark.parametrize("verify", [True, False])
def test_error_of_a_damaged_artefact_gives_the_command_that_lets_the_sweep_go_on(
    tmp_path: Path, name: str, verify: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = LocalStore(Path("my store"))  # a relative path, with a blank
    local.publish(node(), draft())
    local.publish(node(1), draft())
    path = next(local.root.rglob(f"{node().key}/{name}"))
    path.write_bytes(_flip(path.read_bytes()))
    with pytest.raises(StoreError) as caught:
        local.get(node().key, verify=verify).tensors("network")
    advice, separator, folder = str(caught.value).partition("rm -r ")
    assert separator and "run the sweep again" in advice
    monkeypatch.chdir("/")
    subprocess.run(f"rm -r {folder}", shell=True, check=True)
    monkeypatch.chdir(tmp_path)
    assert (local.has(node().key), local.has(node(1).key)) == (False, True)
    assert local.publish(node(), draft()).verify() == []


def test_publishing_replaces_a_damaged_artefact(local: LocalStore) -> None:
    local.publish(node(), draft(1.0))
    path = next(local.root.rglob("note.txt"))
    path.write_bytes(b"jello")
    assert local.publish(node(), draft(2.0)).summary["value"] == 2.0
    assert local.verify(node().key) == []


# ---------------------------------------------------------------- many at once


def test_concurrent_threads_all_get_the_first_artefact(store: Store) -> None:
    barrier = threading.Barrier(6)
    won: list[float] = []

    def publish(value: float) -> None:
        barrier.wait()
        won.append(store.publish(node(), draft(value)).summary["value"])

    threads = [threading.Thread(target=publish, args=(float(v),)) for v in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 6
    assert len(set(won)) == 1
    assert store.verify(node().key) == []


_PUBLISHER = """
import sys
from gkd_bench.store.artefacts import Draft, open_store
from gkd_bench.store.node import StageNode
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for seed in range(20):
    won = store.publish(StageNode("teacher", {}, seed, {}), Draft(files={"big": sys.argv[2].encode() * 100_000}))
    print(won.key, won.bytes("big")[:1].decode())
"""


def test_concurrent_processes_all_get_the_first_artefact(url: str) -> None:
    publishers = [
        subprocess.Popen(
            [sys.executable, "-c", _PUBLISHER, url, str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for n in range(3)
    ]
    assert [publisher.stdout.readline() for publisher in publishers if publisher.stdout] == ["ready\n"] * 3
    for publisher in publishers:
        assert publisher.stdin is not None
        publisher.stdin.write("go\n")
        publisher.stdin.flush()
    outputs = [publisher.communicate(timeout=60)[0] for publisher in publishers]
    assert all(publisher.returncode == 0 for publisher in publishers)
    assert len(outputs[0].split()) == 40
    assert len(set(outputs)) == 1
    assert all(open_store(url).verify(key) == [] for key in open_store(url).keys())  # noqa: SIM118


# ---------------------------------------------------------------- checkpoints


def test_checkpoint_round_trip_replace_and_drop(store: Store) -> None:
    assert store.checkpoint_load("abcdef") is None
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "history": [{"epoch": 1, "val/dice": 0.5}],
        "generator": torch.Generator().manual_seed(3).get_state(),
        "big": 2**100,
        "best": None,
        "shape": (1, 2),
        "ordered": OrderedDict(a=1),
    }
    store.checkpoint_save("abcdef", {"epoch": 0})
    store.checkpoint_save("abcdef", state)
    loaded = store.checkpoint_load("abcdef")
    assert loaded is not None
    assert torch.equal(loaded["network"]["weight"], network.weight)
    optimiser.load_state_dict(loaded["optimiser"])
    assert all(loaded[name] == state[name] for name in ("history", "big", "best", "shape", "ordered"))
    store.checkpoint_drop("abcdef")
    store.checkpoint_drop("abcdef")
    assert store.checkpoint_load("abcdef") is None


def test_checkpoint_that_could_not_be_read_back_is_refused(store: Store) -> None:
    with pytest.raises(StoreError) as caught:
        store.checkpoint_save("abcdef", {"a": np.float64(1.0), "b": [object()], "c": {(1, 2): 1}, "fine": 1.0})
    message = str(caught.value)
    assert all(place in message for place in ("state['a']: float64", "state['b'][0]: object", "key (1, 2) is a tuple"))
    assert "fine" not in message
    assert store.checkpoint_load("abcdef") is None


def test_checkpoint_is_never_an_artefact(store: Store) -> None:
    store.checkpoint_save(node().key, {"epoch": 1})
    assert not store.has(node().key)
    assert list(store.keys()) == []


@pytest.mark.parametrize("change", [_flip, lambda b: b[: len(b) // 2], lambda b: b""], ids=["flip", "short", "empty"])
def test_damaged_checkpoint_is_none_with_a_warning(
    local: LocalStore, change: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    local.checkpoint_save("abcdef", {"weight": torch.ones(1000)})
    path = next(local.root.rglob("abcdef.pt"))
    path.write_bytes(change(path.read_bytes()))
    assert local.checkpoint_load("abcdef") is None
    assert "abcdef is damaged" in caplog.text


def test_malicious_checkpoint_is_not_executed(local: LocalStore, tmp_path: Path) -> None:
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "executed"),))

    payload = pickle.dumps({"x": Evil()}, protocol=2)
    local.checkpoint_save("abcdef", {})
    next(local.root.rglob("abcdef.pt")).write_bytes(hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload)
    assert local.checkpoint_load("abcdef") is None
    assert not (tmp_path / "executed").exists()


def test_failed_checkpoint_write_keeps_the_old_one(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    local.checkpoint_save("abcdef", {"epoch": 1})
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        local.checkpoint_save("abcdef", {"epoch": 2})
    assert local.checkpoint_load("abcdef") == {"epoch": 1}
    assert [path.name for path in (local.root / "checkpoints").iterdir()] == ["abcdef.pt"]


# ---------------------------------------------------------------- the local folder


def test_failed_publication_leaves_nothing_behind(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def fail_on_manifest(path: Path, content: bytes) -> int:
        if path.name == "manifest.json":
            raise OSError("disk full")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail_on_manifest)
    with pytest.raises(OSError, match="disk full"):
        local.publish(node(), draft())
    assert not local.has(node().key)
    assert list((local.root / "tmp").iterdir()) == []


def test_half_written_folder_is_never_seen_and_removed_after_a_day(local: LocalStore) -> None:
    local.publish(node(), draft())
    dead, alive = local.root / "tmp" / "dead", local.root / "tmp" / "alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "network.safetensors").write_bytes(b"half")
    yesterday = time.time() - 25 * 3600
    os.utime(dead, (yesterday, yesterday))
    assert list(LocalStore(local.root).keys()) == [node().key]
    assert [p.name for p in (local.root / "tmp").iterdir()] == ["alive"]


def test_a_clock_that_jumps_does_not_cost_a_publication(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process, opened after the jump, removes the draft just before it is renamed."""
    rename, jumped = os.rename, [True]

    def racing(source: Path, target: Path) -> None:
        if jumped.pop() if jumped else False:
            with monkeypatch.context() as patch:
                patch.setattr(time, "time", lambda: 4e9)
                LocalStore(local.root)
        rename(source, target)

    monkeypatch.setattr(os, "rename", racing)
    assert local.publish(node(), draft()).verify() == []
    assert jumped == []


def test_artefact_folder_without_manifest_is_replaced(local: LocalStore) -> None:
    torn = local.root / "artefacts" / node().key[:2] / node().key
    torn.mkdir(parents=True)
    (torn / "note.txt").write_bytes(b"half a copy")
    assert not local.has(node().key)
    assert list(local.keys()) == []
    local.publish(node(), draft())
    assert local.get(node().key).bytes("note.txt") == b"hello"


def test_stray_files_are_no_artefacts(local: LocalStore) -> None:
    local.publish(node(), Draft())
    (local.root / "artefacts" / node().key[:2] / ".DS_Store").write_bytes(b"")
    assert list(local.keys()) == [node().key]


def test_opening_a_store_writes_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path / "new")
    assert list(store.keys()) == []
    assert not (tmp_path / "new").exists()


def test_addresses(tmp_path: Path) -> None:
    assert isinstance(open_store(f"file://{tmp_path}"), LocalStore)
    with pytest.raises(StoreError, match=r"ftp://.*not supported.*folder"):
        open_store("ftp://host/store")
    with pytest.raises(StoreError, match="names no bucket"):
        open_store("s3://")


def test_importing_and_looking_up_needs_no_torch(local: LocalStore) -> None:
    local.publish(node(), draft())
    code = (
        "import sys; from gkd_bench.store.artefacts import open_store; s = open_store(sys.argv[1]);"
        "a = s.get(next(s.keys())); a.records(); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(local.root)], check=True, cwd=ROOT, timeout=30)

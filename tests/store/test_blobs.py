"""Objects by name: one conformance suite for folders and object services, and what only a service can suffer."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from gkd_bench.errors import StoreUnavailable
from gkd_bench.store import blobs as blobs_module
from gkd_bench.store.artefacts import Draft, ObjectStore, open_store
from gkd_bench.store.blobs import Blobs, FolderBlobs, RemoteBlobs
from gkd_bench.store.node import StageNode

from ..s3_server import Service


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "folder":
        return FolderBlobs(tmp_path / "blobs")
    return RemoteBlobs(request.getfixturevalue("s3_folder"), patience=5.0)


def test_what_is_written_is_read_and_replaced(blobs: Blobs) -> None:
    assert blobs.read("a/b") is None and not blobs.exists("a/b")
    blobs.write("a/b", b"one")
    blobs.write("a/b", b"two")
    assert blobs.read("a/b") == b"two" and blobs.exists("a/b")
    blobs.delete("a/b")
    blobs.delete("a/b")
    assert blobs.read("a/b") is None


def test_only_the_first_creator_wins(blobs: Blobs) -> None:
    assert blobs.create("owner", b"first")
    assert not blobs.create("owner", b"second")
    assert blobs.read("owner") == b"first"


def test_of_many_creators_at_once_exactly_one_wins(blobs: Blobs) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def run(number: int) -> None:
        barrier.wait()
        if blobs.create("race", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert blobs.read("race") == str(won[0]).encode()


def test_listing_is_sorted_with_sizes_and_of_one_folder(blobs: Blobs) -> None:
    assert list(blobs.names("x")) == []
    for name in ("x/b", "x/a/c", "y", "xx/d"):
        blobs.write(name, name.encode())
    assert list(blobs.names("x")) == [("x/a/c", 5), ("x/b", 3)]


def test_files_go_up_and_come_down(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"content")
    blobs.upload(tmp_path / "up", "folder/file")
    assert blobs.download("folder/file", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == b"content"
    assert not blobs.download("folder/none", tmp_path / "none")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path)

    def full(path: Path, content: bytes) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreUnavailable, match=r"takes nothing more.*make room"):
        store.publish(StageNode("teacher", {}, 0, {}), Draft(files={"note": b"x"}))
    with pytest.raises(StoreUnavailable, match="takes nothing more"):
        store.blobs.write("sweeps/one/records.jsonl", b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# ---------------------------------------------------------------- services that fail


def test_a_service_that_comes_back_is_waited_for(s3_service: Service, s3_folder: str) -> None:
    blobs = RemoteBlobs(s3_folder, patience=60.0)
    blobs.write("a", b"1")
    s3_service.stop()
    threading.Timer(2.0, s3_service.start).start()
    begin = time.monotonic()
    assert blobs.read("a") == b"1"
    assert time.monotonic() - begin > 1.0


def test_a_service_that_stays_away_stops_clearly(s3_service: Service, s3_folder: str) -> None:
    blobs = RemoteBlobs(s3_folder, patience=2.0)
    s3_service.stop()
    try:
        with pytest.raises(StoreUnavailable, match=r"s3://bucket/test-\d+ does not answer.*run the same command again"):
            blobs.write("a", b"1")
    finally:
        s3_service.start()


def test_a_missing_bucket_and_wrong_credentials_are_told_at_once(
    s3_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreUnavailable, match="no such bucket"):
        RemoteBlobs("s3://nobody/folder", patience=60.0).write("a", b"1")
    refused = RemoteBlobs("s3://bucket/folder", patience=60.0)
    monkeypatch.setattr(refused._files, "cat_file", lambda path: (_ for _ in ()).throw(PermissionError("Forbidden")))
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"Forbidden.*credentials \(environment only\)"):
        refused.read("a")
    assert time.monotonic() - begin < 5.0


def test_a_put_whose_answer_was_lost_still_counts_as_ours(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = RemoteBlobs(s3_folder, patience=30.0)
    put, lost = blobs._files.pipe_file, [True]

    def losing(path: str, content: bytes, **options: str) -> None:
        put(path, content, **options)
        if lost.pop() if lost else False:
            raise ConnectionResetError("answer lost")

    monkeypatch.setattr(blobs._files, "pipe_file", losing)
    assert blobs.create("marker", b"mine")
    assert not blobs.create("marker", b"other")


def test_a_service_that_does_not_name_the_condition_is_understood(
    s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MinIO answers: HTTP 412 without the element by which s3fs knows it."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    blobs = RemoteBlobs(s3_folder, patience=5.0)
    blobs.write("marker", b"theirs")
    answer = ClientError({"Error": {"Code": "PreconditionFailed", "Message": "at least one did not hold"}}, "PutObject")

    def refusing(path: str, content: bytes, **options: str) -> None:
        raise translate_boto_error(answer)

    monkeypatch.setattr(blobs._files, "pipe_file", refusing)
    assert not blobs.create("marker", b"mine")
    assert blobs.create("marker", b"theirs")  # repeated inside the library after its answer was lost


def test_an_artefact_without_its_marker_is_never_seen(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(s3_folder)
    assert isinstance(store, ObjectStore)
    node = StageNode("teacher", {}, 0, {})
    monkeypatch.setattr(RemoteBlobs, "create", lambda *_: (_ for _ in ()).throw(StoreUnavailable("gone")))
    with pytest.raises(StoreUnavailable):
        store.publish(node, Draft(files={"note": b"x"}))
    assert not store.has(node.key) and list(store.keys()) == []
    assert any(name.endswith("/note") for name, _ in store.blobs.names("artefacts"))
    monkeypatch.undo()
    assert store.publish(node, Draft(files={"note": b"y"})).bytes("note") == b"y"


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    import fsspec

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(StoreUnavailable, match=r"pip install 'gkd-bench\[s3\]'"):
        open_store("s3://bucket/store")


def test_patience_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, s3_service: Service) -> None:
    monkeypatch.setenv(blobs_module.RETRY_VARIABLE, "7")
    assert RemoteBlobs("s3://bucket/x")._patience == 7.0

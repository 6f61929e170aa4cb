"""One driver runs a sweep: the second is refused by name, a dead one is replaced, a silent one waited for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gkd_bench.errors import ClusterError
from gkd_bench.store.blobs import Blobs, FolderBlobs, RemoteBlobs
from gkd_bench.store.ownership import Owner, Ownership, current_owner


@pytest.fixture(params=["folder", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "folder":
        return FolderBlobs(tmp_path / "blobs")
    return RemoteBlobs(request.getfixturevalue("s3_folder"), patience=5.0)


def owning(blobs: Blobs, lost: list[str] | None = None, **options: float) -> Ownership:
    said = lost if lost is not None else []
    return Ownership(blobs, "one", said.append, say=lambda _: None, **options)  # type: ignore[arg-type]


def put(blobs: Blobs, number: int, owner: Owner) -> None:
    blobs.write(f"sweeps/one/owner/{number:08d}", json.dumps(asdict(owner)).encode())


def me(blobs: Blobs) -> Owner:
    with owning(blobs):
        found = current_owner(blobs, "one")
    assert found is not None
    return found


def test_a_second_driver_is_refused_with_the_owners_name(blobs: Blobs) -> None:
    with owning(blobs):
        with pytest.raises(ClusterError, match=rf"sweep one is being run by .* \(process {os.getpid()}, since"):
            owning(blobs).__enter__()
        assert current_owner(blobs, "one") is not None
    assert current_owner(blobs, "one") is None
    with owning(blobs):
        pass


def test_of_drivers_that_start_together_one_runs(blobs: Blobs) -> None:
    entered: list[Ownership] = []
    refused: list[str] = []
    barrier = threading.Barrier(5)

    def start() -> None:
        one = owning(blobs)
        barrier.wait()
        try:
            entered.append(one.__enter__())
        except ClusterError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(entered), len(refused)) == (1, 4)
    entered[0].__exit__(None, None, None)


def test_a_driver_that_was_killed_here_is_replaced_at_once(blobs: Blobs) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    owner = me(blobs)
    put(blobs, 9, replace(owner, pid=dead.pid, born="12345", ended=False))
    with owning(blobs, silent=60.0):
        assert me_of(blobs).pid == os.getpid()
    put(blobs, 20, replace(owner, born="a process before this one of the same number", ended=False))
    with owning(blobs, silent=60.0):
        pass


def test_a_silent_driver_elsewhere_is_waited_for_and_a_living_one_is_not_replaced(blobs: Blobs) -> None:
    elsewhere = replace(me(blobs), host="elsewhere", ended=False)
    put(blobs, 9, elsewhere)
    with owning(blobs, silent=0.4):
        pass
    put(blobs, 20, elsewhere)
    beat = threading.Timer(0.1, put, (blobs, 20, replace(elsewhere, beat=1)))
    beat.start()
    with pytest.raises(ClusterError, match="on elsewhere"):
        owning(blobs, silent=5.0).__enter__()
    beat.join()


def test_an_owner_that_was_replaced_hears_of_it(blobs: Blobs) -> None:
    lost: list[str] = []
    with owning(blobs, lost, beat=0.05) as ownership:
        put(blobs, ownership._number + 1, replace(me_of(blobs), host="elsewhere"))
        ownership._thread.join(5.0)
        assert lost and "taken over by" in lost[0] and "elsewhere" in lost[0]
    owner = current_owner(blobs, "one")
    assert owner is not None and owner.host == "elsewhere"  # leaving does not touch the new owner's entry


def me_of(blobs: Blobs) -> Owner:
    owner = current_owner(blobs, "one")
    assert owner is not None
    return owner


def beats_on(blobs: Blobs) -> bool:
    """Whether the beat counts up from where it is, within seconds."""
    first = me_of(blobs).beat
    for _ in range(200):
        if me_of(blobs).beat > first:
            break
        threading.Event().wait(0.02)
    return me_of(blobs).beat > first


def test_the_beat_counts_up(blobs: Blobs) -> None:
    with owning(blobs, beat=0.05):
        assert beats_on(blobs)


def test_a_beat_that_cannot_be_written_does_not_end_the_watch(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, failed = blobs.write, threading.Event()

    def broken(name: str, content: bytes) -> None:
        failed.set()
        raise OSError(5, "Input/output error")

    with owning(blobs, beat=0.05):
        monkeypatch.setattr(blobs, "write", broken)
        assert failed.wait(20)
        monkeypatch.setattr(blobs, "write", write)
        assert beats_on(blobs)
    assert "could not be written" in caplog.text


def test_a_torn_entry_does_not_lock_a_sweep_for_ever(blobs: Blobs) -> None:
    blobs.write("sweeps/one/owner/00000003", b'{"user": ')
    with owning(blobs):
        assert me_of(blobs).pid == os.getpid()

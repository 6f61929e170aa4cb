"""The main job when something goes wrong: damaged artefacts, two drivers, a stop, a store that fails; and on s3://."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gkd_bench import sweep
from gkd_bench.errors import ClusterError, LostArtefact
from gkd_bench.report.archive import RECORDS, TIMES, TIMINGS, sweep_file
from gkd_bench.store.artefacts import LocalStore, open_store
from gkd_bench.store.ownership import Ownership

from .s3_server import Service
from .test_sweep import folder as folder
from .test_sweep import stamps, without_gkd

TABLES = ("triple.csv", "scores.csv")


def tables(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "results" / "tiny" / name).read_bytes() for name in TABLES}


def records(folder: Path) -> bytes:
    return (folder / ".gkd_store" / sweep_file("tiny", RECORDS)).read_bytes()


def test_damaged_and_lost_artefacts_of_a_finished_sweep_are_computed_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = {"trials": 1, "spaces": {"kd": {"methods.kd.temperature": {"low": 1.0, "high": 8.0}}}}
    command = without_gkd(folder, search=search)
    assert sweep.main(command) == 0
    before, written, store = tables(folder), records(folder), LocalStore(folder / ".gkd_store")
    published = stamps(store)
    trained, stress = next(store.keys("distill")), next(store.keys("stress"))
    damaged = {stress, *list(store.keys("evaluate"))[:3]}  # as after a power cut
    for key in damaged:
        path = next(store.root.rglob(f"{key}/records.jsonl"))
        path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    store.delete(trained)
    capsys.readouterr()
    assert sweep.main(command) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert all(f"computed again artefact {key}, file records.jsonl" in said for key in damaged)
    assert (tables(folder), records(folder)) == (before, written)
    renewed = {key for key, stamp in stamps(store).items() if published[key] != stamp}
    assert renewed == {*damaged, trained}
    assert not any(store.verify(key) for key in renewed)


def test_an_artefact_that_is_damaged_again_and_again_ends_the_sweep(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise LostArtefact("key", "artefact key, file records.jsonl: does not match its checksum")

    monkeypatch.setattr(sweep, "trained", damaged)
    assert sweep.main(without_gkd(folder)) == 2
    assert "it came out like this 3 times: check the disk" in capsys.readouterr().err


def test_a_full_disk_while_tables_are_written_is_one_plain_error(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "results/tiny/triple.csv")

    monkeypatch.setattr(sweep, "trained", lambda *_: None)
    monkeypatch.setattr(sweep, "show", full)
    assert sweep.main(without_gkd(folder)) == 2
    assert capsys.readouterr().err.startswith("error: results/tiny/triple.csv: No space left on device; make room")


def test_clock_times_lie_beside_the_records(folder: Path) -> None:
    assert sweep.main(without_gkd(folder)) == 0
    lines = [json.loads(line) for line in records(folder).splitlines()]
    assert lines and not any(name in line for line in lines for name in TIMES)
    beside = (folder / ".gkd_store" / sweep_file("tiny", TIMINGS)).read_text()
    assert '"seconds":' in beside and '"latency_p50_ms":' in beside


def test_a_second_driver_is_refused_with_the_owners_name_and_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = without_gkd(folder)
    with Ownership(open_store(folder / ".gkd_store").blobs, "tiny", lambda _: None):
        assert sweep.main(command) == 2
    assert f"sweep tiny is being run by {os.environ.get('USER', '')}" in capsys.readouterr().err
    assert not (folder / "results").exists() and list(LocalStore(folder / ".gkd_store").keys()) == []


def test_a_driver_that_was_replaced_stops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a laptop's sleep: another machine has taken the sweep over meanwhile."""
    monkeypatch.setattr(Ownership.__init__, "__defaults__", (0.05, 120.0, print))
    store = open_store(folder / ".gkd_store")
    loaded = sweep.named(sweep.load_sweep(Path(without_gkd(folder)[0])))
    sweep._interrupt_on_terminate()

    def sleep_through_it() -> None:
        with sweep.owned(loaded, store, sweep.Console(quiet=True)):
            store.blobs.write("sweeps/tiny/owner/00000002", b"{}")
            time.sleep(30)

    with pytest.raises(ClusterError, match=r"taken over by .*; this driver has stopped"):
        sleep_through_it()


def test_a_stop_says_what_is_kept_and_the_same_command_goes_on(folder: Path) -> None:
    command = [sys.executable, "-m", "gkd_bench.sweep", *without_gkd(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    store = LocalStore(folder / ".gkd_store")
    while len(stamps(store)) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"Kept: \d+ of \d+ stages", shown) and "run the same command again" in shown
    kept = stamps(store)
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert kept.items() <= stamps(store).items()


# ---------------------------------------------------------------- on an object store


def test_a_sweep_on_s3_gives_the_tables_and_records_of_a_folder(
    folder: Path, s3_folder: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    command = without_gkd(folder)
    assert sweep.main(command) == 0
    here, written = tables(folder), records(folder)
    cache = tmp_path_factory.mktemp("cache")
    remote = [*command, "--set", f"storage.root={s3_folder}", "--set", f"storage.cache={cache}"]
    assert sweep.main(remote) == 0
    store = open_store(s3_folder)
    assert store.blobs.read(sweep_file("tiny", RECORDS)) == written
    assert set(store.keys()) == set(LocalStore(folder / ".gkd_store").keys())
    assert {name for name in here if _rows(here[name]) != _rows(tables(folder)[name])} == set()
    assert any(name.startswith("data/phantom_clear/") for name, _ in store.blobs.names("data"))
    # another machine: nothing in its cache, everything in the store
    other = tmp_path_factory.mktemp("other")
    assert sweep.main([*remote[:-1], f"storage.cache={other}"]) == 0


def _rows(table: bytes) -> list[bytes]:
    return [line for line in table.split(b"\n") if not line.startswith(b"#")]


def test_a_store_that_goes_away_stops_the_sweep_and_is_gone_on_with(
    folder: Path, s3_service: Service, s3_folder: str
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "GKD_STORE_RETRY_SECONDS": "1"}
    command = [*without_gkd(folder), "--set", f"storage.root={s3_folder}", "--set", f"storage.cache={folder / 'cache'}"]
    store = open_store(s3_folder)

    def cut() -> None:
        while not any(store.keys()):
            time.sleep(0.05)
        s3_service.stop()

    cutter = threading.Thread(target=cut)
    cutter.start()
    begin = [sys.executable, "-m", "gkd_bench.sweep", *command]
    try:
        done = subprocess.run(begin, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    finally:
        cutter.join()
        s3_service.start()
    assert done.returncode == 2 and "does not answer" in done.stderr, done.stdout + done.stderr
    kept = set(store.keys())
    assert kept
    assert sweep.main(command) == 0
    assert kept < set(store.keys())

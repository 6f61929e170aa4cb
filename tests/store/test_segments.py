"""The log of records on an object service."""

from __future__ import annotations

import pytest

from gkd_bench.errors import StoreError
from gkd_bench.store import segments
from gkd_bench.store.artefacts import open_store


def test_records_of_several_writers_come_back_in_order(s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 200)
    log = open_store(s3_folder).log("sweeps/one/journal")
    assert log.read() == []
    log.extend([])
    for number in range(10):
        log.append({"number": number})
    later = open_store(s3_folder).log("sweeps/one/journal")
    later.extend([{"number": 10}, {"number": 11}])
    assert [record["number"] for record in later.read()] == list(range(12))
    names = [name for name, _ in open_store(s3_folder).blobs.names("sweeps/one/journal")]
    assert 2 < len(names) < 12  # full segments, and one of the second writer


def test_writers_at_once_lose_nothing(s3_folder: str) -> None:
    logs = [open_store(s3_folder).log("log") for _ in range(3)]
    for number in range(5):
        for index, log in enumerate(logs):
            log.append({"writer": index, "number": number})
    found = [(record["writer"], record["number"]) for record in logs[0].read()]
    assert sorted(found) == [(writer, number) for writer in range(3) for number in range(5)]


def test_a_torn_end_is_left_out_and_a_broken_line_is_named(s3_folder: str) -> None:
    store = open_store(s3_folder)
    log = store.log("log")
    log.append({"number": 1})
    (name, _), *_ = store.blobs.names("log")
    whole = store.blobs.read(name) or b""
    store.blobs.write(name, whole + b'{"number": 2')
    assert [record["number"] for record in log.read()] == [1]
    store.blobs.write(name, b"{broken}\n" + whole)
    with pytest.raises(StoreError, match=r"log/00000001-.*line 1"):
        log.read()

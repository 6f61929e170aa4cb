from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import pytest

from gkd_bench.errors import StoreError
from gkd_bench.store.records import SCHEMA_VERSION, RecordLog, encode_records, read_records


@pytest.fixture
def log(tmp_path: Path) -> RecordLog:
    return RecordLog(tmp_path / "deep" / "records.jsonl")


def test_records_come_back_in_order_with_their_schema(log: RecordLog) -> None:
    log.append({"dice": 0.5, "subject": "Ä\n01", "ok": True, "auc": None})
    log.extend([{"n": 2}, {"n": 3}])
    assert log.read() == [
        {"schema": SCHEMA_VERSION, "dice": 0.5, "subject": "Ä\n01", "ok": True, "auc": None},
        {"schema": SCHEMA_VERSION, "n": 2},
        {"schema": SCHEMA_VERSION, "n": 3},
    ]


def test_missing_log_is_empty(log: RecordLog) -> None:
    assert log.read() == []
    log.extend([])
    assert not log.path.exists()


def test_every_cut_of_the_last_line_loses_that_line_only(log: RecordLog) -> None:
    log.extend([{"n": 1}, {"n": 2}])
    whole = log.path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        assert [r["n"] for r in read_records(whole[:cut])] == [1]
    assert [r["n"] for r in read_records(whole)] == [1, 2]


@pytest.mark.parametrize("tail", [b'{"n":', b'{"n":9}', b"x" * 200_000])
def test_append_after_a_torn_line_starts_clean(log: RecordLog, tail: bytes) -> None:
    log.append({"n": 1})
    with log.path.open("ab") as file:
        file.write(tail)
    log.append({"n": 2})
    assert [r["n"] for r in log.read()] == [1, 2]


def test_append_to_a_file_with_only_a_torn_line(log: RecordLog) -> None:
    log.path.parent.mkdir()
    log.path.write_bytes(b'{"torn')
    log.append({"n": 1})
    assert [r["n"] for r in log.read()] == [1]


@pytest.mark.parametrize("line", [b"{broken}", b"[1, 2]", b"17", b"\xff\xfe"])
def test_broken_middle_line_is_named(log: RecordLog, line: bytes) -> None:
    log.append({"n": 1})
    with log.path.open("ab") as file:
        file.write(line + b"\n")
    log.append({"n": 3})
    with pytest.raises(StoreError, match=r"records\.jsonl, line 2"):
        log.read()


def test_newer_schema_is_refused_with_advice() -> None:
    with pytest.raises(StoreError, match="line 1: schema 99 is newer"):
        read_records(b'{"schema": 99}\n')


def test_all_values_that_are_not_flat_json_are_listed(log: RecordLog) -> None:
    rows: list[dict[str, object]] = [
        {"a": math.nan, "b": 1.0},
        {"c": math.inf, "d": [1], "e": {"f": 1}},
        {"g": object()},
    ]
    with pytest.raises(StoreError) as caught:
        log.extend(rows)
    message = str(caught.value)
    assert all(
        f"record {i}, field '{name}'" in message for i, name in [(0, "a"), (1, "c"), (1, "d"), (1, "e"), (2, "g")]
    )
    assert "'b'" not in message
    assert not log.path.exists()


def test_equal_records_give_equal_bytes() -> None:
    assert encode_records([{"a": 1, "b": 2.5}]) == encode_records([{"b": 2.5, "a": 1}])


def test_concurrent_writers_lose_no_line(log: RecordLog) -> None:
    def write(writer: int) -> None:
        for n in range(50):
            RecordLog(log.path).append({"writer": writer, "n": n})

    threads = [threading.Thread(target=write, args=(w,)) for w in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = {(r["writer"], r["n"]) for r in log.read()}
    assert seen == {(w, n) for w in range(4) for n in range(50)}


def test_hundred_thousand_records_take_seconds(log: RecordLog) -> None:
    rows = [
        {"record": "image", "subject": f"s{i}", "dice": i / 100_000, "seed": i % 3, "target": "stare"}
        for i in range(100_000)
    ]
    start = time.perf_counter()
    log.extend(rows)
    assert len(log.read()) == 100_000
    assert time.perf_counter() - start < 10.0
    assert all(json.loads(line) for line in log.path.read_bytes().splitlines()[:3])

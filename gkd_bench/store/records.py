"""Records: one flat JSON object per line, appended in one write, read back even when the last line is torn."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson

from gkd_bench.errors import StoreError
from gkd_bench.store.blobs import disk_errors

SCHEMA_VERSION = 1

Record = dict[str, Any]


def encode_records(records: Iterable[Mapping[str, Any]]) -> bytes:
    """One sorted-key JSON line per record, each ended by a newline; equal records give equal bytes.

    ``schema`` is set to ``SCHEMA_VERSION`` where a record has none.

    Raises:
        StoreError: listing every field that is nested, or is NaN or infinite (write None for "undefined").
    """
    rows = [record if "schema" in record else {"schema": SCHEMA_VERSION, **record} for record in records]
    try:
        lines = [_encode_line(row) for row in rows]
    except (TypeError, ValueError) as error:
        raise StoreError("\n".join(["records cannot be written:", *_problems(rows)])) from error
    return "".join(lines).encode()


def read_records(content: bytes, where: str = "records") -> list[Record]:
    """Records of a file's bytes. A torn last line (no newline at its end) is left out.

    Args:
        content: bytes of a record file.
        where: name of the file, for error messages.

    Raises:
        StoreError: a finished line is not a JSON object, or its schema is newer than this code; names file and line.
    """
    lines = content[: content.rfind(b"\n") + 1].split(b"\n")
    if (records := _decode_together(lines)) is not None:
        return records
    return [_decode_line(line, where, number) for number, line in enumerate(lines, 1) if line.strip()]


class Log(Protocol):
    """An append-only log of records."""

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record, durably."""

    def extend(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records, durably and all at once."""

    def read(self) -> list[Record]:
        """All records, oldest first."""


class RecordLog:
    """An append-only file of records, for any number of readers and writers of one machine (appends take a file lock).

    A writer that died in the middle of a line leaves a torn tail: readers skip it, the next append cuts it off.
    """

    def __init__(self, path: str | Path) -> None:
        """The log in file ``path``, which is created by the first append."""
        self.path = Path(path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; see :func:`encode_records` for what is refused."""
        self.extend([record])

    def extend(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records in one write call. Creates the file and its folder when missing."""
        content = encode_records(records)
        if not content:
            return
        with disk_errors(self.path.parent):
            self._append(content)

    def _append(self, content: bytes) -> None:
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            end = _cut_torn_tail(descriptor)
            written = os.write(descriptor, content)
            if written != len(content):
                os.ftruncate(descriptor, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            return os.open(self.path, flags, 0o644)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, flags, 0o644)

    def read(self) -> list[Record]:
        """All finished records, oldest first; empty when the file does not exist.

        Raises:
            StoreError: a line other than a torn last one is broken; names file and line.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        return read_records(content, str(self.path))


def _encode_line(row: Mapping[str, Any]) -> str:
    if any(isinstance(value, dict | list | tuple) for value in row.values()):
        raise ValueError("nested value")
    return json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"


def _problems(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"  record {index}, field {name!r}: {value!r} is not a string, finite number, boolean or None (nested values: write their JSON text)"
        for index, row in enumerate(rows)
        for name, value in row.items()
        if not _is_scalar(value) or not isinstance(name, str)
    ]


def _is_scalar(value: Any) -> bool:
    if isinstance(value, float):
        return value - value == 0.0
    return value is None or isinstance(value, str | int)


def _decode_together(lines: Sequence[bytes]) -> list[Record] | None:
    """All lines in one call, several times faster than one by one; None when any of them is broken, so that it can be named."""
    filled = [line for line in lines if line.strip()]
    try:
        records: list[Record] = orjson.loads(b"[" + b",".join(filled) + b"]")
    except ValueError:
        return None
    sound = all(isinstance(one, dict) and one.get("schema", SCHEMA_VERSION) <= SCHEMA_VERSION for one in records)
    return records if sound and len(records) == len(filled) else None


def _decode_line(line: bytes, where: str, number: int) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise StoreError(
            f"{where}, line {number}: not a JSON record ({error}); restore the file or remove the line"
        ) from error
    if not isinstance(record, dict):
        raise StoreError(f"{where}, line {number}: a {type(record).__name__}, not a JSON object; remove the line")
    if record.get("schema", SCHEMA_VERSION) > SCHEMA_VERSION:
        raise StoreError(
            f"{where}, line {number}: schema {record['schema']} is newer than {SCHEMA_VERSION}; update gkd_bench"
        )
    return record


def _cut_torn_tail(descriptor: int) -> int:
    """Shorten the file to its last newline, so that the next line starts clean; its length afterwards."""
    end = size = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        end = start + newline + 1 if newline >= 0 else start
        if newline >= 0:
            break
    if end != size:
        os.ftruncate(descriptor, end)
    return end

"""A log of records on an object service, where nothing can be appended to: a row of objects that are replaced as they grow."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from gkd_bench.store.blobs import Blobs
from gkd_bench.store.records import Record, encode_records, read_records

SEGMENT_BYTES = 256 * 1024


class SegmentLog:
    """``<name>/<number>-<writer>.jsonl``. A writer replaces its last segment until that is full, and never another writer's.

    Of several writers at once nothing is lost, but only one of them at a time has an order that means anything: whoever
    appends holds the sweep (see ``ownership``).
    """

    def __init__(self, blobs: Blobs, name: str) -> None:
        """The log of that name; it needs no object of its own to be there."""
        self._blobs, self._name, self._writer = blobs, name, uuid.uuid4().hex
        self._number = 0
        self._content = b""

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; see :func:`encode_records` for what is refused."""
        self.extend([record])

    def extend(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records in one request."""
        added = encode_records(records)
        if not added:
            return
        if not self._content or len(self._content) + len(added) > SEGMENT_BYTES:
            self._number = 1 + max([self._number, *(_number(name) for name in self._names())])
            self._content = b""
        self._blobs.write(f"{self._name}/{self._number:08d}-{self._writer}.jsonl", self._content + added)
        self._content += added

    def read(self) -> list[Record]:
        """All records, oldest first; empty when there are none. Raises StoreError for a broken line, naming it."""
        return [record for name in self._names() for record in read_records(self._segment(name), name)]

    def _names(self) -> list[str]:
        return [name for name, _ in self._blobs.names(self._name)]

    def _segment(self, name: str) -> bytes:
        return self._blobs.read(name) or b""


def _number(name: str) -> int:
    head = name.rpartition("/")[2].partition("-")[0]
    return int(head) if head.isdigit() else 0

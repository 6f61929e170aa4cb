"""SHA-256 of files, remembered between runs so that unchanged raw data are hashed once.

What is remembered names no file: paths may name patients.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from gkd_bench.store.files import replace_file


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def memo_file(cache: Path) -> Path:
    """Where a cache of prepared domains remembers the digests of raw files."""
    return cache / "digests.json"


class FileDigests:
    """SHA-256 of files, remembered by a hash of path, size and modification time. A lost update costs a rehash, no more.

    Args:
        memo: JSON file to remember them in; none = hash every time.
    """

    def __init__(self, memo: Path | None = None) -> None:
        self._memo = memo
        found = _read_memo(memo)
        self._known = _nameless(found)
        self._named = self._known.keys() != found.keys()
        self._new: dict[str, str] = {}

    def __call__(self, path: Path) -> str:
        """64 hex digits. Raises OSError for a missing file."""
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        return self.remembered(key, lambda: file_digest(path))

    def remembered(self, key: str, compute: Callable[[], str]) -> str:
        """The digest of this key, computed only when it is not known. The key must tell all that decides the digest."""
        hidden = _hidden(key)
        if hidden not in self._known:
            self._known[hidden] = self._new[hidden] = compute()
        return self._known[hidden]

    def save(self) -> None:
        """Add what was hashed to the memo."""
        if self._memo is None or not (self._new or self._named):
            return
        replace_file(self._memo, json.dumps(_nameless(_read_memo(self._memo)) | self._new).encode())


def _hidden(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def _nameless(memo: dict[str, str]) -> dict[str, str]:
    """The memo with all its keys hidden: older versions wrote paths."""
    return {_hidden(key) if "|" in key else key: digest for key, digest in memo.items()}


def _read_memo(memo: Path | None) -> dict[str, str]:
    try:
        value = json.loads(memo.read_text(encoding="utf-8")) if memo else {}
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

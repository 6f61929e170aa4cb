"""What a stage's exception becomes: a failure in one line, and a file with the traceback below the store."""

from __future__ import annotations

import traceback
from contextlib import suppress
from pathlib import Path

from gkd_bench.cluster.messages import StageFailure
from gkd_bench.store.files import replace_file
from gkd_bench.store.node import StageNode


def one_line(error: BaseException) -> str:
    """``Type: first line of the message`` of an exception."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def stage_failure(node: StageNode, error: BaseException, store: Path) -> StageFailure:
    """The failure of a stage that raised ``error``; its cause names the file that ``keep_traceback`` writes."""
    return StageFailure(node.key, str(node), f"{one_line(error)} (traceback: {_path(store, node.key)})")


def keep_traceback(key: str, error: BaseException, store: Path) -> None:
    """Write ``<store>/failures/<key>.txt``. A disk that takes no file does not hide the failure itself."""
    with suppress(OSError):
        replace_file(_path(store, key), "".join(traceback.format_exception(error)).encode())


def _path(store: Path, key: str) -> Path:
    return store / "failures" / f"{key}.txt"

"""What a stage's exception becomes: a failure in one line, and a file with the traceback below the store."""

from __future__ import annotations

import logging
import traceback

from gkd_bench.cluster.messages import StageFailure
from gkd_bench.errors import StoreError
from gkd_bench.store.artefacts import Store
from gkd_bench.store.node import StageNode

_log = logging.getLogger(__name__)


def one_line(error: BaseException) -> str:
    """``Type: first line of the message`` of an exception."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def stage_failure(node: StageNode, error: BaseException) -> StageFailure:
    """The failure of a stage that raised ``error``; its cause names the file of the store that ``keep_traceback`` writes."""
    cause = f"{one_line(error)} (traceback: {_name(node.key)} in the store)"
    return StageFailure(node.key, str(node), cause, memory=is_out_of_memory(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a stage failed for want of memory, of the machine or of the device."""
    import torch

    chain = causes(error)
    return any(isinstance(one, MemoryError | torch.OutOfMemoryError) for one in chain)


def is_lost_device(error: BaseException) -> bool:
    """Whether the device failed, not the stage: the stage may be tried again in another process, or on another machine."""
    import torch

    lost: type[BaseException] = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)
    return any(isinstance(one, lost) for one in causes(error)) and not is_out_of_memory(error)


def causes(error: BaseException) -> list[BaseException]:
    """The exception and what it was raised from, outermost first."""
    found, one = list[BaseException](), error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__  # type: ignore[assignment]
    return found


def keep_traceback(key: str, error: BaseException, store: Store) -> None:
    """Write ``failures/<key>.txt`` in the store. One that takes no file does not hide the failure itself."""
    try:
        store.blobs.write(_name(key), "".join(traceback.format_exception(error)).encode())
    except (OSError, StoreError) as refusal:
        _log.warning("the traceback of %s could not be kept (%s)", key, refusal)


def _name(key: str) -> str:
    return f"failures/{key}.txt"

"""How long MLflow is waited for: errors that may pass are tried again, calls that never end are given up.

MLflow is a display of records that are safe already, so that nothing of a sweep may wait for it for long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.backend import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAUSES = (1.0, 4.0)
"""Seconds before the second and the third attempt after an error that may pass, such as a locked database."""
PATIENCE_SECONDS = 10.0
"""A call of MLflow that takes longer is looked into: does the server answer anything at all?"""
STALLED_SECONDS = 180.0
"""A call of MLflow that takes longer is given up."""
_FULL = ("disk is full", "no space left")
_LASTING = (
    *_FULL, "readonly database", "malformed", "not a database", "unable to open", "out-of-date database schema",
    "password authentication",
)  # fmt: skip
_LASTING_CODES = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_LIMIT_EXCEEDED"})
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500
_CAUSE_LENGTH = 300
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Pulse:
    """Knows when MLflow last did anything, so that slow can be told from stuck."""

    def __init__(self) -> None:
        self._last, self._stopped = time.monotonic(), False

    @property
    def silence(self) -> float:
        """Seconds since the last sign of life."""
        return time.monotonic() - self._last

    def felt(self) -> None:
        """Note a sign of life. Raises GkdBenchError after :meth:`stop`, which ends a writer that nobody waits for."""
        self._last = time.monotonic()
        if self._stopped:
            raise GkdBenchError("given up")

    def stop(self) -> None:
        """Nobody waits any more."""
        self._stopped = True

    def of(self, client: MlflowClient) -> MlflowClient:
        """The client; every call of it is a sign of life when it begins and when it ends."""
        return cast("MlflowClient", _Listened(client, self.felt))


class _Listened:
    def __init__(self, client: MlflowClient, felt: Callable[[], None]) -> None:
        self._client, self._felt = client, felt

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*args: Any, **named: Any) -> Any:
            self._felt()
            result = found(*args, **named)
            self._felt()
            return result

        return call


def unless_stuck(work: Callable[[], _T], pulse: Pulse, probe: Callable[[], None]) -> _T:
    """The result of work that calls MLflow, done in a thread that is left behind when it is stuck in a call.

    Args:
        work: what to do; its errors are raised here.
        pulse: when it last did anything.
        probe: raises when the server or database answers nothing; called while the work is silent.

    Raises:
        GkdBenchError: the work is stuck.
    """
    ended, results, errors = threading.Event(), list[_T](), list[BaseException]()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        ended.set()

    threading.Thread(target=run, name="mlflow", daemon=True).start()
    try:
        while not ended.wait(PATIENCE_SECONDS / 4):
            if pulse.silence > STALLED_SECONDS:
                raise GkdBenchError(f"nothing happened for {pulse.silence:.0f} s")
            if pulse.silence > PATIENCE_SECONDS:
                probe()
    finally:
        pulse.stop()
    for error in errors:
        raise error
    return results[0]


def again_and_again(attempt: Callable[[bool], _T]) -> _T:
    """The result of the first attempt that raises no error that may pass; an attempt is told whether it is the last."""
    for pause in PAUSES:
        try:
            return attempt(False)
        except Exception as error:
            if not may_pass(error):
                raise
            _log.info("MLflow: %s; once more in %g s", cause(error), pause)
        time.sleep(pause)
    return attempt(True)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later: an error of MLflow, of its database or its server, unless it says that it lasts."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, RequestException):
        status = getattr(error.response, "status_code", _SERVER_ERROR)
        return status >= _SERVER_ERROR or status == _TOO_MANY_REQUESTS
    known = isinstance(error, MlflowException | SQLAlchemyError)
    return known and not _says(error, _LASTING) and getattr(error, "error_code", "") not in _LASTING_CODES


def is_full(error: BaseException) -> bool:
    """Whether a disk had no room left."""
    return _says(error, _FULL)


def cause(error: BaseException) -> str:
    """An error in one line, without passwords."""
    kind = "" if isinstance(error, GkdBenchError) else f"{type(error).__name__}: "
    return f"{kind}{without_password(' '.join(str(error).split()))[:_CAUSE_LENGTH]}"


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)

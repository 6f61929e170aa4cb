"""Who runs a sweep: one driver at a time, on a shared folder as on an object service, found out without any server.

``sweeps/<name>/owner/<number>`` holds who runs it, and a beat that its owner renews. Who wants the sweep after an owner that
ended, died or fell silent writes the next number, which only one can. An owner that finds a number above its own has lost the
sweep, as when its machine slept for longer than ``SILENT_SECONDS``, and stops.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gkd_bench.errors import ClusterError, StoreError
from gkd_bench.store.blobs import Blobs

BEAT_SECONDS = 20.0
SILENT_SECONDS = 120.0
"""An owner on another machine whose beat does not change for this long counts as dead."""
LOOK_SECONDS = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Owner:
    """Who runs a sweep. ``beat`` counts up; ``born`` tells a process from a later one of the same number.

    ``entry`` tells two entries of one process apart.
    """

    user: str
    host: str
    pid: int
    born: str
    since: str
    beat: int = 0
    ended: bool = False
    entry: str = ""

    def __str__(self) -> str:
        return f"{self.user} on {self.host} (process {self.pid}, since {self.since})"

    def is_dead_here(self) -> bool:
        """Whether it ran on this machine and its process is gone."""
        return self.host == _host() and _born(self.pid) != self.born


class Ownership:
    """Holds a sweep while the ``with`` block runs.

    Args:
        blobs: of the store.
        sweep: name of the sweep.
        lost: called from a thread when another driver has taken the sweep over.
        beat: seconds between two beats.
        silent: seconds of silence after which an owner on another machine is taken for dead.
        say: told what is waited for.
    """

    def __init__(
        self,
        blobs: Blobs,
        sweep: str,
        lost: Callable[[str], None],
        beat: float = BEAT_SECONDS,
        silent: float = SILENT_SECONDS,
        say: Callable[[str], None] = _log.warning,
    ) -> None:
        self._blobs, self._sweep, self._lost, self._beat, self._silent, self._say = (
            blobs,
            sweep,
            lost,
            beat,
            silent,
            say,
        )
        self._folder = f"sweeps/{sweep}/owner"
        self._number = 0
        born, since = _born(os.getpid()), time.strftime("%Y-%m-%d %H:%M:%S %Z")
        self._me = Owner(_user(), _host(), os.getpid(), born, since, entry=uuid.uuid4().hex)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="gkd-owner", daemon=True)

    def __enter__(self) -> Self:
        """Take the sweep. Raises ClusterError, naming the owner, while another driver runs it."""
        number, owner = self._latest()
        if owner is not None and not owner.ended and not owner.is_dead_here():
            self._wait_for_silence(number, owner)
        self._number = number + 1
        if not self._blobs.create(self._name(self._number), _encode(self._me)):
            raise self._refusal(self._latest()[1])
        for old in range(max(1, number - 1), number + 1):  # those before are gone already
            self._blobs.delete(self._name(old))
        self._thread.start()
        return self

    def _wait_for_silence(self, number: int, owner: Owner) -> None:
        """Return when the owner shows no sign of life; an owner on this machine is known to live."""
        if owner.host == _host():
            raise self._refusal(owner)
        self._say(f"{owner} held sweep {self._sweep} last; waiting up to {self._silent:.0f} s for a sign of life")
        deadline = time.monotonic() + self._silent
        while time.monotonic() < deadline:
            time.sleep(min(LOOK_SECONDS, self._silent / 4))
            latest, now = self._latest()
            if latest != number or (now is not None and now.beat != owner.beat and not now.ended):
                raise self._refusal(now)
            if now is None or now.ended:
                return

    def _refusal(self, owner: Owner | None) -> ClusterError:
        who = owner or "another driver"
        return ClusterError(
            f"sweep {self._sweep} is being run by {who}; wait for its end or stop it there, then run the same command again"
        )

    def _keep(self) -> None:
        """Renew the beat; say so when the sweep is somebody else's by now."""
        owner = self._me
        while not self._ended.wait(self._beat):
            try:
                if self._blobs.exists(self._name(self._number + 1)) or not self._blobs.exists(self._name(self._number)):
                    self._lost(f"sweep {self._sweep} was taken over by {self._latest()[1] or 'another driver'}")
                    return
                owner = Owner(**{**asdict(owner), "beat": owner.beat + 1})
                self._blobs.write(self._name(self._number), _encode(owner))
            except (StoreError, OSError) as error:
                _log.warning("the owner's beat could not be written: %s", error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the sweep back."""
        self._ended.set()
        self._thread.join(5.0)
        with suppress(StoreError, OSError):
            if not self._blobs.exists(self._name(self._number + 1)):
                self._blobs.write(self._name(self._number), _encode(Owner(**{**asdict(self._me), "ended": True})))

    def _latest(self) -> tuple[int, Owner | None]:
        """Number of the last owner and who it is; 0 and none before the first. A torn entry counts as nobody's."""
        numbers = [int(name.rpartition("/")[2]) for name, _ in self._blobs.names(self._folder) if name[-8:].isdigit()]
        if not numbers:
            return 0, None
        content = self._blobs.read(self._name(max(numbers)))
        try:
            return max(numbers), Owner(**json.loads(content or b""))
        except (ValueError, TypeError):
            return max(numbers), None

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:08d}"


def current_owner(blobs: Blobs, sweep: str) -> Owner | None:
    """Who runs a sweep now, as far as its entry tells; none when nobody does."""
    owner = Ownership(blobs, sweep, lambda _: None)._latest()[1]
    return None if owner is None or owner.ended or owner.is_dead_here() else owner


def _encode(owner: Owner) -> bytes:
    return json.dumps(asdict(owner), sort_keys=True).encode()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        return f"user {os.getuid()}"


def _host() -> str:
    """Name of this machine; containers of one image may share a name, so the boot is part of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {boot}".strip()


def _born(pid: int) -> str:
    """When a process started, in the clock of its machine; empty when there is none of that number."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:  # systems without /proc
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        return "alive"
    return "alive"

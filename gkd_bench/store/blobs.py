"""Whole objects by relative name, in a folder or on an object store: what a store keeps its bytes in.

Every object appears whole or not at all, and :meth:`Blobs.create` lets the first of several writers win; that is all that
artefacts, journals and owners need. An object store that does not answer is tried again for a while; then, and when it takes
nothing more, ``StoreUnavailable`` is raised.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from gkd_bench.errors import StoreUnavailable
from gkd_bench.store.files import replace_file

RETRY_VARIABLE = "GKD_STORE_RETRY_SECONDS"
RETRY_SECONDS = 120.0
"""How long an object store that does not answer is tried again; ``GKD_STORE_RETRY_SECONDS`` says otherwise."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
_OPTIONS = {"s3": {"config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}}}
_HOPELESS = (PermissionError, NotImplementedError)
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH)
Result = TypeVar("Result")


class Blobs(ABC):
    """Objects by name: parts of letters, digits and ``_.=@+-``, ``/`` between them. Safe for any number of users."""

    @property
    @abstractmethod
    def address(self) -> str:
        """What a store is opened with; holds no secret."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The object's bytes; None when there is none."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Replace the object as a whole."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Write the object unless it is there; whether it was written. Of several writers exactly one gets True."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove the object; does nothing when there is none."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such an object."""

    @abstractmethod
    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(name, bytes) of all objects below the folder ``prefix``, sorted by name; one listing, nothing is opened."""

    @abstractmethod
    def upload(self, path: Path, name: str) -> None:
        """Write a file's content as an object, without holding it in memory."""

    @abstractmethod
    def download(self, name: str, path: Path) -> bool:
        """Write an object's content to a new file, without holding it in memory; False when there is none."""


class FolderBlobs(Blobs):
    """Objects as files below a folder, local or shared. The folder is created when first written to."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.root)

    def read(self, name: str) -> bytes | None:
        """See :meth:`Blobs.read`."""
        with disk_errors(self.root):
            try:
                return (self.root / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, name: str, content: bytes) -> None:
        """See :meth:`Blobs.write`."""
        with disk_errors(self.root):
            replace_file(self.root / name, content)

    def create(self, name: str, content: bytes) -> bool:
        """See :meth:`Blobs.create`: a hard link, which fails where the name is taken, also on network file systems."""
        path = self.root / name
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        with disk_errors(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                aside.write_bytes(content)
                os.link(aside, path)
            except FileExistsError:
                return False
            finally:
                aside.unlink(missing_ok=True)
        return True

    def delete(self, name: str) -> None:
        """See :meth:`Blobs.delete`."""
        with disk_errors(self.root):
            (self.root / name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """See :meth:`Blobs.exists`."""
        with disk_errors(self.root):
            return (self.root / name).is_file()

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :meth:`Blobs.names`."""
        found = []
        for folder, _, files in os.walk(self.root / prefix):
            for file in files:
                if not (file.startswith(".") and file.endswith(".tmp")):
                    path = Path(folder) / file
                    with contextlib.suppress(FileNotFoundError):
                        found.append((path.relative_to(self.root).as_posix(), path.stat().st_size))
        yield from sorted(found)

    def upload(self, path: Path, name: str) -> None:
        """See :meth:`Blobs.upload`."""
        target = self.root / name
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        with disk_errors(self.root):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, aside)
                os.replace(aside, target)
            finally:
                aside.unlink(missing_ok=True)

    def download(self, name: str, path: Path) -> bool:
        """See :meth:`Blobs.download`."""
        try:
            shutil.copyfile(self.root / name, path)
        except FileNotFoundError:
            return False
        return True


class RemoteBlobs(Blobs):
    """Objects of an S3-compatible service (or another one that fsspec knows and that can write exclusively).

    Credentials and endpoint come from the environment alone: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
    ``AWS_PROFILE``, an instance's role, ``AWS_ENDPOINT_URL``.
    """

    def __init__(self, url: str, patience: float | None = None) -> None:
        """Nothing is asked of the service yet.

        Args:
            url: ``s3://bucket/folder``.
            patience: seconds that a service which does not answer is tried again; none = ``RETRY_SECONDS``.

        Raises:
            StoreUnavailable: the library for this kind of address is not installed.
        """
        self._url = url.rstrip("/")
        scheme, _, self._prefix = self._url.partition("://")
        self._patience = float(os.environ.get(RETRY_VARIABLE, RETRY_SECONDS)) if patience is None else patience
        self._files = _file_system(scheme, url)

    @property
    def address(self) -> str:
        """The URL."""
        return self._url

    def read(self, name: str) -> bytes | None:
        """See :meth:`Blobs.read`."""
        try:
            content: bytes = self._ask(lambda: self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """See :meth:`Blobs.write`; one PUT, which object stores make visible at once."""
        self._put(lambda: self._files.pipe_file(self._path(name), content))

    def create(self, name: str, content: bytes) -> bool:
        """See :meth:`Blobs.create`; a PUT with ``If-None-Match: *``.

        A PUT whose answer was lost is repeated, here or by the service's library, and then refused although it was ours:
        what is there is read back.
        """

        def put() -> None:
            try:
                self._files.pipe_file(self._path(name), content, mode="create")
            except OSError as error:
                if _is_taken(error):  # of services that do not name the condition, s3fs makes another error
                    raise FileExistsError(name) from error
                raise

        try:
            self._put(put)
        except FileExistsError:
            return self.read(name) == content
        return True

    def delete(self, name: str) -> None:
        """See :meth:`Blobs.delete`."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda: self._files.rm_file(self._path(name)))

    def exists(self, name: str) -> bool:
        """See :meth:`Blobs.exists`; one HEAD."""
        try:
            self._ask(lambda: self._files.info(self._path(name), refresh=True))
        except FileNotFoundError:
            return False
        return True

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """See :meth:`Blobs.names`; a thousand names a request."""
        try:
            found: dict[str, Any] = self._ask(lambda: self._files.find(self._path(prefix), detail=True))
        except FileNotFoundError:
            return
        cut = len(self._prefix) + 1
        yield from sorted((path[cut:], int(info["size"])) for path, info in found.items())

    def upload(self, path: Path, name: str) -> None:
        """See :meth:`Blobs.upload`."""
        self._put(lambda: self._files.put_file(str(path), self._path(name)))

    def download(self, name: str, path: Path) -> bool:
        """See :meth:`Blobs.download`."""
        try:
            self._ask(lambda: self._files.get_file(self._path(name), str(path)))
        except FileNotFoundError:
            return False
        return True

    def _path(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _put(self, call: Callable[[], object]) -> None:
        try:
            self._ask(call)
        except FileNotFoundError as error:
            raise StoreUnavailable(f"store {self._url}: there is no such bucket ({error}); make it first") from error

    def _ask(self, call: Callable[[], Result]) -> Result:
        """The answer to a request; while there is none it is repeated, with growing pauses."""
        begin, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                return call()
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:  # of the service's own library
                waited = time.monotonic() - begin
                if not _is_passing(error) or waited + pause > self._patience:
                    raise StoreUnavailable(self._unreachable(error, waited)) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _unreachable(self, error: Exception, waited: float) -> str:
        what = " ".join(str(error).split()) or type(error).__name__
        advice = "check network, address and credentials (environment only), and run the same command again: nothing finished is lost"
        return f"store {self._url} does not answer or refuses ({what}); tried for {waited:.0f} s; {advice}"


def _file_system(scheme: str, url: str) -> Any:
    """The fsspec file system of an address, without its cache of listings, which other machines' writes would outdate."""
    try:
        import fsspec

        return fsspec.filesystem(scheme, use_listings_cache=False, **_OPTIONS.get(scheme, {}))
    except (ImportError, ValueError) as error:
        extra = "pip install 'gkd-bench[s3]'" if scheme == "s3" else "use a folder or an s3:// address"
        raise StoreUnavailable(f"store {url}: {scheme}:// cannot be used ({error}); {extra}") from error


def _is_taken(error: BaseException) -> bool:
    """Whether a service refused to write a second time (HTTP 412)."""
    answer = getattr(error.__cause__, "response", None) or {}
    return answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412")


def _is_passing(error: Exception) -> bool:
    """Whether trying again may help: not with wrong credentials or addresses."""
    if isinstance(error, _HOPELESS) or type(error).__name__ in ("NoCredentialsError", "ParamValidationError"):
        return False
    code = getattr(error, "errno", None)
    return code not in (errno.EACCES, errno.EPERM, errno.EINVAL)


@contextlib.contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Say plainly that a disk is full or read-only, or that a shared folder is away; other errors pass through."""
    try:
        yield
    except OSError as error:
        advice = "and run the same command again: nothing finished is lost"
        if error.errno in NO_SPACE:
            text = f"takes nothing more ({error.strerror}); make room there {advice}"
        elif error.errno in _AWAY:
            text = f"cannot be reached ({error.strerror}); look at its disk or file server {advice}"
        else:
            raise
        raise StoreUnavailable(f"store {root} {text}") from error

"""The artefact store: results of stages by content key, published whole or not at all, never changed afterwards."""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import shlex
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gkd_bench.errors import LostArtefact, StoreError
from gkd_bench.store import packing
from gkd_bench.store.blobs import Blobs, FolderBlobs, RemoteBlobs, disk_errors
from gkd_bench.store.node import StageNode
from gkd_bench.store.packing import MANIFEST, RECORDS, TENSOR_SUFFIX, Draft, check_key, is_key
from gkd_bench.store.records import Log, RecordLog, read_records
from gkd_bench.store.segments import SegmentLog

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Artefact", "Draft", "LocalStore", "ObjectStore", "Store", "open_store"]

_log = logging.getLogger(__name__)
_DEAD_AFTER_SECONDS = 24 * 3600.0
MARKERS = "manifests"


class Artefact:
    """A published result of a stage, read lazily. Every file's checksum is verified once per opened artefact.

    Attributes:
        key: content key.
        manifest: node, summary, files with sizes and checksums, package versions, creation time.
    """

    def __init__(self, store: Store, key: str, manifest: Mapping[str, Any]) -> None:
        """Use :meth:`Store.get`, which checks that the artefact is there and whole."""
        self.key = key
        self.manifest = manifest
        self._store = store
        self._verified: set[str] = set()

    def __repr__(self) -> str:
        """Kind and key."""
        return f"Artefact({self.kind} {self.key})"

    @property
    def kind(self) -> str:
        """Kind of the stage that made it."""
        return str(self.manifest["node"]["kind"])

    @property
    def node(self) -> StageNode:
        """The stage that made it."""
        return StageNode.from_json(self.manifest["node"])

    @property
    def summary(self) -> dict[str, Any]:
        """Small JSON values; read with the manifest, at no further cost."""
        return dict(self.manifest["summary"])

    def files(self) -> list[str]:
        """Names that :meth:`bytes` takes, records and tensors left out."""
        return [n for n in self.manifest["files"] if n != RECORDS and not n.endswith(TENSOR_SUFFIX)]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The state published as ``name``, on the CPU. Raises StoreError when missing or damaged."""
        return packing.decode_tensors(self._read(f"{name}{TENSOR_SUFFIX}"))

    def bytes(self, name: str) -> builtins.bytes:
        """Content of the file published as ``name``. Raises StoreError when missing or damaged."""
        return self._read(name)

    def records(self) -> list[dict[str, Any]]:
        """The stage's records; empty when it wrote none. Raises StoreError when damaged."""
        return read_records(self._read(RECORDS), f"artefact {self.key}") if RECORDS in self.manifest["files"] else []

    def verify(self) -> list[str]:
        """Read every file and compare sizes and checksums; one line per problem, empty when all is well."""
        checks = ((name, self._problem(name, self._store.read_file(self.key, name))) for name in self.manifest["files"])
        return [f"{name}: {problem}" for name, problem in checks if problem]

    def _read(self, name: str) -> builtins.bytes:
        if name not in self.manifest["files"]:
            raise StoreError(
                f"artefact {self.key} ({self.kind}) has no {name!r}; it has {sorted(self.manifest['files'])}"
            )
        content = self._store.read_file(self.key, name)
        if content is None or name not in self._verified:
            problem = self._problem(name, content)
            if problem or content is None:
                raise packing.corrupt(self.key, name, problem or "missing", self._store.removal(self.key))
        return content

    def _problem(self, name: str, content: builtins.bytes | None) -> str | None:
        problem = packing.file_problem(content, self.manifest["files"][name])
        if problem is None:
            self._verified.add(name)
        return problem


class Store(ABC):
    """Artefacts and checkpoints by key. A back end provides the abstract methods; the rest is the same for all of them.

    Safe for any number of threads, processes and machines that share the back end. A key that is not made of letters,
    digits, ``-`` and ``_`` raises StoreError everywhere.
    """

    blobs: Blobs
    """Where everything is kept; sweeps keep their records, and stages their checkpoints, beside the artefacts."""

    @property
    def address(self) -> str:
        """What :func:`open_store` opens it with on another machine."""
        return self.blobs.address

    # ------------------------------------------------------------ back end

    @abstractmethod
    def has(self, key: str) -> bool:
        """Whether the artefact is published; one look-up, no file is read."""

    @abstractmethod
    def _keys(self) -> Iterator[str]:
        """Keys of all published artefacts, sorted; one listing, no artefact is opened."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an artefact at once and whole; does nothing when it is not there."""

    @abstractmethod
    def removal(self, key: str) -> str:
        """Command that removes an artefact; error messages of damaged ones give it to the user."""

    @abstractmethod
    def read_file(self, key: str, name: str) -> bytes | None:
        """Unverified bytes of one file of an artefact; None when it is missing. Use :class:`Artefact` instead."""

    @abstractmethod
    def _publish_files(self, key: str, files: Mapping[str, bytes]) -> bool:
        """Make all files visible at once; False, with nothing changed, when the key is already published."""

    @abstractmethod
    def log(self, name: str) -> Log:
        """The append-only log of that name; one process at a time may append to it."""

    # ------------------------------------------------------------ artefacts

    def keys(self, kind: str | None = None) -> Iterator[str]:
        """Keys of all published artefacts, sorted; with ``kind``, one manifest is read per artefact."""
        return (key for key in self._keys() if kind is None or self._kind(key) == kind)

    def _kind(self, key: str) -> str | None:
        """The artefact's kind; None when its manifest is damaged or was removed meanwhile."""
        try:
            return self.get(key, verify=False).kind
        except StoreError:
            return None

    def get(self, key: str, *, verify: bool = True) -> Artefact:
        """Open an artefact.

        Args:
            key: content key.
            verify: check every file now; False checks each file when it is first read (for reports over many artefacts).

        Raises:
            StoreError: missing, torn or not matching its checksums; names the key, the file and what to do, for damaged ones
                the shell command that lets the next run of the sweep compute them again.
        """
        manifest = self.read_file(check_key(key), MANIFEST)
        if manifest is None:
            raise LostArtefact(key, f"artefact {key} is not in the store; run the sweep to compute it")
        artefact = Artefact(self, key, packing.read_manifest(manifest, key, self.removal(key)))
        problems = artefact.verify() if verify else []
        if problems:
            name, _, problem = "; ".join(problems).partition(": ")
            raise packing.corrupt(key, name, problem, self.removal(key))
        return artefact

    def publish(self, node: StageNode, draft: Draft) -> Artefact:
        """Publish what a stage made. Of several publishers of one key the first wins and all get its artefact.

        A published artefact that is found damaged is replaced.

        Raises:
            StoreError: unsafe file names, records that are not flat JSON, or a summary that is not JSON.
        """
        files = packing.pack(node, draft)
        if not self._publish_files(node.key, files) and self.discard_corrupt(node.key):
            self._publish_files(node.key, files)
        return self.get(node.key, verify=False)

    def describe(self, key: str) -> dict[str, Any]:
        """The node that made an artefact, as JSON (see ``StageNode.to_json``). Raises StoreError like :meth:`get`."""
        return dict(self.get(key, verify=False).manifest["node"])

    def verify(self, key: str) -> list[str]:
        """Problems of an artefact, one line each; empty when every file matches its checksum.

        Raises:
            StoreError: the store does not answer, or the artefact is of a newer version.
        """
        try:
            return self.get(key, verify=False).verify()
        except LostArtefact as error:
            return [str(error)]

    def discard_corrupt(self, key: str) -> bool:
        """Remove the artefact if it is damaged; whether it was."""
        problems = self.verify(key) if self.has(key) else []
        if problems:
            _log.warning("artefact %s is damaged and removed: %s", key, "; ".join(problems))
            self.delete(key)
        return bool(problems)

    # ------------------------------------------------------------ checkpoints

    def checkpoint_save(self, key: str, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint of an unfinished stage.

        Args:
            key: key of the stage.
            state: dicts, lists and tuples of tensors, strings, numbers, booleans and None.

        Raises:
            StoreError: ``state`` holds anything else; every place is listed.
        """
        self.blobs.write(_checkpoint(key), packing.encode_checkpoint(state))

    def checkpoint_load(self, key: str) -> dict[str, Any] | None:
        """The last checkpoint, tensors on the CPU; None when there is none, or, with a warning, when it is damaged."""
        content = self.blobs.read(_checkpoint(key))
        if content is None:
            return None
        try:
            return packing.decode_checkpoint(content)
        except Exception as error:  # torch.load raises whatever the damaged bytes lead it to
            _log.warning("checkpoint %s is damaged (%s); the stage starts again", key, error)
            return None

    def checkpoint_drop(self, key: str) -> None:
        """Remove the checkpoint; does nothing when there is none."""
        self.blobs.delete(_checkpoint(key))


class LocalStore(Store):
    """A store in a local or shared folder.

    ``<root>/artefacts/<key[:2]>/<key>/{manifest.json, <name>.safetensors, records.jsonl, ...}`` and
    ``<root>/checkpoints/<key>.pt``. Artefacts are written in ``<root>/tmp`` and renamed into place; what dead processes
    left there is removed when a store is opened more than a day later.
    """

    def __init__(self, root: str | Path) -> None:
        """Open the store in folder ``root``, which is created when first written to."""
        self.root = Path(root)
        self.blobs = FolderBlobs(self.root)
        self._temporary = self.root / "tmp"
        dead = time.time() - _DEAD_AFTER_SECONDS
        _remove_leftovers(self._temporary.glob("*"), dead)
        _remove_leftovers((self.root / "checkpoints").glob(".*.tmp"), dead)

    def __repr__(self) -> str:
        """Class and folder."""
        return f"LocalStore({str(self.root)!r})"

    def has(self, key: str) -> bool:
        """Whether the artefact is published; one stat call."""
        return self.blobs.exists(f"{_folder(key)}/{MANIFEST}")

    def _keys(self) -> Iterator[str]:
        """One stat call each."""
        for folder in sorted(self.root.glob("artefacts/??/*")):
            if is_key(folder.name) and self.has(folder.name):
                yield folder.name

    def delete(self, key: str) -> None:
        """Remove an artefact; it vanishes in one rename, so no reader sees half of it."""
        self._discard(self._folder(key))

    def removal(self, key: str) -> str:
        """``rm -r`` of the artefact's folder."""
        return f"rm -r {shlex.quote(str(self._folder(key).absolute()))}"

    def read_file(self, key: str, name: str) -> bytes | None:
        """Unverified bytes of one file of an artefact; None when it is missing."""
        return self.blobs.read(f"{_folder(key)}/{name}")

    def log(self, name: str) -> Log:
        """``<root>/<name>.jsonl``, one record a line; any number of processes of one machine may append."""
        return RecordLog(self.root / f"{name}.jsonl")

    def _publish_files(self, key: str, files: Mapping[str, bytes]) -> bool:
        try:
            return self._publish_draft(key, files)
        except FileNotFoundError:  # a machine whose clock has jumped took the draft for a dead one
            return self._publish_draft(key, files)

    def _publish_draft(self, key: str, files: Mapping[str, bytes]) -> bool:
        if self.has(key):
            return False
        draft = self._fresh_path(key)
        try:
            with disk_errors(self.root):
                for name, content in files.items():
                    (draft / name).parent.mkdir(parents=True, exist_ok=True)
                    (draft / name).write_bytes(content)
                return self._move_into_place(draft, key)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _move_into_place(self, draft: Path, key: str) -> bool:
        """Rename the folder; renaming onto a folder that is not empty fails, which makes the first publisher win."""
        final = self._folder(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                os.rename(draft, final)
                return True
            except OSError:
                if self.has(key):
                    return False
                self._discard(final)  # a folder without a manifest, as an interrupted copy leaves it
        os.rename(draft, final)
        return True

    def _discard(self, folder: Path) -> None:
        trash = self._fresh_path(folder.name)
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)

    def _fresh_path(self, key: str) -> Path:
        with disk_errors(self.root):
            self._temporary.mkdir(parents=True, exist_ok=True)
        return self._temporary / f"{key}-{os.getpid()}-{uuid.uuid4().hex}"

    def _folder(self, key: str) -> Path:
        return self.root / _folder(key)


class ObjectStore(Store):
    """A store on an object service: ``artefacts/<key>/<draft>/<name>`` and, put last, the marker ``manifests/<key>``.

    Nothing is renamed there. Every publisher writes into a draft of its own; the marker is put with "only if there is none",
    so that the first one wins, and tells the draft and holds the manifest. A listing reads markers alone. Drafts of publishers
    that died are removed by ``gkd-bench store prune``.
    """

    def __init__(self, blobs: Blobs) -> None:
        """The store in ``blobs``."""
        self.blobs = blobs
        self._drafts: dict[str, str] = {}

    def __repr__(self) -> str:
        """Class and address."""
        return f"ObjectStore({self.address!r})"

    def has(self, key: str) -> bool:
        """Whether the artefact is published; one request."""
        return self.blobs.exists(_marker(key))

    def _keys(self) -> Iterator[str]:
        """One request for a thousand of them."""
        names = (name.removeprefix(f"{MARKERS}/") for name, _ in self.blobs.names(MARKERS))
        return (name for name in names if is_key(name))

    def delete(self, key: str) -> None:
        """Remove an artefact: first its marker, then the files of the draft that it named."""
        draft = self._draft_of(key)
        self.blobs.delete(_marker(key))
        if draft is not None:
            for name, _ in list(self.blobs.names(f"artefacts/{key}/{draft}")):
                self.blobs.delete(name)

    def removal(self, key: str) -> str:
        """The command that removes any artefact of any store."""
        return f"gkd-bench store remove {key} --store {shlex.quote(self.address)}"

    def read_file(self, key: str, name: str) -> bytes | None:
        """Unverified bytes of one file of an artefact; None when it is missing."""
        if name == MANIFEST:
            return self._read_marker(key)
        draft = self._drafts.get(check_key(key)) or self._draft_of(key)
        return None if draft is None else self.blobs.read(f"artefacts/{key}/{draft}/{name}")

    def log(self, name: str) -> Log:
        """``<name>/``, segments of records; what one process appends lies in segments of its own."""
        return SegmentLog(self.blobs, name)

    def _publish_files(self, key: str, files: Mapping[str, bytes]) -> bool:
        if self.has(key):
            return False
        draft = uuid.uuid4().hex
        for name, content in files.items():
            if name != MANIFEST:
                self.blobs.write(f"artefacts/{key}/{draft}/{name}", content)
        if self.blobs.create(_marker(key), draft.encode() + b"\n" + files[MANIFEST]):
            return True
        for name in files:
            self.blobs.delete(f"artefacts/{key}/{draft}/{name}")
        return False

    def _read_marker(self, key: str) -> bytes | None:
        content = self.blobs.read(_marker(key))
        if content is None:
            self._drafts.pop(key, None)
            return None
        draft, _, manifest = content.partition(b"\n")
        self._drafts[key] = draft.decode("ascii", "replace")
        return manifest

    def _draft_of(self, key: str) -> str | None:
        self._read_marker(key)
        draft = self._drafts.get(key)
        return draft if draft and is_key(draft) else None


def open_store(url: str | Path) -> Store:
    """The store at ``url``: a folder, as a path or a ``file://`` address, or ``s3://bucket/folder``.

    A folder is created when first written to. Nothing is asked of an object service yet.

    Raises:
        StoreError: another kind of address.
    """
    scheme, separator, rest = str(url).partition("://")
    if not separator:
        return LocalStore(url)
    if scheme == "file":
        return LocalStore(rest)
    if scheme != "s3":
        raise StoreError(
            f"store {url}: '{scheme}://' is not supported; give a folder, local or shared, or s3://bucket/folder"
        )
    if not rest.strip("/"):
        raise StoreError(f"store {url}: names no bucket; give s3://bucket/folder")
    return ObjectStore(RemoteBlobs(str(url)))


def is_remote(url: str | Path) -> bool:
    """Whether a store's address is that of an object service, not a folder."""
    return "://" in str(url) and not str(url).startswith("file://")


def _checkpoint(key: str) -> str:
    return f"checkpoints/{check_key(key)}.pt"


def _folder(key: str) -> str:
    return f"artefacts/{check_key(key)[:2]}/{key}"


def _marker(key: str) -> str:
    return f"{MARKERS}/{check_key(key)}"


def _remove_leftovers(paths: Iterable[Path], before: float) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

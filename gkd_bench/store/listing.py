"""What lies in a store, from one listing: artefacts and their sizes, and files that belong to no artefact."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import orjson

from gkd_bench.errors import StoreError
from gkd_bench.store.artefacts import MARKERS, LocalStore, Store
from gkd_bench.store.needed import READERS
from gkd_bench.store.node import StageNode
from gkd_bench.store.packing import MANIFEST, MANIFEST_FORMAT, is_key

_BATCH = 1000
SHOWN_NAMES = 3


@dataclass(frozen=True)
class Listing:
    """What one listing tells.

    Attributes:
        artefacts: key -> bytes of a published artefact, by key.
        drafts: name -> bytes of files that belong to none: of publishers that died, or are still at work.
    """

    artefacts: Mapping[str, int]
    drafts: Mapping[str, int]


@dataclass(frozen=True)
class Facts:
    """What an artefact's manifest says, unverified.

    Attributes:
        key: of the artefact.
        node: stage that made it; none when the manifest is damaged, or of a newer format.
        created: when, in ISO format; empty when not known.
        versions: package -> version that made it.
        seconds: how long its stage ran; none when not known.
        newer: whether a newer version of this code wrote it.
    """

    key: str
    node: StageNode | None = None
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    newer: bool = False


def published(store: Store) -> list[str]:
    """Keys of all artefacts, sorted; one listing that asks no size."""
    if not isinstance(store, LocalStore):
        return list(store.keys())
    found = _folders(store.root)
    return [key for key, folder in sorted(found.items()) if os.path.exists(f"{folder}/{MANIFEST}")]


def listing(store: Store) -> Listing:
    """All artefacts with their sizes; two listings of an object service, one of a folder."""
    if isinstance(store, LocalStore):
        return _of_folder(store.root)
    files: dict[str, dict[str, dict[str, int]]] = {}  # key -> draft -> name -> bytes
    for name, size in store.blobs.names("artefacts"):
        _, key, draft, *_ = [*name.split("/"), "", ""]
        files.setdefault(key, {}).setdefault(draft, {})[name] = size
    markers = {name.removeprefix(f"{MARKERS}/"): size for name, size in store.blobs.names(MARKERS)}
    return _of_service(store, files, markers)


def _of_folder(root: Path) -> Listing:
    artefacts, drafts = {}, dict[str, int]()
    for key, folder in sorted(_folders(root).items()):
        sizes = dict(_sizes(folder))
        if f"{folder}/{MANIFEST}" in sizes:
            artefacts[key] = sum(sizes.values())
        else:
            drafts |= {os.path.relpath(path, root): size for path, size in sizes.items()}
    return Listing(artefacts, drafts)


def _folders(root: Path) -> dict[str, str]:
    """Key -> folder of an artefact, or of what an interrupted copy left of one."""
    folders = (folder for part in _entries(root / "artefacts") for folder in _entries(part))
    return {key: folder for folder in folders if is_key(key := os.path.basename(folder))}


def _entries(folder: str | Path) -> Iterator[str]:
    """Paths of what lies in a folder; nothing when it is none."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry.path for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return


def _sizes(folder: str) -> Iterator[tuple[str, int]]:
    """(path, bytes) of all files below a folder; those that vanish meanwhile are left out."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(entry.path)
            else:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.path, entry.stat().st_size


def _of_service(
    store: Store, files: Mapping[str, Mapping[str, Mapping[str, int]]], markers: Mapping[str, int]
) -> Listing:
    """A marker tells its draft; it is read where there are several, not to read one for every artefact."""
    artefacts = {key: size for key, size in sorted(markers.items()) if is_key(key)}
    drafts: dict[str, int] = {}
    for key, found in files.items():
        own = next(iter(found)) if len(found) == 1 else draft_of(store, key) if key in artefacts else ""
        for draft, sizes in found.items():
            if key in artefacts and draft == own:
                artefacts[key] += sum(sizes.values())
            else:
                drafts |= sizes
    return Listing(artefacts, drafts)


def draft_of(store: Store, key: str) -> str:
    """The draft that an artefact of an object service consists of; empty when there is none."""
    return (store.blobs.read(f"{MARKERS}/{key}") or b"").partition(b"\n")[0].decode("ascii", "replace")


def read_facts(store: Store, keys: Iterable[str]) -> Iterator[Facts]:
    """What the manifests of artefacts say, in order, several read at once; those removed meanwhile are left out."""
    rest = iter(keys)
    with ThreadPoolExecutor(READERS) as pool:
        while batch := list(islice(rest, _BATCH)):
            yield from (facts for facts in pool.map(lambda key: _facts(store, key), batch) if facts)


def _facts(store: Store, key: str) -> Facts | None:
    content = store.read_file(key, MANIFEST)
    if content is None:
        return None
    try:
        manifest = orjson.loads(content)
        if manifest["format"] > MANIFEST_FORMAT:
            return Facts(key, newer=True)
        node = StageNode.from_json(manifest["node"])
        seconds = manifest["summary"].get("seconds")
        return Facts(key, node, str(manifest["created"]), dict(manifest["versions"]), seconds and float(seconds))
    except (ValueError, LookupError, TypeError):
        return Facts(key)


def unknown(what: str, name: str, names: Collection[str], where: str) -> StoreError:
    """The error for a key or sweep that is not there, with those that are most like it.

    Args:
        what: "artefact" or "sweep".
        name: what was asked for.
        names: what there is.
        where: address of the store.
    """
    import difflib

    alike = sorted(names, key=lambda other: (-_shared(name, other), other))[:SHOWN_NAMES]
    near = [other for other in alike if _shared(name, other) >= max(4, len(name) // 3)]
    near = near or (difflib.get_close_matches(name, names, SHOWN_NAMES) if len(names) <= _BATCH else [])
    there = f"it has {len(names):,}; `gkd-bench store list` shows them" if names else "there is none"
    advice = f"did you mean {' or '.join(near)}?" if near else there
    return StoreError(f"no {what} {name!r} in the store {where}: {advice}")


def _shared(one: str, other: str) -> int:
    """Length of the longer of the common beginning and the common end."""

    def common(a: str, b: str) -> int:
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

    return max(common(one, other), common(one[::-1], other[::-1]))


def size_text(size: int) -> str:
    """Bytes for people: ``1.2 MB``."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def count(number: int, what: str) -> str:
    """``1 stage``, ``2 stages``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"

"""Whether what a store holds is whole: checksums of artefacts, checkpoints and prepared data, and whether records can be read."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gkd_bench.errors import LostArtefact, StoreError, StoreUnavailable
from gkd_bench.store.artefacts import Store
from gkd_bench.store.blobs import FolderBlobs
from gkd_bench.store.listing import Listing, count, listing, published, size_text, unknown
from gkd_bench.store.needed import Need, known_nodes, needed_keys, read_needs, sweep_names, sweeps_and_owners
from gkd_bench.store.ownership import current_owner
from gkd_bench.store.packing import MANIFEST, is_key, sha256
from gkd_bench.store.records import read_records

CHECKPOINTS, PREPARED = "checkpoints", "data"
_VERIFIERS, _BATCH = 8, 200
_RECORDS = ("records.jsonl", "timings.jsonl")


@dataclass(frozen=True)
class Problem:
    """Something that is not whole.

    Attributes:
        text: what, where, and what to do, in one line.
        discard: removes it, so that the next run makes it again; none where a person has to decide.
    """

    text: str
    discard: Callable[[], None] | None = None


def verify_store(store: Store) -> Iterator[Problem]:
    """Everything in the store; reads all of it."""
    names = dict(store.blobs.names(CHECKPOINTS))
    found = listing(store)
    yield from verify_artefacts(store, found.artefacts)
    yield from _checkpoints(store, names)
    needs = read_needs(store)
    yield from _sweeps(store, needs)
    yield from _drafts(store, found)
    yield from _prepared(store, None)


def verify_named(store: Store, name: str) -> Iterator[Problem]:
    """What a key or a sweep's name stands for. Raises StoreError, with those most like it, when there is neither."""
    if name in sweep_names(store):
        return verify_sweep(store, name)
    if not is_key(name) or not store.has(name):
        raise unknown("artefact or sweep", name, [*sweep_names(store), *published(store)], store.address)
    return verify_artefacts(store, [name])


def verify_sweep(store: Store, sweep: str) -> Iterator[Problem]:
    """What one sweep needs: its artefacts and their checkpoints, its records, and the prepared data that its stages read."""
    needs = [need for need in read_needs(store) if need.sweep == sweep]
    there, nodes = set(published(store)), known_nodes(needs)
    keys = needed_keys(store, needs)
    yield from verify_artefacts(store, sorted(there & keys.keys()))
    yield from _checkpoints(store, [name for name, _ in store.blobs.names(CHECKPOINTS) if stage_of(name) in keys])
    yield from _sweeps(store, needs)
    yield from _prepared(store, {reference for node in nodes.values() for reference in node.data.values()})


def verify_artefacts(store: Store, keys: Iterable[str]) -> Iterator[Problem]:
    """The named artefacts, several read at once; those removed meanwhile are left out."""
    rest = iter(keys)
    with ThreadPoolExecutor(_VERIFIERS) as pool:
        while batch := list(islice(rest, _BATCH)):
            for problems in pool.map(lambda key: _artefact(store, key), batch):
                yield from problems


def stage_of(name: str) -> str:
    """Key of the stage that a checkpoint or traceback is of, from its name; stages of several trainings have several."""
    return name.rpartition("/")[2].partition(".")[0].partition("-")[0]


# ---------------------------------------------------------------- one by one


def _artefact(store: Store, key: str) -> list[Problem]:
    def discard() -> None:
        store.delete(key)

    try:
        artefact = store.get(key, verify=False)
        problems = artefact.verify()
    except StoreUnavailable:
        raise
    except LostArtefact as error:
        return [Problem(str(error), discard)] if store.has(key) else []
    except StoreError as error:  # of a newer format: nothing is wrong with it
        return [Problem(str(error))]
    if not problems or not store.has(key):
        return []
    remedy = f"remove it, and the next run that needs it computes it again: {store.removal(key)}"
    return [Problem(f"artefact {key} ({artefact.node}): {'; '.join(problems)}; {remedy}", discard)]


def _checkpoints(store: Store, names: Iterable[str]) -> Iterator[Problem]:
    for name in names:
        content = store.blobs.read(name)
        if content is None:
            continue
        digest, _, payload = content.partition(b"\n")
        if digest != sha256(payload).encode():
            text = f"{name}: torn, or does not match its checksum; its stage will start again, nothing else is lost"
            yield Problem(text, _removal_of(store, [name]))


def _sweeps(store: Store, needs: Iterable[Need]) -> Iterator[Problem]:
    """Journals and records can be read, and lists of stages are not torn."""
    for need in needs:
        folder = f"sweeps/{need.sweep}"
        if need.torn:
            yield Problem(f"{folder}: {need.torn}")
        try:
            store.log(f"{folder}/journal").read()
        except StoreUnavailable:
            raise
        except StoreError as error:
            yield Problem(f"{folder}, journal of its searches: {error}")
        for file in _RECORDS:
            try:
                read_records(store.blobs.read(f"{folder}/{file}") or b"", f"{folder}/{file}")
            except StoreUnavailable:
                raise
            except StoreError as error:
                remedy = "or remove the file: the sweep's next run, which trains nothing, writes it anew"
                yield Problem(f"{error}, {remedy}", _removal_of(store, [f"{folder}/{file}"]))


def _drafts(store: Store, found: Listing) -> Iterator[Problem]:
    """Files of no artefact; while a sweep runs they may be of one that is just being published."""
    if not found.drafts or any(current_owner(store.blobs, sweep) for sweep in sweeps_and_owners(store)):
        return
    what = f"{count(len(found.drafts), 'file')}, {size_text(sum(found.drafts.values()))}"
    first = min(found.drafts)
    text = f"left by publishers that died: {what}, such as {first}; `gkd-bench store prune` removes them"
    yield Problem(text, _removal_of(store, list(found.drafts)))


def _prepared(store: Store, references: set[str] | None) -> Iterator[Problem]:
    """Prepared data, all of them or the named ones, against the checksums of their manifests."""
    folders: dict[str, list[str]] = {}
    for name, _ in store.blobs.names(PREPARED):
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, []).append(file)
    for folder, files in folders.items():
        _, *parts = folder.split("/")
        if MANIFEST not in files or len(parts) != 2 or parts[1].startswith("."):
            continue  # not prepared to its end yet
        if references is None or "@".join(parts) in references:
            problem = _prepared_problem(store, folder, files)
            if problem:
                remedy = "remove that folder and run the sweep again, which prepares it anew"
                names = [f"{folder}/{file}" for file in sorted(files, key=lambda file: file != MANIFEST)]
                yield Problem(f"{folder}: {problem}; {remedy}", _removal_of(store, names))


def _prepared_problem(store: Store, folder: str, files: Collection[str]) -> str:
    try:
        checksums = dict(json.loads(store.blobs.read(f"{folder}/{MANIFEST}") or b"")["checksums"])
    except (ValueError, LookupError, TypeError) as error:
        return f"{MANIFEST} is torn ({error})"
    wrong = [file for file, sha in checksums.items() if file not in files or _digest(store, f"{folder}/{file}") != sha]
    return f"{', '.join(wrong)} missing or damaged" if wrong else ""


def _digest(store: Store, name: str) -> str:
    """SHA-256 of an object of any size, not held in memory; empty when there is none."""
    if isinstance(store.blobs, FolderBlobs):
        return _file_digest(store.blobs.root / name)
    with tempfile.TemporaryDirectory(prefix="gkd_verify_") as folder:
        path = Path(folder, "object")
        return _file_digest(path) if store.blobs.download(name, path) else ""


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def _removal_of(store: Store, names: list[str]) -> Callable[[], None]:
    def discard() -> None:
        for name in names:
            store.blobs.delete(name)

    return discard

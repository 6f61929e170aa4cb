"""Prepared data between the store, which all machines reach, and each machine's own cache.

A store in a shared folder holds the cache itself, so that nothing is copied. From an object service every machine fetches what
its stages read, once, and compares it with its checksums.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from gkd_bench.data.cache import MANIFEST, built_once, domain_folder, is_prepared
from gkd_bench.data.digests import file_digest
from gkd_bench.errors import StoreError
from gkd_bench.store.artefacts import LocalStore, Store

SHELF = "data"


def cache_of(store: Store, given: str | Path | None = None) -> Path:
    """The folder of prepared data on this machine: the given one, else the store's own, else one for all object stores."""
    if given:
        return Path(given).expanduser()
    if isinstance(store, LocalStore):
        return store.root / SHELF
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "gkd_bench" / SHELF


def share(reference: str, cache: Path, store: Store) -> None:
    """Put a prepared folder, ``name@fingerprint``, into the store unless it is there; its manifest comes last."""
    name, _, fingerprint = reference.partition("@")
    shelf, folder = f"{SHELF}/{name}/{fingerprint}", domain_folder(cache, name, fingerprint)
    if store.blobs.exists(f"{shelf}/{MANIFEST}"):
        return
    for path in sorted(folder.iterdir(), key=lambda path: (path.name == MANIFEST, path.name)):
        store.blobs.upload(path, f"{shelf}/{path.name}")


def fetch(reference: str, cache: Path, store: Store) -> bool:
    """Bring a prepared folder into this machine's cache; whether it is there now.

    Of several processes of a machine one fetches and the others wait.

    Raises:
        StoreError: what came does not match its checksums.
    """
    name, _, fingerprint = reference.partition("@")
    if is_prepared(cache, name, fingerprint):
        return True
    shelf = f"{SHELF}/{name}/{fingerprint}"
    if not store.blobs.exists(f"{shelf}/{MANIFEST}"):
        return False

    def download(folder: Path) -> None:
        for blob, _ in store.blobs.names(shelf):
            store.blobs.download(blob, folder / blob.rpartition("/")[2])
        checksums = json.loads((folder / MANIFEST).read_bytes())["checksums"]
        wrong = [file for file, digest in checksums.items() if _digest(folder / file) != digest]
        if wrong:
            where = f"{store.address}/{shelf}"
            raise StoreError(
                f"{where}: {', '.join(wrong)} missing or damaged; remove that folder and run the sweep again"
            )

    built_once(domain_folder(cache, name, fingerprint), download)
    return True


def _digest(path: Path) -> str | None:
    return file_digest(path) if path.is_file() else None

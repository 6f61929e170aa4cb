"""Prepared domains on disk: memory-mapped arrays with checksums, opened as source and test images of distinct types."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from gkd_bench.data.digests import file_digest
from gkd_bench.data.splits import Split
from gkd_bench.errors import LeakError, StoreError

MANIFEST = "manifest.json"
WORKING = ("images", "labels", "fov")
NATIVE = ("native_labels", "native_fov")
Bytes = NDArray[np.uint8]
Description = TypeVar("Description", bound=BaseModel)


class PreparedImage(BaseModel):
    """What the manifest says of one image; sizes are (height, width)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    subject: str
    split: Split
    size: tuple[int, int]
    native_size: tuple[int, int]


class Manifest(BaseModel):
    """Description of a prepared domain.

    Attributes:
        factor: working pixels per native pixel.
        fov_diameter: median extent of the field of view, native pixels.
        checksums: SHA-256 of each array file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str
    fingerprint: str
    settings: dict[str, Any]
    reader_version: int
    prepare_version: int
    factor: float
    fov_diameter: float
    images: tuple[PreparedImage, ...]
    checksums: dict[str, str]


@dataclass(frozen=True)
class _Arrays:
    """The five arrays of a prepared domain, (N, height, width) uint8, read-only memory maps."""

    images: Bytes
    labels: Bytes
    fov: Bytes
    native_labels: Bytes
    native_fov: Bytes


@dataclass(frozen=True, eq=False)
class _Images:
    """Images of one split; what source and test images have in common."""

    domain: str
    entries: tuple[PreparedImage, ...]
    _rows: tuple[int, ...]
    _arrays: _Arrays

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        """Name of the image."""
        return self.entries[index].name

    def subject(self, index: int) -> str:
        """Subject of the image."""
        return self.entries[index].subject

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) at the working scale."""
        return self.entries[index].size

    def image(self, index: int) -> Bytes:
        """(height, width) uint8 grey levels at the working scale."""
        return self._crop(self._arrays.images, index, self.entries[index].size)

    def label(self, index: int) -> Bytes:
        """(height, width) uint8, 1 on vessels, at the working scale."""
        return self._crop(self._arrays.labels, index, self.entries[index].size)

    def fov(self, index: int) -> Bytes:
        """(height, width) uint8, 1 inside the field of view, at the working scale."""
        return self._crop(self._arrays.fov, index, self.entries[index].size)

    def native_label(self, index: int) -> Bytes:
        """(height, width) uint8, 1 on vessels, in the data set's own pixels: what scores are computed on."""
        return self._crop(self._arrays.native_labels, index, self.entries[index].native_size)

    def native_fov(self, index: int) -> Bytes:
        """(height, width) uint8, 1 inside the field of view, in the data set's own pixels."""
        return self._crop(self._arrays.native_fov, index, self.entries[index].native_size)

    def subset(self, indices: Sequence[int]) -> Self:
        """Some of the images, in the order given, of the same type."""
        entries = tuple(self.entries[i] for i in indices)
        return replace(self, entries=entries, _rows=tuple(self._rows[i] for i in indices))

    def _crop(self, array: Bytes, index: int, size: tuple[int, int]) -> Bytes:
        return np.array(array[self._rows[index], : size[0], : size[1]])


@dataclass(frozen=True, eq=False)
class SourceImages(_Images):
    """Images of a source domain's ``train`` or ``val`` split: what training and selection may read."""


@dataclass(frozen=True, eq=False)
class TestImages(_Images):
    """Images of a ``test`` split: only ever scored. No training or selection code accepts them."""

    __test__ = False  # not a pytest class


AnyImages = SourceImages | TestImages


def require_source(images: object) -> None:
    """Raise LeakError unless these are images of a source's training or validation split."""
    if not isinstance(images, SourceImages):
        raise LeakError(
            f"{type(images).__name__} were handed to code that trains or selects; pass source_splits().train or .val instead"
        )


@dataclass(frozen=True)
class SourceSplits:
    """The two splits of a source domain."""

    train: SourceImages
    val: SourceImages


@dataclass(frozen=True)
class TestSplit:
    """The test split of a domain."""

    __test__ = False

    images: TestImages


@dataclass(frozen=True)
class PreparedDomain:
    """A prepared domain in the cache.

    Attributes:
        folder: its folder, ``<cache>/<domain>/<fingerprint>``.
        manifest: its description.
    """

    folder: Path
    manifest: Manifest

    @property
    def reference(self) -> str:
        """``domain@fingerprint``, what stage keys and records name."""
        return f"{self.manifest.domain}@{self.manifest.fingerprint}"

    def source_splits(self) -> SourceSplits:
        """Training and validation images."""
        return SourceSplits(SourceImages(*self._select("train")), SourceImages(*self._select("val")))

    def test_split(self) -> TestSplit:
        """Test images, of a type that training refuses."""
        return TestSplit(TestImages(*self._select("test")))

    @cached_property
    def _arrays(self) -> _Arrays:
        return _Arrays(**{name: load_array(self.folder / f"{name}.npy") for name in WORKING + NATIVE})

    def _select(self, split: Split) -> tuple[str, tuple[PreparedImage, ...], tuple[int, ...], _Arrays]:
        rows = tuple(i for i, image in enumerate(self.manifest.images) if image.split == split)
        return self.manifest.domain, tuple(self.manifest.images[i] for i in rows), rows, self._arrays


def domain_folder(cache: Path, domain: str, fingerprint: str) -> Path:
    """Where a prepared domain is kept."""
    return cache / domain / fingerprint


def is_prepared(cache: Path, domain: str, fingerprint: str) -> bool:
    """Whether the domain has been prepared; folders appear complete or not at all."""
    return (domain_folder(cache, domain, fingerprint) / MANIFEST).is_file()


def open_prepared(cache: Path, domain: str, fingerprint: str, verify: bool = False) -> PreparedDomain:
    """Open a prepared domain; ``verify`` also compares every array with its checksum.

    Raises:
        StoreError: it is not there, its manifest is torn, or an array is missing or does not match its checksum.
    """
    folder = domain_folder(cache, domain, fingerprint)
    manifest = read_manifest(folder, Manifest, f"domain {domain}")
    require_arrays(folder, WORKING + NATIVE, manifest.checksums, verify)
    return PreparedDomain(folder, manifest)


def read_manifest(folder: Path, model: type[Description], title: str) -> Description:
    """What a prepared folder says of itself. Raises StoreError when it is not there or torn."""
    try:
        return model.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{folder}: {title} is not prepared; run the sweep, which prepares it") from None
    except ValidationError as error:
        raise StoreError(f"{folder / MANIFEST}: torn or foreign manifest ({error}); {_remedy(folder)}") from error


def require_arrays(folder: Path, names: Iterable[str], checksums: Mapping[str, str], verify: bool) -> None:
    """Raise one StoreError for every array that is missing or, with ``verify``, does not match its checksum."""
    problems = [f"{name}.npy is missing" for name in names if not (folder / f"{name}.npy").is_file()]
    if verify and not problems:
        problems = [
            f"{name} does not match its checksum"
            for name, sha in checksums.items()
            if file_digest(folder / name) != sha
        ]
    if problems:
        raise StoreError(f"{folder}: {', '.join(problems)}; {_remedy(folder)}")


def array_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each array file of a folder, by file name."""
    return {path.name: file_digest(path) for path in sorted(folder.glob("*.npy"))}


def built_once(target: Path, build: Callable[[Path], None]) -> None:
    """Have ``build`` fill the folder ``target``, its manifest included, unless that was done before.

    The folder appears complete or not at all. Of several processes one builds, and the others wait.
    """
    if (target / MANIFEST).is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if (target / MANIFEST).is_file():
            return
        for left_over in target.parent.glob(f".{target.name}.*"):  # of a killed process; nobody else holds the lock
            remove_folder(left_over)
        with written_aside(target) as folder:
            build(folder)


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` that takes its name when the block ends without an error."""
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    aside.mkdir(parents=True)
    try:
        yield aside
        os.replace(aside, target)
    finally:
        remove_folder(aside)


def remove_folder(folder: Path) -> None:
    """Remove a flat folder and its files, if it is there."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _remedy(folder: Path) -> str:
    return f"remove {folder.name} and run the sweep again, which prepares it anew"


def load_array(path: Path) -> Bytes:
    """A read-only memory map of an array file. Raises StoreError for a torn one."""
    try:
        array: Bytes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: torn array ({error}); {_remedy(path.parent)}") from error
    return array

"""Prepared domains on disk: memory-mapped arrays with checksums, opened as source and test images of distinct types.

Photographs of a domain lie together in five arrays. Slices of CT and MR lie in arrays of their own for every stack, so that a
data set of any size is written and read piece by piece; see ``stacks``.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from gkd_bench.data.digests import file_digest
from gkd_bench.data.domain import Spacing
from gkd_bench.data.manifest import Manifest, PreparedImage, thin_empty
from gkd_bench.data.shards import CompressedShards, Shards
from gkd_bench.data.splits import Split
from gkd_bench.errors import LeakError, StoreError

MANIFEST = "manifest.json"
WORKING = ("images", "labels", "fov")
NATIVE = ("native_labels", "native_fov")
STACKED = ("images", "labels")
NATIVE_STACKED = "native_labels"
STACK_FILES = (*(f"{name}.npy" for name in STACKED), f"{NATIVE_STACKED}.npz")
Bytes = NDArray[np.uint8]
Description = TypeVar("Description", bound=BaseModel)


class Rows(Protocol):
    """(N, height, width[, channels]) uint8, cut out image by image."""

    def __getitem__(self, index: tuple[int, slice, slice], /) -> Bytes:
        """Part of one image."""


@dataclass(frozen=True)
class _Arrays:
    """The arrays of a prepared domain, (N, height, width) uint8, read-only; stacks have no field of view but all there is."""

    images: Rows
    labels: Rows
    fov: Rows | None
    native_labels: Rows
    native_fov: Rows | None


@dataclass(frozen=True)
class Volume:
    """Images that are scored as one: a photograph, or the slices of a stack.

    Attributes:
        name: of the photograph or stack.
        subject: its subject.
        indices: its images.
        spacing: millimetres between slices, rows and columns; none for photographs and where unknown.
        stacked: whether it is a stack.
    """

    name: str
    subject: str
    indices: tuple[int, ...]
    spacing: Spacing | None
    stacked: bool


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
        """(height, width) or, in colour, (height, width, 3) uint8 at the working scale."""
        return self._crop(self._arrays.images, index, self.entries[index].size)

    def label(self, index: int) -> Bytes:
        """(height, width) uint8 class numbers at the working scale, 0 = background."""
        return self._crop(self._arrays.labels, index, self.entries[index].size)

    def fov(self, index: int) -> Bytes:
        """(height, width) uint8, 1 inside the field of view, at the working scale."""
        return self._crop(self._arrays.fov, index, self.entries[index].size)

    def native_label(self, index: int) -> Bytes:
        """(height, width) uint8 class numbers in the data set's own pixels: what scores are computed on."""
        return self._crop(self._arrays.native_labels, index, self.entries[index].native_size)

    def native_fov(self, index: int) -> Bytes:
        """(height, width) uint8, 1 inside the field of view, in the data set's own pixels."""
        return self._crop(self._arrays.native_fov, index, self.entries[index].native_size)

    def subset(self, indices: Sequence[int]) -> Self:
        """Some of the images, in the order given, of the same type."""
        entries = tuple(self.entries[i] for i in indices)
        return replace(self, entries=entries, _rows=tuple(self._rows[i] for i in indices))

    @property
    def channels(self) -> int:
        """Channels of every image."""
        first = self.image(0)
        return 1 if first.ndim == 2 else int(first.shape[2])

    @property
    def stacked(self) -> bool:
        """Whether the images are slices of stacks."""
        return bool(self.entries and self.entries[0].stack)

    def volumes(self) -> list[Volume]:
        """What is scored as one, in order: every photograph, or the images of every stack."""
        groups: dict[str, list[int]] = {}
        for index, entry in enumerate(self.entries):
            groups.setdefault(entry.stack or entry.name, []).append(index)
        first = {name: self.entries[indices[0]] for name, indices in groups.items()}
        return [
            Volume(name, first[name].subject, tuple(indices), first[name].spacing, bool(first[name].stack))
            for name, indices in groups.items()
        ]

    def _crop(self, array: Rows | None, index: int, size: tuple[int, int]) -> Bytes:
        if array is None:
            return np.ones(size, np.uint8)
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

    def test_split(self, everyone: bool = False) -> TestSplit:
        """Test images, of a type that training refuses; ``everyone``: all images of a domain that nothing is trained on."""
        return TestSplit(TestImages(*self._select(None if everyone else "test")))

    @cached_property
    def _arrays(self) -> _Arrays:
        if self.manifest.stacks:
            sizes = [stack.slices for stack in self.manifest.stacks]
            names = [stack.part for stack in self.manifest.stacks]
            working = {
                name: Shards([self.folder / f"{part}-{name}.npy" for part in names], sizes, load_array)
                for name in STACKED
            }
            native = CompressedShards([self.folder / f"{part}-{NATIVE_STACKED}.npz" for part in names], sizes)
            return _Arrays(native_labels=native, fov=None, native_fov=None, **working)
        return _Arrays(**{name: load_array(self.folder / f"{name}.npy") for name in WORKING + NATIVE})

    @cached_property
    def _entries(self) -> tuple[PreparedImage, ...]:
        return self.manifest.images or tuple(image for stack in self.manifest.stacks for image in stack.images())

    def _select(self, split: Split | None) -> tuple[str, tuple[PreparedImage, ...], tuple[int, ...], _Arrays]:
        rows = [i for i, image in enumerate(self._entries) if split in (image.split, None)]
        if split == "train" and self.manifest.stacks:
            filled = "".join(stack.foreground for stack in self.manifest.stacks)
            rows = thin_empty(rows, filled, float(self.manifest.settings["empty_share"]))
        return self.manifest.domain, tuple(self._entries[i] for i in rows), tuple(rows), self._arrays


def domain_folder(cache: Path, domain: str, fingerprint: str) -> Path:
    """Where a prepared domain is kept. Raises StoreError for names, such as a foreign manifest's, that lead elsewhere."""
    for name in (domain, fingerprint):
        if name in ("", ".", "..") or not name.isprintable() or "/" in name or "\\" in name:
            raise StoreError(f"{domain!r}@{fingerprint!r} names no prepared domain: it would lead out of {cache}")
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
    if manifest.stacks:
        wanted = [f"{stack.part}-{end}" for stack in manifest.stacks for end in STACK_FILES]
    else:
        wanted = [f"{name}.npy" for name in WORKING + NATIVE]
    require_arrays(folder, wanted, manifest.checksums, verify)
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
    problems = [f"{name} is missing" for name in names if not (folder / name).is_file()]
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
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("several arrays in an archive")
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: torn array ({error}); {_remedy(path.parent)}") from error
    return array

"""The stress bank of a domain: its validation images under scanner-like corruptions, prepared as the domain itself is.

A label-free stand-in for unseen scanners, made of the source's validation subjects alone. Corruptions act on the raw
photographs, before channel, contrast equalisation and resizing, since that is where another scanner would act; on slices of CT
and MR within their window and before resizing. Of slices, only those with foreground are taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from gkd_bench.config.data import Prepare, Stress, Volumes
from gkd_bench.data.cache import (
    MANIFEST,
    PreparedDomain,
    SourceImages,
    TestImages,
    TestSplit,
    array_checksums,
    built_once,
    domain_folder,
    load_array,
    open_prepared,
    read_manifest,
    require_arrays,
)
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.corruptions import BANK, BANK_VERSION, find_corruption
from gkd_bench.data.domain import DomainReader, PhotographReader, Plane, StackReader
from gkd_bench.data.manifest import FileName
from gkd_bench.data.prepare import DEFAULT_SCALE, prepare_image
from gkd_bench.data.stacks import grey_window, prepare_slice
from gkd_bench.errors import LeakError, StoreError
from gkd_bench.metrics.pictures import encode_png, text_strip
from gkd_bench.store.node import content_hash

SUFFIX = "-stress"
ARRAY = "stressed"
SAME = 1.0  # grey levels; another build of cv2 may round differently, another photograph differs by far more
SHEET_SIDE = 200
Bytes = NDArray[np.uint8]


class Condition(NamedTuple):
    """A corruption at a strength, 1 to 3; ``CLEAN`` is none at strength 0."""

    corruption: str
    strength: int


CLEAN = Condition("none", 0)


class StressManifest(BaseModel):
    """Description of a stress bank.

    Attributes:
        domain: reference of the prepared domain it belongs to, ``domain@fingerprint``.
        fingerprint: its own.
        bank_version: version of the corruptions.
        settings: the block of the sweep file it was made with.
        conditions: first axis of the array; the clean images are those of the domain.
        images: names of the validation images, second axis of the array.
        checksums: SHA-256 of the array file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str
    fingerprint: str
    bank_version: int
    settings: dict[str, Any]
    conditions: tuple[Condition, ...]
    images: tuple[str, ...]
    checksums: dict[FileName, str]


@dataclass(frozen=True, eq=False)
class StressedImages(SourceImages):
    """Validation images under one condition: other grey levels, the same labels, fields of view and subjects."""

    _stressed: Mapping[int, Bytes]
    """Row of the domain's arrays -> (height, width) grey levels, padded as those are."""

    def image(self, index: int) -> Bytes:
        """(height, width) uint8 grey levels at the working scale, under the condition."""
        height, width = self.size(index)
        return np.array(self._stressed[self._rows[index]][:height, :width])


@dataclass(frozen=True)
class StressBank:
    """A stress bank in the cache.

    Attributes:
        folder: its folder, ``<cache>/<domain>-stress/<fingerprint>``.
        manifest: its description.
        clean: the chosen validation images as they are.
    """

    folder: Path
    manifest: StressManifest
    clean: SourceImages

    @property
    def reference(self) -> str:
        """``<domain>-stress@fingerprint``, what stage keys name."""
        return f"{self.folder.parent.name}@{self.manifest.fingerprint}"

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """``CLEAN``, then every corruption at every strength."""
        return (CLEAN, *self.manifest.conditions)

    def images(self, condition: tuple[str, int]) -> SourceImages:
        """The images under a condition. Raises StoreError for one that the bank does not have."""
        if condition == CLEAN:
            return self.clean
        if condition not in self.manifest.conditions:
            known = ", ".join(f"{name} {strength}" for name, strength in self.conditions)
            raise StoreError(f"{self.folder}: no condition {condition[0]} {condition[1]}; the bank has {known}")
        clean, levels = self.clean, self._array[self.manifest.conditions.index(Condition(*condition))]
        stressed = dict(zip(clean._rows, levels, strict=True))
        return StressedImages(clean.domain, clean.entries, clean._rows, clean._arrays, stressed)

    @cached_property
    def _array(self) -> Bytes:
        """(conditions, images, height, width) uint8, a read-only memory map."""
        return load_array(self.folder / f"{ARRAY}.npy")


def stress_conditions(stress: Stress) -> tuple[Condition, ...]:
    """Every corruption at every strength, each once, in the bank's order whatever the order of the sweep file."""
    names = [corruption.name for corruption in BANK if corruption.name in stress.corruptions]
    return tuple(Condition(name, strength) for name in names for strength in sorted(set(stress.strengths)))


def stress_fingerprint(domain: str, stress: Stress) -> str:
    """Content hash of all that decides the bank of the prepared domain ``name@fingerprint``; writes nothing."""
    return content_hash([domain, stress_conditions(stress), stress.images, stress.seed, BANK_VERSION])


def stress_reference(domain: str, stress: Stress) -> str:
    """``<name>-stress@fingerprint`` of the bank of the prepared domain ``name@fingerprint``; writes nothing."""
    return f"{domain.partition('@')[0]}{SUFFIX}@{stress_fingerprint(domain, stress)}"


def prepare_stress(
    domain: PreparedDomain, catalogue: Catalogue, stress: Stress, cache: Path, verify: bool = False
) -> StressBank:
    """Make the stress bank of a prepared domain, with the domain's own settings, or open it when that was done before.

    Safe to call from several processes at once: one prepares, the others wait. ``verify`` compares the array with its
    checksum.

    Args:
        domain: the prepared source domain, in ``cache``.
        catalogue: where domains are.
        stress: corruptions, strengths, number of images and seed.
        cache: cache of prepared domains.
        verify: whether to compare the array with its checksum.

    Raises:
        DataError: a raw file is missing or torn, or differs from what the domain was prepared from.
        StoreError: the bank's or the domain's folder is damaged.
    """
    name, _, key = stress_reference(domain.reference, stress).partition("@")
    built_once(domain_folder(cache, name, key), lambda folder: _build(domain, catalogue, stress, folder))
    return open_stress(cache, name, key, verify)


def open_stress(cache: Path, name: str, fingerprint: str, verify: bool = False) -> StressBank:
    """Open the bank ``name@fingerprint`` and the prepared domain it belongs to.

    Raises:
        StoreError: either is not there or damaged.
        LeakError: the bank holds an image that is not one of the domain's validation images.
    """
    folder = domain_folder(cache, name, fingerprint)
    manifest = read_manifest(folder, StressManifest, f"stress bank {name}")
    require_arrays(folder, [f"{ARRAY}.npy"], manifest.checksums, verify)
    domain, _, key = manifest.domain.partition("@")
    val = open_prepared(cache, domain, key).source_splits().val
    places = {val.name(i): i for i in range(len(val))}
    if strangers := [image for image in manifest.images if image not in places]:
        raise LeakError(f"{folder}: {', '.join(strangers)} not in the validation split of {domain}; remove the bank")
    return StressBank(folder, manifest, val.subset([places[image] for image in manifest.images]))


def choose_images(val: SourceImages, count: int) -> SourceImages:
    """At most ``count`` validation images: evenly spaced subjects first, then second images of subjects, and so on.

    Of stacks only slices with foreground are taken, those in the middle of every stack first.

    Raises:
        LeakError: handed images of a test split.
    """
    if isinstance(val, TestImages | TestSplit):
        raise LeakError("a stress bank was asked of a test split; it is made of source_splits().val only")
    seen: Counter[str] = Counter()
    turns: list[tuple[int, int]] = []
    for index in _candidates(val):
        turns.append((seen[val.subject(index)], index))
        seen[val.subject(index)] += 1
    pool = [index for _, index in sorted(turns)][: max(count, len(seen))]
    count = min(count, len(pool))
    return val.subset(sorted(pool[(2 * i + 1) * len(pool) // (2 * count)] for i in range(count)))


def _candidates(val: SourceImages) -> list[int]:
    """Images in the order in which those of a subject are taken."""
    if not val.stacked:
        return list(range(len(val)))
    found: list[int] = []
    for volume in val.volumes():
        filled = [index for index in volume.indices if val.label(index).any()]
        found += sorted(filled, key=lambda index: abs(index - filled[len(filled) // 2]))
    return found


def contact_sheet(bank: StressBank, index: int = 0) -> bytes:
    """One image under every condition as a PNG: corruptions downwards, clean and strengths across.

    Each picture shows the whole prepared image, and its middle in the pixels that networks see.

    Args:
        bank: the bank.
        index: which of its images; neighbours show the two directions of a corruption.
    """
    rows: dict[str, list[Bytes]] = {}
    for condition in bank.manifest.conditions:
        first = [_cell(bank, CLEAN, index, "clean")]
        title = f"{condition.corruption} {condition.strength}"
        rows.setdefault(condition.corruption, first).append(_cell(bank, condition, index, title))
    return encode_png(np.vstack([np.hstack(cells) for cells in rows.values()]))


def _build(domain: PreparedDomain, catalogue: Catalogue, stress: Stress, folder: Path) -> None:
    images = choose_images(domain.source_splits().val, stress.images)
    conditions = stress_conditions(stress)
    _write_array(domain, catalogue, images, conditions, stress.seed, folder / f"{ARRAY}.npy")
    manifest = StressManifest(
        domain=domain.reference,
        fingerprint=stress_fingerprint(domain.reference, stress),
        bank_version=BANK_VERSION,
        settings=stress.model_dump(mode="json"),
        conditions=conditions,
        images=tuple(images.name(i) for i in range(len(images))),
        checksums=array_checksums(folder),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")


class _Raw(NamedTuple):
    """An image as corruptions meet it, and what makes the prepared image of it.

    Attributes:
        pixels: (height, width, 3) or (height, width) uint8, native size.
        fov: (height, width) bool.
        detail: pixels of the unit of length of all corruptions.
        prepared: native pixels -> image at the working scale.
    """

    pixels: Bytes
    fov: NDArray[np.bool_]
    detail: float
    prepared: Callable[[Bytes], Bytes]


def _raw_images(domain: PreparedDomain, catalogue: Catalogue, images: SourceImages) -> Iterator[_Raw]:
    """The raw form of every image, in order, one at a time; each must still be what the domain was prepared from."""
    reader = catalogue.open(domain.manifest.domain)
    raws = (
        _raw_slices(reader, domain, catalogue, images)
        if isinstance(reader, StackReader)
        else _raw_photographs(reader, domain, images)
    )
    for index, raw in enumerate(raws):
        _require_same(reader, images, index, raw.prepared(raw.pixels))
        yield raw


def _raw_photographs(reader: DomainReader, domain: PreparedDomain, images: SourceImages) -> Iterator[_Raw]:
    assert isinstance(reader, PhotographReader)
    settings = Prepare.model_validate(domain.manifest.settings)
    detail = _photograph_detail(reader, domain)
    by_name = {raw.name: raw for raw in reader.images()}
    for index in range(len(images)):
        pixels, size = reader.read(by_name[images.name(index)]), images.size(index)

        def prepared(rgb: Bytes, pixels: Any = pixels, size: tuple[int, int] = size) -> Bytes:
            return prepare_image(pixels._replace(rgb=rgb), settings, size)[0]

        yield _Raw(pixels.rgb, pixels.fov, detail, prepared)


def _photograph_detail(reader: DomainReader, domain: PreparedDomain) -> float:
    """The nominal width of vessels; where that is not known, as many native pixels as make four working pixels."""
    known = reader.card.vessel_width * domain.manifest.fov_diameter
    return known or DEFAULT_SCALE["vessel_width"] / domain.manifest.factor


def _raw_slices(
    reader: StackReader, domain: PreparedDomain, catalogue: Catalogue, images: SourceImages
) -> Iterator[_Raw]:
    settings = Volumes.model_validate(domain.manifest.settings)
    by_name = {raw.name: raw for raw in reader.images()}
    for volume in images.volumes():
        raw = by_name[volume.name]
        stack = reader.open(raw)
        window = grey_window(reader, stack, settings)
        wanted = {int(images.name(index).rpartition("_")[2]): index for index in volume.indices}
        planes = {wanted[n]: plane for n, plane in enumerate(reader.planes(raw, stack)) if n in wanted}
        for index in volume.indices:
            yield _raw_slice(planes[index], window, images.size(index))


def _raw_slice(plane: Plane, window: tuple[float, float], size: tuple[int, int]) -> _Raw:
    native = plane.label.shape
    levels, _ = prepare_slice(plane.values, plane.label, window, (native[0], native[1]))

    def prepared(grey: Bytes) -> Bytes:
        return prepare_slice(grey.astype(np.float32), plane.label, (0.0, 255.0), size)[0]

    detail = DEFAULT_SCALE["vessel_width"] * native[0] / size[0]
    return _Raw(levels, np.ones(native, np.bool_), detail, prepared)


def _write_array(
    domain: PreparedDomain,
    catalogue: Catalogue,
    images: SourceImages,
    conditions: Sequence[Condition],
    seed: int,
    path: Path,
) -> None:
    """One raw image at a time into a memory-mapped file. Neighbouring images take neighbouring seeds."""
    sizes = [images.size(i) for i in range(len(images))]
    tail = (3,) if domain.manifest.channels == 3 else ()
    shape = (len(conditions), len(images), *(max(size[axis] for size in sizes) for axis in (0, 1)), *tail)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    for column, raw in enumerate(_raw_images(domain, catalogue, images)):
        height, width = sizes[column]
        for row, condition in enumerate(conditions):
            array[row, column, :height, :width] = raw.prepared(_under(condition, raw, seed + column))
    array.flush()


def _under(condition: Condition, raw: _Raw, seed: int) -> Bytes:
    corruption = find_corruption(condition.corruption)
    changed = corruption.apply(raw.pixels, raw.fov, raw.detail, condition.strength, seed)
    return np.asarray(changed, np.uint8)


def _require_same(reader: DomainReader, images: SourceImages, index: int, image: Bytes) -> None:
    """The raw image must still be the one that the domain was prepared from."""
    difference = np.abs(image.astype(np.int16) - images.image(index)).mean()
    if difference > SAME:
        line = (
            f"{images.name(index)}: differs by {difference:.0f} grey levels from what was prepared; run the sweep again"
        )
        raise reader.error([line])


def _cell(bank: StressBank, condition: Condition, index: int, title: str) -> Bytes:
    image = bank.images(condition).image(index)
    height, width = image.shape[:2]
    whole = cv2.resize(image, (SHEET_SIDE * width // height, SHEET_SIDE), interpolation=cv2.INTER_AREA)
    middle = np.zeros((SHEET_SIDE, SHEET_SIDE, *image.shape[2:]), np.uint8)
    y, x = max(0, (height - SHEET_SIDE) // 2), max(0, (width - SHEET_SIDE) // 2)
    part = image[y : y + SHEET_SIDE, x : x + SHEET_SIDE]
    middle[: part.shape[0], : part.shape[1]] = part
    body = np.hstack([np.asarray(whole, np.uint8), middle])
    body = body if body.ndim == 3 else np.repeat(body[..., None], 3, axis=2)
    return np.vstack([text_strip(title, body.shape[1]), body])

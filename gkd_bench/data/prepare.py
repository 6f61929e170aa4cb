"""From raw images to canonical 8-bit arrays at a matched pixel scale, once per domain and settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.config.schema import Prepare, Scale
from gkd_bench.data.cache import (
    MANIFEST,
    NATIVE,
    WORKING,
    Manifest,
    PreparedDomain,
    PreparedImage,
    array_checksums,
    built_once,
    domain_folder,
    open_prepared,
)
from gkd_bench.data.digests import FileDigests, memo_file
from gkd_bench.data.domain import DomainCard, DomainReader, RawImage, RawPixels, open_reader
from gkd_bench.data.imagefiles import fov_diameter
from gkd_bench.errors import DataError
from gkd_bench.store.node import content_hash

PREPARE_VERSION = 1
DEFAULT_SCALE = {"vessel_width": 4.0, "angular": 30.0, "fov_width": 512.0}
LUMINANCE = (0.299, 0.587, 0.114)
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Survey:
    """What a first look at all images gives: (height, width) of each, and the median field of view in pixels."""

    sizes: tuple[tuple[int, int], ...]
    fov_diameter: float


def fingerprint(name: str, root: Path | None, settings: Prepare, memo: Path | None = None) -> str:
    """Content hash of all that decides the prepared arrays: raw files, split file, settings, code versions.

    Args:
        name: domain.
        root: data root.
        settings: how images are prepared.
        memo: a JSON file that remembers digests by path, size and modification time, so that unchanged files are
            hashed once. Without it nothing is written anywhere.

    Raises:
        DataError: a file is missing or unreadable, or the splits are wrong.
    """
    reader = open_reader(name, root)
    reader.require()
    return _fingerprint(reader, settings, memo)


def prepare_domain(
    name: str, root: Path | None, settings: Prepare, cache: Path, verify: bool = False
) -> PreparedDomain:
    """Prepare a domain in ``<cache>/<domain>/<fingerprint>/``, or open it when that was done before.

    Safe to call from several processes at once: one prepares, the others wait. ``verify`` compares every array with its
    checksum, which the job that starts a sweep does once for all its workers.

    Raises:
        DataError: every missing, torn or mismatched file.
        StoreError: the prepared folder is damaged.
    """
    reader = open_reader(name, root)
    reader.require()
    key = _fingerprint(reader, settings, memo_file(cache))
    built_once(domain_folder(cache, name, key), lambda folder: _build(reader, settings, key, folder))
    return open_prepared(cache, name, key, verify)


def scale_factor(rule: Scale, card: DomainCard, diameter: float) -> float:
    """Working pixels per native pixel, from the card's constants and the field of view only, never from labels.

    Args:
        rule: the scale rule; its default value is 4 px (``vessel_width``), 30 px per degree (``angular``) or 512 px
            (``fov_width``).
        card: constants of the domain.
        diameter: extent of the domain's field of view, native pixels.
    """
    value = rule.value or DEFAULT_SCALE.get(rule.rule, 1.0)
    native = {
        "vessel_width": card.vessel_width * diameter,
        "angular": diameter / card.camera_degrees,
        "fov_width": diameter,
        "none": 1.0,
    }[rule.rule]
    return value / native


def prepare_image(pixels: RawPixels, settings: Prepare, size: tuple[int, int]) -> tuple[Bytes, Bytes, Bytes]:
    """Image, label and field of view at ``size`` (height, width): uint8, the masks 0 or 1.

    The grey image is reduced by area averaging before CLAHE, so that contrast is equalised on the pixels that networks
    see. A label pixel is vessel where at least half of its area is.
    """
    fov = _resize(pixels.fov.astype(np.uint8), size, cv2.INTER_NEAREST)
    label = _resize(pixels.label.astype(np.uint8) * np.uint8(255), size) >= 128
    grey = _resize(_channel(pixels.rgb, settings.channel), size)
    if settings.clahe:
        grid = (settings.clahe.grid, settings.clahe.grid)
        grey = np.asarray(cv2.createCLAHE(settings.clahe.clip, grid).apply(grey), dtype=np.uint8)
    if settings.intensity == "zscore":
        grey = _standardise(grey, fov)
    return grey, label.astype(np.uint8), fov


def _fingerprint(reader: DomainReader, settings: Prepare, memo: Path | None) -> str:
    digests = FileDigests(memo)
    value = {
        "domain": reader.card.name,
        "content": dict(reader.content(digests)),
        "splits": reader.splits(),
        "settings": settings.model_dump(mode="json"),
        "card": [reader.card.camera_degrees, reader.card.vessel_width],
        "versions": [PREPARE_VERSION, reader.version],
    }
    digests.save()
    return content_hash(value)


def _build(reader: DomainReader, settings: Prepare, key: str, folder: Path) -> None:
    survey = _survey(reader)
    factor = scale_factor(settings.scale, reader.card, survey.fov_diameter)
    images = _entries(reader, survey, factor)
    _write_arrays(reader, settings, images, folder)
    manifest = Manifest(
        domain=reader.card.name,
        fingerprint=key,
        settings=settings.model_dump(mode="json"),
        reader_version=reader.version,
        prepare_version=PREPARE_VERSION,
        factor=factor,
        fov_diameter=survey.fov_diameter,
        images=images,
        checksums=array_checksums(folder),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")


def _survey(reader: DomainReader) -> Survey:
    sizes: list[tuple[int, int]] = []
    diameters: list[int] = []
    problems: list[str] = []
    for raw in reader.images():
        try:
            fov = reader.read(raw).fov
        except DataError as error:
            problems += error.problems
            continue
        sizes.append((fov.shape[0], fov.shape[1]))
        diameters.append(fov_diameter(fov))
    if problems:
        raise reader.error(problems)
    return Survey(tuple(sizes), float(np.median(diameters)))


def _entries(reader: DomainReader, survey: Survey, factor: float) -> tuple[PreparedImage, ...]:
    splits = reader.splits()

    def entry(raw: RawImage, native: tuple[int, int]) -> PreparedImage:
        size = (max(1, round(native[0] * factor)), max(1, round(native[1] * factor)))
        return PreparedImage(
            name=raw.name, subject=raw.subject, split=splits[raw.subject], size=size, native_size=native
        )

    return tuple(entry(raw, native) for raw, native in zip(reader.images(), survey.sizes, strict=True))


def _write_arrays(reader: DomainReader, settings: Prepare, images: tuple[PreparedImage, ...], folder: Path) -> None:
    """One image at a time into memory-mapped files, so that full-size data sets fit in little memory."""
    working = [_new_array(folder / f"{name}.npy", [image.size for image in images]) for name in WORKING]
    native = [_new_array(folder / f"{name}.npy", [image.native_size for image in images]) for name in NATIVE]
    for row, (raw, image) in enumerate(zip(reader.images(), images, strict=True)):
        pixels = reader.read(raw)
        _fill(working, row, prepare_image(pixels, settings, image.size))
        _fill(native, row, (pixels.label.astype(np.uint8), pixels.fov.astype(np.uint8)))
    for array in working + native:
        array.flush()


def _new_array(path: Path, sizes: list[tuple[int, int]]) -> np.memmap[Any, np.dtype[np.uint8]]:
    shape = (len(sizes), max(size[0] for size in sizes), max(size[1] for size in sizes))
    array: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    return array


def _fill(arrays: list[np.memmap[Any, np.dtype[np.uint8]]], row: int, values: tuple[Bytes, ...]) -> None:
    for array, value in zip(arrays, values, strict=True):
        array[row, : value.shape[0], : value.shape[1]] = value


def _channel(rgb: Bytes, channel: str) -> Bytes:
    if channel == "green":
        return np.ascontiguousarray(rgb[..., 1])
    return np.asarray(np.rint(rgb.astype(np.float32) @ np.asarray(LUMINANCE, np.float32)), dtype=np.uint8)


def _resize(image: Bytes, size: tuple[int, int], interpolation: int | None = None) -> Bytes:
    if image.shape == size:
        return image
    if interpolation is None:
        interpolation = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=interpolation), dtype=np.uint8)


def _standardise(grey: Bytes, fov: Bytes) -> Bytes:
    """Per-image z-score over the field of view, stored as 128 + 32 z, so 8 bits span four deviations either way."""
    inside = grey[fov > 0].astype(np.float32)
    z = (grey.astype(np.float32) - inside.mean()) / max(float(inside.std()), 1.0)
    return np.asarray(np.clip(np.rint(128.0 + 32.0 * z), 0, 255), dtype=np.uint8)

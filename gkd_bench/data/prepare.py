"""From raw images to canonical 8-bit arrays at a matched pixel scale, once per domain and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.config.data import Clahe, Prepare, Scale
from gkd_bench.data.cache import (
    MANIFEST,
    NATIVE,
    WORKING,
    PreparedDomain,
    array_checksums,
    built_once,
    domain_folder,
    open_prepared,
)
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.digests import FileDigests, memo_file
from gkd_bench.data.domain import DomainCard, DomainReader, PhotographReader, RawImage, RawPixels, StackReader
from gkd_bench.data.imagefiles import fov_diameter
from gkd_bench.data.manifest import Manifest, PreparedImage
from gkd_bench.data.stacks import Mapper, Report, build_stacks, in_turn
from gkd_bench.errors import DataError
from gkd_bench.store.node import content_hash

PREPARE_VERSION = 1
DEFAULT_SCALE = {"vessel_width": 4.0, "angular": 30.0, "fov_width": 512.0}
LUMINANCE = (0.299, 0.587, 0.114)
MISSING = "missing"
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Survey:
    """What a first look at all images gives.

    Attributes:
        images: those that can be used.
        sizes: (height, width) of each.
        fov_diameter: median field of view, pixels.
        left_out: image -> what is wrong with it.
    """

    images: tuple[RawImage, ...]
    sizes: tuple[tuple[int, int], ...]
    fov_diameter: float
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def fingerprint(name: str, catalogue: Catalogue, memo: Path | None = None) -> str:
    """Content hash of all that decides the prepared arrays: raw files, split file, settings, code versions.

    Args:
        name: domain.
        catalogue: where domains are and how they are prepared.
        memo: a JSON file that remembers digests by path, size and modification time, so that unchanged files are
            hashed once. Without it nothing is written anywhere.

    Raises:
        DataError: a file is missing, or the splits are wrong.
    """
    return _fingerprint(catalogue.open(name), catalogue, memo)


def require(reader: DomainReader, catalogue: Catalogue, deep: bool = False) -> None:
    """Raise DataError with all that forbids preparation; single broken images do not where the catalogue leaves them out."""
    if catalogue.broken == "stop":
        reader.require(deep)
    elif lines := reader.folder_problems() or reader.list_problems():
        raise reader.error(lines)


def prepare_domain(
    name: str,
    catalogue: Catalogue,
    cache: Path,
    verify: bool = False,
    mapper: Mapper = in_turn,
    report: Report = lambda done, of, slices: None,
) -> PreparedDomain:
    """Prepare a domain in ``<cache>/<domain>/<fingerprint>/``, or open it when that was done before.

    Safe to call from several processes at once: one prepares, the others wait. ``verify`` compares every array with its
    checksum, which the job that starts a sweep does once for all its workers.

    Args:
        name: domain.
        catalogue: where domains are and how they are prepared.
        cache: folder of prepared domains.
        verify: whether to compare every array with its checksum.
        mapper: runs the preparation of stacks, here or on other machines.
        report: hears how many stacks are done.

    Raises:
        DataError: every missing, torn or mismatched file.
        StoreError: the prepared folder is damaged.
    """
    reader = catalogue.open(name)
    key = _fingerprint(reader, catalogue, memo_file(cache))
    target = domain_folder(cache, name, key)
    if isinstance(reader, StackReader):
        build_stacks(catalogue, reader, key, target, PREPARE_VERSION, mapper, report)
    else:
        assert isinstance(reader, PhotographReader)
        built_once(target, lambda folder: _build(reader, catalogue, key, folder))
    return open_prepared(cache, name, key, verify)


def scale_factor(rule: Scale, card: DomainCard, diameter: float) -> float:
    """Working pixels per native pixel, from the card's constants and the field of view only, never from labels.

    Args:
        rule: the scale rule; its default value is 4 px (``vessel_width``), 30 px per degree (``angular``) or 512 px
            (``fov_width``).
        card: constants of the domain.
        diameter: extent of the domain's field of view, native pixels.

    Raises:
        DataError: the card has no such constant.
    """
    value = rule.value or DEFAULT_SCALE.get(rule.rule, 1.0)
    native = {
        "vessel_width": card.vessel_width * diameter,
        "angular": diameter / card.camera_degrees if card.camera_degrees else 0.0,
        "fov_width": diameter,
        "none": 1.0,
    }[rule.rule]
    if not native:
        constant = "detail" if rule.rule == "vessel_width" else "camera_degrees"
        line = (
            f"scale rule '{rule.rule}' needs to know {constant!r} of this domain; give it in its block, or set "
            "data.prepare.scale.rule to fov_width"
        )
        raise DataError([line], card.name, card.advice)
    return value / native


def prepare_image(
    pixels: RawPixels, settings: Prepare, size: tuple[int, int], numbers: Sequence[int] = (0, 1)
) -> tuple[Bytes, Bytes, Bytes]:
    """Image, label and field of view at ``size`` (height, width): uint8, the label class numbers, the field of view 0 or 1.

    The image is reduced by area averaging before CLAHE, so that contrast is equalised on the pixels that networks see. A
    pixel belongs to a foreground class where at least half of its area does.

    Args:
        pixels: the raw photograph.
        settings: channel, contrast, intensity.
        size: (height, width) to come out.
        numbers: class number of every label number; see ``Catalogue.numbers``.

    Returns:
        Image (height, width) or, in colour, (height, width, 3); label and field of view (height, width).
    """
    fov = _resize(pixels.fov.astype(np.uint8), size, cv2.INTER_NEAREST)
    label = _resized_label(class_numbers(pixels.label, numbers), size, max(numbers))
    image = _resize(_channel(pixels.rgb, settings.channel), size)
    if settings.clahe:
        image = _equalised(image, settings.clahe)
    if settings.intensity == "zscore":
        channels = np.atleast_3d(image).transpose(2, 0, 1)
        image = np.dstack([_standardise(one, fov) for one in channels]).reshape(image.shape)
    return image, label, fov


def class_numbers(label: NDArray[Any], numbers: Sequence[int]) -> Bytes:
    """(height, width) uint8 class numbers of label numbers (a mask counts as 0 and 1)."""
    return np.asarray(numbers, np.uint8)[label.astype(np.uint8)]


def _resized_label(label: Bytes, size: tuple[int, int], classes: int) -> Bytes:
    out = np.zeros(size, np.uint8)
    for number in range(1, classes + 1):
        share = _resize((label == number).astype(np.uint8) * np.uint8(255), size)
        out[share >= 128] = number
    return out


def _fingerprint(reader: DomainReader, catalogue: Catalogue, memo: Path | None) -> str:
    """See :func:`fingerprint`. Headers are not opened: of volumes that takes minutes, and equal files were sound before."""
    if reader.folder_problems() or reader.list_problems():
        require(reader, catalogue)
    try:
        return _content_hash(reader, catalogue, memo)
    except OSError:
        require(reader, catalogue)  # lists every file that is missing
        raise


def _content_hash(reader: DomainReader, catalogue: Catalogue, memo: Path | None) -> str:
    digests = FileDigests(memo)

    def digest(path: Path) -> str:
        try:
            return digests(path)
        except OSError:
            if catalogue.broken == "stop":
                raise
            return MISSING

    stacked = isinstance(reader, StackReader)
    settings = catalogue.volumes if stacked else catalogue.prepare
    value: dict[str, Any] = {
        "domain": reader.card.name,
        "content": dict(reader.content(digest)),
        "splits": reader.splits(),
        "settings": settings.model_dump(mode="json"),
        "card": [reader.card.camera_degrees, reader.card.vessel_width],
        "versions": [PREPARE_VERSION, reader.version],
    }
    if (numbers := catalogue.numbers(reader)) != (0, 1):
        value["numbers"] = numbers
    if stacked:
        value["modality"] = reader.card.modality
    if catalogue.broken != "stop":
        value["broken"] = catalogue.broken
    digests.save()
    return content_hash(value)


def _build(reader: PhotographReader, catalogue: Catalogue, key: str, folder: Path) -> None:
    settings = catalogue.prepare
    survey = _survey(reader, catalogue)
    factor = scale_factor(settings.scale, reader.card, survey.fov_diameter)
    images = _entries(reader, survey, factor)
    _write_arrays(reader, catalogue, survey.images, images, folder)
    manifest = Manifest(
        domain=reader.card.name,
        fingerprint=key,
        settings=settings.model_dump(mode="json"),
        reader_version=reader.version,
        prepare_version=PREPARE_VERSION,
        factor=factor,
        fov_diameter=survey.fov_diameter,
        images=images,
        channels=3 if settings.channel == "rgb" else 1,
        classes=catalogue.classes or reader.card.classes,
        left_out={image: reader.written(lines) for image, lines in survey.left_out.items()},
        checksums=array_checksums(folder),
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")


def _survey(reader: PhotographReader, catalogue: Catalogue) -> Survey:
    raws: list[RawImage] = []
    sizes: list[tuple[int, int]] = []
    diameters: list[int] = []
    broken: dict[str, tuple[str, ...]] = {}
    for raw in reader.images():
        try:
            fov = reader.read(raw).fov
        except DataError as error:
            broken[raw.name] = error.problems
            continue
        raws.append(raw)
        sizes.append((fov.shape[0], fov.shape[1]))
        diameters.append(fov_diameter(fov))
    if broken and (catalogue.broken == "stop" or not raws):
        raise reader.error([line for lines in broken.values() for line in lines])
    return Survey(tuple(raws), tuple(sizes), float(np.median(diameters)), broken)


def _entries(reader: PhotographReader, survey: Survey, factor: float) -> tuple[PreparedImage, ...]:
    splits = reader.splits()

    def entry(raw: RawImage, native: tuple[int, int]) -> PreparedImage:
        size = (max(1, round(native[0] * factor)), max(1, round(native[1] * factor)))
        return PreparedImage(
            name=raw.name, subject=raw.subject, split=splits[raw.subject], size=size, native_size=native
        )

    return tuple(entry(raw, native) for raw, native in zip(survey.images, survey.sizes, strict=True))


def _write_arrays(
    reader: PhotographReader,
    catalogue: Catalogue,
    raws: Sequence[RawImage],
    images: tuple[PreparedImage, ...],
    folder: Path,
) -> None:
    """One image at a time into memory-mapped files, so that full-size data sets fit in little memory."""
    sizes, natives = [image.size for image in images], [image.native_size for image in images]
    numbers = catalogue.numbers(reader)
    channels = (3,) if catalogue.prepare.channel == "rgb" else ()
    tails = {"images": channels}
    working = [_new_array(folder / f"{name}.npy", sizes, tails.get(name, ())) for name in WORKING]
    native = [_new_array(folder / f"{name}.npy", natives) for name in NATIVE]
    for row, (raw, image) in enumerate(zip(raws, images, strict=True)):
        pixels = reader.read(raw)
        _fill(working, row, prepare_image(pixels, catalogue.prepare, image.size, numbers))
        _fill(native, row, (class_numbers(pixels.label, numbers), pixels.fov.astype(np.uint8)))
    for array in working + native:
        array.flush()


def _new_array(
    path: Path, sizes: list[tuple[int, int]], tail: tuple[int, ...] = ()
) -> np.memmap[Any, np.dtype[np.uint8]]:
    shape = (len(sizes), max(size[0] for size in sizes), max(size[1] for size in sizes), *tail)
    array: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    return array


def _fill(arrays: list[np.memmap[Any, np.dtype[np.uint8]]], row: int, values: tuple[Bytes, ...]) -> None:
    for array, value in zip(arrays, values, strict=True):
        array[row, : value.shape[0], : value.shape[1]] = value


def _channel(rgb: Bytes, channel: str) -> Bytes:
    if channel == "rgb":
        return rgb
    if channel == "green":
        return np.ascontiguousarray(rgb[..., 1])
    return np.asarray(np.rint(rgb.astype(np.float32) @ np.asarray(LUMINANCE, np.float32)), dtype=np.uint8)


def _resize(image: Bytes, size: tuple[int, int], interpolation: int | None = None) -> Bytes:
    if image.shape[:2] == size:
        return image
    if interpolation is None:
        interpolation = cv2.INTER_AREA if size[0] < image.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=interpolation), dtype=np.uint8)


def _equalised(image: Bytes, settings: Clahe) -> Bytes:
    """Contrast equalised; of a colour image the lightness only (CIELAB), so that hues stay."""
    equaliser = cv2.createCLAHE(settings.clip, (settings.grid, settings.grid))
    if image.ndim == 2:
        return np.asarray(equaliser.apply(image), dtype=np.uint8)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = equaliser.apply(np.ascontiguousarray(lab[..., 0]))
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), dtype=np.uint8)


def _standardise(grey: Bytes, fov: Bytes) -> Bytes:
    """Per-image z-score over the field of view, stored as 128 + 32 z, so 8 bits span four deviations either way."""
    inside = grey[fov > 0].astype(np.float32)
    z = (grey.astype(np.float32) - inside.mean()) / max(float(inside.std()), 1.0)
    return np.asarray(np.clip(np.rint(128.0 + 32.0 * z), 0, 255), dtype=np.uint8)

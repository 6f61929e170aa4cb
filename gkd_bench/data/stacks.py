"""Preparation of CT and MR: slice by slice into files of every stack, in bounded memory, in parallel, and resumable.

A stack that was written is not written again: its files lie in a folder beside the domain's, with a note that appears last, until
all stacks are there and the folder takes its name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from gkd_bench.config.data import Volumes
from gkd_bench.data.cache import (
    MANIFEST,
    NATIVE_STACKED,
    STACK_FILES,
    STACKED,
)
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.digests import file_digest
from gkd_bench.data.domain import RawStack, Stack, StackReader
from gkd_bench.data.manifest import FileName, Manifest, PreparedStack
from gkd_bench.data.shards import save_compressed
from gkd_bench.errors import DataError
from gkd_bench.store.files import replace_file

SAMPLE = 4
"""Every so many-th row and column of every slice is looked at for percentiles."""
GREY_LEVELS = (0.0, 255.0)
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class StackJob(NamedTuple):
    """What one worker is asked for: one stack of a domain, into a folder that all workers see."""

    catalogue: Catalogue
    domain: str
    number: int
    folder: Path


class StackNote(BaseModel):
    """What became of one stack.

    Attributes:
        stack: its description; none when it is broken.
        problems: what is wrong with it.
        checksums: SHA-256 of its files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    stack: PreparedStack | None = None
    problems: tuple[str, ...] = ()
    checksums: dict[FileName, str] = {}


Mapper = Callable[[Callable[[StackJob], StackNote], Sequence[StackJob]], Iterable[StackNote]]
"""Applies a function to jobs, here or on other machines, and yields results as they come, in any order."""
Report = Callable[[int, int, int], None]
"""Stacks done, stacks in all, slices done in this run."""


def in_turn(function: Callable[[StackJob], StackNote], jobs: Sequence[StackJob]) -> Iterator[StackNote]:
    """The plain mapper: one job after the other in this process."""
    return map(function, jobs)


def build_stacks(
    catalogue: Catalogue, reader: StackReader, key: str, target: Path, version: int, mapper: Mapper, report: Report
) -> None:
    """Prepare every stack that was not prepared before, then let the domain's folder appear as a whole.

    Of several processes one builds, and the others wait.

    Raises:
        DataError: every stack that is broken, unless the catalogue leaves those out; or no stack is left.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if (target / MANIFEST).is_file():
            return
        parts = target.with_name(f"{target.name}.parts")
        parts.mkdir(exist_ok=True)
        notes = _notes(catalogue, reader, parts, mapper, report)
        _raise_broken(catalogue, reader, notes)
        manifest = _manifest(catalogue, reader, key, version, notes)
        (parts / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
        os.replace(parts, target)


def _notes(catalogue: Catalogue, reader: StackReader, parts: Path, mapper: Mapper, report: Report) -> list[StackNote]:
    """A note for every stack, in the reader's order."""
    raws = reader.images()
    notes = {number: note for number, raw in enumerate(raws) if (note := _read_note(parts, number, raw.name))}
    numbers = {raw.name: number for number, raw in enumerate(raws)}
    jobs = [StackJob(catalogue, reader.card.name, n, parts) for n in range(len(raws)) if n not in notes]
    slices = 0
    report(len(notes), len(raws), slices)
    for note in mapper(prepare_stack, jobs):
        notes[numbers[note.name]] = note
        slices += note.stack.slices if note.stack else 0
        report(len(notes), len(raws), slices)
    return [notes[number] for number in range(len(raws))]


def _raise_broken(catalogue: Catalogue, reader: StackReader, notes: Sequence[StackNote]) -> None:
    broken = [note for note in notes if note.stack is None]
    if broken and (catalogue.broken == "stop" or len(broken) == len(notes)):
        raise reader.error([line for note in broken for line in note.problems])


def _manifest(
    catalogue: Catalogue, reader: StackReader, key: str, version: int, notes: Sequence[StackNote]
) -> Manifest:
    stacks = tuple(note.stack for note in notes if note.stack)
    return Manifest(
        domain=reader.card.name,
        fingerprint=key,
        settings=catalogue.volumes.model_dump(mode="json"),
        reader_version=reader.version,
        prepare_version=version,
        factor=float(np.median([stack.size[0] / stack.native_size[0] for stack in stacks])),
        fov_diameter=float(np.median([max(stack.native_size) for stack in stacks])),
        stacks=stacks,
        classes=catalogue.classes or reader.card.classes,
        left_out={note.name: reader.written(note.problems) for note in notes if note.stack is None},
        checksums={name: digest for note in notes for name, digest in note.checksums.items()},
    )


# ---------------------------------------------------------------- one stack


def prepare_stack(job: StackJob) -> StackNote:
    """Write the arrays of one stack, then its note, and return that. Of a broken stack it says what is wrong, and nothing is left."""
    reader = job.catalogue.open(job.domain)
    assert isinstance(reader, StackReader)
    raw, part = reader.images()[job.number], _part(job.number)
    try:
        stack = _write_stack(job, reader, raw, part)
    except DataError as error:
        for end in STACK_FILES:
            (job.folder / f"{part}-{end}").unlink(missing_ok=True)
        return StackNote(name=raw.name, problems=error.problems)  # not kept: the user may mend it
    checksums = {f"{part}-{end}": file_digest(job.folder / f"{part}-{end}") for end in STACK_FILES}
    note = StackNote(name=raw.name, stack=stack, checksums=checksums)
    replace_file(_note_file(job.folder, job.number), note.model_dump_json().encode())
    return note


def _write_stack(job: StackJob, reader: StackReader, raw: RawStack, part: str) -> PreparedStack:
    settings, numbers = job.catalogue.volumes, np.asarray(job.catalogue.numbers(reader), np.uint8)
    stack = reader.open(raw)
    size, window = working_size(stack, settings), grey_window(reader, stack, settings)
    slices, *native_size = stack.shape
    files = {name: job.folder / f"{part}-{name}.npy" for name in STACKED}
    images, labels = (_new_array(files[name], (slices, *size)) for name in STACKED)
    native = np.zeros(stack.shape, np.uint8)
    foreground = ""
    for row, plane in enumerate(reader.planes(raw, stack)):
        native[row] = numbers[plane.label]
        images[row], labels[row] = prepare_slice(plane.values, native[row], window, size)
        foreground += "1" if labels[row].any() else "0"
    images.flush()
    labels.flush()
    save_compressed(job.folder / f"{part}-{NATIVE_STACKED}.npz", native)
    return PreparedStack(
        name=raw.name,
        subject=raw.subject,
        split=reader.splits()[raw.subject],
        part=part,
        size=size,
        native_size=(native_size[0], native_size[1]),
        spacing=stack.spacing,
        foreground=foreground,
        window=window,
        remark=stack.remark,
    )


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """A new array in a file, zero everywhere. Raises OSError when the disk has no room, which a map would tell by a signal."""
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def prepare_slice(
    values: Floats, label: Bytes, window: tuple[float, float], size: tuple[int, int]
) -> tuple[Bytes, Bytes]:
    """Grey levels and class numbers at ``size`` (height, width), uint8.

    Values are reduced by area averaging, labels to the class that is nearest.

    Args:
        values: (height, width) Hounsfield units or whatever the stack has.
        label: (height, width) uint8 class numbers.
        window: value that becomes 0, and value that becomes 255.
        size: (height, width) to come out.
    """
    low, high = window
    grey = np.clip((values - low) * (255.0 / max(high - low, 1e-6)), 0.0, 255.0)
    if grey.shape != size:
        way = cv2.INTER_AREA if size[0] < grey.shape[0] else cv2.INTER_LINEAR
        grey = cv2.resize(grey, (size[1], size[0]), interpolation=way)
        label = np.asarray(cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return np.asarray(np.rint(grey), np.uint8), label


def working_size(stack: Stack, settings: Volumes) -> tuple[int, int]:
    """(height, width) of a prepared slice: of the wanted millimetres per pixel, or of the wanted longer side."""
    height, width = stack.shape[1:]
    if settings.spacing and stack.spacing:
        factors = (stack.spacing[1] / settings.spacing, stack.spacing[2] / settings.spacing)
    else:
        factors = (settings.size / max(height, width),) * 2
    return max(1, round(height * factors[0])), max(1, round(width * factors[1]))


def grey_window(reader: StackReader, stack: Stack, settings: Volumes) -> tuple[float, float]:
    """The values that become black and white: of CT the wanted Hounsfield units, of MR the stack's own percentiles."""
    if reader.card.modality == "ct":
        return settings.window.low, settings.window.high
    if reader.card.modality == "grey":
        return GREY_LEVELS
    sample = np.concatenate([plane.values[::SAMPLE, ::SAMPLE].ravel() for plane in stack.planes()])
    sample = sample[np.isfinite(sample)]
    inside = sample[sample > sample.min()] if sample.size else sample
    if not inside.size:
        return GREY_LEVELS
    low, high = np.percentile(inside, [settings.percentiles.low, settings.percentiles.high])
    return float(low), float(max(high, low + 1e-3))


def window_words(modality: str, settings: Mapping[str, Any]) -> str:
    """How values became grey levels, for readers of a table; ``settings`` are those of the manifest."""
    volumes = Volumes.model_validate(settings)
    if modality == "ct":
        return f"HU {volumes.window.low:g} to {volumes.window.high:g}"
    if modality == "mr":
        return f"percentiles {volumes.percentiles.low:g} to {volumes.percentiles.high:g} of each stack"
    return "grey levels as stored"


# ---------------------------------------------------------------- notes


def _part(number: int) -> str:
    return f"{number:05d}"


def _note_file(folder: Path, number: int) -> Path:
    return folder / f"{_part(number)}.json"


def _read_note(folder: Path, number: int, name: str) -> StackNote | None:
    """The note of a stack whose files are there; anything torn is done again."""
    try:
        note = StackNote.model_validate_json(_note_file(folder, number).read_bytes())
    except (OSError, ValidationError):
        return None
    whole = all((folder / file).is_file() for file in note.checksums)
    return note if whole and note.name == name else None

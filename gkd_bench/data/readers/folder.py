"""A data set of one's own, declared in the sweep file alone: photographs, slices or volumes in a folder, with their masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gkd_bench.config.data import Folder
from gkd_bench.data.domain import (
    MOST_LINES,
    DomainCard,
    DomainReader,
    FileDomain,
    Plane,
    RawImage,
    RawStack,
    Stack,
    StackReader,
)
from gkd_bench.data.imagefiles import computed_fov_or_all
from gkd_bench.data.readers.folder_files import Entry, Found, find
from gkd_bench.data.readers.folder_pixels import (
    levels_of,
    meaning_of,
    open_folder_stack,
    read_picture,
    series_files,
)
from gkd_bench.data.readers.folder_subjects import Table, deal, read_table, subject_rule
from gkd_bench.data.readers.photographs import Photographs
from gkd_bench.data.splits import Split
from gkd_bench.data.volumefiles import Meaning, in_order
from gkd_bench.errors import DataError

GREY = (0, 255)
SHOWN = 5
LEAST_DIGITS = 3


@dataclass(frozen=True)
class FolderCard(DomainCard):
    """Card of a data set that the sweep file declares."""

    @property
    def advice(self) -> str:
        """What to do when something is wrong: it is the user's own, so nothing can be downloaded anew."""
        return f"{self.name} is declared in the sweep file as data.folders.{self.name}; correct its block or its files."


def open_folder(name: str, folder: Folder, root: Path | None, classes: tuple[str, ...] | None) -> DomainReader:
    """The reader of a data set of one's own; nothing is read before it is asked for its images.

    Args:
        name: its name in the sweep.
        folder: its block.
        root: data root that a relative path starts from.
        classes: the sweep's foreground classes, number 1 first; none = those of its own.
    """
    return (FolderPhotographs if folder.kind == "photograph" else FolderStacks)(name, folder, root, classes)


class FolderDomain(FileDomain):
    """What photographs, slices and volumes of one's own share: files, subjects, splits and classes.

    Args:
        name: as for :func:`open_folder`.
        block: as for :func:`open_folder`.
        root: as for :func:`open_folder`.
        classes: as for :func:`open_folder`.
    """

    def __init__(self, name: str, block: Folder, root: Path | None, classes: tuple[str, ...] | None) -> None:
        path = Path(block.path).expanduser()
        super().__init__(Path(path.anchor) if path.is_absolute() else root)
        self.block = block
        self.card = FolderCard(
            name=name,
            title=block.title or name,
            source=block.source,
            terms=block.terms,
            folder=str(path),
            camera_degrees=block.camera_degrees or 0.0,
            vessel_width=block.detail or 0.0,
            subjects=_rule(block),
            classes=_classes(block, classes),
            modality="photograph" if block.kind == "photograph" else block.modality,
        )

    @property
    def hides_names(self) -> bool:
        """Whether images and subjects are called by numbers, as names of files may be those of patients."""
        return self.block.names == "numbered"

    @cached_property
    def image_names(self) -> dict[str, str]:
        """Image -> what it is called in everything that is written; the order stays."""
        names = [str(entry.key) for entry in self.found.entries]
        what = "volume" if self.block.kind == "volume" else "image"
        return numbered(what, names) if self.hides_names else {name: name for name in names}

    @cached_property
    def subject_names(self) -> dict[str, str]:
        """Subject -> what it is called in everything that is written; the order stays. Raises DataError."""
        names = sorted(set(self.subjects.values()))
        return numbered("subject", names) if self.hides_names else {name: name for name in names}

    @cached_property
    def meaning(self) -> Callable[[Path], Meaning]:
        """From a mask's file to what makes class numbers of its levels."""
        return meaning_of(self.block.levels, self.card.classes)

    @cached_property
    def found(self) -> Found:
        """Every image with its files; empty while the folder is missing. Raises DataError."""
        if not self.folder.is_dir():
            return Found()
        try:
            return find(self.folder, self.block.kind, self.block.images, self.block.masks, self.block.fov)
        except DataError as error:
            raise self.error([*error.problems]) from None

    @cached_property
    def table(self) -> Table | None:
        """The table, where there is one. Raises DataError with every wrong line."""
        if self.block.table is None:
            return None
        try:
            return read_table(self.folder, self.block.table, {str(one.key): one.image for one in self.found.entries})
        except DataError as error:
            raise self.error([*error.problems]) from None

    @cached_property
    def subjects(self) -> dict[str, str]:
        """Image -> subject, by their own names. Raises DataError for images without one."""
        names = [str(entry.key) for entry in self.found.entries]
        if self.table is not None:
            return {name: self.table.subjects[name] for name in names}
        rule = subject_rule(self.block.subject)
        found = {name: subject for name in names if (subject := rule(name)) is not None}
        if lacking := [name for name in names if name not in found]:
            shown = ", ".join(lacking[:SHOWN]) + (f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else "")
            raise self.error(
                [f"subject {self.block.subject!r} finds nothing in the names of {len(lacking)} images: {shown}"]
            )
        return found

    def splits(self) -> Mapping[str, Split]:  # type: ignore[override]
        """Subject -> split: from the table, else dealt out. Raises DataError for too few subjects or a wrong table."""
        return {self.subject_names[name]: split for name, split in self._splits().items()}

    def _splits(self) -> Mapping[str, Split]:
        if self.table is not None and self.table.splits is not None:
            return self.table.splits
        try:
            return deal([*self.subjects.values()], self.block.split)
        except DataError as error:
            raise self.error([*error.problems]) from None

    def list_problems(self) -> list[str]:
        """One line per problem of the list as such: names, masks without image, the table, too few subjects."""
        found: list[str] = []
        try:
            found += self.found.problems
            return found + (super().list_problems() if self.found.entries else [])
        except DataError as error:
            return [*found, *error.problems]

    def problems(self, deep: bool = True) -> list[str]:
        """One line per problem, none for a sound data set; of a list that is wrong, its problems alone."""
        if self.root is None:
            return [f"its path {self.block.path!r} is relative, and no data root is set (data.root, or GKD_DATA_ROOT)"]
        return self.folder_problems() or self.list_problems()[:MOST_LINES] or super().problems(deep)

    def content(self, digest: Callable[[Path], str]) -> Mapping[str, Any]:
        """SHA-256 of every file, which files belong together, and the settings that decide what they mean."""
        pairs = [
            [raw.name, raw.subject, [path.relative_to(self.folder).as_posix() for path in raw.files()]]
            for raw in self.images()
        ]
        settings = self.block.model_dump(mode="json", include={"kind", "modality", "levels", "spacing", "flip"})
        return {"files": super().content(digest), "images": pairs, "settings": settings, "classes": self.card.classes}

    def called(self, entry: Entry) -> tuple[str, str]:
        """What an image and its subject are called in everything that is written."""
        name = str(entry.key)
        return self.image_names[name], self.subject_names[self.subjects[name]]

    def placed(self, entry: Entry, path: str | None, role: str) -> Path:
        """A file of an image; where it lacks one, the pattern that found none, which is a file that does not exist."""
        return self.folder / (path or f"no {role} of {entry.key}")


class FolderPhotographs(FolderDomain, Photographs):
    """Photographs of one's own."""

    def images(self) -> list[RawImage]:
        """Every image that fits the pattern, by name. Raises DataError."""
        return [self._raw(entry) for entry in self.found.entries]

    def _raw(self, entry: Entry) -> RawImage:
        fov = self.placed(entry, entry.fov, "field of view") if self.block.fov else None
        image, mask = self.folder / entry.image, self.placed(entry, entry.mask, "mask")
        return RawImage(*self.called(entry), image, mask, fov)

    @cached_property
    def _lacking(self) -> dict[str, tuple[str, ...]]:
        return {self.image_names[str(entry.key)]: entry.problems for entry in self.found.entries if entry.problems}

    def item_problems(self, raw: RawImage, deep: bool) -> list[str]:
        """One line per file that is missing or wrong."""
        return [*self._lacking.get(raw.name, ())] or super().item_problems(raw, deep)

    def _decode(self, raw: RawImage) -> tuple[dict[Path, NDArray[Any]], list[str]]:
        lacking = self._lacking.get(raw.name)
        return ({}, [*lacking]) if lacking else super()._decode(raw)

    def decode(self, raw: RawImage, path: Path) -> NDArray[Any]:
        """The array of one of the image's files. Raises DataError."""
        if path == raw.label and self.block.levels is not None:
            return levels_of(path)
        return read_picture(path, "RGB" if path == raw.image else "L")

    def field_of_view(self, rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Computed, or everything where that finds next to nothing: the picture is no disc on black then."""
        return computed_fov_or_all(rgb)

    def label_of(self, path: Path, levels: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
        """Class numbers from a mask's levels, and one line if the levels are not those of the block."""
        try:
            return self.meaning(path)(levels), []
        except ValueError as error:
            return np.zeros(levels.shape, np.uint8), [f"{path}: {error}"]


class FolderStacks(FolderDomain, StackReader):
    """Slices of one's own, one stack for each subject, or volumes."""

    def images(self) -> list[RawStack]:
        """Every volume, or every subject with its slices, by name. Raises DataError."""
        if self.block.kind == "volume":
            return [self._stack([entry], *self.called(entry)) for entry in self.found.entries]
        members: dict[str, list[Entry]] = {}
        for entry in self.found.entries:
            members.setdefault(self.called(entry)[1], []).append(entry)
        return [self._stack(members[subject], subject, subject) for subject in sorted(members)]

    def _stack(self, entries: Sequence[Entry], name: str, subject: str) -> RawStack:
        order = {path: number for number, path in enumerate(in_order([self.folder / one.image for one in entries]))}
        entries = sorted(entries, key=lambda entry: order[self.folder / entry.image])
        images = [file for entry in entries for file in self._files(entry.image)]
        labels = [
            file
            for entry in entries
            for file in (self._files(entry.mask) if entry.mask else [self.placed(entry, None, "mask")])
        ]
        return RawStack(name, subject, tuple(images), tuple(labels))

    def _files(self, path: str) -> list[Path]:
        names = self.found.tree.folders.get(path)
        return [self.folder / path] if names is None else series_files(self.folder / path, names)

    @cached_property
    def _lines(self) -> dict[Path, tuple[str, ...]]:
        """Image file -> what it lacks."""
        outside = [self.folder / path for path in self.found.tree.outside]
        lines = {path: (f"{path}: link to a file outside of the data set",) for path in outside}
        return lines | {
            file: one.problems for one in self.found.entries if one.problems for file in self._files(one.image)[:1]
        }

    def open(self, raw: RawStack) -> Stack:
        """One stack, its headers read. Raises DataError for missing, unreadable or mismatched files."""
        if lines := [line for path in raw.files() for line in self._lines.get(path, ())]:
            raise self.error(lines)
        if not raw.images or not raw.labels:
            raise self.error(
                [f"{raw.name}: no {'mask' if raw.images else 'image'} files that can be read in its folder"]
            )
        try:
            stack = open_folder_stack(raw, self.block, self.meaning)
        except DataError as error:
            raise self.error([*error.problems]) from None
        return replace(stack, planes=lambda: self._checked(raw, stack)) if self.card.modality == "grey" else stack

    def _checked(self, raw: RawStack, stack: Stack) -> Iterator[Plane]:
        """Slices of grey levels, which are used as they are and so must be 8-bit ones."""
        for number, plane in enumerate(stack.planes()):
            low, high = (float(value) for value in (plane.values.min(initial=0), plane.values.max(initial=0)))
            if low < GREY[0] or high > GREY[1]:
                raise self.error(
                    [
                        f"{raw.name}, slice {number} of {raw.images[0]}: values {low:g} ... {high:g}, but modality grey is for "
                        "levels 0 ... 255; say modality: ct (Hounsfield units) or mr"
                    ]
                )
            yield plane


def numbered(what: str, names: Sequence[str]) -> dict[str, str]:
    """Name -> its number among all, counted from 1, such as ``image_012``: sorted as text they keep their order."""
    digits = max(LEAST_DIGITS, len(str(len(names))))
    return {name: f"{what}_{number:0{digits}d}" for number, name in enumerate(names, start=1)}


def _rule(block: Folder) -> str:
    if block.table:
        return f"table {block.table}"
    return f"pattern {block.subject}" if block.subject else "every image is taken for a subject of its own"


def _classes(block: Folder, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The sweep's classes first, in its order, so that class numbers of most domains need no translation."""
    if block.levels is None:
        return (wanted[0] if wanted else "foreground",)
    own = [name for name in block.levels if name != "background"]
    return tuple([name for name in wanted or () if name in own] + [name for name in own if name not in (wanted or ())])

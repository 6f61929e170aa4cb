"""What every domain must offer: a card of constants, its images with their subjects, and pixels in one form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.imagefiles import UNREADABLE, mismatches, picture_size
from gkd_bench.data.splits import Split, read_splits, split_problems
from gkd_bench.errors import DataError
from gkd_bench.registry import DOMAINS

MOST_LINES = 200
"""Problems of one domain that are listed; no official data set has as many files."""


@dataclass(frozen=True)
class DomainCard:
    """Constants of a domain. Nothing here is measured at run time.

    Attributes:
        name: name in the registry and in sweep files.
        title: name for people.
        source: where the data set is officially obtained.
        terms: licence or terms of use, in short.
        folder: name of its folder under the data root; empty for generated domains.
        camera_degrees: angle that the camera's field of view spans across its full width.
        vessel_width: nominal mean vessel width as a fraction of the field of view's diameter, so that resized copies
            of a data set need no other constant. Measured once on training subjects with ``check.vessel_width``.
        subjects: rule that tells the subject of an image.
    """

    name: str
    title: str
    source: str
    terms: str
    folder: str
    camera_degrees: float
    vessel_width: float
    subjects: str

    @property
    def advice(self) -> str:
        """What to do when the data set is missing or broken."""
        if not self.folder:
            return f"{self.title} is generated and needs no files."
        return (
            f"{self.title} is officially obtained at {self.source} (terms: {self.terms}). Unpack it, names unchanged, "
            f"as the folder {self.folder} under the data root."
        )


@dataclass(frozen=True)
class RawImage:
    """One image of a domain and the files it is read from.

    Attributes:
        name: unique in the domain.
        subject: the patient; all images of a subject lie in the same split.
        image: colour photograph; none for generated images.
        label: vessel mask.
        fov: field-of-view mask; none where the data set has none and it is computed.
    """

    name: str
    subject: str
    image: Path | None = None
    label: Path | None = None
    fov: Path | None = None

    def files(self) -> tuple[Path, ...]:
        """The files that must exist."""
        return tuple(path for path in (self.image, self.label, self.fov) if path is not None)


class RawPixels(NamedTuple):
    """Pixels of one image in native size.

    Attributes:
        rgb: (height, width, 3) uint8.
        label: (height, width) bool, true on vessels.
        fov: (height, width) bool, true inside the field of view.
    """

    rgb: NDArray[np.uint8]
    label: NDArray[np.bool_]
    fov: NDArray[np.bool_]


class DomainReader(ABC):
    """Finds a data set, says precisely what is missing or wrong, and reads its images.

    Args:
        root: data root that holds the data sets' official folders; generated domains need none.

    Attributes:
        card: constants of the domain.
        version: raised whenever ``read`` gives other pixels from the same files.
        optional_subjects: subjects of the split file that a complete data set may lack.
    """

    card: ClassVar[DomainCard]
    version: ClassVar[int] = 1
    optional_subjects: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, root: Path | None = None) -> None:
        self.root = root

    @abstractmethod
    def images(self) -> list[RawImage]:
        """Every image that a complete data set has, in a fixed order, whether its files exist or not."""

    @abstractmethod
    def read(self, raw: RawImage) -> RawPixels:
        """Pixels of one image. Raises DataError for unreadable or mismatched files."""

    @abstractmethod
    def content(self, digest: Callable[[Path], str]) -> Mapping[str, Any]:
        """JSON value that changes whenever the raw data change; ``digest`` gives the SHA-256 of a file."""

    def folder_problems(self) -> list[str]:
        """One line when the data set's folder is not there; its files are then missing too."""
        return []

    def file_problems(self) -> list[str]:
        """One line per missing or unreadable file, from names and headers only."""
        return []

    def splits(self) -> dict[str, Split]:
        """Subject -> split, from the domain's split file. Raises DataError for a wrong split file."""
        return read_splits(self.card.name)

    def problems(self, deep: bool = True) -> list[str]:
        """One line per problem, none for a sound data set; ``deep`` also decodes every file that exists."""
        images = self.images()
        found = self.folder_problems() + (self._pixel_problems() if deep else self.file_problems())
        found += split_problems(self.splits(), {raw.subject for raw in images}, self.optional_subjects)
        repeated = [name for name, count in Counter(raw.name for raw in images).items() if count > 1]
        found += [f"image {name} appears more than once" for name in repeated]
        return found if len(found) <= MOST_LINES else [*found[:MOST_LINES], f"and {len(found) - MOST_LINES} more"]

    def require(self, deep: bool = False) -> None:
        """Raise one DataError with every problem, where the data set is obtained and its terms."""
        if problems := self.problems(deep):
            raise self.error(problems)

    def error(self, problems: list[str]) -> DataError:
        """A DataError of this domain."""
        return DataError(problems, self.card.name, self.card.advice)

    def _pixel_problems(self) -> list[str]:
        found: list[str] = []
        for raw in self.images():
            try:
                self.read(raw)
            except DataError as error:
                found += error.problems
        return found


class FileDomain(DomainReader):
    """A domain read from files under ``root / card.folder``."""

    @property
    def folder(self) -> Path:
        """Folder of the data set. Raises DataError without a data root."""
        if self.root is None:
            raise self.error(["no data root is set, so its folder cannot be looked up"])
        return self.root / self.card.folder

    def content(self, digest: Callable[[Path], str]) -> Mapping[str, Any]:
        """SHA-256 of every file by its path inside the data set's folder."""
        files = sorted(path for raw in self.images() for path in raw.files())
        return {path.relative_to(self.folder).as_posix(): digest(path) for path in files}

    def problems(self, deep: bool = True) -> list[str]:
        """One line per problem, none for a sound data set; ``deep`` also decodes every file that exists."""
        if self.root is None:
            return ["no data root is set (data.root in the sweep file, or GKD_DATA_ROOT)"]
        return super().problems(deep)

    def folder_problems(self) -> list[str]:
        """One line when the data set's folder is not there; its files are then missing too."""
        return [] if self.folder.is_dir() else [f"{self.folder}: folder is missing"]

    def file_problems(self) -> list[str]:
        """One line per file that is missing, has no picture header, or does not fit its image's size."""
        return [line for raw in self.images() for line in _header_problems(raw)]


def unreadable(path: Path, error: Exception) -> str:
    """The line for a file that could not be opened or decoded."""
    return f"{path}: file is missing" if isinstance(error, FileNotFoundError) else f"{path}: unreadable ({error})"


def _header_problems(raw: RawImage) -> list[str]:
    found: list[str] = []
    sizes: dict[Path, tuple[int, int]] = {}
    for path in raw.files():
        try:
            sizes[path] = picture_size(path)
        except UNREADABLE as error:
            found.append(unreadable(path, error))
    return found + mismatches(sizes, raw.image)


def open_reader(name: str, root: Path | None = None) -> DomainReader:
    """The reader of a registered domain. Raises DataError for an unknown name."""
    if name not in DOMAINS:
        raise DataError([f"unknown domain; known are {', '.join(DOMAINS)}"], name)
    reader: DomainReader = DOMAINS.load(name)(root)
    return reader

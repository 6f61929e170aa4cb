"""What every domain must offer: a card of constants, its images with their subjects, and pixels in one form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.imagefiles import UNREADABLE, mismatches, picture_size
from gkd_bench.data.splits import Split, read_splits, split_problems
from gkd_bench.errors import DataError

MOST_LINES = 200
"""Problems of one domain that are listed; no official data set has as many files."""


Modality = Literal["photograph", "ct", "mr", "grey"]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class DomainCard:
    """Constants of a domain. Nothing here is measured at run time.

    Attributes:
        name: name in the registry and in sweep files.
        title: name for people.
        source: where the data set is officially obtained.
        terms: licence or terms of use, in short.
        folder: name of its folder under the data root; empty for generated domains.
        camera_degrees: angle that the camera's field of view spans across its full width; 0 = not a photograph.
        vessel_width: nominal mean vessel width as a fraction of the field of view's diameter, so that resized copies
            of a data set need no other constant. Measured once on training subjects with ``check.vessel_width``; 0 =
            unknown, or not a photograph.
        subjects: rule that tells the subject of an image.
        classes: what its labels tell apart: the class of label number 1 first.
        modality: what the pixels are: a photograph, CT in Hounsfield units, MR, or grey levels used as they are stored.
        intensity: what is known of the grey levels, for readers of a table; empty for photographs and Hounsfield units.
    """

    name: str
    title: str
    source: str
    terms: str
    folder: str
    camera_degrees: float = 0.0
    vessel_width: float = 0.0
    subjects: str = ""
    classes: tuple[str, ...] = ("vessel",)
    modality: Modality = "photograph"
    intensity: str = ""

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
    """One photograph of a domain and the files it is read from.

    Attributes:
        name: unique in the domain.
        subject: the patient; all images of a subject lie in the same split.
        image: colour photograph; none for generated images.
        label: mask.
        fov: field-of-view mask; none where the data set has none and it is computed.
        people: names under which other domains may know the patient, such as ``chaos_mr/13``; see ``leaks``.
    """

    name: str
    subject: str
    image: Path | None = None
    label: Path | None = None
    fov: Path | None = None
    people: frozenset[str] = frozenset()

    def files(self) -> tuple[Path, ...]:
        """The files that must exist."""
        return tuple(path for path in (self.image, self.label, self.fov) if path is not None)

    def pictures(self) -> tuple[Path, ...]:
        """The files that hold what a network sees."""
        return () if self.image is None else (self.image,)


@dataclass(frozen=True)
class RawStack:
    """Slices of one examination and the files they are read from: a volume, or loose slices of one patient.

    Attributes:
        name: unique in the domain; with the number of a slice behind it, the name of an image.
        subject: the patient; all stacks of a subject lie in the same split.
        images: files of the slices, in the order that pairs them with ``labels``; or one file with all.
        labels: likewise.
        people: names under which other domains may know the patient, such as ``chaos_mr/13``; see ``leaks``.
    """

    name: str
    subject: str
    images: tuple[Path, ...] = ()
    labels: tuple[Path, ...] = ()
    people: frozenset[str] = frozenset()

    def files(self) -> tuple[Path, ...]:
        """The files that must exist."""
        return self.images + self.labels

    def pictures(self) -> tuple[Path, ...]:
        """The files that hold what a network sees."""
        return self.images


RawItem = RawImage | RawStack


class Plane(NamedTuple):
    """One slice in the one orientation of this package: anterior at the top, the patient's right on the left.

    Attributes:
        values: (rows, columns) float32: Hounsfield units for CT, else as stored.
        label: (rows, columns) uint8, numbers of the card's classes, 0 = background.
    """

    values: NDArray[np.float32]
    label: NDArray[np.uint8]


@dataclass(frozen=True)
class Stack:
    """An opened stack, read slice by slice so that a volume is never in memory as a whole.

    Attributes:
        shape: (slices, rows, columns), after it was turned to the one orientation.
        spacing: millimetres between slices, rows and columns; none where unknown, or where the slices are no neighbours.
        planes: iterates over the slices in order, from the feet to the head where that is known; may be called again. Raises
            DataError for what cannot be decoded.
        remark: how its orientation was found, if that was not plain from its header.
    """

    shape: tuple[int, int, int]
    spacing: Spacing | None
    planes: Callable[[], Iterator[Plane]]
    remark: str = ""


class RawPixels(NamedTuple):
    """Pixels of one photograph in native size.

    Attributes:
        rgb: (height, width, 3) uint8.
        label: (height, width) uint8, numbers of the card's classes, 0 = background; or bool, true on the only class.
        fov: (height, width) bool, true inside the field of view.
    """

    rgb: NDArray[np.uint8]
    label: NDArray[np.uint8] | NDArray[np.bool_]
    fov: NDArray[np.bool_]


class DomainReader(ABC):
    """Finds a data set and says precisely what is missing or wrong; :class:`PhotographReader` and :class:`StackReader` read it.

    Args:
        root: data root that holds the data sets' official folders; generated domains need none.

    Attributes:
        card: constants of the domain.
        version: raised whenever reading gives other pixels from the same files.
        optional_subjects: subjects of the split file that a complete data set may lack.
    """

    card: DomainCard
    version: ClassVar[int] = 1
    optional_subjects: frozenset[str] = frozenset()

    def __init__(self, root: Path | None = None) -> None:
        self.root = root

    @property
    def hides_names(self) -> bool:
        """Whether names of files may be those of patients, so that they are told to whom asks and written nowhere."""
        return False

    def written(self, problems: Sequence[str]) -> tuple[str, ...]:
        """Problems of files as records and reports may have them."""
        if not self.hides_names:
            return tuple(problems)
        return (
            f"{len(problems)} problem{'s' * (len(problems) != 1)} with its files; `gkd-bench data check` names them",
        )

    @abstractmethod
    def images(self) -> Sequence[RawItem]:
        """Everything that a complete data set has, in a fixed order, whether its files exist or not."""

    @abstractmethod
    def content(self, digest: Callable[[Path], str]) -> Mapping[str, Any]:
        """JSON value that changes whenever the raw data change; ``digest`` gives the SHA-256 of a file."""

    @abstractmethod
    def item_problems(self, raw: Any, deep: bool) -> list[str]:
        """One line per problem of one image or stack; ``deep`` also decodes every pixel."""

    def folder_problems(self) -> list[str]:
        """One line when the data set's folder is not there; its files are then missing too."""
        return []

    def splits(self) -> dict[str, Split]:
        """Subject -> split, from the domain's split file. Raises DataError for a wrong split file."""
        return read_splits(self.card.name)

    def list_problems(self) -> list[str]:
        """One line per problem of the list of images as such: subjects without a split, names that appear twice."""
        images = self.images()
        found = split_problems(self.splits(), {raw.subject for raw in images}, self.optional_subjects)
        repeated = [name for name, count in Counter(raw.name for raw in images).items() if count > 1]
        return found + [f"image {name} appears more than once" for name in repeated]

    def problems(self, deep: bool = True) -> list[str]:
        """One line per problem, none for a sound data set; ``deep`` also decodes every file that exists."""
        found = self.folder_problems()
        found += [line for raw in self.images() for line in self.item_problems(raw, deep)]
        found += self.list_problems()
        return found if len(found) <= MOST_LINES else [*found[:MOST_LINES], f"and {len(found) - MOST_LINES} more"]

    def require(self, deep: bool = False) -> None:
        """Raise one DataError with every problem, where the data set is obtained and its terms."""
        if problems := self.problems(deep):
            raise self.error(problems)

    def error(self, problems: list[str]) -> DataError:
        """A DataError of this domain."""
        return DataError(problems, self.card.name, self.card.advice)


class PhotographReader(DomainReader):
    """A domain whose images are photographs of their own."""

    @abstractmethod
    def images(self) -> list[RawImage]:
        """Every image that a complete data set has, in a fixed order, whether its files exist or not."""

    @abstractmethod
    def read(self, raw: RawImage) -> RawPixels:
        """Pixels of one image. Raises DataError for unreadable or mismatched files."""

    def item_problems(self, raw: RawImage, deep: bool) -> list[str]:
        """One line per file that is missing, has no picture header, does not fit its image's size, or does not decode."""
        if not deep:
            return _header_problems(raw)
        try:
            self.read(raw)
        except DataError as error:
            return list(error.problems)
        return []


class StackReader(DomainReader):
    """A domain whose images are slices of CT or MR.

    Attributes:
        inside: where the mean of the values inside the label must lie, which guards the pairing of slices and masks.
    """

    inside: tuple[float, float] | None = None

    @abstractmethod
    def images(self) -> list[RawStack]:
        """Every stack that a complete data set has, in a fixed order, whether its files exist or not."""

    @abstractmethod
    def open(self, raw: RawStack) -> Stack:
        """One stack, its headers read and checked. Raises DataError for missing, unreadable or mismatched files."""

    def item_problems(self, raw: RawStack, deep: bool) -> list[str]:
        """One line per file that is missing or unreadable or does not fit; ``deep`` also reads every slice."""
        try:
            stack = self.open(raw)
            if deep:
                for _ in self.planes(raw, stack):
                    pass
        except DataError as error:
            return list(error.problems)
        return []

    def planes(self, raw: RawStack, stack: Stack) -> Iterator[Plane]:
        """The slices of an opened stack, each checked as it passes, and the whole of them at the end.

        Raises:
            DataError: a slice of another size, values that are not finite, a label that the card has no class for, a stack
                without any foreground, or values inside the label that cannot be its tissue.
        """
        total, pixels = 0.0, 0
        for number, plane in enumerate(stack.planes()):
            if lines := self._plane_problems(raw, stack, number, plane):
                raise self.error(lines)
            inside = plane.values[plane.label > 0]
            total, pixels = total + float(inside.sum(dtype=np.float64)), pixels + inside.size
            yield plane
        if not pixels:
            raise self.error([f"{raw.name}: no foreground in any of its {stack.shape[0]} slices; {_first(raw.labels)}"])
        if self.inside and not self.inside[0] <= total / pixels <= self.inside[1]:
            low, high = self.inside
            raise self.error(
                [
                    f"{raw.name}: mean of the values inside the label is {total / pixels:.0f}, not {low:g} ... {high:g}: slices "
                    f"and masks do not belong together, or their scale is wrong; {_first(raw.labels)}"
                ]
            )

    def _plane_problems(self, raw: RawStack, stack: Stack, number: int, plane: Plane) -> list[str]:
        place = f"{raw.name}, slice {number} of {_first(raw.images)}"
        shapes = {plane.values.shape, plane.label.shape, stack.shape[1:]}
        if len(shapes) > 1:
            return [
                f"{place}: slice and mask must have {stack.shape[2]}x{stack.shape[1]} pixels, found {sorted(shapes)}"
            ]
        found = []
        if bad := plane.values.size - int(np.count_nonzero(np.isfinite(plane.values))):
            found.append(f"{place}: {bad} voxels are NaN or infinite")
        if plane.label.size and int(plane.label.max()) > len(self.card.classes):
            found.append(f"{place}: label {int(plane.label.max())}, but there are {len(self.card.classes)} classes")
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


def unreadable(path: Path, error: Exception) -> str:
    """The line for a file that could not be opened or decoded."""
    return f"{path}: file is missing" if isinstance(error, FileNotFoundError) else f"{path}: unreadable ({error})"


def _first(files: tuple[Path, ...]) -> str:
    return f"{files[0]}{' ...' if len(files) > 1 else ''}" if files else "generated"


def _header_problems(raw: RawImage) -> list[str]:
    found: list[str] = []
    sizes: dict[Path, tuple[int, int]] = {}
    for path in raw.files():
        try:
            sizes[path] = picture_size(path)
        except UNREADABLE as error:
            found.append(unreadable(path, error))
    return found + mismatches(sizes, raw.image)

"""What the readers of CT and MR share: files that must lie inside the data set, and errors that name the subject."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gkd_bench.data.domain import FileDomain, Plane, RawStack, Stack, StackReader
from gkd_bench.data.splits import Split, read_splits
from gkd_bench.data.volumefiles import in_order, inside
from gkd_bench.errors import DataError


class Examinations(FileDomain, StackReader):
    """Stacks that are found on the disk: every patient of the split file who is there, down to a single one.

    Attributes:
        split_name: domain whose split file is used, where several domains are the same patients; "" = its own.
        complete: whether everybody of the split file must be there.
    """

    split_name = ""
    complete = False

    def __init__(self, root: Path | None = None) -> None:
        super().__init__(root)
        self.optional_subjects = frozenset() if self.complete else frozenset(self.splits())

    @abstractmethod
    def stack(self, raw: RawStack) -> Stack:
        """One stack of files that exist. Raises DataError whose lines need not name domain and subject."""

    def open(self, raw: RawStack) -> Stack:
        """One stack, its headers read and checked. Raises DataError for missing, unreadable or mismatched files."""
        if lines := [line for path in raw.files() if (line := self._file_problem(path))]:
            raise self.error([f"subject {raw.subject}: {line}" for line in lines])
        with self._of(raw):
            stack = self.stack(raw)
        return replace(stack, planes=lambda: self._planes(raw, stack))

    def splits(self) -> dict[str, Split]:
        """Subject -> split, from the split file. Raises DataError for a wrong split file."""
        return read_splits(self.split_name or self.card.name)

    def list_problems(self) -> list[str]:
        """One line per problem of the list as such; a folder without any patient is one."""
        if self.images() or not self.folder.is_dir():
            return super().list_problems()
        return [f"{self.folder}: no patient was found in it"]

    def places(self, *below: str) -> list[Path]:
        """Those of these folders below the data set's own that exist."""
        return [path for name in below if (path := self.folder / name).is_dir()]

    def patients(self, *below: str) -> dict[str, Path]:
        """Folders by patient, for those patients that the split file knows; of two places the first counts."""
        known, found = self.splits(), dict[str, Path]()
        for place in self.places(*below):
            for path in in_order([path for path in place.iterdir() if path.is_dir()]):
                if path.name in known:
                    found.setdefault(path.name, path)
        return found

    def _file_problem(self, path: Path) -> str:
        if not path.is_file():
            return f"{path}: file is missing"
        return (
            ""
            if inside(self.folder, path)
            else f"{path}: a link out of the data set's folder; put the file itself there"
        )

    def _planes(self, raw: RawStack, stack: Stack) -> Iterator[Plane]:
        with self._of(raw):
            yield from stack.planes()

    @contextmanager
    def _of(self, raw: RawStack) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            raise self.error([f"subject {raw.subject}: {line}" for line in error.problems]) from None

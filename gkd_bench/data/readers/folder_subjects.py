"""Whose images those of a data set of one's own are, and in which split: a pattern in the name, or a table."""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from gkd_bench.config.data import Split as Shares
from gkd_bench.data.readers.folder_files import stem
from gkd_bench.data.splits import SPLITS, Split
from gkd_bench.data.volumefiles import inside
from gkd_bench.errors import DataError

MOST_BYTES = 16 * 2**20
COLUMNS = ("image", "subject")


class Table(NamedTuple):
    """Subject and perhaps split of every image, from a CSV file.

    Attributes:
        subjects: image -> subject.
        splits: subject -> split; none when there is no such column.
    """

    subjects: Mapping[str, str]
    splits: Mapping[str, Split] | None


def read_table(folder: Path, name: str, images: Mapping[str, str]) -> Table:
    """Read the table of a data set.

    Args:
        folder: the data set's folder.
        name: the table's path below it.
        images: name of every image -> its path below the folder.

    Raises:
        DataError: with the number of every line that is wrong, and every image that is in no line.
    """
    path = folder / name
    rows = _rows(path, _text(folder, path))
    header = [word.strip().lower() for word in next(rows, (0, []))[1]]
    lacking = [column for column in COLUMNS if header.count(column) != 1]
    if lacking or header.count("split") > 1:
        raise DataError(
            [
                f"{path}, line 1: needs one column {' and one column '.join(lacking or ['split'])}; found {', '.join(header)}"
            ]
        )
    reading = _Reading(path, header, images)
    for number, row in rows:
        reading.add(number, row)
    lines = reading.problems + [
        f"{path}: image {image} is in no line" for image in images if image not in reading.subjects
    ]
    if lines:
        raise DataError(lines)
    return Table(reading.subjects, reading.splits if "split" in header else None)


class _Reading:
    """Takes lines one by one and remembers what is wrong with them."""

    def __init__(self, path: Path, header: Sequence[str], images: Mapping[str, str]) -> None:
        self.path, self.header = path, header
        self.subjects: dict[str, str] = {}
        self.splits: dict[str, Split] = {}
        self.problems: list[str] = []
        self._known = {file: image for image, path in images.items() for file in (path, PurePosixPath(path).name)}
        self._known |= {image: image for image in images}

    def add(self, number: int, row: Sequence[str]) -> None:
        if problem := self._take(row):
            self.problems.append(f"{self.path}, line {number}: {problem}")

    def _take(self, row: Sequence[str]) -> str:
        if len(row) != len(self.header):
            return f"{len(row)} values, but there are {len(self.header)} columns"
        cells = {column: value.strip() for column, value in zip(self.header, row, strict=True)}
        image = self._known.get(cells["image"]) or self._known.get(stem(cells["image"]))
        subject = cells["subject"]
        if image is None:
            return f"no image is named {cells['image']!r}"
        if image in self.subjects:
            return f"image {image} is in an earlier line already"
        if not subject or not subject.isprintable():
            return f"image {image} needs a subject"
        self.subjects[image] = subject
        return self._place(subject, cells["split"]) if "split" in cells else ""

    def _place(self, subject: str, word: str) -> str:
        split = next((known for known in SPLITS if known == word), None)
        if split is None:
            return f"split must be {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, found {word!r}"
        if self.splits.setdefault(subject, split) != split:
            return f"subject {subject} is in {self.splits[subject]} already; all images of a subject share a split"
        return ""


def _text(folder: Path, path: Path) -> str:
    if not inside(folder, path):
        raise DataError([f"{path}: lies outside of the data set's folder"])
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise DataError([f"{path}: larger than {MOST_BYTES // 2**20} MiB, so it is no table of images"])
        return data.decode("utf-8-sig")
    except OSError as error:
        raise DataError([f"{path}: the table cannot be read ({error.strerror})"]) from None
    except UnicodeDecodeError as error:
        raise DataError([f"{path}: byte {error.start} is not UTF-8 text; save it as CSV in UTF-8"]) from None


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, values) of every line that is not empty."""
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:
        raise DataError([f"{path}, line {reader.line_num}: not valid CSV ({error})"]) from None


# ---------------------------------------------------------------- without a table


def subject_rule(pattern: str | None) -> Callable[[str], str | None]:
    """From an image's name to its subject; none where the pattern finds nothing. Without a pattern it is the name."""
    if pattern is None:
        return lambda name: name
    regex = re.compile(pattern)

    def rule(name: str) -> str | None:
        found = regex.search(name)
        return (found["subject"] or None) if found else None

    return rule


def deal(subjects: Sequence[str], shares: Shares) -> dict[str, Split]:
    """Subject -> split: a seeded shuffle of the sorted subjects, at least one in each split whose share is not 0.

    Raises:
        DataError: fewer subjects than splits.
    """
    wanted: dict[Split, float] = {"train": shares.train, "val": shares.val, "test": shares.test}
    wanted = {split: share for split, share in wanted.items() if share > 0}
    order = sorted(set(subjects))
    if len(order) < len(wanted):
        raise DataError(
            [
                f"{len(order)} subject{'s' * (len(order) != 1)} for the splits {', '.join(wanted)}, and a subject is never split; "
                "add subjects, correct 'subject', or set the shares of splits that are not needed to 0"
            ]
        )
    random.Random(shares.seed).shuffle(order)
    counts = dict.fromkeys(wanted, 1)
    for _ in range(len(order) - len(wanted)):
        counts[max(wanted, key=lambda split: wanted[split] * len(order) - counts[split])] += 1
    splits = [split for split, count in counts.items() for _ in range(count)]
    return dict(zip(order, splits, strict=True))

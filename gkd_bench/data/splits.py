"""Who is trained on, validated on and tested on: one small text file per domain, by subject, never by image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

from gkd_bench.errors import DataError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
FOLDER = Path(__file__).with_name("splits")


def split_file(domain: str) -> Path:
    """The domain's split file, part of the package; lines such as ``train 01``, comments after ``#``."""
    return FOLDER / f"{domain}.txt"


def read_splits(domain: str) -> dict[str, Split]:
    """Subject -> split. Raises DataError listing every wrong line."""
    path = split_file(domain)
    if not path.is_file():
        raise DataError([f"{path.name}: split file is missing from the package"], domain)
    return parse_splits(path.read_text(encoding="utf-8"), domain)


def parse_splits(text: str, domain: str = "") -> dict[str, Split]:
    """Subject -> split from the text of a split file. Raises DataError listing every wrong line."""
    found: dict[str, Split] = {}
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        split = next((s for s in SPLITS if s == words[0]), None)
        if split is None or len(words) != 2:
            problems.append(f"split file, line {number}: {line.strip()!r} is not '<train|val|test> <subject>'")
        elif words[1] in found:
            problems.append(f"split file, line {number}: subject {words[1]} is already in {found[words[1]]}")
        else:
            found[words[1]] = split
    problems += [f"split file: no subject in {split}" for split in SPLITS if split not in found.values()]
    if problems:
        raise DataError(problems, domain, "Each subject belongs to exactly one split; correct the split file.")
    return found


def split_problems(splits: Mapping[str, Split], subjects: Iterable[str], optional: Iterable[str] = ()) -> list[str]:
    """One line per subject that has images but no split, or a split but no images."""
    present = set(subjects)
    unplaced = [f"subject {subject} is in no split" for subject in sorted(present - set(splits))]
    absent = [
        f"subject {subject} of the split file has no image" for subject in sorted(set(splits) - present - set(optional))
    ]
    return unplaced + absent

"""Whether two runs of a sweep came to the same: records byte for byte, tables but for what a clock measured."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

CLOCKED_TABLES = ("cost", "efficiency")
CLOCKED_COLUMNS = ("seconds", "total_seconds", "latency")
"""How the names of columns begin that a clock decides. Of LaTeX, which has no names, those two tables are left out."""


def different_records(one: Path, other: Path) -> list[str]:
    """One line per record that differs between two record files, in their order."""
    first, second = (path.read_bytes().splitlines() for path in (one, other))
    lines = [] if len(first) == len(second) else [f"{len(first)} and {len(second)} records"]
    pairs = enumerate(zip(first, second, strict=False), 1)
    return lines + [f"record {number}: {a.decode()}\nand {b.decode()}" for number, (a, b) in pairs if a != b]


def different_tables(one: Path, other: Path) -> list[str]:
    """One line per table of two results folders that differs, or is in one of them only."""
    first, second = ({path.relative_to(folder) for path in tables(folder)} for folder in (one, other))
    lines = [f"{path}: only in one of them" for path in sorted(first ^ second)]
    return lines + [
        f"{path}: differs" for path in sorted(first & second) if content(one / path) != content(other / path)
    ]


def tables(folder: Path) -> Iterator[Path]:
    """All tables of a results folder that can be compared."""
    yield from folder.rglob("*.csv")
    yield from (path for path in folder.rglob("tables/*.tex") if path.stem not in CLOCKED_TABLES)


def content(path: Path) -> list[list[str]]:
    """Rows of a table; of the lines above it, the command is left out, which names folders."""
    lines = [line for line in path.read_text().splitlines() if "command: " not in line]
    if path.suffix != ".csv":
        return [[line] for line in lines]
    notes = [[line] for line in lines if line.startswith("#")]
    rows = list(csv.reader(line for line in lines if not line.startswith("#")))
    clocked = CLOCKED_COLUMNS if path.stem in CLOCKED_TABLES else ()
    kept = [index for index, name in enumerate(rows[0]) if not name.startswith(clocked)] if clocked else None
    return notes + [row if kept is None else [row[index] for index in kept] for row in rows]

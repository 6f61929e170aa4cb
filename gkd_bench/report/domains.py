"""What every domain of a sweep is made of: modality, intensity window, patients and slices per split, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from gkd_bench.report.captions import sentences
from gkd_bench.report.cells import Cell, Column, Table
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.frame import SLICES, SweepRecords
from gkd_bench.report.names import counted
from gkd_bench.report.tables import value_cell

SPLITS = ("train", "val", "test")
EVERYONE = "everyone"
MODALITIES = {"ct": "CT", "mr": "MR", "grey": "grey-scale images", "photograph": "photographs"}
_MOST_LEFT_OUT = 20
_WHOLE = f" (of {EVERYONE}, where the table says so: nothing is trained on those domains)"
_COUNTS = ("subjects", "images", SLICES, *(f"{split}_{what}" for what in ("subjects", SLICES) for split in SPLITS))


def domains_table(records: SweepRecords) -> Table:
    """One row per domain that the sweep describes; without rows for sweeps of before domains were described."""
    rows = _described(records)
    columns = (
        Column("domain", "domain"),
        Column("title", "title"),
        Column("modality", "modality"),
        Column("window", "grey levels"),
        *_count_columns(records, rows),
        *([Column("scored", "scored")] if any(row.get("scored") == EVERYONE for row in rows.values()) else []),
        Column("pixels", "working scale"),
        Column("left_out", "left out", decimals=0),
    )
    lost = left_out(records)
    cells = tuple(
        tuple(_cell(column.key, row, len(lost.get(domain, ()))) for column in columns) for domain, row in rows.items()
    )
    words = Evidence.of(records).words
    caption = sentences(
        f"{words.subjects.capitalize()} are in one split only; networks learn from train, epochs are chosen by val, and all "
        f"scores are of test{_WHOLE if any(column.key == 'scored' for column in columns) else ''}",
        "Grey levels: how they became a network's input",
        "Left out: images that are broken, listed below" if lost else "",
    )
    notes = tuple(_left_out_notes(lost))
    return Table("domains", "What every domain is made of", caption, columns, cells, "domains", notes)


def left_out(records: SweepRecords) -> dict[str, dict[str, str]]:
    """Domain -> image that was left out because it is broken -> why, both by name."""
    found: dict[str, dict[str, str]] = {}
    frame = records.of("left_out").sort_values(["domain", "image"], kind="stable")
    for domain, image, reason in frame[["domain", "image", "reason"]].itertuples(index=False, name=None):
        found.setdefault(str(domain), {})[str(image)] = str(reason)
    return found


def left_out_lines(records: SweepRecords) -> list[str]:
    """A warning for every domain of which images were left out."""
    return [
        f"{domain}: {counted(len(images), 'broken image')} {'was' if len(images) == 1 else 'were'} left out; see the table of "
        "domains"
        for domain, images in left_out(records).items()
    ]


def window_of(records: SweepRecords, domain: str) -> str:
    """How a domain's grey levels were made, in words; empty where the sweep does not say."""
    row = _described(records).get(domain, {})
    return str(row["window"]) if isinstance(row.get("window"), str) else ""


def _described(records: SweepRecords) -> dict[str, Mapping[str, Any]]:
    """Domain -> its record; sources first, then targets, then others. One that only lost images is there by name."""
    frame = records.of("domain").drop_duplicates("domain")
    found: dict[str, Mapping[str, Any]] = {str(row["domain"]): row for row in _rows(frame)}
    lost = {domain: {"domain": domain, "title": None} for domain in left_out(records)}
    known = lost | found
    order = dict.fromkeys([*records.sources, *records.targets, *sorted(known)])
    return {domain: known[domain] for domain in order if domain in known}


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _count_columns(records: SweepRecords, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Column]:
    """Columns of the counts that any domain has; no sum where its parts stand beside it."""
    people = Evidence.of(records).words.subjects
    names = {"subjects": people, SLICES: SLICES}
    sliced = any(_known(row.get(SLICES)) for row in rows.values())
    titles = {"subjects": people, "images": "stacks" if sliced else "images", SLICES: SLICES}
    titles |= {f"{split}_{what}": f"{split} {name}" for what, name in names.items() for split in SPLITS}
    known = [key for key in _COUNTS if any(_known(row.get(key)) for row in rows.values())]
    for key in known:
        if f"test_{key}" not in known:
            yield Column(key, titles[key], decimals=0)


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and value == value


def _cell(key: str, row: Mapping[str, Any], lost: int) -> Cell:
    if key == "left_out":
        return Cell(lost)
    if key == "modality":
        return value_cell(MODALITIES.get(row.get(key, ""), row.get(key)))
    value: Any = row.get(key)
    return Cell(int(value)) if key in _COUNTS and _known(value) else value_cell(value)


def _left_out_notes(lost: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A line per image that was left out; of many the first, and how many more there are."""
    lines = [
        f"left out of {domain}: {image}, {reason}"
        for domain, images in lost.items()
        for image, reason in images.items()
    ]
    yield from lines[:_MOST_LEFT_OUT]
    if len(lines) > _MOST_LEFT_OUT:
        yield f"and {len(lines) - _MOST_LEFT_OUT} more"

"""Guesses which files of an unknown folder are images and which are their masks, from names alone.

Guesses are patterns as a sweep file has them, and each is tried with the code that reads the data set later.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

from gkd_bench.data.readers.folder_files import (
    NIFTI,
    PICTURE,
    Found,
    Kind,
    Tree,
    ending,
    is_dicom,
    match,
    stem,
)

MOST_GROUPS = 10  # folders, which are tried two by two
LEAST_SHARE = 0.5
_MASK = re.compile(r"mask|label|annot|seg|ground|truth|gt(?![a-z])|manual|1st|target|contour|vessel|-ah", re.IGNORECASE)
_IMAGE = re.compile(r"image|img|photo|scan|dicom|slice|volume|input|raw", re.IGNORECASE)
_SEPARATED = re.compile(r"(?<=[A-Za-z0-9])(?=[_\-. ])")


class Layout(NamedTuple):
    """Patterns that pair images with masks, and what they find.

    Attributes:
        images: pattern of images.
        masks: pattern of masks.
        kind: what was looked for: pictures and single DICOM files as ``slice``, else ``volume``.
        found: the pairs.
        paired: images with a mask.
    """

    images: str
    masks: str
    kind: Kind
    found: Found
    paired: int


def layouts(root: Path, tree: Tree) -> list[Layout]:
    """Every way found to pair files, the best first; most of a folder's images must get a mask."""
    tried: dict[tuple[str, str, Kind], Layout] = {}
    for images, masks, kind in _candidates(tree):
        if (images, masks, kind) not in tried:
            found = match(root, tree, kind, images, masks, None)
            paired = sum(entry.mask is not None for entry in found.entries)
            tried[images, masks, kind] = Layout(images, masks, kind, found, paired)
    good = [one for one in tried.values() if one.paired and one.paired >= LEAST_SHARE * len(one.found.entries)]
    return sorted(good, key=_rank, reverse=True)


def _rank(layout: Layout) -> tuple[bool, int, int, int]:
    words = bool(_MASK.search(layout.masks)) + bool(_IMAGE.search(layout.images)) - bool(_MASK.search(layout.images))
    return not layout.found.problems, layout.paired, words, -len(layout.images + layout.masks)


def _candidates(tree: Tree) -> Iterator[tuple[str, str, Kind]]:
    groups = _groups(tree)
    for one, other in permutations(groups, 2):
        for mask in _between(groups[one], groups[other]):
            yield from ((f"{one}*", f"{other}{mask}", kind) for kind in _kinds(groups[one]))
    for folder, names in groups.items():
        for images, masks in _within(names):
            yield from ((f"{folder}{images}", f"{folder}{masks}", kind) for kind in _kinds(names))
    yield from _repeated(tree)


def _kinds(names: Iterable[str]) -> tuple[Kind, ...]:
    """NIfTI may be either; only its header tells."""
    return ("slice", "volume") if any(ending(name) in NIFTI for name in names) else ("slice",)


def _groups(tree: Tree) -> dict[str, list[str]]:
    """Folder, with a slash at its end, -> names of files that may be images or masks; the fullest folders."""
    groups: dict[str, list[str]] = {}
    for path in tree.files:
        below, _, name = path.rpartition("/")
        if ending(name) or is_dicom(name):
            groups.setdefault(f"{below}/" if below else "", []).append(name)
    fullest = sorted(groups, key=lambda folder: -len(groups[folder]))[:MOST_GROUPS]
    return {folder: groups[folder] for folder in fullest}


def _between(images: Iterable[str], masks: Iterable[str]) -> list[str]:
    """Patterns of masks in a folder of their own: named as the images, or with something before or behind."""
    stems = {stem(name) for name in images}
    lengths = sorted({len(name) for name in stems}, reverse=True)
    found: Counter[str] = Counter()
    for mask in map(stem, masks):
        inner = (mask[start : start + n] for n in lengths for start in range(len(mask) - n + 1))
        if (name := next((piece for piece in inner if piece in stems), None)) is not None:
            before, _, after = mask.partition(name)
            found[f"{before}{{name}}{after}.*"] += 1
    return [pattern for pattern, _ in found.most_common(3)]


def _within(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Patterns of images and masks that lie in one folder."""
    endings = {stem(name): ending(name) for name in names}
    longer: Counter[tuple[str, str]] = Counter()
    tails: dict[str, set[str]] = {}
    heads: dict[str, set[str]] = {}
    for one in endings:
        for cut in (found.start() for found in _SEPARATED.finditer(one)):
            if one[:cut] in endings:
                longer[endings[one[:cut]], one[cut:]] += 1
            tails.setdefault(one[cut:], set()).add(one[:cut])
        head = re.match(r"[A-Za-z]+[_\-]?(?=\d)", one)
        if head:
            heads.setdefault(head[0], set()).add(one[head.end() :])
    yield from ((f"*{end}", f"{{name}}{tail}.*") for (end, tail), _ in longer.most_common(6))
    yield from ((f"{{name}}{a}.*", f"{{name}}{b}.*") for a, b in _pairs(tails))
    yield from ((f"{a}{{name}}.*", f"{b}{{name}}.*") for a, b in _pairs(heads))


def _pairs(parts: Mapping[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Pairs of the most frequent parts that go with the same rests."""
    frequent = sorted((part for part in parts if len(parts[part]) > 1), key=lambda part: -len(parts[part]))[:6]
    yield from ((a, b) for a, b in permutations(frequent, 2) if len(parts[a] & parts[b]) > LEAST_SHARE * len(parts[a]))


def _repeated(tree: Tree) -> Iterator[tuple[str, str, Kind]]:
    """One folder for each patient, all alike inside: ``{name}/scan.nii.gz`` and ``{name}/mask.nii.gz``, or folders of slices."""
    inner: Counter[tuple[str, str]] = Counter()
    slices = {path for path, names in tree.folders.items() if any(_is_slice(name) for name in names)}
    for path in (*(path for path in tree.files if ending(path) in NIFTI), *slices):
        steps = path.split("/")
        for at in range(len(steps) - 1):
            inner["/".join(steps[:at]), "/".join(steps[at + 1 :])] += 1
    frequent = [place for place, _ in inner.most_common(MOST_GROUPS)]
    for (above, one), (also, other) in permutations(frequent, 2):
        if above == also:
            before = f"{above}/" if above else ""
            yield f"{before}{{name}}/{one}", f"{before}{{name}}/{other}", "volume"
            yield f"{before}{{folder}}/{one}/*", f"{before}{{folder}}/{other}/{{name}}.*", "slice"


def _is_slice(name: str) -> bool:
    return ending(name) in PICTURE or is_dicom(name)


# ---------------------------------------------------------------- subjects

_EYE = r"^(?P<subject>.*\d)[_-]?(?:OD|OS|L|R|left|right|od|os|l|r)$"
_SLICE = r"^(?P<subject>.+?)[_-]*(?:slice|frame|sl|s|z|f)[_-]?\d+$"
_SUBJECTS = (
    _EYE,
    _SLICE,
    r"^(?P<subject>[A-Za-z]+[_-]?\d+)[_-]",
    r"^(?P<subject>\d+)[_-]",
    r"^(?P<subject>[A-Za-z]+_[A-Za-z]+[_-]?\d+)[_-]",
)
LEAST_SUBJECTS = 3


def guess_subject(names: Iterable[str]) -> str | None:
    """A pattern that fits every name and finds fewer subjects than there are images; none where there is no such."""
    names = list(names)
    for pattern in _SUBJECTS:
        found = [re.search(pattern, name) for name in names]
        subjects = {one["subject"] for one in found if one}
        if all(found) and LEAST_SUBJECTS <= len(subjects) < len(names):
            return pattern
    return None

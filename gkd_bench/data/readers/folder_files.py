"""Which files of a data set of one's own belong together: its folder is listed once, then names are matched in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from gkd_bench.data.volumefiles import inside
from gkd_bench.errors import DataError

PICTURE = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".ppm.gz", ".pgm.gz")
NIFTI = (".nii", ".nii.gz")
DICOM = (".dcm", ".dicom", ".ima")
MOST_FILES = 1_000_000
Kind = Literal["photograph", "slice", "volume"]
_ENDING = r"\.(?:nii\.gz|p[pgb]m\.gz|[^./]+)"


class Key(NamedTuple):
    """What tells images apart: the name, and the folder where names are unique in a folder only."""

    folder: str
    name: str

    def __str__(self) -> str:
        return f"{self.folder}_{self.name}" if self.folder else self.name


def stem(name: str) -> str:
    """A file's name without its ending; only known endings count, as many DICOM files have dots in their names."""
    return name[: len(name) - len(ending(name))]


def ending(name: str) -> str:
    """The known ending of a file's name, such as ``.nii.gz``, in lower case; empty without one."""
    lower = name.lower()
    return max((end for end in (*PICTURE, *NIFTI, *DICOM) if lower.endswith(end)), key=len, default="")


def is_dicom(name: str) -> bool:
    """Whether the name may be that of a DICOM file: an ending of its own, a number as in ``1.2.840.50``, or none."""
    suffix = Path(name).suffix.lower()
    return suffix in DICOM or not suffix or suffix[1:].isdigit()


def is_wanted(name: str, kind: Kind) -> bool:
    """Whether files of this name are looked at, so that a stray ``Thumbs.db`` is no image."""
    if kind == "photograph":
        return ending(name) in PICTURE
    if kind == "volume":
        return ending(name) in NIFTI
    return bool(ending(name)) or is_dicom(name)


# ---------------------------------------------------------------- listing


@dataclass(frozen=True)
class Tree:
    """A folder as it was listed; paths are relative to it, with ``/``.

    Attributes:
        files: paths of files, sorted.
        folders: path of a folder -> names of its files, of folders with files only.
        outside: links that lead out of the folder.
        problems: one line for each thing that cannot be used.
    """

    files: tuple[str, ...]
    folders: Mapping[str, tuple[str, ...]]
    outside: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


def list_tree(root: Path, depth: int) -> Tree:
    """List ``depth`` levels of files, 1 = those of the folder itself; hidden files and links to folders are left out.

    Raises:
        DataError: a folder that cannot be listed, or far too many files.
    """
    files: list[str] = []
    folders: dict[str, tuple[str, ...]] = {}
    outside: set[str] = set()
    problems: list[str] = []
    waiting = [("", 1)]
    while waiting:
        below, level = waiting.pop()
        names: list[str] = []
        for entry in _entries(root, below):
            path = f"{below}{entry.name}"
            if not entry.name.isprintable():
                problems.append(f"{root}: {path!r} has a name that cannot be printed; rename it")
            elif entry.is_symlink() and not inside(root, root / path):
                outside.add(path)
                problems += [f"{root / path}: link to a folder outside of the data set"] * entry.is_dir()
                names += [entry.name] * entry.is_file()
            elif entry.is_dir():
                waiting += [(f"{path}/", level + 1)] * (level < depth and not entry.is_symlink())
            else:
                names.append(entry.name)
        files += [below + name for name in names]
        folders |= {below.removesuffix("/"): tuple(sorted(names))} if names and below else {}
        if len(files) > MOST_FILES:
            raise DataError([f"{root}: more than {MOST_FILES} files; name the folder of one data set"])
    return Tree(tuple(sorted(files)), folders, frozenset(outside), tuple(problems))


def _entries(root: Path, below: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(root / below) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise DataError([f"{root / below}: folder cannot be listed ({error.strerror})"]) from None


# ---------------------------------------------------------------- patterns


class Pattern:
    """A glob with places for the image's name and its folder; letter case is ignored outside of those.

    Args:
        text: such as ``masks/{name}_*.png``.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.depth = text.count("/") + 1
        self.free = "*" in text.removesuffix(".*")
        before, self.named, after = text.partition("{name}")
        self._before = re.compile(_regex(before), re.IGNORECASE)
        self._after = re.compile(_regex(after), re.IGNORECASE)
        name = "(?P<name>[^/]+?)" if self.named else ""
        self._whole = re.compile(f"{_regex(before)}{name}{_regex(after)}", re.IGNORECASE)

    def key(self, path: str) -> Key | None:
        """The image that a path is of, if it fits: by ``{name}``, else by the name of its file."""
        found = self._whole.fullmatch(path)
        if not found:
            return None
        parts = found.groupdict()
        return Key(parts.get("folder") or "", parts.get("name") or stem(path.rpartition("/")[2]))

    def key_among(self, path: str, keys: Mapping[Key, object], names: Mapping[int, set[str]]) -> Key | None:
        """The image, of those that there are, that a path is of; ``*`` leaves open where a name ends, and the longest wins."""
        loose = self.key(path)
        if loose is None or not self.free:
            return loose
        for length in sorted(names, reverse=True):
            for start in range(len(path) - length + 1):
                name = path[start : start + length]
                if name in names[length] and self._after.fullmatch(path, start + length):
                    before = self._before.fullmatch(path, 0, start)
                    found = Key(before.groupdict().get("folder") or "", name) if before else None
                    if found in keys:
                        return found
        return loose

    def of(self, key: Key) -> str:
        """The pattern with the image's name in it, for messages."""
        return self.text.replace("{folder}", key.folder).replace("{name}", key.name)


def _regex(glob: str) -> str:
    """Regular expression of a piece of a pattern; an ending that is open matches one ending, not ``_2.png`` after a dot."""
    open_ending = glob.endswith(".*")
    pieces = re.split(r"([*?]|[{]folder[}])", glob.removesuffix(".*") if open_ending else glob)
    known = {"*": "[^/]*", "?": "[^/]", "{folder}": "(?P<folder>[^/]+)"}
    return "".join(known.get(piece) or re.escape(piece) for piece in pieces) + (_ENDING if open_ending else "")


# ---------------------------------------------------------------- pairing


@dataclass(frozen=True)
class Entry:
    """One image with its files, relative to the folder; a folder of DICOM files counts as one path.

    Attributes:
        key: what tells it apart.
        image: its path.
        mask: its mask; none where none was found.
        fov: its field-of-view mask.
        problems: what it lacks.
    """

    key: Key
    image: str
    mask: str | None
    fov: str | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """Images by name, and what is wrong with the list as such."""

    entries: tuple[Entry, ...] = ()
    problems: tuple[str, ...] = ()
    tree: Tree = field(default_factory=lambda: Tree((), {}))


def find(root: Path, kind: Kind, images: str, masks: str, fov: str | None) -> Found:
    """Every image with its mask, by name. Raises DataError for a folder that cannot be listed."""
    depth = max(Pattern(text).depth for text in (images, masks, fov) if text is not None)
    return match(root, list_tree(root, depth + (kind == "volume")), kind, images, masks, fov)


def match(root: Path, tree: Tree, kind: Kind, images: str, masks: str, fov: str | None) -> Found:
    """The same of a folder that was listed."""
    wanted, *rest = (Pattern(text) for text in (images, masks, fov) if text is not None)
    paths = [path for path in tree.files if is_wanted(path.rpartition("/")[2], kind)]
    paths += sorted(tree.folders) if kind == "volume" else []
    problems = [*tree.problems]
    groups: dict[Key, list[str]] = {}
    for path in paths:
        key = wanted.key(path)
        if key is not None and not any(pattern.key(path) for pattern in rest):
            groups.setdefault(key, []).append(path)
    problems += [
        f"{root}: {_all(files)} have the same name {key}; rename one, or tell images apart by {{name}} or {{folder}}"
        for key, files in groups.items()
        if len(files) > 1
    ]
    if not groups:
        problems.append(f"{root}: no {kind} fits images {images!r}{_why(paths, wanted, rest)}")
    claims = [_claims(pattern, paths, groups) for pattern in rest]
    problems += [
        line for pattern, claim in zip(rest, claims, strict=True) for line in _too_many(root, pattern, claim, groups)
    ]
    problems += [f"{root / path}: mask without an image" for path in _orphans(claims[0], groups) if groups]
    entries = tuple(_entry(root, key, files[0], rest, claims) for key, files in sorted(groups.items()))
    used = {path for one in entries for path in (one.image, one.mask, one.fov) if path in tree.outside}
    problems += [f"{root / path}: link to a file outside of the data set" for path in sorted(used)]
    return Found(entries, tuple(problems), tree)


def _claims(pattern: Pattern, paths: Iterable[str], keys: Mapping[Key, object]) -> dict[Key, list[str]]:
    names: dict[int, set[str]] = {}
    for key in keys:
        names.setdefault(len(key.name), set()).add(key.name)
    found: dict[Key, list[str]] = {}
    for path in paths:
        if owner := pattern.key_among(path, keys, names):
            found.setdefault(owner, []).append(path)
    return found


def _entry(root: Path, key: Key, image: str, patterns: list[Pattern], claims: list[dict[Key, list[str]]]) -> Entry:
    found = [claim[key][0] if key in claim else None for claim in claims]
    lines = tuple(
        f"{root / image}: has no {what}; looked for {pattern.of(key)}"
        for what, pattern, path in zip(("mask", "field-of-view mask"), patterns, found, strict=False)
        if path is None
    )
    return Entry(key, image, found[0], found[1] if len(found) > 1 else None, lines)


def _too_many(root: Path, pattern: Pattern, claim: Mapping[Key, list[str]], keys: Mapping[Key, object]) -> list[str]:
    return [
        f"{root}: {key} has {len(files)} masks, {_all(files)}; narrow {pattern.text!r} down to one"
        for key, files in claim.items()
        if len(files) > 1 and key in keys
    ]


def _orphans(claim: Mapping[Key, list[str]], keys: Mapping[Key, object]) -> list[str]:
    return [path for key, files in claim.items() if key not in keys for path in files]


def _all(files: list[str]) -> str:
    shown = ", ".join(files[:3])
    return f"{shown} and {len(files) - 3} more" if len(files) > 3 else shown


def _why(paths: list[str], wanted: Pattern, rest: list[Pattern]) -> str:
    if any(wanted.key(path) for path in paths):
        return f": all that do also fit {' or '.join(repr(pattern.text) for pattern in rest)}, and so are masks"
    return f", among {len(paths)} files" + (f" such as {paths[0]}" if paths else " that could be some")

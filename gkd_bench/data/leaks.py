"""Looks for leaks before anything is trained: subjects in two splits, and pictures or patients that are trained on and tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.digests import FileDigests
from gkd_bench.data.domain import DomainReader, PhotographReader, RawItem, StackReader
from gkd_bench.store.node import content_hash


@dataclass(frozen=True)
class _Item:
    """A photograph or stack in its place.

    Attributes:
        people: names under which several domains may know its patient.
        pictures: (file, digest) of every picture it is made of; of a generated one its pixels.
    """

    domain: str
    name: str
    split: str
    people: frozenset[str]
    pictures: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.domain} {self.name} ({self.split})"


def leak_problems(
    domains: Sequence[PreparedDomain],
    sources: Collection[str],
    catalogue: Catalogue,
    memo: Path | None = None,
    whole: Collection[str] = (),
) -> list[str]:
    """One line per leak, none for a clean sweep. The caller raises LeakError.

    A leak is a subject in two splits of a domain, or a picture of a source's training or validation split that is also
    in the test split of any domain of the sweep, under whatever name; or a patient of whom that is known: the 3D-IRCADb
    patients among those of LiTS, the patients that several sequences of CHAOS share. Pictures are the same when their raw
    files are equal byte for byte (generated pictures: their pixels); a picture that was stored anew in another format is
    not recognised.

    Args:
        domains: every domain of the sweep, prepared; the test split of each of them is scored.
        sources: names of those that are trained on.
        catalogue: where domains are.
        memo: JSON file of remembered digests, so that nothing is hashed that was hashed before (``memo_file(cache)``).
        whole: domains of which all is scored, not the test split alone.
    """
    digests = FileDigests(memo)
    items = [
        replace(item, split="test") if item.domain in whole else item
        for domain in domains
        for item in _items(domain, catalogue, digests)
    ]
    digests.save()
    found = [line for domain in domains for line in _shared_subjects(domain)]
    return found + _shared_pictures(items, sources) + _shared_people(items, sources)


def _shared_subjects(domain: PreparedDomain) -> list[str]:
    homes: dict[str, set[str]] = {}
    for image in domain.manifest.everything():
        homes.setdefault(image.subject, set()).add(image.split)
    return [
        f"{domain.manifest.domain}: subject {subject} is in the splits {' and '.join(sorted(splits))}; correct the split "
        f"file, or remove {domain.manifest.fingerprint} from the cache if that was edited"
        for subject, splits in homes.items()
        if len(splits) > 1
    ]


def _shared_pictures(items: Sequence[_Item], sources: Collection[str]) -> list[str]:
    tested: dict[str, list[tuple[_Item, str]]] = {}
    for item in items:
        for file, digest in item.pictures if item.split == "test" else ():
            tested.setdefault(digest, []).append((item, file))
    return [
        f"{_place(item, file)} and {_place(*twin)} are the same picture, so a model would be scored on what it was trained or "
        "selected on; remove one of the two, or leave one of the domains out"
        for item in items
        if item.split != "test" and item.domain in sources
        for file, digest in item.pictures
        for twin in tested.get(digest, [])
    ]


def _shared_people(items: Sequence[_Item], sources: Collection[str]) -> list[str]:
    """One line per pair of domains and name: within a domain the split file keeps patients apart."""
    tested: dict[str, dict[str, list[_Item]]] = {}
    for item in items:
        for person in item.people if item.split == "test" else ():
            tested.setdefault(person, {}).setdefault(item.domain, []).append(item)
    found: dict[tuple[str, str, str], str] = {}
    for item in items:
        if item.split == "test" or item.domain not in sources:
            continue
        for person in sorted(item.people):
            for domain, twins in tested.get(person, {}).items():
                if domain != item.domain:
                    text = (
                        f"{item} and {twins[0]} may be the same patient ({person}), so a model would be scored on whom it was "
                        "trained or selected on; leave one of the domains out, or put these patients into one split"
                    )
                    found.setdefault((item.domain, domain, person), text)
    return list(found.values())


def _place(item: _Item, file: str) -> str:
    return f"{item.domain} {item.name} ({item.split}; {file})"


def _items(domain: PreparedDomain, catalogue: Catalogue, digests: FileDigests) -> Iterator[_Item]:
    reader = catalogue.open(domain.manifest.domain)
    raws = {raw.name: raw for raw in reader.images()}
    content = "" if reader.card.folder else content_hash(dict(reader.content(digests)))
    for image in domain.manifest.everything():
        raw = raws[image.name]
        pictures = tuple((path.name, digests(path)) for path in raw.pictures())
        if not pictures:
            pictures = (("generated", _drawn(reader, raw, content, digests)),)
        yield _Item(reader.card.name, image.name, image.split, raw.people, pictures)


def _drawn(reader: DomainReader, raw: RawItem, content: str, digests: FileDigests) -> str:
    """Digest of a generated picture's pixels; drawn once, then remembered."""

    def digest() -> str:
        found = hashlib.sha256()
        for piece in chain.from_iterable(_pieces(reader, raw)):
            found.update(piece)
        return found.hexdigest()

    return digests.remembered(f"{reader.card.name}|{raw.name}|{reader.version}|{content}", digest)


def _pieces(reader: DomainReader, raw: RawItem) -> Iterator[tuple[bytes, bytes]]:
    """Shape and pixels of what was drawn."""
    if isinstance(reader, PhotographReader):
        rgb = reader.read(raw).rgb  # type: ignore[arg-type]  # its images are photographs
        yield f"{rgb.shape}".encode(), rgb.tobytes()
    elif isinstance(reader, StackReader):
        for plane in reader.open(raw).planes():  # type: ignore[arg-type]
            yield f"{plane.values.shape}".encode(), plane.values.tobytes()

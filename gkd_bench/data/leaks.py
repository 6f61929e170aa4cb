"""Looks for leaks before anything is trained: subjects in two splits, and pictures that are trained on and tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.digests import FileDigests
from gkd_bench.data.domain import DomainReader, RawImage, open_reader
from gkd_bench.store.node import content_hash


@dataclass(frozen=True)
class _Picture:
    """An image in its place; ``file`` is its raw file, or that it is generated."""

    domain: str
    name: str
    split: str
    file: str
    digest: str

    def __str__(self) -> str:
        return f"{self.domain} {self.name} ({self.split}; {self.file})"


def leak_problems(
    domains: Sequence[PreparedDomain], sources: Collection[str], root: Path | None, memo: Path | None = None
) -> list[str]:
    """One line per leak, none for a clean sweep. The caller raises LeakError.

    A leak is a subject in two splits of a domain, or a picture of a source's training or validation split that is also
    in the test split of any domain of the sweep, under whatever name. Pictures are the same when their raw files are
    equal byte for byte (generated pictures: their pixels); a picture that was stored anew in another format is not
    recognised.

    Args:
        domains: every domain of the sweep, prepared; the test split of each of them is scored.
        sources: names of those that are trained on.
        root: data root.
        memo: JSON file of remembered digests, so that nothing is hashed that was hashed before (``memo_file(cache)``).
    """
    digests = FileDigests(memo)
    pictures = [picture for domain in domains for picture in _pictures(domain, root, digests)]
    digests.save()
    return [line for domain in domains for line in _shared_subjects(domain)] + _shared_pictures(pictures, sources)


def _shared_subjects(domain: PreparedDomain) -> list[str]:
    homes: dict[str, set[str]] = {}
    for image in domain.manifest.images:
        homes.setdefault(image.subject, set()).add(image.split)
    return [
        f"{domain.manifest.domain}: subject {subject} is in the splits {' and '.join(sorted(splits))}; correct the split "
        f"file, or remove {domain.manifest.fingerprint} from the cache if that was edited"
        for subject, splits in homes.items()
        if len(splits) > 1
    ]


def _shared_pictures(pictures: Sequence[_Picture], sources: Collection[str]) -> list[str]:
    tested: dict[str, list[_Picture]] = {}
    for picture in pictures:
        if picture.split == "test":
            tested.setdefault(picture.digest, []).append(picture)
    return [
        f"{picture} and {twin} are the same picture, so a model would be scored on what it was trained or selected on; "
        "remove one of the two, or leave one of the domains out"
        for picture in pictures
        if picture.split != "test" and picture.domain in sources
        for twin in tested.get(picture.digest, [])
    ]


def _pictures(domain: PreparedDomain, root: Path | None, digests: FileDigests) -> Iterator[_Picture]:
    reader = open_reader(domain.manifest.domain, root)
    raws = {raw.name: raw for raw in reader.images()}
    content = "" if reader.card.folder else content_hash(dict(reader.content(digests)))
    for image in domain.manifest.images:
        raw = raws[image.name]
        file = raw.image.name if raw.image else "generated"
        yield _Picture(reader.card.name, image.name, image.split, file, _digest(reader, raw, content, digests))


def _digest(reader: DomainReader, raw: RawImage, content: str, digests: FileDigests) -> str:
    if raw.image is not None:
        return digests(raw.image)
    key = f"{reader.card.name}|{raw.name}|{reader.version}|{content}"  # generated: drawn once, then remembered

    def drawn() -> str:
        rgb = reader.read(raw).rgb
        return hashlib.sha256(f"{rgb.shape}".encode() + rgb.tobytes()).hexdigest()

    return digests.remembered(key, drawn)

"""Which domains a sweep may name, and how each of them is prepared: registered ones, other packages', and one's own folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from gkd_bench.config.data import Data, Folder, Prepare, Volumes
from gkd_bench.data.domain import DomainReader, PhotographReader, StackReader
from gkd_bench.errors import ConfigError, DataError
from gkd_bench.registry import DOMAINS


@dataclass(frozen=True)
class Catalogue:
    """Opens domains by name.

    Attributes:
        root: data root that holds the data sets' official folders; generated domains need none.
        prepare: how photographs are prepared.
        volumes: how slices of CT and MR are prepared.
        classes: the sweep's foreground classes, number 1 first; none = those of each domain's card.
        folders: data sets of one's own, by domain name.
        broken: whether an image that is missing or broken ends the preparation or is left out and listed.
    """

    root: Path | None = None
    prepare: Prepare = field(default_factory=Prepare)
    volumes: Volumes = field(default_factory=Volumes)
    classes: tuple[str, ...] | None = None
    folders: Mapping[str, Folder] = field(default_factory=dict)
    broken: Literal["stop", "skip"] = "stop"

    @classmethod
    def of(cls, data: Data, classes: tuple[str, ...] | None = None) -> Self:
        """The catalogue of a sweep's ``data`` block; ``classes`` are the sweep's."""
        root = Path(data.root) if data.root else None
        return cls(root, data.prepare, data.volumes, classes or data.classes, data.folders, data.broken)

    def open(self, name: str) -> DomainReader:
        """The reader of a domain.

        Raises:
            DataError: unknown name, or a domain that does not have the sweep's classes.
            ConfigError: a package that offers the domain cannot be imported or offers something else.
        """
        if name in self.folders:
            from gkd_bench.data.readers.folder import open_folder

            reader: DomainReader = open_folder(name, self.folders[name], self.root, self.classes)
        elif name in DOMAINS:
            reader = _registered(name, self.root)
        else:
            raise DataError([f"unknown domain; known are {', '.join([*DOMAINS, *self.folders])}"], name)
        missing = [one for one in self.classes or () if one not in reader.card.classes]
        if missing:
            has = ", ".join(reader.card.classes)
            raise reader.error([f"has no class {' and no class '.join(missing)}; its labels tell apart: {has}"])
        return reader

    def numbers(self, reader: DomainReader) -> tuple[int, ...]:
        """The sweep's class number of every label number of a domain, 0 first: what a label is looked up in.

        Classes of the card that the sweep does not name become background.
        """
        wanted = self.classes or reader.card.classes
        return (0, *(wanted.index(one) + 1 if one in wanted else 0 for one in reader.card.classes))


def _registered(name: str, root: Path | None) -> DomainReader:
    made = DOMAINS.load(name)
    if not DOMAINS.is_built_in(name) and not (isinstance(made, type) and issubclass(made, DomainReader)):
        raise ConfigError(
            [
                f"domain {name!r} of {DOMAINS.provider(name)} ({DOMAINS[name]}) is no subclass of "
                "gkd_bench.data.domain.PhotographReader or StackReader; see docs/extending.md"
            ]
        )
    reader: DomainReader = made(root)
    if not isinstance(reader, PhotographReader | StackReader):
        raise ConfigError([f"domain {name!r} ({DOMAINS[name]}) reads neither photographs nor stacks of slices"])
    return reader


def open_reader(name: str, root: Path | None = None) -> DomainReader:
    """The reader of a registered domain. Raises as :meth:`Catalogue.open`."""
    return Catalogue(root).open(name)

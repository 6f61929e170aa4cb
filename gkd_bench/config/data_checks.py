"""Mistakes in what a sweep says of its data: domains, one's own folders, classes, pairs."""

from __future__ import annotations

from collections.abc import Iterator

from gkd_bench.config.problems import Problem, about, nearest, not_one_of, shown, twice
from gkd_bench.config.reader import Path
from gkd_bench.config.schema import Sweep
from gkd_bench.registry import DOMAIN_CLASSES, DOMAINS


def is_phantom(domain: str) -> bool:
    """Whether the domain is synthetic and needs no folder."""
    return domain.startswith("phantom_")


def _domains(sweep: Sweep) -> Iterator[Problem]:
    known = [*DOMAINS, *sweep.data.folders]
    for index, name in enumerate(sweep.data.domains):
        if name not in known:
            yield about(("data", "domains", index), not_one_of(name, "domain", known), ("data", "folders"))
    yield from twice(sweep.data.domains, ("data", "domains"))


def _folders(sweep: Sweep) -> Iterator[Problem]:
    for name, folder in sweep.data.folders.items():
        path: Path = ("data", "folders", name)
        if name in DOMAINS:
            yield Problem(path, f"'{name}' is a domain of its own already; choose another name")
        elif name not in sweep.data.domains:
            yield about(path, "is not used; add it to data.domains, or leave it out", ("data", "domains"))
        if sweep.data.root is None and not folder.path.startswith("/"):
            text = f"'{folder.path}' lies below data.root, which is missing; name one, or give an absolute path"
            yield about((*path, "path"), text, ("data", "root"))
        if missing := [one for one in sweep.classes if folder.levels and one not in folder.levels]:
            text = f"names no grey levels of {' and '.join(missing)}, which data.classes asks for"
            yield about((*path, "levels"), text, ("data", "classes"), ("task",))


def _classes(sweep: Sweep) -> Iterator[Problem]:
    """Classes that domains do not have; domains of other packages are not imported to be asked."""
    path: Path = ("data", "classes")
    yield from twice(sweep.classes, path)
    if sweep.task == "segmentation" and sweep.data.classes is None:
        yield about(path, "is missing; task 'segmentation' needs the names of the foreground classes", ("task",))
        return
    for index, name in enumerate(sweep.data.domains):
        has = DOMAIN_CLASSES.get(name)
        if has and (missing := [one for one in sweep.classes if one not in has]):
            text = f"'{name}' has no class {' and no class '.join(missing)}; its labels tell apart: {', '.join(has)}"
            yield about(("data", "domains", index), text, path, ("task",))


def _channels(sweep: Sweep) -> Iterator[Problem]:
    """Slices have one channel, so they cannot be in a sweep with photographs in colour."""
    if sweep.channels == 1:
        return
    for index, name in enumerate(sweep.data.domains):
        folder, has = sweep.data.folders.get(name), DOMAIN_CLASSES.get(name, ())
        if (folder and folder.kind != "photograph") or "liver" in has:
            text = f"'{name}' has grey slices, but data.prepare.channel 'rgb' makes networks take three channels"
            yield about(("data", "domains", index), text, ("data", "prepare", "channel"), ("data", "folders"))


def _root(sweep: Sweep) -> Iterator[Problem]:
    real = [
        name
        for name in sweep.data.domains
        if name in DOMAINS and name not in sweep.data.folders and not is_phantom(name)
    ]
    if real and sweep.data.root is None:
        yield about(
            ("data", "root"),
            f"is missing, but {', '.join(real)} must be read from a folder; name the one that holds the official downloads",
            ("data", "domains"),
        )


def _pairs(sweep: Sweep) -> Iterator[Problem]:
    for role in ("sources", "targets"):
        names = getattr(sweep.pairs, role)
        if names == "all":
            continue
        if not names:
            yield Problem(
                ("pairs", role), f"is empty, so there is no {role[:-1]}; write 'all' or name at least one domain"
            )
        for index, name in enumerate(names):
            if name not in sweep.data.domains:
                text = f"{shown(name)} is not in data.domains ({', '.join(sweep.data.domains)})"
                yield about(("pairs", role, index), text + nearest(name, sweep.data.domains), ("data", "domains"))
        yield from twice(names, ("pairs", role))


def _everyone(sweep: Sweep) -> Iterator[Problem]:
    for index, name in enumerate(sweep.pairs.everyone):
        path: Path = ("pairs", "everyone", index)
        if name in sweep.sources():
            text = f"{shown(name)} is a source, so its training subjects cannot be scored; leave it out here"
            yield about(path, text, ("pairs", "sources"), ("data", "domains"))
        elif name not in sweep.targets():
            text = f"{shown(name)} is not a target{nearest(name, sweep.targets())}"
            yield about(path, text, ("pairs", "targets"), ("data", "domains"))
    yield from twice(sweep.pairs.everyone, ("pairs", "everyone"))


CHECKS = (_domains, _folders, _classes, _channels, _root, _pairs, _everyone)
"""All checks of this module, see ``checks.CHECKS``."""

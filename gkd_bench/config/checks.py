"""Mistakes that no single value shows: names against the registries, and settings against each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from math import prod
from typing import Any

from pydantic import ValidationError

from gkd_bench.config.problems import Problem, describe, dotted, leaves, nearest, not_one_of, shown
from gkd_bench.config.reader import Path
from gkd_bench.config.schema import Choice, Range, Sweep, Training
from gkd_bench.registry import DOMAINS, METHODS, NETWORKS

STRIDES = {"fanet": 8, "unet": 16, "mobile_unet": 32, "enet": 8, "erfnet": 8}
"""Input pixels per bottleneck position of each network; kept here so that checking a file imports no torch."""

GRID_POSITIONS = 16
"""The ``grid`` header pools to 4 x 4 positions, so its vector is 16 channels-worth long."""


def is_phantom(domain: str) -> bool:
    """Whether the domain is synthetic and needs no folder."""
    return domain.startswith("phantom_")


def _twice(values: Iterable[Hashable], path: Path) -> Iterator[Problem]:
    for value, count in Counter(values).items():
        if count > 1:
            yield Problem(path, f"{shown(value)} is listed {count} times; once is enough")


def _domains(sweep: Sweep) -> Iterator[Problem]:
    for index, name in enumerate(sweep.data.domains):
        if name not in DOMAINS:
            yield Problem(("data", "domains", index), not_one_of(name, "domain", list(DOMAINS)))
    yield from _twice(sweep.data.domains, ("data", "domains"))


def _root(sweep: Sweep) -> Iterator[Problem]:
    real = [name for name in sweep.data.domains if name in DOMAINS and not is_phantom(name)]
    if real and sweep.data.root is None:
        yield Problem(
            ("data", "root"),
            f"is missing, but {', '.join(real)} must be read from a folder; name the one that holds the official downloads",
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
                yield Problem(("pairs", role, index), text + nearest(name, sweep.data.domains))
        yield from _twice(names, ("pairs", role))


def _networks(sweep: Sweep) -> Iterator[Problem]:
    for role in ("teacher", "student"):
        name = getattr(sweep.networks, role).name
        if name not in NETWORKS:
            yield Problem(("networks", role, "name"), not_one_of(name, "network", list(NETWORKS)))


def _strides(sweep: Sweep) -> Iterator[Problem]:
    for role in ("teacher", "student"):
        network = getattr(sweep.networks, role)
        if sweep.data.tile % STRIDES.get(network.name, 1):
            stride = STRIDES[network.name]
            yield Problem(
                ("data", "tile"),
                f"must be a multiple of {stride} for {role} '{network.name}' (one bottleneck position per {stride} pixels), "
                f"found {sweep.data.tile}",
            )


def _header(sweep: Sweep) -> Iterator[Problem]:
    header = sweep.networks.header
    if header.kind == "grid" and header.dim % GRID_POSITIONS:
        yield Problem(
            ("networks", "header", "dim"),
            f"must be a multiple of {GRID_POSITIONS} for the 'grid' header (4 x 4 positions), found {header.dim}",
        )


def _trainings(sweep: Sweep) -> Iterator[tuple[str, Path, Training]]:
    """(stage kind, path, settings) of everything that trains on batches."""
    stages = sweep.stages
    yield "teacher", ("stages", "teacher"), stages.teacher
    yield "baseline", ("stages", "baseline"), stages.baseline
    yield "semantic", ("stages", "semantic", "autoencoder"), stages.semantic.autoencoder
    yield "semantic", ("stages", "semantic", "vector"), stages.semantic.vector
    yield "alignment", ("stages", "alignment"), stages.alignment
    yield "distill", ("stages", "distill"), stages.distill


def _batches(sweep: Sweep) -> Iterator[Problem]:
    for kind, path, training in _trainings(sweep):
        workers = next(p.workers for p in sweep.compute.pools if p.stages == "all" or kind in p.stages)
        if training.batch % workers:
            yield Problem(
                (*path, "batch"),
                f"is shared by the {workers} workers of the pool that runs '{kind}' and must be a multiple of {workers}, "
                f"found {training.batch}",
            )


def _stages(sweep: Sweep) -> Iterator[Problem]:
    distill, alignment = sweep.stages.distill, sweep.stages.alignment
    if distill.warmup_epochs > distill.epochs:
        text = f"must be at most stages.distill.epochs ({distill.epochs}), found {distill.warmup_epochs}"
        yield Problem(("stages", "distill", "warmup_epochs"), text)
    if 0 < alignment.cached_tiles < alignment.batch:
        text = f"must be 0 or at least one batch (stages.alignment.batch is {alignment.batch}), found {alignment.cached_tiles}"
        yield Problem(("stages", "alignment", "cached_tiles"), text)


def _compute(sweep: Sweep) -> Iterator[Problem]:
    for index, pool in enumerate(sweep.compute.pools):
        path: Path = ("compute", "pools", index)
        if pool.stages != "all":
            yield from _twice(pool.stages, (*path, "stages"))
        if sweep.compute.engine == "inprocess":
            for key, value, allowed in (
                ("workers", pool.workers, 1),
                ("gpus", pool.gpus, 0),
            ):
                if value != allowed:
                    text = f"must be {allowed} with engine 'inprocess', found {value:g}; engine 'ray' can use more"
                    yield Problem((*path, key), text)
        elif sweep.compute.precision == "fp16" and not pool.gpus:
            text = "must be above 0 with precision 'fp16', which CPUs cannot train in; or choose 'fp32' or 'bf16'"
            yield Problem((*path, "gpus"), text)


def _seeds(sweep: Sweep) -> Iterator[Problem]:
    yield from _twice(sweep.seeds, ("seeds",))


def _spaces(sweep: Sweep) -> Iterator[Problem]:
    chosen = sweep.methods.chosen()
    for method, space in sweep.search.spaces.items():
        path: Path = ("search", "spaces", method)
        if method not in METHODS:
            yield Problem(path, not_one_of(method, "method", list(METHODS)))
        elif method not in chosen:
            yield Problem(
                path, f"method '{method}' is not chosen; add a block methods.{method} or leave its search space out"
            )
        else:
            yield from _space(sweep, method, space)
            if not space:
                yield Problem(path, "is empty; name at least one setting, or leave the method out")


def _space(sweep: Sweep, method: str, space: dict[str, Range | Choice]) -> Iterator[Problem]:
    allowed = [leaf for prefix in (("methods", method), ("stages", "alignment", "weights")) for leaf in leaves(prefix)]
    allowed = [leaf for leaf in allowed if leaf != f"methods.{method}"]
    for name, distribution in space.items():
        path: Path = ("search", "spaces", method, name)
        if name not in allowed:
            yield Problem(path, not_one_of(name, f"setting that a search of '{method}' may change", allowed))
        elif isinstance(distribution, Range):
            for end in ("low", "high"):
                yield from _suggested(sweep, name, getattr(distribution, end), (*path, end))
        else:
            yield from _twice(distribution.choice, (*path, "choice"))
            for index, value in enumerate(distribution.choice):
                yield from _suggested(sweep, name, value, (*path, "choice", index))


def _suggested(sweep: Sweep, name: str, value: object, path: Path) -> Iterator[Problem]:
    """What the schema says to ``value`` at ``name``, reported at the place in the search space it comes from."""
    tree = sweep.dump()
    put(tree, tuple(name.split(".")), value)
    try:
        Sweep.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        yield from (Problem(path, f"{name} {problem.text}") for problem in describe(error, tree))


def put(tree: dict[str, Any], path: Path, value: object) -> None:
    """Set ``value`` at ``path`` of a dumped sweep, in place. Raises KeyError for a block that is not there."""
    *parents, last = path
    block: Any = tree
    for step in parents:
        block = block[step]
        if block is None:
            raise KeyError(dotted(path))
    block[last] = value


def _budget(sweep: Sweep) -> Iterator[Problem]:
    search = sweep.search
    if not search.trials:
        return
    if not search.spaces:
        yield Problem(
            ("search", "trials"), f"asks for {search.trials} trials, but search.spaces names nothing to search"
        )
    if search.scheduler == "asha" and search.grace_epochs > sweep.stages.distill.epochs:
        text = f"must be at most stages.distill.epochs ({sweep.stages.distill.epochs}), found {search.grace_epochs}"
        yield Problem(("search", "grace_epochs"), text)
    groups = sum(p.groups for p in sweep.compute.pools if p.stages == "all" or {"alignment", "distill"} & set(p.stages))
    if search.concurrency > groups and sweep.compute.engine == "ray":
        text = f"{search.concurrency} trials cannot run at once on {groups} worker group{'s' * (groups > 1)}; raise groups or lower this"
        yield Problem(("search", "concurrency"), text)
    if search.sampler == "grid":
        yield from _grid(sweep)


def _grid(sweep: Sweep) -> Iterator[Problem]:
    for method, space in sweep.search.spaces.items():
        size = prod(item.points if isinstance(item, Range) else len(item.choice) for item in space.values())
        if size > sweep.search.trials:
            yield Problem(
                ("search", "trials"),
                f"must be at least {size}, the size of the grid of '{method}', found {sweep.search.trials}; "
                "or give fewer points, or choose sampler 'random'",
            )


Check = Callable[[Sweep], Iterator[Problem]]

CHECKS: tuple[tuple[Check, tuple[Path, ...]], ...] = (
    (_domains, (("data", "domains"),)),
    (_root, (("data", "domains"), ("data", "root"))),
    (_pairs, (("data", "domains"), ("pairs",))),
    (_networks, (("networks", "teacher", "name"), ("networks", "student", "name"))),
    (_strides, (("networks", "teacher", "name"), ("networks", "student", "name"), ("data", "tile"))),
    (_header, (("networks", "header"),)),
    (_stages, (("stages", "distill"), ("stages", "alignment"))),
    (_batches, (("stages",), ("compute",))),
    (_spaces, (("search", "spaces"),)),
    (_budget, (("search",), ("stages", "distill"), ("compute", "pools"))),
    (_seeds, (("seeds",),)),
    (_compute, (("compute",),)),
)
"""Each check with the paths it reads: it is skipped where one of them is already known to be wrong."""

"""Mistakes that no single value shows: names against the registries, and settings against each other."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

from pydantic import ValidationError

from gkd_bench.config import data_checks
from gkd_bench.config.block import merge
from gkd_bench.config.method_options import moved_pixels
from gkd_bench.config.problems import Problem, about, describe, dotted, leaves, not_one_of, twice
from gkd_bench.config.reader import Path
from gkd_bench.config.schema import AlignmentWeights, Budget, Choice, Pool, Range, Sweep
from gkd_bench.registry import METHODS, NETWORKS

STRIDES = {
    "fanet": 8,
    "unet": 16,
    "mobile_unet": 32,
    "enet": 8,
    "erfnet": 8,
    "m2unet": 16,
    "little_unet": 4,
    "resenc_unet": 32,
}
"""Input pixels per bottleneck position of each built-in network; kept here so that checking a file imports no torch.

Networks pad whatever they get, so this guards no training from failing; it keeps training tiles free of padding, and the
grid of the alignment networks equal to the bottleneck's. Networks of other packages are not imported to be asked.
"""

GRID_POSITIONS = 16
"""The ``grid`` header pools to 4 x 4 positions, so its vector is 16 channels-worth long."""


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
            yield about(
                ("data", "tile"),
                f"must be a multiple of {stride} for {role} '{network.name}' (one bottleneck position per {stride} pixels), "
                f"found {sweep.data.tile}",
                ("networks", role, "name"),
            )


def _header(sweep: Sweep) -> Iterator[Problem]:
    header = sweep.networks.header
    if header.kind == "grid" and header.dim % GRID_POSITIONS:
        yield about(
            ("networks", "header", "dim"),
            f"must be a multiple of {GRID_POSITIONS} for the 'grid' header (4 x 4 positions), found {header.dim}",
            ("networks", "header", "kind"),
        )


def _trainings(sweep: Sweep) -> Iterator[tuple[str, Path, Budget]]:
    """(stage kind, path, settings) of everything that trains on batches."""
    stages = sweep.stages
    yield "teacher", ("stages", "teacher"), stages.teacher
    yield "baseline", ("stages", "baseline"), stages.baseline
    yield "semantic", ("stages", "semantic", "autoencoder"), stages.semantic.autoencoder
    yield "semantic", ("stages", "semantic", "vector"), stages.semantic.vector
    yield "alignment", ("stages", "alignment"), stages.alignment
    yield "distill", ("stages", "distill"), stages.distill


def _serving(sweep: Sweep, *kinds: str) -> Iterator[tuple[Path, Pool]]:
    """(path, pool) of the pools that run stages of one of the kinds."""
    for index, pool in enumerate(sweep.compute.pools):
        if pool.stages == "all" or set(kinds) & set(pool.stages):
            yield ("compute", "pools", index), pool


def _batches(sweep: Sweep) -> Iterator[Problem]:
    for kind, path, training in _trainings(sweep):
        for place, pool in _serving(sweep, kind):
            if training.batch % pool.workers:
                yield about(
                    (*path, "batch"),
                    f"is shared by the {pool.workers} workers of the pool that runs '{kind}' and must be a multiple of "
                    f"{pool.workers}, found {training.batch}",
                    (*place, "workers"),
                    (*place, "stages"),
                )


def _warmup(sweep: Sweep) -> Iterator[Problem]:
    distill = sweep.stages.distill
    if distill.warmup_epochs > distill.epochs:
        text = f"must be at most stages.distill.epochs ({distill.epochs}), found {distill.warmup_epochs}"
        yield about(("stages", "distill", "warmup_epochs"), text, ("stages", "distill", "epochs"))


def _cached_tiles(sweep: Sweep) -> Iterator[Problem]:
    alignment = sweep.stages.alignment
    if 0 < alignment.cached_tiles < alignment.batch:
        text = f"must be 0 or at least one batch (stages.alignment.batch is {alignment.batch}), found {alignment.cached_tiles}"
        yield about(("stages", "alignment", "cached_tiles"), text, ("stages", "alignment", "batch"))


def _pools(sweep: Sweep) -> Iterator[Problem]:
    for index, pool in enumerate(sweep.compute.pools):
        path: Path = ("compute", "pools", index)
        if pool.stages != "all":
            yield from twice(pool.stages, (*path, "stages"))
        if sweep.compute.engine == "inprocess":
            yield from _inprocess(path, pool)
        elif sweep.compute.precision == "fp16" and not pool.gpus:
            text = "must be above 0 with precision 'fp16', which CPUs cannot train in; or choose 'fp32' or 'bf16'"
            yield about((*path, "gpus"), text, ("compute", "precision"), ("compute", "engine"))


def _inprocess(path: Path, pool: Pool) -> Iterator[Problem]:
    for key, value, allowed in (("workers", pool.workers, 1), ("gpus", pool.gpus, 0)):
        if value != allowed:
            text = f"must be {allowed} with engine 'inprocess', found {value:g}; engine 'ray' can use more"
            yield about((*path, key), text, ("compute", "engine"))


def _seeds(sweep: Sweep) -> Iterator[Problem]:
    yield from twice(sweep.seeds, ("seeds",))


# ---------------------------------------------------------------- methods


GKD_WEIGHTS: tuple[Path, ...] = tuple(("methods", "gkd", name) for name in ("intra", "inter", "cross"))
ALIGNMENT_WEIGHTS: tuple[Path, ...] = tuple(
    ("stages", "alignment", "weights", name) for name in AlignmentWeights.model_fields
)


def _can_be(sweep: Sweep, path: Path, value: object) -> bool:
    """Whether the setting is ``value`` in the file, or becomes it in a trial of the search of ``gkd``."""
    if functools.reduce(getattr, map(str, path), sweep) == value:
        return True
    tried = sweep.search.spaces.get("gkd", {}).get(dotted(path)) if sweep.search.trials else None
    if isinstance(tried, Choice):
        return value in tried.choice
    return tried is not None and sweep.search.sampler == "grid" and tried.low == value


def _gkd(sweep: Sweep) -> Iterator[Problem]:
    if sweep.methods.gkd is None:
        return
    views: Path = ("methods", "gkd", "views")
    scope: Path = ("methods", "gkd", "inter_scope")
    if len(sweep.methods.gkd.views) < 2 and _can_be(sweep, scope, "views"):
        text = "'views' compares the views of one sample and needs at least 2; name more methods.gkd.views, or choose 'batch'"
        yield about(scope, text, views)
    if all(_can_be(sweep, path, 0) for path in GKD_WEIGHTS):
        text = "with intra, inter and cross all 0 it is 'scratch'; keep one of them above 0, in every trial too"
        yield Problem(("methods", "gkd"), text, reads=GKD_WEIGHTS)
    if all(_can_be(sweep, path, 0) for path in ALIGNMENT_WEIGHTS):
        text = "are all 0, so the alignment networks of 'gkd' learn nothing; keep one above 0, in every trial too"
        yield Problem(("stages", "alignment", "weights"), text, reads=(*ALIGNMENT_WEIGHTS, ("methods", "gkd")))


def _views(sweep: Sweep) -> Iterator[Problem]:
    for name, options in sweep.methods.chosen().items():
        base = sweep.methods.base_of(name)
        wrong = moved_pixels(options.views, base) if options.compares_pixels else None  # type: ignore[attr-defined]
        path: Path = ("methods", name) if name == base else ("methods", "variants", name, "set")
        if wrong and (name == base or "views" in sweep.methods.variants[name].set):
            yield Problem((*path, "views"), wrong)


def _variants(sweep: Sweep) -> Iterator[Problem]:
    for name, variant in sweep.methods.variants.items():
        path: Path = ("methods", "variants", name)
        if variant.student and variant.student.name not in NETWORKS:
            yield Problem((*path, "student", "name"), not_one_of(variant.student.name, "network", list(NETWORKS)))
        if variant.alignment and "san" not in sweep.methods.plain()[variant.of].guides:
            text = f"method '{variant.of}' trains no alignment networks, so there is nothing to change; leave it out"
            yield Problem((*path, "alignment"), text)
        try:
            sweep.of_row(name)
        except ValidationError as error:
            for problem in describe(error, merge(sweep.stages.alignment.model_dump(), variant.alignment)):
                yield Problem((*path, "alignment", *problem.path), problem.text, reads=(path,))


# ---------------------------------------------------------------- search


def _spaces(sweep: Sweep) -> Iterator[Problem]:
    chosen = sweep.methods.chosen()
    for method, space in sweep.search.spaces.items():
        path: Path = ("search", "spaces", method)
        if method not in METHODS:
            yield Problem(path, not_one_of(method, "method", list(METHODS)), reads=())
        elif method not in chosen:
            text = f"method '{method}' is not chosen; add a block methods.{method} or leave its search space out"
            yield Problem(path, text, reads=(("methods", method),))
        else:
            yield from _space(sweep, method, space)
            if not space:
                yield Problem(path, "is empty; name at least one setting, or leave the method out")


SEARCHABLE: tuple[Path, ...] = (("stages", "alignment", "weights"), ("networks", "student"))
"""Blocks that the search of any method may change, besides the method's own."""


def _space(sweep: Sweep, method: str, space: dict[str, Range | Choice]) -> Iterator[Problem]:
    allowed = [leaf for prefix in (("methods", method), *SEARCHABLE) for leaf in leaves(prefix)]
    allowed = [leaf for leaf in allowed if leaf not in (f"methods.{method}", f"methods.{method}.remedies")]
    for name, distribution in space.items():
        path: Path = ("search", "spaces", method, name)
        if name not in allowed:
            text = not_one_of(name, f"setting that a search of '{method}' may change", allowed)
            yield Problem(path, text, reads=())
        elif isinstance(distribution, Range):
            for end in ("low", "high"):
                yield from _suggested(sweep, name, getattr(distribution, end), (*path, end))
        else:
            yield from twice(distribution.choice, (*path, "choice"))
            for index, value in enumerate(distribution.choice):
                yield from _suggested(sweep, name, value, (*path, "choice", index))


def _suggested(sweep: Sweep, name: str, value: object, path: Path) -> Iterator[Problem]:
    """What the schema says to ``value`` at ``name``, reported at the place in the search space it comes from."""
    if name == "networks.student.name" and value not in NETWORKS:
        yield Problem(path, not_one_of(value, "network", list(NETWORKS)), reads=(path[:4],))
    elif name == "networks.student.name" and sweep.data.tile % STRIDES.get(str(value), 1):
        stride = STRIDES[str(value)]
        text = f"needs tiles that are a multiple of {stride} pixels, data.tile is {sweep.data.tile}"
        yield about(path, f"'{value}' {text}", ("data", "tile"))
    tree = sweep.dump()
    put(tree, tuple(name.split(".")), value)
    try:
        Sweep.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        yield from (Problem(path, f"{name} {problem.text}", reads=(path[:4],)) for problem in describe(error, tree))


def put(tree: dict[str, Any], path: Path, value: object) -> None:
    """Set ``value`` at ``path`` of a dumped sweep, in place. Raises KeyError for a block that is not there."""
    *parents, last = path
    block: Any = tree
    for step in parents:
        block = block[step]
        if block is None:
            raise KeyError(dotted(path))
    block[last] = value


def _objectives(sweep: Sweep) -> Iterator[Problem]:
    path: Path = ("search", "objectives")
    objectives = sweep.search.objectives
    yield from twice(objectives, path)
    if "stress_fsd" in objectives and not any("san" in one.guides for one in sweep.methods.chosen().values()):
        text = "'stress_fsd' needs alignment networks, which none of the chosen methods trains; add methods.gkd or leave it out"
        yield about(path, text, ("methods",))
    for method, space in sweep.search.spaces.items():
        if "student_macs" in objectives and not any(name.startswith("networks.student.") for name in space):
            text = f"'student_macs' is the same in every trial of '{method}'; search networks.student.width or .name, or leave it out"
            yield about(path, text, ("search", "spaces", method))
    if sweep.selection.pick == "closest_to_ideal" and len(objectives) < 2:
        text = "'closest_to_ideal' chooses from a Pareto front and needs at least 2 search.objectives; choose 'rule'"
        yield about(("selection", "pick"), text, path)


def _student_search(sweep: Sweep) -> Iterator[Problem]:
    path: Path = ("search", "spaces")
    takers = [
        name for name, space in sweep.search.spaces.items() if any(p.startswith("networks.student.") for p in space)
    ]
    if len(takers) > 1:
        text = (
            f"{' and '.join(takers)} all search networks.student; the student a search takes is that of every method, so "
            "only one of them may"
        )
        yield Problem(path, text)


def _stress(sweep: Sweep) -> Iterator[Problem]:
    yield from twice(sweep.data.stress.corruptions, ("data", "stress", "corruptions"))
    yield from twice(sweep.data.stress.strengths, ("data", "stress", "strengths"))


def _trials(sweep: Sweep) -> Iterator[Problem]:
    search = sweep.search
    if search.trials and not search.spaces:
        text = f"asks for {search.trials} trials, but search.spaces names nothing to search"
        yield about(("search", "trials"), text, ("search", "spaces"))


def _grace(sweep: Sweep) -> Iterator[Problem]:
    search, epochs = sweep.search, sweep.stages.distill.epochs
    if search.trials and search.scheduler == "asha" and search.grace_epochs > epochs:
        text = f"must be at most stages.distill.epochs ({epochs}), found {search.grace_epochs}"
        yield about(("search", "grace_epochs"), text, ("search", "scheduler"), ("stages", "distill", "epochs"))


def _concurrency(sweep: Sweep) -> Iterator[Problem]:
    search = sweep.search
    pools = dict(_serving(sweep, "alignment", "distill"))
    groups = sum(pool.groups for pool in pools.values())
    if search.trials and search.concurrency > groups and sweep.compute.engine == "ray":
        text = f"{search.concurrency} trials cannot run at once on {groups} worker group{'s' * (groups > 1)}; raise groups or lower this"
        reads = [(*path, key) for path in pools for key in ("groups", "stages")]
        yield about(("search", "concurrency"), text, ("compute", "engine"), *reads)


def _grid(sweep: Sweep) -> Iterator[Problem]:
    search = sweep.search
    for method, space in search.spaces.items():
        size = prod(item.points if isinstance(item, Range) else len(item.choice) for item in space.values())
        if search.sampler == "grid" and 0 < search.trials < size:
            yield about(
                ("search", "trials"),
                f"must be at least {size}, the size of the grid of '{method}', found {search.trials}; "
                "or give fewer points, or choose sampler 'random'",
                ("search", "sampler"),
                ("search", "spaces", method),
            )


CHECKS: tuple[Callable[[Sweep], Iterator[Problem]], ...] = (
    *data_checks.CHECKS,
    _networks,
    _strides,
    _header,
    _warmup,
    _cached_tiles,
    _batches,
    _gkd,
    _views,
    _variants,
    _spaces,
    _objectives,
    _student_search,
    _stress,
    _trials,
    _grace,
    _concurrency,
    _grid,
    _seeds,
    _pools,
)
"""All checks. Each takes a sweep whose wrong parts were replaced; what its problems rest on is said by each of them."""

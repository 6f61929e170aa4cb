"""A store in words: its artefacts by kind and by sweep, one by one, and all that is known of one of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gkd_bench.store.artefacts import Store
from gkd_bench.store.explain import Similar, causes
from gkd_bench.store.listing import Facts, count, listing, published, read_facts, size_text, unknown
from gkd_bench.store.needed import Need, Nodes, known_nodes, needed_keys, read_needs, sweep_names
from gkd_bench.store.node import StageNode
from gkd_bench.store.packing import is_key, package_versions

UNLISTED = "(no sweep)"
ALL = "together"
DAMAGED = "(damaged)"
MOST_READ = 10_000
"""Manifests that are read at most to find the nearest artefact, of those that no sweep lists."""


@dataclass(frozen=True)
class Wanted:
    """Which artefacts to list.

    Attributes:
        kind: stage kind; none = all.
        sweep: name of a sweep that needs them; none = all, ``UNLISTED`` = those that none needs.
    """

    kind: str | None = None
    sweep: str | None = None


class _Sums:
    """Numbers and bytes of artefacts by name."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def add(self, name: str, size: int) -> None:
        self._counts[name] += 1
        self._bytes[name] += size

    def table(self, title: str) -> list[str]:
        names = sorted(self._counts, key=lambda name: (name == ALL, name))
        rows = [(name, f"{self._counts[name]:,}", size_text(self._bytes[name])) for name in names]
        return _table([(title, "artefacts", "bytes"), *rows])


# ---------------------------------------------------------------- all of them


def overview(store: Store, wanted: Wanted) -> list[str]:
    """How many artefacts there are of each kind, and of each sweep, and their sizes. An artefact may be of several sweeps.

    One listing, and a manifest of each artefact that no sweep lists.

    Raises:
        StoreError: there is no such sweep.
    """
    artefacts, owners, known = _listed(store, wanted)
    kinds, sweeps = _Sums(), _Sums()
    for key, kind in _kinds(store, artefacts, known):
        if wanted.kind in (None, kind):
            for name in (kind, ALL):
                kinds.add(name, artefacts[key])
            for sweep in owners.get(key, (UNLISTED,)):
                sweeps.add(sweep, artefacts[key])
    return [*kinds.table("kind"), *(["", *sweeps.table("needed by sweep")] if wanted.sweep is None else [])]


def one_by_one(store: Store, wanted: Wanted, as_json: bool) -> Iterator[str]:
    """A line per artefact: key, kind and what it is for, size, when it was made and with which versions. Reads manifests.

    Raises:
        StoreError: there is no such sweep.
    """
    artefacts, owners, known = _listed(store, wanted)
    keys = [key for key in artefacts if key not in known or wanted.kind in (None, known[key].kind)]
    for facts in read_facts(store, keys):
        if wanted.kind is None or (facts.node and facts.node.kind == wanted.kind):
            size, sweeps = artefacts[facts.key], owners.get(facts.key, ())
            yield _json_line(facts, size, sweeps) if as_json else _text_line(facts, size, sweeps)


def _text_line(facts: Facts, size: int, sweeps: Sequence[str]) -> str:
    what = str(facts.node or ("(of a newer gkd_bench)" if facts.newer else DAMAGED))
    made = ", ".join(f"{name} {version}" for name, version in facts.versions.items() if name in ("gkd_bench", "torch"))
    return "  ".join([facts.key, what, size_text(size), facts.created, made, ", ".join(sweeps) or UNLISTED])


def _json_line(facts: Facts, size: int, sweeps: Sequence[str]) -> str:
    node = facts.node
    tree: dict[str, Any] = {
        "key": facts.key,
        "bytes": size,
        "sweeps": list(sweeps),
        "damaged": node is None and not facts.newer,
    }
    if node:
        tree |= {"kind": node.kind, "labels": dict(node.labels), "seed": node.seed, "version": node.version}
        tree |= {"created": facts.created, "versions": dict(facts.versions)}
    return json.dumps(tree, sort_keys=True)


def _listed(store: Store, wanted: Wanted) -> tuple[Mapping[str, int], Mapping[str, tuple[str, ...]], Nodes]:
    """Key -> bytes of the artefacts wanted; key -> sweeps that need it; key -> stage, of those that a sweep lists."""
    needs = read_needs(store)
    names = [need.sweep for need in needs]
    if wanted.sweep is not None and wanted.sweep not in names:
        raise unknown("sweep", wanted.sweep, names, store.address)
    owners, artefacts = needed_keys(store, needs), listing(store).artefacts
    if wanted.sweep is not None:
        artefacts = {key: size for key, size in artefacts.items() if wanted.sweep in owners.get(key, ())}
    return artefacts, owners, known_nodes(needs)


def _kinds(store: Store, keys: Collection[str], known: Nodes) -> Iterator[tuple[str, str]]:
    """(key, kind); manifests are read of those that are not known."""
    yield from ((key, known[key].kind) for key in keys if key in known)
    for facts in read_facts(store, [key for key in keys if key not in known]):
        yield facts.key, facts.node.kind if facts.node else DAMAGED


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows with their columns aligned, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


# ---------------------------------------------------------------- one of them


def describe_key(store: Store, key: str) -> list[str]:
    """What is known of a key: of an artefact what it is, of another stage that a sweep asks for why it is not there.

    Raises:
        StoreError: neither the store nor any sweep knows the key, or the artefact is damaged.
    """
    needs = read_needs(store)
    known = known_nodes(needs)
    if is_key(key) and store.has(key):
        return _artefact(store, key, needs)
    if key in known:
        return _missing(store, key, needs)
    raise unknown("artefact", key, sorted({*published(store), *known, *sweep_names(store)}), store.address)


def _artefact(store: Store, key: str, needs: Sequence[Need]) -> list[str]:
    artefact = store.get(key, verify=False)
    node, versions = artefact.node, artefact.manifest["versions"]
    sweeps = needed_keys(store, needs).get(key, ())
    files = artefact.manifest["files"]
    total = sum(entry["bytes"] for entry in files.values())
    now = package_versions()
    made = [f"{n} {v}" + (f" (now {now[n]})" if now.get(n, v) != v else "") for n, v in versions.items()]
    return [
        f"{key}: {node}",
        f"  made      {artefact.manifest['created']} with {', '.join(made)}",
        f"  size      {size_text(total)} in {count(len(files), 'file')}: {', '.join(sorted(files))}",
        f"  needed by {', '.join(sweeps) or 'no sweep'}",
        f"  version   {node.version} of the stage's code",
        *(f"  data      {role}: {reference}" for role, reference in node.data.items()),
        *_inputs(store, node),
        *(f"  settings  {path}: {value}" for path, value in _settings(node.settings)),
    ]


def _inputs(store: Store, node: StageNode) -> list[str]:
    return [
        f"  builds on {role}: {key} ({'in the store' if store.has(key) else 'NOT in the store'})"
        for role, key in node.inputs.items()
    ]


def _settings(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path, value) of all settings."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", json.dumps(value)


def _missing(store: Store, key: str, needs: Sequence[Need]) -> list[str]:
    """Why a stage that a sweep asks for is not in the store."""
    known = known_nodes(needs)
    node = known[key]
    sweeps = [need.sweep for need in needs if key in need.nodes]
    lines = [f"{key} is not in the store: {node}, which {' and '.join(sweeps)} asked for"]
    if store.blobs.exists(f"failures/{key}.txt"):
        lines.append(f"  it failed: failures/{key}.txt in the store")
    if store.blobs.exists(f"checkpoints/{key}.pt"):
        lines.append("  it was begun, and goes on from its checkpoint")
    lines += _inputs(store, node)
    stored, cut = stored_nodes(store, needs)
    near = Similar(stored).anywhere(node)
    if near is None:
        return [*lines, f"  no artefact of kind {node.kind} is there to compare it with", *cut]
    lines.append(f"  nearest artefact: {near} ({stored[near]}); it differs in")
    return [*lines, *(f"    {line}" for line in causes(stored[near], node, {**stored, **known})), *cut]


def stored_nodes(store: Store, needs: Sequence[Need]) -> tuple[Nodes, list[str]]:
    """Key -> stage of all artefacts, and a remark when some were not looked at.

    Those that sweeps list cost nothing; of the others up to ``MOST_READ`` manifests are read.
    """
    known, keys = known_nodes(needs), published(store)
    stored = {key: known[key] for key in keys if key in known}
    others = [key for key in keys if key not in known]
    stored |= {facts.key: facts.node for facts in read_facts(store, others[:MOST_READ]) if facts.node}
    left = len(others) - MOST_READ
    remark = f"{count(left, 'artefact')} that no sweep lists {'was' if left == 1 else 'were'} not looked at"
    return stored, [remark] if left > 0 else []

"""Why a stage is not in the store: the most similar one that is, and which fields differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gkd_bench.errors import LostArtefact
from gkd_bench.store.artefacts import Store
from gkd_bench.store.listing import count
from gkd_bench.store.needed import Nodes, read_planned
from gkd_bench.store.node import StageNode, canonical_json
from gkd_bench.store.packing import package_versions

SHOWN_FIELDS, SHOWN_WIDTH = 4, 60
NOT_SET = "(not set)"
_INPUT_WEIGHT, _WEIGHT = 1, 16
_INPUTS, _SETTINGS, _DATA = "inputs.", "settings.", "data."


# ---------------------------------------------------------------- two stages


def difference(old: StageNode, new: StageNode) -> list[str]:
    """What decides the keys of two stages and is not the same, one line per field: dotted path, old -> new."""
    before, after = _fields(old), _fields(new)
    changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    return [_change(path, before.get(path), after.get(path)) for path in sorted(changed, key=_order)]


def reason(old: StageNode, new: StageNode) -> str:
    """The differences in one line; inputs count only when nothing else differs, since they follow from what they are built on."""
    lines = difference(old, new)
    own = [line for line in lines if not line.startswith(_INPUTS)]
    if not own:
        roles = [line.removeprefix(_INPUTS).split(" ")[0] for line in lines]
        return f"builds on another {', '.join(roles)}"
    more = [f"and {count(len(own) - SHOWN_FIELDS, 'more field')}"] if len(own) > SHOWN_FIELDS else []
    return ", ".join([*own[:SHOWN_FIELDS], *more])


def causes(old: StageNode, new: StageNode, known: Nodes) -> list[str]:
    """The differences, and below every input that differs those of its stage, once, as far as both are known."""
    return list(_causes(old, new, known, set()))


def _causes(old: StageNode, new: StageNode, known: Nodes, told: set[tuple[str, str]]) -> Iterator[str]:
    for line in difference(old, new):
        yield line
        role = line.removeprefix(_INPUTS).split(" ")[0] if line.startswith(_INPUTS) else ""
        keys = old.inputs.get(role, ""), new.inputs.get(role, "")
        before, after = map(known.get, keys)
        if before and after and keys not in told:
            told.add(keys)
            yield from (f"  {below}" for below in _causes(before, after, known, told))


def _fields(node: StageNode) -> dict[str, str]:
    """Dotted path -> JSON text, of all that decides the key. Text, since 1 and 1.0 make two keys."""
    plain = {"kind": node.kind, "version": node.version, "seed": node.seed}
    groups = ((_DATA, node.data), (_SETTINGS, node.settings), (_INPUTS, node.inputs))
    return dict(_flat(plain)) | {path: text for prefix, group in groups for path, text in _flat(group, prefix)}


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{path}{name}.")
        else:
            yield f"{path}{name}", canonical_json(item)


def _order(path: str) -> tuple[int, str]:
    """Versions and seeds first, inputs last."""
    groups = (_DATA, _SETTINGS, _INPUTS)
    return next((rank for rank, group in enumerate(groups, 1) if path.startswith(group)), 0), path


def _change(path: str, old: str | None, new: str | None) -> str:
    before, after = _shown(old), _shown(new)
    if before == after:  # told apart by their types or their ends
        before, after = old or NOT_SET, new or NOT_SET
    same_domain = path.startswith(_DATA) and before.partition("@")[0] == after.partition("@")[0]
    remark = " (prepared data changed)" if same_domain else ""
    if path.startswith(_INPUTS) and NOT_SET not in (before, after):
        remark = f" (builds on another {path.removeprefix(_INPUTS)})"
    return f"{path} {before} -> {after}{remark}"


def _shown(text: str | None) -> str:
    if text is None:
        return NOT_SET
    shown = str(json.loads(text)) if text.startswith('"') else text
    return shown if len(shown) <= SHOWN_WIDTH else f"{shown[: SHOWN_WIDTH - 3]}..."


# ---------------------------------------------------------------- the most similar of many


Place = tuple[str, str, int]  # kind, labels as JSON, seed


class Similar:
    """Stages, to find the one that is most like another of the same kind."""

    def __init__(self, nodes: Nodes) -> None:
        """``nodes``: key -> stage."""
        self._nodes = nodes
        self._groups: dict[Place, list[str]] = {}
        self._values: dict[str, dict[str, set[str]]] = {}  # kind -> label -> its values
        self._indices: dict[Place, _Index] = {}
        for key, node in sorted(nodes.items()):
            self._groups.setdefault(_place(node), []).append(key)
        for place in self._groups:
            for name, value in self._labels(place).items():
                self._values.setdefault(place[0], {}).setdefault(name, set()).add(value)

    def same_place(self, node: StageNode) -> str | None:
        """Key of the most similar stage of the same kind, labels and seed; none when there is none of those."""
        return self._nearest(_place(node), node) if _place(node) in self._groups else None

    def anywhere(self, node: StageNode) -> str | None:
        """Key of the most similar stage of the same kind, labels and seed first; none when there is none of the kind."""
        wanted = _labels(node)
        alike = {
            place: sum(wanted.get(name) == value for name, value in self._labels(place).items())
            for place in self._groups
            if place[0] == node.kind
        }
        return self._nearest(max(alike, key=lambda place: alike[place]), node) if alike else None

    def novelty(self, node: StageNode) -> str:
        """Why there is no stage of the same place: which of its labels and seed no stage of its kind has."""
        values = self._values.get(node.kind)
        if values is None:
            return "nothing of this kind is in the store"
        new = [f"{name} {value}" for name, value in _labels(node).items() if value not in values.get(name, ())]
        return ", ".join(new) or "this combination of labels and seed"

    def _labels(self, place: Place) -> dict[str, str]:
        return _labels(self._nodes[self._groups[place][0]])

    def _nearest(self, place: Place, node: StageNode) -> str:
        keys = self._groups[place]
        if len(keys) == 1:
            return keys[0]
        if place not in self._indices:
            self._indices[place] = _Index([self._nodes[key] for key in keys])
        return keys[self._indices[place].nearest(node)]


class _Index:
    """Fields in which some stages differ -> which of them have it, so that the nearest of thousands is found at once."""

    def __init__(self, nodes: Sequence[StageNode]) -> None:
        self._having: dict[tuple[str, str], list[int]] = {}
        for number, node in enumerate(nodes):
            for item in _fields(node).items():
                self._having.setdefault(item, []).append(number)
        self._having = {item: numbers for item, numbers in self._having.items() if len(numbers) < len(nodes)}

    def nearest(self, node: StageNode) -> int:
        """Number of the stage with the most equal fields, the first of several; inputs decide only between equals."""
        votes: Counter[int] = Counter({0: 0})
        for path, text in _fields(node).items():
            weight = _INPUT_WEIGHT if path.startswith(_INPUTS) else _WEIGHT
            for number in self._having.get((path, text), ()):
                votes[number] += weight
        return min(votes, key=lambda number: (-votes[number], number))


def _place(node: StageNode) -> Place:
    return node.kind, canonical_json(dict(node.labels)), node.seed


def _labels(node: StageNode) -> dict[str, str]:
    """Labels and seed, as text."""
    return {name: str(value) for name, value in {**node.labels, "seed": node.seed}.items()}


# ---------------------------------------------------------------- many stages


@dataclass(frozen=True)
class Reason:
    """Stages that are not in the store for the same reason.

    Attributes:
        kind: of the stages.
        text: what differs.
        stages: how many.
        key: of the first of them.
        near: of the artefact that it was compared with; none when there is none of the kind.
    """

    kind: str
    text: str
    stages: int
    key: str
    near: str | None

    def __str__(self) -> str:
        """``distill: settings.distill.epochs 100 -> 50 (6 stages)``."""
        return f"{self.kind}: {self.text} ({count(self.stages, 'stage')})"


def changes_since(store: Store, sweep: str, nodes: Iterable[StageNode], has: Callable[[str], bool]) -> list[str]:
    """What has to be computed again since a sweep's last run, and why, one line per reason; no artefact is opened.

    Args:
        store: where the sweep's last run wrote down its stages (see ``needed.write_needed``).
        sweep: name of the sweep.
        nodes: what it asks for now.
        has: whether the store has a key.
    """
    wanted = {node.key: node for node in nodes}
    planned = read_planned(store, sweep)
    before = Similar({key: node for key, node in planned.items() if key not in wanted})
    found = []
    for key, node in wanted.items():
        if key not in planned and (old := before.same_place(node)) and has(old) and not has(key):
            found.append((node, key, old, reason(planned[old], node)))
    return [str(one) for one in _grouped(found)]


def other_packages(store: Store, nodes: Iterable[StageNode], has: Callable[[str], bool]) -> str:
    """Which packages are not those that made the first of the stages in the store, in one line; empty when all are the same.

    One artefact is opened, and only stages that build on nothing are looked up: where one is that builds on them, they are
    there as well. Packages are no part of a key, so what they made is not made again.
    """
    there = next((node for node in nodes if not node.inputs and has(node.key)), None)
    if there is None:
        return ""
    try:
        made = store.get(there.key, verify=False).manifest["versions"]
    except LostArtefact:
        return ""
    now = package_versions()
    changed = [
        f"{name} {version}, not {now[name]}" for name, version in made.items() if now.get(name, version) != version
    ]
    return f"{there} was made with {'; '.join(changed)}" if changed else ""


def why_missing(missing: Nodes, stored: Nodes) -> list[Reason]:
    """Why stages are not in the store, grouped.

    Args:
        missing: key -> stage that is not there.
        stored: key -> stage that is, to compare with.
    """
    similar, examples, found = Similar(stored), dict[tuple[str, str], str | None](), []
    for key, node in missing.items():
        near = similar.same_place(node)
        if near:
            text = reason(stored[near], node)
        else:
            text = f"new: {similar.novelty(node)}"
            if (node.kind, text) not in examples:
                examples[node.kind, text] = similar.anywhere(node)
            near = examples[node.kind, text]
        found.append((node, key, near, text))
    return _grouped(found)


def _grouped(found: Iterable[tuple[StageNode, str, str | None, str]]) -> list[Reason]:
    """In order of appearance."""
    groups: dict[tuple[str, str], list[tuple[str, str | None]]] = {}
    for node, key, near, text in found:
        groups.setdefault((node.kind, text), []).append((key, near))
    return [Reason(kind, text, len(keys), *keys[0]) for (kind, text), keys in groups.items()]

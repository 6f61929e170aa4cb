"""Which stages the sweeps of a store need: what their last runs asked for, what their reports are of, and all that builds on.

``sweeps/<name>/stages.json`` holds the stages that a sweep's last run asked for. Settings that stages share are written once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from gkd_bench.errors import LostArtefact, StoreError
from gkd_bench.store.artefacts import Store
from gkd_bench.store.node import StageNode

FORMAT = 1
STAGES, ORIGIN = "stages.json", "origin.json"
READERS = 16
CLOCKS = timedelta(hours=1)
"""How far the clocks of two machines may differ."""
Nodes = Mapping[str, StageNode]
_FIELDS = tuple(one.name for one in fields(StageNode) if one.name != "settings")
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_TORN = (ValueError, LookupError, TypeError, AttributeError)  # what reading something else than was written may raise
_JSON = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True)
class Need:
    """What one sweep needs.

    Attributes:
        sweep: its name.
        planned: key -> stage that its last run asked for.
        reported: key -> stage that its report is of.
        since: when the runs that did not end began: whatever was made after may be theirs, such as a trial's student that
            no list names yet. None when the last run ended.
        listed: whether its last run wrote down what it asked for.
        torn: what of that cannot be read, and what to do; empty when all can.
    """

    sweep: str
    planned: Nodes = field(default_factory=dict)
    reported: Nodes = field(default_factory=dict)
    since: datetime | None = None
    listed: bool = True
    torn: str = ""

    @property
    def state(self) -> str:
        """Why it is not known what the sweep needs."""
        return self.torn or ("not run to its end" if self.listed else "no list of its stages: its next run writes one")

    @property
    def nodes(self) -> dict[str, StageNode]:
        """All of them."""
        return {**self.reported, **self.planned}


def write_needed(store: Store, sweep: str, nodes: Iterable[StageNode], *, ended: bool = False) -> None:
    """Write down the stages that a run of a sweep asks for, in place of those of its last run.

    Call it when a run begins, and with ``ended`` when it has done all it was asked for.

    Args:
        store: the store.
        sweep: name of the sweep.
        nodes: final trainings, scores, and the stages of complete trials.
        ended: nothing is left to do. Until then, what is made from now on is taken to be the sweep's.
    """
    now = datetime.now(UTC)
    begun = None if ended else (_last_since(store, sweep) or now).isoformat(timespec="seconds")
    tree = {"format": FORMAT, "sweep": sweep, "begun": begun, **_packed({node.key: node for node in nodes})}
    store.blobs.write(f"sweeps/{sweep}/{STAGES}", orjson.dumps(tree, default=dict, option=_JSON))


def read_planned(store: Store, sweep: str) -> Nodes:
    """Key -> stage that the sweep's last run asked for; empty before its first run, or when the list is torn."""
    return _read_need(store, sweep, has_report=False).planned


def sweep_names(store: Store) -> list[str]:
    """Names of all sweeps of a store, sorted."""
    return sorted(name for name, files in _files_of_sweeps(store).items() if files)


def sweeps_and_owners(store: Store) -> list[str]:
    """Names of all sweeps that may be running, sorted: also of those that have written nothing yet but who runs them."""
    return sorted(_files_of_sweeps(store))


def files_of_sweep(store: Store, sweep: str) -> list[tuple[str, int]]:
    """(name, bytes) of all that a sweep has written, but for who runs it."""
    owner = f"sweeps/{sweep}/owner/"
    return [(name, size) for name, size in store.blobs.names(f"sweeps/{sweep}") if not name.startswith(owner)]


def read_needs(store: Store) -> list[Need]:
    """What every sweep of the store needs, by name."""
    files = sorted((sweep, files) for sweep, files in _files_of_sweeps(store).items() if files)
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda item: _read_need(store, item[0], ORIGIN in item[1]), files))


def needed_keys(store: Store, needs: Iterable[Need] | None = None) -> dict[str, tuple[str, ...]]:
    """Key -> names of the sweeps that need it: their stages, and all stages that those build on.

    Args:
        store: the store; manifests are read of inputs that no sweep lists, which are few.
        needs: of the sweeps that count; none = of all.
    """
    needs = read_needs(store) if needs is None else list(needs)
    known = known_nodes(needs)
    owners: dict[str, tuple[str, ...]] = {}
    for need in sorted(needs, key=lambda need: need.sweep):
        for key in _closure(store, need.nodes, known):
            owners[key] = (*owners.get(key, ()), need.sweep)
    return owners


def known_nodes(needs: Iterable[Need]) -> dict[str, StageNode]:
    """Key -> stage, of all that any sweep lists."""
    return {key: node for need in needs for key, node in need.nodes.items()}


def _closure(store: Store, keys: Collection[str], known: dict[str, StageNode]) -> set[str]:
    """The keys and those of all their inputs; stages that had to be looked up are added to the known ones."""
    found, open_keys = set(keys), list(keys)
    while open_keys:
        key = open_keys.pop()
        if key not in known:
            try:
                known[key] = store.get(key, verify=False).node
            except LostArtefact:  # what it was built on cannot be told, and is not needed to build it
                continue
        fresh = set(known[key].inputs.values()) - found
        found |= fresh
        open_keys += fresh
    return found


def _files_of_sweeps(store: Store) -> dict[str, set[str]]:
    """Name -> files of every sweep, who runs it left out: none of one that begins, or has been forgotten."""
    found: dict[str, set[str]] = {}
    for name, _ in store.blobs.names("sweeps"):
        _, sweep, *file = name.split("/")
        if file:
            found.setdefault(sweep, set()).update(["/".join(file)] if file[0] != "owner" else [])
    return found


def _read_need(store: Store, sweep: str, has_report: bool) -> Need:
    planned: Nodes = {}
    reported: Nodes = {}
    torn, since = [], None
    content = store.blobs.read(f"sweeps/{sweep}/{STAGES}")
    try:
        planned, since = ({}, _BEGINNING) if content is None else _unpacked(content)
    except _TORN as error:
        torn.append(f"{STAGES} is torn ({error}); its next run writes it anew")
    try:
        reported = _reported(store.blobs.read(f"sweeps/{sweep}/{ORIGIN}") or b"") if has_report else {}
    except _TORN as error:
        torn.append(f"{ORIGIN} is torn ({error}); its next run, which trains nothing, writes it anew")
    return Need(sweep, planned, reported, _BEGINNING if torn else since, content is not None, "; ".join(torn))


def _reported(content: bytes) -> Nodes:
    nodes = [StageNode.from_json(node) for node in json.loads(content)["stages"]]
    return {node.key: node for node in nodes}


def _last_since(store: Store, sweep: str) -> datetime | None:
    """When the runs that have not ended began; none when the last one ended, or there was none."""
    content = store.blobs.read(f"sweeps/{sweep}/{STAGES}")
    try:
        return None if content is None else _unpacked(content)[1]
    except _TORN:
        return _BEGINNING


def _packed(nodes: Nodes) -> dict[str, Any]:
    """Stages sorted by key, each with the number of its settings."""
    numbers: dict[bytes, int] = {}
    stages = []
    for key, node in sorted(nodes.items()):
        settings = orjson.dumps(node.settings, default=dict, option=_JSON)
        number = numbers.setdefault(settings, len(numbers))
        stages.append({"key": key, "settings": number, **{name: getattr(node, name) for name in _FIELDS}})
    return {"settings": [orjson.Fragment(settings) for settings in numbers], "stages": stages}


def _unpacked(content: bytes) -> tuple[Nodes, datetime | None]:
    """Key -> stage, and since when runs have not ended. Raises StoreError for a newer format, others for a torn file."""
    tree = orjson.loads(content)
    if tree["format"] > FORMAT:
        raise StoreError(f"sweeps/{tree['sweep']}/{STAGES}: format {tree['format']} is newer; update gkd_bench")
    settings, begun = tree["settings"], tree["begun"]
    nodes = {
        stage["key"]: StageNode(settings=settings[stage["settings"]], **{name: stage[name] for name in _FIELDS})
        for stage in tree["stages"]
    }
    return nodes, begun and datetime.fromisoformat(begun)

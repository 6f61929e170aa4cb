"""A sweep's records and origin on disk: all that its report is made from, so that it can be made again from them alone.

``<store>/sweeps/<name>/records.jsonl`` holds the records, ``timings.jsonl`` what a clock said of them, ``origin.json`` where
they come from and which stages they are of. Apart from the clock, two runs of one sweep write the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gkd_bench.config.schema import SWEEP_NAME_PATTERN
from gkd_bench.errors import GkdBenchError
from gkd_bench.report.frame import REFERENCES, Origin
from gkd_bench.store.artefacts import Store
from gkd_bench.store.node import StageNode
from gkd_bench.store.records import encode_records, read_records

RECORDS, TIMINGS, ORIGIN = "records.jsonl", "timings.jsonl", "origin.json"
TIMES = ("seconds", "latency_p50_ms", "latency_p95_ms")
"""Fields of records that differ from run to run, whatever else is equal."""
_PLACE = ("record", "key", "method", "source", "trial")
Record = dict[str, Any]


@dataclass(frozen=True)
class SavedSweep:
    """A sweep as its report sees it.

    Attributes:
        name: name of the sweep.
        records: all its records.
        origin: where they come from.
        stages: its final trainings and their evaluate stages; where pictures, vectors and students are found.
    """

    name: str
    records: tuple[Record, ...]
    origin: Origin
    stages: tuple[StageNode, ...]


def save_sweep(saved: SavedSweep, store: Store) -> None:
    """Write a sweep's records and origin, each replaced as a whole."""
    tree = {"origin": saved.origin.to_json(), "stages": [node.to_json() for node in saved.stages]}
    timed = [record for record in saved.records if any(name in record for name in TIMES)]
    timings = [{name: record[name] for name in (*_PLACE, *TIMES) if name in record} for record in timed]
    untimed = ({name: value for name, value in one.items() if name not in TIMES} for one in saved.records)
    store.blobs.write(sweep_file(saved.name, TIMINGS), encode_records(timings))
    store.blobs.write(sweep_file(saved.name, RECORDS), encode_records(untimed))
    store.blobs.write(sweep_file(saved.name, ORIGIN), json.dumps(tree, sort_keys=True, indent=1).encode())


def load_sweep_records(name: str, store: Store) -> SavedSweep:
    """Read a sweep's records and origin; no other sweep is looked at.

    Raises:
        GkdBenchError: there is no such sweep; names those that are there.
        StoreError: a record is broken.
    """
    known = is_sweep_name(name)
    origin = store.blobs.read(sweep_file(name, ORIGIN)) if known else None
    content = store.blobs.read(sweep_file(name, RECORDS)) if known else None
    if origin is None or content is None:
        there = finished_sweeps(store)
        listed = f"there are {', '.join(there)}" if there else "there is none yet; run a sweep first"
        raise GkdBenchError(f"no finished sweep {name!r} in {store.address}: {listed}")
    try:
        tree = json.loads(origin)
    except ValueError as error:
        where = f"{store.address}/{sweep_file(name, ORIGIN)}"
        raise GkdBenchError(f"{where}: torn ({error}); run the sweep's command again, which trains nothing") from None
    records = read_records(content, f"{store.address}/{sweep_file(name, RECORDS)}")
    timings = read_records(store.blobs.read(sweep_file(name, TIMINGS)) or b"", f"{store.address}/{TIMINGS}")
    by_place = {_place(timing): {key: timing[key] for key in TIMES if key in timing} for timing in timings}
    records = [{**record, **by_place.get(_place(record), {})} for record in records]
    stages = tuple(StageNode.from_json(node) for node in tree["stages"])
    return SavedSweep(name, tuple(records), Origin.from_json(tree["origin"]), stages)


def _place(record: Record) -> tuple[Any, ...]:
    return tuple(record.get(name) for name in _PLACE)


def finished_sweeps(store: Store) -> list[str]:
    """Names of the sweeps of a store that have a report."""
    names = (name.split("/") for name, _ in store.blobs.names("sweeps"))
    return sorted(parts[1] for parts in names if len(parts) == 3 and parts[2] == ORIGIN)


def sweep_file(name: str, file: str) -> str:
    """Where a file of a sweep, such as its records, is kept in a store."""
    return f"sweeps/{name}/{file}"


def is_sweep_name(name: str) -> bool:
    """Whether a sweep may have that name, which is also the name of its folders."""
    return re.fullmatch(SWEEP_NAME_PATTERN, name) is not None and ".." not in name


# ---------------------------------------------------------------- several sweeps as one


def merged(sweeps: Sequence[SavedSweep]) -> SavedSweep:
    """Several sweeps as one, ``a+b``; a single one as it is.

    Equal trainings are counted once. A method that was trained with other settings in two sweeps becomes
    ``method@sweep`` in the later one. A domain that one of them has is not missing.

    Raises:
        GkdBenchError: the sweeps cannot stand in one table: another selection rule, other data under the same name, or
            another teacher or student alone, which methods would be compared with.
    """
    first, *others = sweeps
    if not others:
        return first
    _refuse(_mismatches(sweeps))
    name = "+".join(one.name for one in sweeps)
    seen: dict[tuple[str, ...], str] = {}
    records: list[Record] = []
    origins: list[Origin] = []
    there = {domain for one in sweeps for domain in one.origin.fingerprints}
    for one in sweeps:
        renamed = _renamed(one, seen)
        _refuse([f"{one.name}: {name} differs from that of an earlier sweep" for name in REFERENCES if name in renamed])
        kept = (record for record in one.records if record["record"] != "missing" or record["domain"] not in there)
        records += [_under(record, name, one.name, renamed) for record in kept]
        variants = {f"{key}@{one.name}" if key in renamed else key: entry for key, entry in one.origin.variants.items()}
        origins.append(replace(one.origin, variants=variants))
    unique = {json.dumps(record, sort_keys=True): record for record in records}
    stages = {node.key: node for one in sweeps for node in one.stages}
    return SavedSweep(name, tuple(unique.values()), _joined(origins), tuple(stages.values()))


def _mismatches(sweeps: Sequence[SavedSweep]) -> list[str]:
    rules = {one.origin.rule for one in sweeps}
    problems = [f"selection rules differ ({', '.join(sorted(rules))})"] if len(rules) > 1 else []
    prints: dict[str, set[str]] = {}
    for one in sweeps:
        for domain, fingerprint in one.origin.fingerprints.items():
            prints.setdefault(domain, set()).add(fingerprint)
    return problems + [f"domain {name} was prepared differently" for name, found in prints.items() if len(found) > 1]


def _renamed(sweep: SavedSweep, seen: dict[tuple[str, ...], str]) -> set[str]:
    """Methods that were trained with other settings than in an earlier sweep; what the others are is noted as seen.

    A searched method may have other settings for every source; a reference is the same everywhere.
    """
    facts: list[tuple[str, dict[tuple[str, ...], str]]] = []
    for record in sweep.records:
        if record["record"] == "candidate" and record["trial"] is None:
            method, model = str(record["method"]), str(record["model"])
            source, seed, settings = str(record["source"]), str(record["seed"]), sweep.origin.settings.get(model)
            place: tuple[str, ...] = (method,) if method in REFERENCES else (method, source)
            known = {place: json.dumps(settings, sort_keys=True)} if settings is not None else {}
            facts.append((method, {**known, (method, source, seed): model}))
    renamed = {method for method, fact in facts if any(seen.get(key, value) != value for key, value in fact.items())}
    for method, fact in facts:
        seen |= fact if method not in renamed else {}
    return renamed


def _under(record: Mapping[str, Any], name: str, sweep: str, renamed: set[str]) -> Record:
    changed = {**record, "sweep": name}
    if record.get("method") in renamed:
        changed["method"] = f"{record['method']}@{sweep}"
        changed |= {"study": f"{record['study']}@{sweep}"} if "study" in record else {}
    return changed


def _joined(origins: Sequence[Origin]) -> Origin:
    def union(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item for items in lists for item in items))

    return replace(
        origins[0],
        sources=union(one.sources for one in origins),
        targets=union(one.targets for one in origins),
        pairs=tuple(dict.fromkeys((s, t) for one in origins for s in one.sources for t in (s, *one.targets))),
        variants={name: entry for one in origins for name, entry in one.variants.items()},
        sweep_yaml="---\n".join(one.sweep_yaml for one in origins),
        command=" && ".join(one.command for one in origins),
        machine="; ".join(union([one.machine] for one in origins)),
        fingerprints={name: entry for one in origins for name, entry in one.fingerprints.items()},
        settings={key: entry for one in origins for key, entry in one.settings.items()},
    )


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        lines = [f"  {line}" for line in problems]
        raise GkdBenchError("\n".join(["these sweeps cannot be one report; make one for each:", *lines]))

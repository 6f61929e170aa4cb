"""Removing what no sweep needs from a store, while none of its sweeps runs."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from gkd_bench.errors import ClusterError, StoreError
from gkd_bench.store.artefacts import LocalStore, Store
from gkd_bench.store.listing import Facts, count, draft_of, listing, published, read_facts, size_text, unknown
from gkd_bench.store.needed import (
    CLOCKS,
    Need,
    files_of_sweep,
    needed_keys,
    read_needs,
    sweeps_and_owners,
    write_needed,
)
from gkd_bench.store.ownership import Ownership, current_owner
from gkd_bench.store.packing import check_key
from gkd_bench.store.verify import CHECKPOINTS, stage_of

__all__ = ["Leftover", "Pruning", "needed_keys", "plan_pruning", "prune", "remove", "write_needed"]

RUNS, FAILURES = "ray", "failures"
RUN_FOLDER_AGE = timedelta(days=7)
SHOWN_SWEEPS = 3
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
What = Literal["sweep", "artefact", "checkpoint", "traceback", "draft", "run folder"]
Fate = Literal["goes", "young", "newer", "theirs"]
WORDS: dict[What, str] = {
    "sweep": "records, journals and lists of forgotten sweeps",
    "artefact": "artefacts that no sweep needs",
    "checkpoint": "checkpoints of stages that are published or not needed",
    "traceback": "tracebacks of stages that are published or not needed",
    "draft": "what publishers that died left",
    "run folder": "Ray's own files of runs of more than a week ago",
}


@dataclass(frozen=True)
class Leftover:
    """Something that may go.

    Attributes:
        what: kind of it.
        name: key of an artefact, name of the object of anything else.
        bytes: its size.
    """

    what: What
    name: str
    bytes: int


@dataclass(frozen=True)
class Pruning:
    """What pruning removes.

    Attributes:
        leftovers: one by one.
        remarks: why some of what no sweep lists stays, one line each.
    """

    leftovers: tuple[Leftover, ...]
    remarks: tuple[str, ...]

    def lines(self) -> list[str]:
        """How much of each kind, and what all comes to."""
        lines = []
        for what, words in WORDS.items():
            sizes = [one.bytes for one in self.leftovers if one.what == what]
            noun = "artefact" if what == "artefact" else "file"
            lines += [f"{words}: {count(len(sizes), noun)}, {size_text(sum(sizes))}"] if sizes else []
        return [*lines, *self.remarks]


def parse_age(text: str) -> timedelta:
    """``90m``, ``12h``, ``1d`` or ``2w``. Raises StoreError for anything else."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([mhdw])", text.strip())
    if not found:
        raise StoreError(f"--older-than {text}: give a number and m, h, d or w, such as 1d")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


def plan_pruning(store: Store, older_than: timedelta = timedelta(days=1), forget: Sequence[str] = ()) -> Pruning:
    """What may go. Artefacts that a running sweep has made since its last list look unneeded: see :func:`refuse_running`.

    Args:
        store: the store.
        older_than: artefacts made since are kept, whoever needs them.
        forget: names of sweeps that shall not count any more; their records, journals and lists go as well.

    Raises:
        StoreError: there is no sweep of such a name.
    """
    needs = read_needs(store)
    names = [need.sweep for need in needs]
    for name in forget:
        if name not in names:
            raise unknown("sweep", name, names, store.address)
    needs = [need for need in needs if need.sweep not in forget]
    found, needed = listing(store), needed_keys(store, needs)
    going, remarks = _unneeded(store, found.artefacts, needed, needs, older_than)
    leftovers = [Leftover("sweep", name, size) for one in forget for name, size in files_of_sweep(store, one)]
    leftovers += [Leftover("artefact", key, found.artefacts[key]) for key in going]
    leftovers += _of_stages(store, "checkpoint", CHECKPOINTS, found.artefacts, needed, needs)
    leftovers += _of_stages(store, "traceback", FAILURES, found.artefacts, needed, needs)
    leftovers += [Leftover("draft", name, size) for name, size in sorted(found.drafts.items())]
    leftovers += _run_folders(store)
    return Pruning(tuple(leftovers), tuple(remarks))


def _unneeded(
    store: Store,
    artefacts: Iterable[str],
    needed: Mapping[str, object],
    needs: Iterable[Need],
    older_than: timedelta,
) -> tuple[list[str], list[str]]:
    """Keys of artefacts that may go, and remarks on those that may not although nobody lists them."""
    unneeded = [key for key in artefacts if key not in needed]
    running = [need for need in needs if need.since]
    since = min((need.since for need in running if need.since), default=None)
    fates: dict[Fate, list[str]] = {"goes": [], "young": [], "newer": [], "theirs": []}
    for facts in read_facts(store, unneeded):
        fates[_fate(facts, datetime.now(UTC) - older_than, since)].append(facts.key)
    words = {
        "young": "that no sweep needs, not that old yet (--older-than)",
        "newer": "of a newer version of gkd_bench",
        "theirs": f"that may be of {_unfinished(running)}; run it to its end, or forget it with --sweep",
    }
    kept = {fate: count(len(keys), "artefact") for fate, keys in fates.items() if keys and fate in words}
    return fates["goes"], [f"kept: {number} {words[fate]}" for fate, number in kept.items()]


def _fate(facts: Facts, limit: datetime, since: datetime | None) -> Fate:
    """What becomes of an artefact that no sweep lists; ``since`` unfinished runs began, all that is made may be theirs."""
    made = _created(facts)
    if facts.newer:
        return "newer"
    if made and made > limit:
        return "young"
    if since and (made is None or made + CLOCKS >= since):
        return "theirs"
    return "goes"


def _unfinished(needs: Sequence[Need]) -> str:
    """Sweeps whose last runs did not end, in words."""
    whose = " or ".join(f"{need.sweep} ({need.state})" for need in needs[:SHOWN_SWEEPS])
    return whose + (f" or {count(len(needs) - SHOWN_SWEEPS, 'more sweep')}" if len(needs) > SHOWN_SWEEPS else "")


def _created(facts: Facts) -> datetime | None:
    try:
        made = datetime.fromisoformat(facts.created)
    except ValueError:
        return None
    return made if made.tzinfo else made.replace(tzinfo=UTC)


def _of_stages(
    store: Store,
    what: What,
    folder: str,
    published: Iterable[str],
    needed: Mapping[str, object],
    needs: Iterable[Need],
) -> Iterator[Leftover]:
    """Files of stages that are published, or, when every sweep has ended, needed by none."""
    done, all_ended = set(published), not any(need.since for need in needs)
    for name, size in store.blobs.names(folder):
        key = stage_of(name)
        if key in done or (all_ended and key not in needed):
            yield Leftover(what, name, size)


def _run_folders(store: Store) -> Iterator[Leftover]:
    before = time.time() - RUN_FOLDER_AGE.total_seconds()
    for name, size in store.blobs.names(RUNS):
        born = name.split("/")[1].partition("-")[0]
        if born.isdigit() and int(born) < before:
            yield Leftover("run folder", name, size)


# ---------------------------------------------------------------- doing it


def refuse_running(store: Store) -> None:
    """Raise ClusterError, naming the owner, while a sweep of the store is being run, as far as its entry tells."""
    for name in sweeps_and_owners(store):
        owner = current_owner(store.blobs, name)
        if owner is not None:
            raise ClusterError(
                f"sweep {name} is being run by {owner}; wait for its end or stop it there, then run the same command again. "
                "If that machine is gone, --yes goes on after two minutes without a sign of life."
            )


@contextlib.contextmanager
def all_held(store: Store, sweeps: Iterable[str], say: Callable[[str], None]) -> Iterator[list[str]]:
    """Hold sweeps, so that none is run meanwhile; yields what is said when one is taken all the same.

    Raises:
        ClusterError: a sweep is being run; names its owner.
    """
    lost: list[str] = []
    with contextlib.ExitStack() as stack:
        for name in sweeps:
            stack.enter_context(Ownership(store.blobs, name, lost.append, say=say))
        yield lost


def prune(store: Store, older_than: timedelta, forget: Sequence[str], say: Callable[[str], None]) -> Pruning:
    """Remove what :func:`plan_pruning` finds while no sweep runs; what was removed.

    Raises:
        ClusterError: a sweep is being run, or was started meanwhile; names its owner.
        StoreError: there is no sweep of such a name.
    """
    sweeps = sweeps_and_owners(store)
    with all_held(store, sweeps, say) as lost:
        pruning = plan_pruning(store, older_than, forget)
        if begun := set(sweeps_and_owners(store)) - set(sweeps):
            raise ClusterError(f"sweep {min(begun)} was begun meanwhile; run the same command again when it has ended")
        _remove_all(store, pruning.leftovers, lost)
    return pruning


def _remove_all(store: Store, leftovers: Iterable[Leftover], lost: Sequence[str]) -> None:
    """Forgotten sweeps last: when something fails before, the same command finds all again."""

    def go(one: Leftover) -> None:
        if lost:
            raise ClusterError(f"{lost[0]}; what is left can be pruned when it has ended")
        if one.what == "artefact":
            store.delete(one.name)
        elif one.what != "draft" or not _is_published(store, one.name):
            store.blobs.delete(one.name)

    with ThreadPoolExecutor(8) as pool:
        ordered = sorted(leftovers, key=lambda one: one.what == "sweep")
        for _ in pool.map(go, ordered):
            pass
    _remove_empty_folders(store, [one.name for one in ordered if one.what != "artefact"])


def _is_published(store: Store, name: str) -> bool:
    """Whether a file has become part of an artefact since it was listed."""
    if isinstance(store, LocalStore):
        return store.has(name.split("/")[2])
    _, key, draft, *_ = name.split("/")
    return draft_of(store, key) == draft


def _delete(store: Store, names: Sequence[str]) -> None:
    for name in names:
        store.blobs.delete(name)
    _remove_empty_folders(store, names)


def _remove_empty_folders(store: Store, names: Iterable[str]) -> None:
    """A folder keeps its empty folders, an object service has none."""
    if not isinstance(store, LocalStore):
        return
    folders = {
        store.root / parent
        for name in names
        for parent in list((store.root / name).relative_to(store.root).parents)[:-1]
    }
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove(store: Store, keys: Sequence[str]) -> list[str]:
    """Remove artefacts, whole or damaged, with their checkpoints and tracebacks; one line each.

    Raises:
        StoreError: one of them is not there; names those most like it. Nothing is removed then.
    """
    for key in keys:
        if not store.has(check_key(key)):
            raise unknown("artefact", key, published(store), store.address)
    owners = needed_keys(store)
    files = [name for folder in (CHECKPOINTS, FAILURES) for name, _ in store.blobs.names(folder)]
    lines = []
    for key in keys:
        store.delete(key)
        _delete(store, [name for name in files if stage_of(name) == key])
        sweeps = " or ".join(owners.get(key, ()))
        lines.append(
            f"removed {key}; " + (f"the next run of {sweeps} computes it again" if sweeps else "no sweep needs it")
        )
    return lines

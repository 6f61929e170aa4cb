"""Which training leaves the sweep: named in full, in part, or by its run in MLflow; never chosen by a test score."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.archive import SavedSweep, load_sweep_records
from gkd_bench.report.backend import check_reachable, client_of, resolve_backend
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.selection import RULES, Candidate, choose
from gkd_bench.report.students import NO_METHOD
from gkd_bench.report.tracking import ID_TAG, PARENT_ID, SWEEP_TAG
from gkd_bench.store.artefacts import Store

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_PARTS = ("sweep", "source", "method", "seed")
_FORM = "SWEEP[/SOURCE[/METHOD[/SEED]]]"


@dataclass(frozen=True)
class Wish:
    """What was asked for; parts that were left out are none.

    Attributes:
        sweep: name of the sweep.
        source, method, seed: the training.
        key: content key of the training, where a run of MLflow was named.
    """

    sweep: str
    source: str | None = None
    method: str | None = None
    seed: int | None = None
    key: str | None = None


@dataclass(frozen=True)
class Choice:
    """The training that is exported.

    Attributes:
        saved: its sweep.
        records: the sweep's records.
        candidate: the training and its epoch.
        why: how it was chosen, one sentence.
        named: whether the wish left nothing to choose but the epoch.
    """

    saved: SavedSweep
    records: SweepRecords
    candidate: Candidate
    why: str
    named: bool


def read_wish(text: str, results: Path, uri: str | None = None) -> Wish:
    """``SWEEP[/SOURCE[/METHOD[/SEED]]]``, or the id of a run in MLflow.

    Args:
        text: what the user gave.
        results: folder of results, which holds ``mlflow.db``.
        uri: MLflow's tracking URI, where it is another.

    Raises:
        GkdBenchError: too many parts, an empty one, a seed that is no number, or a run that is no training.
    """
    if _RUN_ID.fullmatch(text):
        return _of_run(text, results, uri)
    parts = text.strip("/").split("/")
    if len(parts) > len(_PARTS) or not all(parts):
        raise GkdBenchError(f"RUN {text!r}: must be {_FORM}, or the id of a run in MLflow")
    source, method, seed = (parts[1:] + [None] * 3)[:3]
    if seed is not None and not seed.isdigit():
        raise GkdBenchError(f"RUN {text!r}: the seed must be a whole number, found {seed!r}")
    return Wish(parts[0], source, method, None if seed is None else int(seed))


def choose_training(wish: Wish, store: Store) -> Choice:
    """The training that is wished for; where several are left, the one the sweep's rule ranks first on validation.

    Args:
        wish: what was asked for.
        store: the store of its sweep.

    Raises:
        GkdBenchError: there is no such sweep, source, method or seed; says which there are.
    """
    saved = load_sweep_records(wish.sweep, store)
    records = SweepRecords.from_dicts(saved.records, saved.origin)
    finals = [one for one in records.candidates if one.trial is None]
    if not finals:
        raise GkdBenchError(f"sweep {wish.sweep}: no training of it has finished; run the sweep's command again")
    left = _matching(wish, finals, records)
    trainings = {one.model for one in left}
    taken = choose(RULES[records.origin.rule], left)
    return Choice(saved, records, taken, _why(taken, len(trainings), records), len(trainings) == 1)


def is_adapted(candidate: Candidate) -> bool:
    """Whether its scores were reached with statistics of the target's images, which no file can hold beforehand."""
    return "+" in candidate.model


def training_key(candidate: Candidate) -> str:
    """Content key of the training; an adapted network shares that of the network itself."""
    return candidate.model.partition("+")[0]


def _matching(wish: Wish, finals: Sequence[Candidate], records: SweepRecords) -> list[Candidate]:
    if wish.key is not None:
        found = [one for one in finals if one.model == wish.key and wish.method in (None, one.method)]
        if not found:
            raise GkdBenchError(f"the run's training {wish.key} is not among the final trainings of sweep {wish.sweep}")
        return found
    left = _narrowed("source", wish.source, finals, lambda one: one.source)
    if wish.method is None:
        left = [one for one in left if one.method not in NO_METHOD and not is_adapted(one)] or left
    else:
        methods = records.in_order({one.method for one in left})
        left = _narrowed("method", wish.method, left, lambda one: one.method, methods)
    seed = None if wish.seed is None else str(wish.seed)
    return _narrowed("seed", seed, left, lambda one: str(one.seed))


def _narrowed(
    part: str,
    wanted: str | None,
    candidates: Sequence[Candidate],
    value: Callable[[Candidate], str],
    listed: Iterable[str] | None = None,
) -> list[Candidate]:
    """The candidates that have the wanted value; all when nothing is wanted. Raises GkdBenchError when there is none."""
    left = [one for one in candidates if wanted in (None, value(one))]
    if left:
        return left
    known = list(listed or dict.fromkeys(map(value, candidates)))
    near = get_close_matches(str(wanted), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise GkdBenchError(f"no training with {part} {wanted!r} here: there are {', '.join(known)}{hint}")


def _why(taken: Candidate, trainings: int, records: SweepRecords) -> str:
    rule = RULES[records.origin.rule]
    epoch = f"epoch {taken.epoch} ({taken.variant}) by {rule.title}"
    if trainings == 1:
        return f"the only training of that name; {epoch}"
    return (
        f"first of {trainings} trainings by the sweep's rule {rule.name} ({rule.score(taken):.3f}, {rule.title}); "
        f"epoch {taken.epoch} ({taken.variant}); no test score was read"
    )


def _of_run(run_id: str, results: Path, uri: str | None) -> Wish:
    """The training that a run of MLflow stands for."""
    backend = resolve_backend(uri, results)
    if backend.database is not None and not backend.database.is_file():
        raise GkdBenchError(
            f"run {run_id}: there is no {backend.database.name} in {results}; give --results or {_FORM}"
        )
    check_reachable(backend)
    from mlflow.exceptions import MlflowException

    try:
        tags = client_of(backend).get_run(run_id).data.tags
    except MlflowException as error:
        raise GkdBenchError(f"run {run_id} is not in {backend.shown}: {str(error).splitlines()[0]}") from None
    sweep, key = tags.get(SWEEP_TAG), tags.get(ID_TAG)
    if sweep is None or key is None:
        raise GkdBenchError(f"run {run_id} is not a run of a sweep; give {_FORM}")
    if key == PARENT_ID or tags.get("kind") != "final":
        kind = "the sweep's own run" if key == PARENT_ID else f"a {tags.get('kind')} of it, not a final training"
        raise GkdBenchError(
            f"run {run_id} is {kind}; open a training below {sweep}, or give {sweep}[/SOURCE[/METHOD[/SEED]]]"
        )
    return Wish(sweep, method=tags.get("gkd.method"), key=key)

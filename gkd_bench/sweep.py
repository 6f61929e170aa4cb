"""The main job, from top to bottom: load, prepare, plan, run, report. ``python -m gkd_bench.sweep sweeps/NAME.yaml``."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.markup import escape

from gkd_bench.config.load import LoadedSweep, load_sweep
from gkd_bench.config.schema import Sweep
from gkd_bench.errors import ClusterError, GkdBenchError, LeakError, LostArtefact, StoreError
from gkd_bench.store.blobs import NO_SPACE

if TYPE_CHECKING:
    from gkd_bench.conduct import Conductor, SweepResult
    from gkd_bench.data.cache import PreparedDomain
    from gkd_bench.data.catalogue import Catalogue
    from gkd_bench.errors import DataError
    from gkd_bench.store.artefacts import Store

EXIT_ERROR, EXIT_FAILED_STAGES, EXIT_INTERRUPTED = 2, 1, 130
RECOMPUTATIONS = 2  # of one artefact that the driver finds damaged
PLAIN_WIDTH = 160  # columns of tables in a file or pipe, which has no width of its own


@dataclass(frozen=True)
class Domains:
    """The domains of a sweep.

    Attributes:
        references: domain -> ``domain@fingerprint`` of its prepared data.
        banks: source -> reference of the stress bank of its validation images.
        missing: domain -> why it was left out.
        factors: domain -> working pixels per native pixel; only of prepared ones.
        statements: records of what a report says of the domains themselves.
    """

    references: Mapping[str, str]
    banks: Mapping[str, str]
    missing: Mapping[str, str]
    factors: Mapping[str, float] = field(default_factory=dict)
    statements: Sequence[Mapping[str, Any]] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sweep file; returns the exit code: 0 done, 1 some stages failed, 2 a mistake of the user, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    _interrupt_on_terminate()
    try:
        return run(arguments, console)
    except GkdBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{error.strerror}; make room and run the same command again: nothing finished is lost",
            file=sys.stderr,
        )
        return EXIT_ERROR
    except KeyboardInterrupt:
        console.print("Stopped. Finished stages and trials are kept; run the same command again to go on.")
        return EXIT_INTERRUPTED


def run(arguments: argparse.Namespace, console: Console) -> int:
    """The story of the main job."""
    from gkd_bench.store.artefacts import open_store

    loaded = load_sweep(arguments.file, arguments.profile, arguments.set)
    sweep = named(loaded)
    store = open_store(sweep.storage.root)
    if arguments.plan:
        from gkd_bench.preview import plan_table, preview

        domains = prepare(sweep, store, arguments.allow_missing, console, dry=True)
        console.print(plan_table(preview(conductor_of(sweep, store, domains))))
        return 0
    with owned(sweep, store, console):
        domains = prepare(sweep, store, arguments.allow_missing, console)
        lost = Counter[str]()
        while True:
            try:
                result = trained(sweep, store, domains, console)
                show(sweep, store, domains, result, command_line(arguments), console)
                return EXIT_FAILED_STAGES if result.failed else 0
            except LostArtefact as error:
                lost[error.key] += 1
                if lost[error.key] > RECOMPUTATIONS:
                    raise StoreError(
                        f"{error}; it came out like this {RECOMPUTATIONS + 1} times: check the disk"
                    ) from error
                store.discard_corrupt(error.key)
                console.print(f"[yellow]computed again[/yellow] {escape(str(error))}", highlight=False, soft_wrap=True)


@contextmanager
def owned(sweep: Sweep, store: Store, console: Console) -> Iterator[None]:
    """Hold the sweep: no other driver runs it meanwhile. Raises ClusterError when another one does, or has taken it."""
    from gkd_bench.store.ownership import Ownership

    reasons: list[str] = []

    def lost(reason: str) -> None:
        reasons.append(reason)
        os.kill(os.getpid(), signal.SIGTERM)  # the main thread stops as it does for Ctrl-C

    try:
        with Ownership(store.blobs, sweep.name, lost, say=lambda text: console.print(text, soft_wrap=True)):
            yield
    except KeyboardInterrupt:
        if reasons:
            raise ClusterError(f"{reasons[0]}; this driver has stopped") from None
        raise


def conductor_of(sweep: Sweep, store: Store, domains: Domains) -> Conductor:
    """What asks for the sweep's stages."""
    from gkd_bench.conduct import Conductor
    from gkd_bench.plan import Planner

    return Conductor(sweep, Planner(sweep, domains.references, domains.banks), store)


def trained(sweep: Sweep, store: Store, domains: Domains, console: Console) -> SweepResult:
    """Everything that the sweep asks for, computed where the store does not have it yet."""
    from gkd_bench.store.explain import changes_since, other_packages
    from gkd_bench.store.needed import write_needed

    conductor = conductor_of(sweep, store, domains)
    result = conductor.finished()
    if result is not None:
        console.print("Everything is in the store already: nothing to train.")
        write_needed(store, sweep.name, conductor.wanted(), ended=True)
        return result
    wanted = conductor.wanted()
    changes = changes_since(store, sweep.name, wanted, store.has)
    for line in [*(["Computed again, since it changed:"] if changes else []), *changes]:
        console.print(f"  {line}" if line in changes else line, highlight=False, soft_wrap=True)
    if other := other_packages(store, wanted, store.has):
        advice = "what is in the store stays as it is; for results of one set of packages use another store"
        console.print(f"[yellow]other packages[/yellow] {escape(other)}: {advice}", highlight=False, soft_wrap=True)
    write_needed(store, sweep.name, wanted)
    from gkd_bench.cluster.launch import open_engine
    from gkd_bench.cluster.progress import LiveView
    from gkd_bench.cluster.ray_engine import Places

    places = Places(sweep.storage.root, sweep.storage.cache)
    try:
        with (
            open_engine(sweep.compute, places, store.has) as (engine, run_study),
            LiveView(engine.snapshot, conductor.status, console),
        ):
            result = conductor.run(engine, run_study)
        write_needed(store, sweep.name, conductor.wanted(), ended=True)
        return result
    except KeyboardInterrupt:
        console.print(conductor.kept(), highlight=False, soft_wrap=True)
        raise


def show(sweep: Sweep, store: Store, domains: Domains, result: SweepResult, command: str, console: Console) -> None:
    """What failed, and the report. Raises LostArtefact when something that it reads is gone or damaged."""
    from gkd_bench.publish import origin_of, publish

    for stage, cause in [*((str(node), cause) for node, cause in result.failed.values()), *failed_trials(result)]:
        console.print(f"[red]failed[/red] {escape(f'{stage}: {cause}')}", highlight=False, soft_wrap=True)
    stacked = any(statement.get("slices") is not None for statement in domains.statements)
    origin = origin_of(sweep, domains.references, domains.factors, result, command, stacked)
    publish(sweep, store, result, origin, domains.missing, console, domains.statements)


def failed_trials(result: SweepResult) -> list[tuple[str, str]]:
    """(trial in words, cause) of the trials that failed; they cost a point of a search, not the sweep."""
    return [
        (f"trial {trial.number} of {study.source} {study.method}", trial.cause)
        for study in result.studies
        for trial in study.trials
        if trial.state == "failed"
    ]


def named(loaded: LoadedSweep) -> Sweep:
    """The sweep, its name extended by the profile, so that a small run never overwrites the tables of a full one."""
    sweep = loaded.sweep
    return sweep.model_copy(update={"name": f"{sweep.name}-{loaded.profile}"}) if loaded.profile else sweep


def prepare(sweep: Sweep, store: Store, allow_missing: bool, console: Console, dry: bool = False) -> Domains:
    """Check every file of every domain, then prepare what is not prepared yet; ``dry``: write nothing.

    What is prepared is in the store afterwards, where the workers of other machines find it.

    Raises:
        GkdBenchError: domains are missing and that is not allowed, or no source is left. Lists every file.
        LeakError: a test image is also one to train or to select on, of whatever domain. Lists every one.
    """
    from gkd_bench.data.catalogue import Catalogue
    from gkd_bench.data.check import preflight
    from gkd_bench.data.digests import memo_file
    from gkd_bench.data.leaks import leak_problems
    from gkd_bench.data.prepare import fingerprint
    from gkd_bench.data.shelf import cache_of, fetch, share
    from gkd_bench.data.statement import domain_records
    from gkd_bench.data.stress import prepare_stress

    catalogue, cache = Catalogue.of(sweep.data, sweep.classes), cache_of(store, sweep.storage.cache)
    errors = preflight(sweep.data.domains, catalogue, None if dry else cache)
    present = _present(sweep, errors, allow_missing)
    if dry:
        references = {name: f"{name}@{fingerprint(name, catalogue)}" for name in present}
        return Domains(references, _bank_references(sweep, references), _missing(errors, console))
    prepared = _prepared(sweep, present, catalogue, errors, console, store)
    present = _present(sweep, errors, allow_missing)
    missing = _missing(errors, console)
    leaks = leak_problems(prepared, sweep.sources(), catalogue, memo_file(cache), sweep.pairs.everyone)
    if leaks:
        raise LeakError("\n".join(["a network would be scored on what it was trained or selected on:", *leaks]))
    references = {domain.manifest.domain: domain.reference for domain in prepared}
    banks = _bank_references(sweep, references)
    for domain in prepared:
        if domain.manifest.domain in sweep.sources():
            fetch(banks[domain.manifest.domain], cache, store)
            prepare_stress(domain, catalogue, sweep.data.stress, cache, verify=True)
    for reference in (*references.values(), *banks.values()):
        share(reference, cache, store)
    factors = {domain.manifest.domain: domain.manifest.factor for domain in prepared}
    statements = []
    for one in prepared:
        name = one.manifest.domain
        statements += domain_records(one, catalogue.open(name).card, name in sweep.pairs.everyone)
    return Domains(references, banks, missing, factors, statements)


def _present(sweep: Sweep, errors: Mapping[str, DataError], allow_missing: bool) -> list[str]:
    """The domains that can be used. Raises GkdBenchError with every error where some cannot and that is not allowed."""
    present = [name for name in sweep.data.domains if name not in errors]
    trainable = any(name in present for name in sweep.sources())
    if errors and not (allow_missing and trainable):
        advice = "--allow-missing runs without these domains and marks their cells n/a."
        advice = advice if trainable else "No source domain is left to train on."
        raise GkdBenchError("\n\n".join([*map(str, errors.values()), advice]))
    return present


def _missing(errors: Mapping[str, DataError], console: Console) -> dict[str, str]:
    """Domain -> why it was left out; says so."""
    for name, error in errors.items():
        example = escape(error.problems[0])  # names of files may look like markup
        console.print(f"[yellow]left out[/yellow] {name}: {len(error.problems)} problems, e.g. {example}")
    return {name: f"missing or broken, {len(error.problems)} problems" for name, error in errors.items()}


def _prepared(
    sweep: Sweep,
    names: Sequence[str],
    catalogue: Catalogue,
    errors: dict[str, DataError],
    console: Console,
    store: Store,
) -> list[PreparedDomain]:
    """Prepare domains; the errors of those that turn out to be unusable are added to ``errors``."""
    from gkd_bench.cluster.preparation import stack_mapper
    from gkd_bench.cluster.progress import StackProgress
    from gkd_bench.data.digests import memo_file
    from gkd_bench.data.prepare import fingerprint, prepare_domain
    from gkd_bench.data.readiness import readiness_problems
    from gkd_bench.data.shelf import cache_of, fetch
    from gkd_bench.data.stacks import in_turn
    from gkd_bench.errors import DataError
    from gkd_bench.store.artefacts import is_remote

    cache, prepared = cache_of(store, sweep.storage.cache), []
    shared = cache == cache_of(store) and not is_remote(store.address)
    mapper = stack_mapper(sweep.compute) if shared else in_turn  # other machines write into this cache, if they see it
    for name in names:
        try:
            with StackProgress(name, console) as progress:
                if not shared:
                    fetch(f"{name}@{fingerprint(name, catalogue, memo_file(cache))}", cache, store)
                domain = prepare_domain(name, catalogue, cache, True, mapper, progress.report)
            roles = [role for role in ("sources", "targets") if name in getattr(sweep, role)()]
            if problems := readiness_problems(domain, roles, name in sweep.pairs.everyone):
                raise catalogue.open(name).error(problems)
        except DataError as error:
            errors[name] = error
            continue
        for image, lines in domain.manifest.left_out.items():
            console.print(f"[yellow]left out[/yellow] {name} {escape(f'{image}: {lines[0]}')}", soft_wrap=True)
        prepared.append(domain)
    return prepared


def _bank_references(sweep: Sweep, references: Mapping[str, str]) -> dict[str, str]:
    """Source -> reference of its stress bank."""
    from gkd_bench.data.stress import stress_reference

    sources = [name for name in sweep.sources() if name in references]
    return {name: stress_reference(references[name], sweep.data.stress) for name in sources}


def command_line(arguments: argparse.Namespace) -> str:
    """The command that does the same again, fit for a shell; without passwords, as it is kept with the results."""
    from gkd_bench.report.backend import without_password

    words = ["python", "-m", "gkd_bench.sweep", str(arguments.file)]
    words += ["--profile", arguments.profile] if arguments.profile else []
    for assignment in arguments.set:
        words += ["--set", assignment]
    words += ["--allow-missing"] if arguments.allow_missing else []
    return without_password(shlex.join(words))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gkd_bench.sweep", description=__doc__)
    parser.add_argument("file", type=Path, help="sweep file")
    parser.add_argument("--profile", help="named profile of the sweep file, for example: small")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override one setting; may be repeated"
    )
    parser.add_argument("--plan", action="store_true", help="print what would run, and run nothing")
    parser.add_argument("--allow-missing", action="store_true", help="score what is there, mark missing domains n/a")
    return parser


def _interrupt_on_terminate() -> None:
    """SIGTERM stops as cleanly as Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


if __name__ == "__main__":
    sys.exit(main())

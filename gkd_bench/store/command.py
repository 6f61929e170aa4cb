"""``gkd-bench store``: what a store holds, whether it is whole, why something is not there, and what may go."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from gkd_bench.errors import StoreError

if TYPE_CHECKING:
    from gkd_bench.store.artefacts import Store

DEFAULT_STORE = ".gkd_store"
EXIT_PROBLEMS = 1
Options = argparse.Namespace


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The options of ``gkd-bench store``."""
    commands = parser.add_subparsers(dest="store_command", required=True, metavar="COMMAND")
    _add_list(commands.add_parser("list", help="artefacts by kind and by sweep, or one by one"))
    _add_verify(
        commands.add_parser("verify", help="compare everything with its checksums; exit code 1 if anything is damaged")
    )
    _add_explain(commands.add_parser("explain", help="what an artefact is, or why a stage is not in the store"))
    _add_prune(commands.add_parser("prune", help="remove what no sweep needs; without --yes only say what"))
    remove = commands.add_parser("remove", help="remove artefacts, whole or damaged")
    remove.add_argument("keys", nargs="+", metavar="KEY")
    for command in commands.choices.values():
        command.add_argument(
            "--store", metavar="ADDRESS", help=f"a folder or s3://... (storage.root; default: {DEFAULT_STORE})"
        )


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", help="stage kind, such as distill")
    parser.add_argument("--sweep", metavar="SWEEP", help="artefacts that this sweep needs")
    parser.add_argument("--long", action="store_true", help="one line per artefact")
    parser.add_argument("--json", action="store_true", help="one line of JSON per artefact")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="KEY|SWEEP", help="default: everything in the store")
    parser.add_argument("--remove", action="store_true", help="remove what is damaged: the next run makes it again")


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="KEY|SWEEP.yaml", help="a key, or a sweep file: why its stages are not there")
    parser.add_argument("--profile", help="profile of the sweep file")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one setting of the file")
    parser.add_argument("--kind", help="of a sweep file: stages of this kind only")


def _add_prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="remove it")
    parser.add_argument(
        "--older-than", default="1d", metavar="AGE", help="of artefacts: 90m, 12h, 1d, 2w (default: 1d)"
    )
    parser.add_argument("--sweep", action="append", default=[], metavar="SWEEP", help="forget this sweep first")


def run(options: Options) -> int:
    """Run one of the commands; the exit code. ``explain`` of a sweep file is not among them: it needs a plan."""
    return COMMANDS[options.store_command](options)


def names_a_file(name: str) -> bool:
    """Whether what is to be explained is a sweep file."""
    return name.endswith((".yaml", ".yml")) or "/" in name


def _open(options: Options) -> Store:
    """The store. Raises StoreError for a folder that is not there, which would look like an empty store."""
    from gkd_bench.store.artefacts import LocalStore, open_store

    store = open_store(options.store or DEFAULT_STORE)
    if isinstance(store, LocalStore) and not store.root.is_dir():
        raise StoreError(f"there is no store at {store.address}: give the sweep's storage.root with --store")
    return store


def _list(options: Options) -> int:
    from gkd_bench.store.describe import Wanted, one_by_one, overview

    wanted = Wanted(options.kind, options.sweep)
    one_each = options.long or options.json
    for line in one_by_one(_open(options), wanted, options.json) if one_each else overview(_open(options), wanted):
        print(line)
    return 0


def _verify(options: Options) -> int:
    from gkd_bench.store.listing import count
    from gkd_bench.store.verify import verify_named, verify_store

    store = _open(options)
    found, left = 0, 0
    for problem in verify_named(store, options.name) if options.name else verify_store(store):
        discard = problem.discard if options.remove else None
        print(f"removed: {problem.text}" if discard else problem.text)
        if discard:
            discard()
        found, left = found + 1, left + (discard is None)
    print(f"{count(found, 'problem')}, {left} left" if found else "everything is whole")
    return EXIT_PROBLEMS if left else 0


def _explain(options: Options) -> int:
    from gkd_bench.store.describe import describe_key

    print(*describe_key(_open(options), options.name), sep="\n")
    return 0


def _prune(options: Options) -> int:
    from gkd_bench.store.listing import size_text
    from gkd_bench.store.upkeep import parse_age, plan_pruning, prune, refuse_running

    store, age = _open(options), parse_age(options.older_than)
    if options.yes:
        pruning = prune(store, age, options.sweep, lambda text: print(text, file=sys.stderr))
    else:
        refuse_running(store)
        pruning = plan_pruning(store, age, options.sweep)
    total = size_text(sum(one.bytes for one in pruning.leftovers))
    print(*pruning.lines(), sep="\n", end="\n" if pruning.lines() else "")
    if not pruning.leftovers:
        print("nothing to remove")
    else:
        print(f"removed {total}" if options.yes else f"would remove {total}: the same command with --yes removes it")
    return 0


def _remove(options: Options) -> int:
    from gkd_bench.store.upkeep import remove

    print(*remove(_open(options), list(dict.fromkeys(options.keys))), sep="\n")
    return 0


COMMANDS: dict[str, Callable[[Options], int]] = {
    "list": _list,
    "verify": _verify,
    "explain": _explain,
    "prune": _prune,
    "remove": _remove,
}

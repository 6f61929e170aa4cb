"""Turns what is wrong with a sweep into one plain line per mistake: path, value found, what is allowed, the nearest name."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gkd_bench.config import schema
from gkd_bench.config.data import NAME_PATTERN
from gkd_bench.config.reader import Path
from gkd_bench.config.schema import SWEEP_NAME_PATTERN

PydanticError = Mapping[str, Any]
_PATTERNS = {
    NAME_PATTERN: "may only have letters, digits and '_', a letter first",
    SWEEP_NAME_PATTERN: "may only have letters, digits, '_', '-' and '.', a letter or digit first",
}


class Problem(NamedTuple):
    """One mistake.

    Attributes:
        path: where.
        text: what, in words.
        kind: pydantic's kind of it; empty for our own checks.
        reads: every setting that the verdict rests on; none = the one at ``path``. Where one of them is known to be
            wrong, and so was replaced before the check, the verdict says nothing about the file.
    """

    path: Path
    text: str
    kind: str = ""
    reads: tuple[Path, ...] | None = None

    def rests_on(self, wrong: Iterable[Path]) -> bool:
        """Whether the verdict rests on one of the settings ``wrong``, on a part of one, or on a block around one."""
        reads = (self.path,) if self.reads is None else self.reads
        return any(related(path, read) for path in wrong for read in reads)


def related(one: Path, other: Path) -> bool:
    """Whether one path is the other or lies inside it."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def dotted(path: Path) -> str:
    """The path as ``--set`` takes it: ``compute.pools.0.cpus``."""
    return ".".join(map(str, path)) or "top level"


def nearest(name: object, names: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the closest of ``names``, or nothing when none is close."""
    found = difflib.get_close_matches(str(name).lower(), list(names), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def not_one_of(value: object, kind: str, names: Sequence[str]) -> str:
    """The sentence for a name that is not in a closed list."""
    return f"{shown(value)} is not a {kind}; allowed: {', '.join(names)}{nearest(value, names)}"


def shown(value: object) -> str:
    """The value as the file would write it, cut to 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = "an empty value" if value == {} else re.sub(r"\s+", " ", repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------- the schema as a tree of paths


def _members(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union; any other annotation itself."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for alternative in get_args(annotation):
            yield from _members(alternative)
    else:
        yield annotation


def _is_block(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _below(annotation: Any, step: str | int) -> Iterator[Any]:
    """Annotations reached from ``annotation`` by one key or index."""
    for member in _members(annotation):
        if _is_block(member) and step in member.model_fields:
            yield member.model_fields[step].annotation
        elif get_origin(member) is tuple:
            yield get_args(member)[0]
        elif get_origin(member) is dict:
            yield get_args(member)[1]


def known_keys(path: Path) -> list[str]:
    """Keys that the block at ``path`` may have; empty where no block is expected."""
    level: list[Any] = [schema.Sweep]
    for step in path:
        level = [found for annotation in level for found in _below(annotation, step)]
    blocks = [member for annotation in level for member in _members(annotation) if _is_block(member)]
    return list(dict.fromkeys(key for block in blocks for key in block.model_fields))


def leaves(path: Path) -> list[str]:
    """Dotted paths of all settings below ``path`` that are not blocks themselves."""
    keys = known_keys(path)
    return [leaf for key in keys for leaf in leaves((*path, key))] if keys else [dotted(path)]


# ---------------------------------------------------------------- pydantic's errors in plain words


def _bound(words: str, key: str) -> Callable[[PydanticError], str]:
    return lambda error: f"must be {words} {error['ctx'][key]:g}"


def _block(error: PydanticError) -> str:
    return f"must be a block with {', '.join(getattr(schema, error['ctx']['class_name']).model_fields)}"


_EXPECTED: dict[str, Callable[[PydanticError], str]] = {
    "int_type": lambda error: "must be a whole number",
    "float_type": lambda error: "must be a number",
    "bool_type": lambda error: "must be true or false",
    "string_type": lambda error: "must be text",
    "tuple_type": lambda error: "must be a list",
    "dict_type": lambda error: "must be a block of keys",
    "model_type": _block,
    "finite_number": lambda error: "must be a finite number",
    "greater_than": _bound("greater than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "multiple_of": _bound("a multiple of", "multiple_of"),
    "too_short": lambda error: f"must have at least {error['ctx']['min_length']} item",
    "string_pattern_mismatch": lambda error: _PATTERNS.get(error["ctx"]["pattern"], "has a form that is not allowed"),
    "literal_error": lambda error: f"must be {error['ctx']['expected']}",
}


def _expected(error: PydanticError) -> str:
    say = _EXPECTED.get(error["type"])
    return say(error) if say else str(error["msg"])


def _wording(error: PydanticError, path: Path) -> str:
    kind, value = error["type"], error["input"]
    if kind == "missing":
        return "is missing and has no default"
    if kind == "extra_forbidden":
        keys = known_keys(path[:-1])
        return f"unknown key; allowed: {', '.join(keys)}{nearest(path[-1], keys)}"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    expected = _expected(error)
    names = re.findall(r"'([^']*)'", expected) if kind == "literal_error" else []
    return f"{expected}, found {shown(value)}{nearest(value, names) if isinstance(value, str) else ''}"


def _real_path(error: PydanticError, tree: Any) -> tuple[Path, int | None]:
    """Path in the file, without pydantic's names of union members; and the length of the path to the union, if any."""
    path: list[str | int] = []
    union, value = None, tree
    missing = error["type"] == "missing"
    for position, step in enumerate(error["loc"]):
        inside = step in value if isinstance(value, dict) else isinstance(value, list) and isinstance(step, int)
        if inside:
            value = value[step]
        elif not (missing and position == len(error["loc"]) - 1):
            union = len(path) if union is None else union
            continue
        path.append(step)
    return tuple(path), union


def describe(error: ValidationError, tree: Any) -> list[Problem]:
    """One problem per mistake, in the order of the schema; a union's alternatives are folded into one line."""
    problems: list[Problem] = []
    unions: dict[Path, dict[str, list[tuple[Path, PydanticError]]]] = defaultdict(lambda: defaultdict(list))
    for item in error.errors(include_url=False):
        path, union = _real_path(item, tree)
        if item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]:
            continue  # pydantic counts valid items only; the invalid ones have lines of their own
        if union is None:
            problems.append(Problem(path, _wording(item, path), item["type"]))
        else:
            unions[path[:union]][str(item["loc"][union])].append((path, item))
    for path, alternatives in unions.items():
        problems += _fold(path, alternatives)
    return problems


_WRONG_SHAPE = ("missing", "extra_forbidden", "model_type", "tuple_type", "literal_error")


def _fold(path: Path, alternatives: Mapping[str, list[tuple[Path, PydanticError]]]) -> list[Problem]:
    """The errors of the alternative that was meant; one line naming all alternatives when none was."""
    shape_errors = {
        name: sum(
            item["type"] in _WRONG_SHAPE and (where == path or item["type"] in _WRONG_SHAPE[:2])
            for where, item in items
        )
        for name, items in alternatives.items()
    }
    meant = min(shape_errors, key=lambda name: shape_errors[name])
    items = alternatives[meant]
    if any(where == path and item["type"] != "value_error" for where, item in items) and len(alternatives) > 1:
        return [_none_fits(path, [items[0][1] for items in alternatives.values()])]
    groups: dict[Path, list[PydanticError]] = defaultdict(list)
    for where, item in items:
        groups[where].append(item)
    return [
        Problem(where, _wording(same[0], where), same[0]["type"]) if len(same) == 1 else _none_fits(where, same)
        for where, same in groups.items()
    ]


def _none_fits(path: Path, errors: Sequence[PydanticError]) -> Problem:
    expected = [_expected(item).removeprefix("must be ") for item in errors]
    return Problem(
        path, f"must be {' or '.join(dict.fromkeys(expected))}, found {shown(errors[0]['input'])}", errors[0]["type"]
    )


def about(path: Path, text: str, *others: Path) -> Problem:
    """A problem of the setting at ``path`` that also rests on ``others``."""
    return Problem(path, text, reads=(path, *others))


def twice(values: Iterable[Hashable], path: Path) -> Iterator[Problem]:
    """A problem per value that is listed more than once."""
    for value, count in Counter(values).items():
        if count > 1:
            yield Problem(path, f"{shown(value)} is listed {count} times; once is enough")

"""Laying settings over settings: profiles, presets, ``--set`` and environment variables, all on plain trees."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from typing import Any

from gkd_bench.config.block import merge
from gkd_bench.config.data_checks import is_phantom
from gkd_bench.config.problems import Problem, dotted, known_keys, nearest
from gkd_bench.config.reader import Path, Tree, YamlProblem, parse_value
from gkd_bench.config.schema import Storage

PATH_KEYS: tuple[Path, ...] = (
    ("data", "root"),
    ("storage", "root"),
    ("storage", "cache"),
    ("storage", "results"),
    ("tracking", "uri"),
)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}")
_DISTRIBUTION_KEYS = {"low", "high", "log", "points", "choice"}


def under(preset: Tree, tree: Tree) -> Tree:
    """``tree`` laid on a preset. The preset's method options only reach the methods that ``tree`` chooses."""
    options = preset.get("methods", {})
    methods = tree.get("methods", {"gkd": {}} if options else None)
    if not isinstance(methods, dict):
        return merge({key: value for key, value in preset.items() if key != "methods"}, tree)
    reached = {name: value for name, value in options.items() if name in methods}
    return merge({**preset, "methods": reached}, {**tree, "methods": methods})


def apply_override(tree: Tree, text: str, defaults: Tree) -> Path:
    """Apply one ``a.b=value`` in place and return its path. Raises ValueError saying what is wrong with it."""
    name, equals, value_text = text.partition("=")
    if not equals or not name.strip():
        raise ValueError("must have the form key.key=value")
    path = _split(name.strip())
    try:
        value = parse_value(value_text)
    except YamlProblem as error:
        raise ValueError("; ".join(map(str, error.args))) from None
    _put(tree, path, value, defaults)
    return path


def _split(name: str) -> Path:
    """Steps of a dotted path; digits are list indices, a search space's setting keeps its dots."""
    steps = name.split(".")
    if steps[:2] == ["search", "spaces"] and len(steps) > 4:
        tail = next((i for i in range(4, len(steps)) if steps[i] in _DISTRIBUTION_KEYS), len(steps))
        steps = [*steps[:3], ".".join(steps[3:tail]), *steps[tail:]]
    return tuple(int(step) if step.isdigit() else step for step in steps)


def _put(tree: Tree, path: Path, value: Any, defaults: Tree) -> None:
    """Set ``value``; blocks that are not there are made, lists that are not there are copied from the defaults."""
    block: Any = tree
    default: Any = defaults
    for depth, step in enumerate(path):
        here = dotted(path[:depth])
        _enterable(block, step, here, path[:depth])
        if depth == len(path) - 1:
            block[step] = value
            return
        default = _default(default, step)
        if isinstance(block, dict) and block.get(step) is None:
            block[step] = copy.deepcopy(default) if isinstance(default, list) else {}
        block = block[step]


def _default(default: Any, step: str | int) -> Any:
    try:
        return default[step]
    except (KeyError, IndexError, TypeError):
        return None


def _enterable(block: Any, step: str | int, here: str, path: Path) -> None:
    """Raise ValueError unless ``block[step]`` makes sense."""
    if isinstance(block, list):
        if not isinstance(step, int) or step >= len(block):
            raise ValueError(
                f"{here} is a list of {len(block)}; choose an item from 0 to {len(block) - 1}, not {step!r}"
            )
    elif not isinstance(block, dict) or isinstance(step, int):
        keys = known_keys(path)
        hint = f"; its keys are {', '.join(keys)}{nearest(step, keys)}" if keys else ""
        raise ValueError(f"{here} is not a {'list' if isinstance(step, int) else 'block'}, so it has no {step!r}{hint}")


# ---------------------------------------------------------------- paths


def _parent(tree: Tree, path: Path) -> Tree | None:
    block = tree.get(str(path[0]))
    return block if isinstance(block, dict) and isinstance(block.get(path[1]), str) else None


def expand_environment(tree: Tree, env: Mapping[str, str]) -> list[Problem]:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in the path settings, in place; one problem per unset variable.

    A data root that cannot be expanded becomes none when only phantoms are used, which need no folder.
    """
    problems: list[Problem] = []
    for path in PATH_KEYS:
        block = _parent(tree, path)
        if block is None:
            continue
        key = str(path[1])
        missing = [name for name, default, _ in _VARIABLE.findall(block[key]) if not env.get(name) and not default]
        if missing and path == ("data", "root") and _only_phantoms(block):
            block[key] = None
        elif missing:
            problems += [
                Problem(path, f"{block[key]!r} needs the environment variable {name}, which is not set")
                for name in missing
            ]
        else:
            block[key] = _VARIABLE.sub(lambda found: env.get(found[1]) or found[3], block[key])
    return problems


def _only_phantoms(data: Tree) -> bool:
    domains = data.get("domains")
    return isinstance(domains, list) and all(isinstance(name, str) and is_phantom(name) for name in domains)


def absolute_paths(tree: Tree) -> None:
    """Make the path settings absolute, in place, from the current folder; addresses with a scheme stay as they are.

    The default folders are written out too, so that a worker elsewhere never resolves them from its own current folder.
    """
    storage = tree.setdefault("storage", {})
    if isinstance(storage, dict):
        for name, field in Storage.model_fields.items():
            storage.setdefault(name, field.default)
    for path in PATH_KEYS:
        block = _parent(tree, path)
        if block is not None:
            block[str(path[1])] = _absolute(block[str(path[1])])


def _absolute(text: str) -> str:
    if text.startswith("sqlite:///"):
        return f"sqlite:///{_absolute(text.removeprefix('sqlite:///'))}"
    if "://" in text or not text or text in ("databricks",):
        return text
    return os.path.abspath(os.path.expanduser(text))

"""From a YAML file to one validated, frozen sweep; every mistake is reported at once, and nothing heavy is imported.

Order, weakest first: schema defaults, preset, file, profile, ``--set``. Blocks merge, lists and search distributions replace.
``${NAME}`` and ``${NAME:-default}`` are expanded in paths only.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from gkd_bench.config.block import merge
from gkd_bench.config.checks import CHECKS, put
from gkd_bench.config.overlay import absolute_paths, apply_override, expand_environment, under
from gkd_bench.config.presets import PRESETS
from gkd_bench.config.problems import Problem, describe, dotted, nearest, related, shown
from gkd_bench.config.reader import Document, Path, Tree, YamlProblem, parse_yaml
from gkd_bench.config.schema import Sweep
from gkd_bench.errors import ConfigError
from gkd_bench.registry import DOMAINS

_MAX_PASSES = 20
_HARMLESS: dict[Path, Any] = {
    ("name",): "unnamed",
    ("data",): {"domains": list(DOMAINS)},
    ("data", "domains"): list(DOMAINS),
}
"""What stands in for required settings that are missing or wrong, while the rest of the file is checked."""

_SPACES: Path = ("search", "spaces")
_SPACE_DEPTH = 4


@dataclass(frozen=True)
class LoadedSweep:
    """A sweep and where it came from.

    Attributes:
        sweep: the validated sweep; its paths are absolute.
        text: the YAML as read.
        profile: the profile chosen, or none.
        overrides: the ``--set`` arguments.
        path: the file.
    """

    sweep: Sweep
    text: str
    profile: str | None
    overrides: tuple[str, ...]
    path: FilePath


@dataclass(frozen=True)
class _Origin:
    """Says where in the user's input a path was written."""

    lines: Mapping[Path, int]
    profile: str | None
    overridden: tuple[Path, ...]

    def line(self, problem: Problem) -> str:
        """The problem as one line, with the line number in the file or the option it came from."""
        return f"{dotted(problem.path)}: {problem.text}{self._place(problem.path)}"

    def _place(self, path: Path) -> str:
        if any(related(path, other) for other in self.overridden):
            return " (from --set)"
        if self.profile and (number := self.lines.get(("profiles", self.profile, *path))):
            return f" (profile {self.profile}, line {number})"
        number = self.lines.get(path)
        return f" (line {number})" if number else ""


def load_sweep(
    path: str | os.PathLike[str],
    profile: str | None = None,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> LoadedSweep:
    """Read, complete and check a sweep file.

    Args:
        path: the YAML file.
        profile: name of a block of ``profiles:`` to lay over the file.
        overrides: ``a.b=value`` each; list items by number (``compute.pools.0.cpus=2``), values in YAML.
        env: variables for ``${NAME}``; default: the environment of the process.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    file = FilePath(path)
    text = _read(file)
    try:
        document = parse_yaml(text)
    except YamlProblem as error:
        raise ConfigError([str(line) for line in error.args], str(file)) from None
    tree, problems, origin = _compose(document, profile, overrides)
    problems += expand_environment(tree, os.environ if env is None else env)
    absolute_paths(tree)
    sweep, found = _examine(tree, [problem.path for problem in problems])
    lines = [*map(origin.line, [*problems, *found]), *_other_profiles(document, profile)]
    if sweep is None or lines:
        raise ConfigError(list(dict.fromkeys(lines)), str(file))
    return LoadedSweep(sweep, text, profile, tuple(overrides), file)


def with_parameters(sweep: Sweep, parameters: Mapping[str, Any]) -> Sweep:
    """The sweep with some settings replaced, checked like a file. ``{"methods.gkd.intra": 0.3}`` is a trial of a search.

    Raises:
        ConfigError: a path does not exist, or the values are not allowed.
    """
    tree = sweep.dump()
    problems = []
    for name, value in parameters.items():
        path = tuple(int(step) if step.isdigit() else step for step in name.split("."))
        try:
            put(tree, path, value)
        except (KeyError, IndexError, TypeError):
            problems.append(Problem(path, "does not exist in this sweep"))
    changed, found = _examine(tree, [])
    problems += found
    if changed is None or problems:
        raise ConfigError([f"{dotted(problem.path)}: {problem.text}" for problem in problems], "the trial's parameters")
    return changed


def _read(file: FilePath) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"byte {error.start}: not UTF-8 text; save the file as UTF-8"], str(file)) from None
    except FileNotFoundError:
        beside = [str(other) for other in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        raise ConfigError([f"no such file{nearest(file, beside)}"], str(file)) from None
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], str(file)) from None


def _compose(document: Document, profile: str | None, overrides: Iterable[str]) -> tuple[Tree, list[Problem], _Origin]:
    """File, profile, ``--set`` and preset as one tree, with the problems met and a way to say where a value came from."""
    tree = dict(document.tree)
    profiles = tree.pop("profiles", {})
    problems = _profile_problems(profiles, profile)
    if profile and not problems:
        tree = merge(tree, profiles[profile])
    overridden = []
    for text in overrides:
        try:
            overridden.append(apply_override(tree, text, _defaults()))
        except ValueError as error:
            problems.append(Problem(("--set " + text,), str(error)))
    preset = tree.get("preset", "findings")
    if isinstance(preset, str) and preset in PRESETS:
        tree = under(PRESETS[preset], tree)
    return tree, problems, _Origin(document.lines, profile, tuple(overridden))


def _profile_problems(profiles: object, profile: str | None) -> list[Problem]:
    if not isinstance(profiles, dict):
        return [Problem(("profiles",), f"must be a block of named profiles, found {shown(profiles)}")]
    problems = [
        Problem(("profiles", name), f"must be a block of settings, found {shown(block)}")
        for name, block in profiles.items()
        if not isinstance(block, dict)
    ]
    if profile is not None and profile not in profiles:
        known = f"the file has {', '.join(profiles)}" if profiles else "the file has no profiles"
        problems.append(Problem(("profiles",), f"no profile {shown(profile)}; {known}{nearest(profile, profiles)}"))
    return problems


def _other_profiles(document: Document, chosen: str | None) -> list[str]:
    """Problems of the profiles that were not asked for: wrong keys and values, so that no profile rots."""
    profiles = document.tree.get("profiles", {})
    lines: list[str] = []
    for name, block in profiles.items() if isinstance(profiles, dict) else ():
        if name == chosen or not isinstance(block, dict):
            continue
        tree = merge({key: value for key, value in document.tree.items() if key != "profiles"}, block)
        _, problems, _ = _structure(tree)
        here = ("profiles", name)
        lines += [
            _Origin(document.lines, None, ()).line(Problem((*here, *problem.path), problem.text))
            for problem in problems
            if (*here, *problem.path) in document.lines
        ]
    return lines


def _examine(tree: Tree, known: Iterable[Path]) -> tuple[Sweep | None, list[Problem]]:
    """The sweep, if the tree is one, and all its problems, without those that only follow from ``known`` ones."""
    sweep, problems, broken = _structure(tree)
    broken |= set(known)
    if sweep is not None:
        problems += [problem for check in CHECKS for problem in check(sweep) if not problem.rests_on(broken)]
    return (None if problems else sweep), problems


def _structure(tree: Tree) -> tuple[Sweep | None, list[Problem], set[Path]]:
    """Validate against the schema; wrong parts are replaced and the rest tried again, so that later checks still run."""
    tree = json.loads(json.dumps(tree))
    problems: list[Problem] = []
    broken: set[Path] = set()
    for _ in range(_MAX_PASSES):
        try:
            return Sweep.model_validate_json(json.dumps(tree), strict=True), problems, broken
        except ValidationError as error:
            found = [_narrowed(problem, tree) for problem in describe(error, tree)]
        problems += [problem for problem in found if not problem.rests_on(broken)]
        culprits = {_culprit(problem) for problem in found}
        broken |= culprits
        for path in sorted(culprits, key=len, reverse=True):
            _replace(tree, path, culprits)
    return None, problems, broken


def _narrowed(problem: Problem, tree: Tree) -> Problem:
    """The problem with what it reads: that pools serve every stage once is said of ``compute``, but rests on few of its keys."""
    if not _of_pools(problem):
        return problem
    count = len(tree["compute"]["pools"])
    return problem._replace(reads=tuple(("compute", "pools", index, "stages") for index in range(count)))


def _culprit(problem: Problem) -> Path:
    """The part that must be replaced: a block that lacks a key, a search distribution as a whole, else the setting."""
    path = problem.path
    if path[:2] == _SPACES and len(path) > _SPACE_DEPTH:
        return path[:_SPACE_DEPTH]
    if _of_pools(problem):
        return ("compute", "pools")
    return path[:-1] if problem.kind == "missing" and path not in _HARMLESS else path


def _of_pools(problem: Problem) -> bool:
    return problem.path == ("compute",) and problem.kind == "value_error"


def _replace(tree: Tree, path: Path, wrong: Iterable[Path]) -> None:
    """Put something harmless in a wrong place, in place: a sound neighbour in a list, elsewhere the default."""
    block = _at(tree, path[:-1])
    if isinstance(block, list):
        neighbours = (
            item for i, item in enumerate(block) if not any(related((*path[:-1], i), other) for other in wrong)
        )
        sound = next(neighbours, None)
        if sound is None:
            _replace(tree, path[:-1], wrong)
        else:
            block[int(path[-1])] = copy.deepcopy(sound)
    elif isinstance(block, dict) and path in _HARMLESS:
        block[str(path[-1])] = copy.deepcopy(_HARMLESS[path])
    elif isinstance(block, dict) and path[:2] == _SPACES and len(path) == _SPACE_DEPTH:
        block[str(path[-1])] = {"low": 0.0, "high": 1.0}
    elif isinstance(block, dict):
        block.pop(str(path[-1]), None)


def _at(tree: Tree, path: Path) -> Any:
    """What the tree holds at ``path``; none where there is nothing."""
    block: Any = tree
    for step in path:
        try:
            block = block[step]
        except (KeyError, IndexError, TypeError):
            return None
    return block


def _defaults() -> Tree:
    return Sweep.model_validate(_SMALLEST_SWEEP).dump()


_SMALLEST_SWEEP = {"name": "unnamed", "data": {"domains": ("phantom_clear",)}}

"""Safe YAML: plain data only, duplicate keys refused, and none of YAML 1.1's surprises.

``1e-3`` is a number, ``on``, ``off``, ``yes`` and ``no`` are words, ``010`` is ten, dates are words. A key with nothing after it
is an empty block (``methods: {gkd: }`` asks for the defaults of ``gkd``); write ``null`` for "none".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import yaml

Path = tuple[str | int, ...]
Tree = dict[str, Any]

MAX_BYTES = 256 * 1024
MAX_NODES = 20_000
_TAG = "tag:yaml.org,2002:"
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""Control characters, halves of characters, and marks that turn the direction of what follows: never part of a name."""


class YamlProblem(Exception):
    """The text is not acceptable YAML; each argument is one problem, as one line."""


@dataclass(frozen=True)
class Document:
    """A parsed file.

    Attributes:
        tree: the top-level mapping; all keys are text, aliases are copies.
        lines: path in ``tree`` -> number of its line, counted from 1.
    """

    tree: Tree
    lines: dict[Path, int]


def _empty_or_none(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Tree | None:
    return None if node.value else {}


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the YAML 1.2 core schema, and no types that JSON does not have."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (the name and type are PyYAML's)
        None: [
            (f"{_TAG}null", re.compile(r"^(?:~|null|Null|NULL|)$")),
            (f"{_TAG}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")),
            (f"{_TAG}int", re.compile(r"^[-+]?[0-9]+$")),
            (f"{_TAG}float", re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")),
            (f"{_TAG}float", re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")),
            (f"{_TAG}merge", re.compile(r"^<<$")),
        ]
    }
    yaml_constructors = {  # noqa: RUF012
        f"{_TAG}null": _empty_or_none,
        f"{_TAG}bool": yaml.SafeLoader.construct_yaml_bool,
        f"{_TAG}int": _decimal,
        f"{_TAG}float": yaml.SafeLoader.construct_yaml_float,
        f"{_TAG}str": yaml.SafeLoader.construct_yaml_str,
        f"{_TAG}seq": yaml.SafeLoader.construct_yaml_seq,
        f"{_TAG}map": yaml.SafeLoader.construct_yaml_map,
        None: yaml.SafeLoader.construct_undefined,
    }


class _Survey:
    """Walks the node graph once, aliases unfolded: finds line numbers, duplicate keys and alias bombs."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[str] = []
        self._visited = 0

    def walk(self, node: yaml.Node, path: Path = ()) -> None:
        self._visited += 1
        if self._visited > MAX_NODES:
            raise YamlProblem(
                f"more than {MAX_NODES} values once its aliases are unfolded; a sweep file has some hundred"
            )
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            self._printable(node, path)
        elif isinstance(node, yaml.MappingNode):
            self._mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.walk(item, (*path, index))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append(f"line {line}: a key must be a word, not a list or a block")
            elif key.tag == f"{_TAG}merge":
                self._merged(value, path)
            else:
                if key.value in seen:
                    where = ".".join(map(str, (*path, key.value)))
                    self.problems.append(
                        f"line {line}: {where} is given twice, first in line {seen[key.value]}; keep one"
                    )
                self._printable(key, path)
                seen[key.value] = line
                self.lines[(*path, key.value)] = line
                self.walk(value, (*path, key.value))

    def _printable(self, node: yaml.ScalarNode, path: Path) -> None:
        if found := _UNPRINTABLE.search(node.value):
            where = ".".join(map(str, path)) or "the top level"
            line = node.start_mark.line + 1
            self.problems.append(f"line {line}: {where} has a character that cannot be printed (U+{ord(found[0]):04X})")

    def _merged(self, node: yaml.Node, path: Path) -> None:
        for block in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            self.walk(block, path)


def parse_yaml(text: str) -> Document:
    """Parse one YAML document whose top level is a mapping. Raises YamlProblem."""
    if len(text.encode()) > MAX_BYTES:
        raise YamlProblem(f"the file is larger than {MAX_BYTES // 1024} KiB; this is not a sweep file")
    survey = _Survey()
    tree = _guarded(text, survey)
    if survey.problems:
        raise YamlProblem(*survey.problems)
    if not isinstance(tree, dict) or not tree:
        raise YamlProblem(f"the top level must be a block of keys (name: ..., data: ...), not {_shown(tree)}")
    return Document(_plain(tree), survey.lines)


def parse_value(text: str) -> Any:
    """The value of one ``--set``: YAML, so numbers, lists and blocks may be given. Raises YamlProblem."""
    survey = _Survey()
    value = _guarded(text, survey)
    if survey.problems:
        raise YamlProblem(*survey.problems)
    return _plain(value)


def _guarded(text: str, survey: _Survey) -> Any:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        survey.walk(node)
        return None if survey.problems else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise YamlProblem(_where(error)) from None
    except yaml.reader.ReaderError as error:
        raise YamlProblem(f"character {error.position}: {error.reason} (U+{error.character:04X})") from None
    except RecursionError:
        raise YamlProblem("blocks are nested too deeply, or an alias contains itself") from None
    except (ValueError, KeyError):  # a tag such as !!int on other text, or a number of thousands of digits
        raise YamlProblem(
            "a value does not fit its tag, or is a number of thousands of digits; write it plainly"
        ) from None


def _where(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    words = [word for word in (error.context, error.problem) if word]
    return f"{place}not valid YAML: {', '.join(words)}".replace("\n", " ")


def _plain(value: Any) -> Any:
    """A copy without shared parts, with text keys."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _shown(value: Any) -> str:
    return "an empty file" if value is None or value == {} else f"a {type(value).__name__}"

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_bench.config import reader
from gkd_bench.config.reader import YamlProblem, parse_value, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("3", 3),
        ("010", 10),
        ("-7", -7),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("2024-01-31", "2024-01-31"),
        ("null", None),
        ("~", None),
        ("", {}),
        ("[1, a, 2.5]", [1, "a", 2.5]),
        ("{low: 0.1, high: 1}", {"low": 0.1, "high": 1}),
        ("'1e-3'", "1e-3"),
        (".inf", math.inf),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_every_float_that_python_prints_is_read_back_as_a_float() -> None:
    @given(st.floats(allow_nan=False, allow_infinity=False))
    def check(number: float) -> None:
        assert parse_value(repr(number)) == number
        assert isinstance(parse_value(repr(number)), float)

    check()


def test_lines_of_nested_keys_are_known() -> None:
    document = parse_yaml("name: a\ndata:\n  domains:\n    - x\n    - y\n")
    assert document.lines["name",] == 1
    assert document.lines["data", "domains"] == 3
    assert document.lines["data", "domains", 1] == 5


def test_all_duplicate_keys_are_reported_with_both_lines() -> None:
    with pytest.raises(YamlProblem) as caught:
        parse_yaml("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n")
    assert caught.value.args == (
        "line 4: b.c is given twice, first in line 3; keep one",
        "line 5: a is given twice, first in line 1; keep one",
    )


def test_anchors_and_merge_keys_give_independent_copies() -> None:
    tree = parse_yaml("base: &b {x: [1], y: 2}\none: *b\ntwo: {<<: *b, y: 3}\n").tree
    assert tree["one"] == {"x": [1], "y": 2}
    assert tree["two"] == {"x": [1], "y": 3}
    tree["one"]["x"].append(9)
    assert tree["base"]["x"] == [1]


def test_alias_bomb_is_refused_before_it_unfolds() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(YamlProblem, match="aliases"):
        parse_yaml("\n".join(lines))


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 5000, "a: " + "{b: " * 5000])
def test_endless_nesting_is_refused(text: str) -> None:
    with pytest.raises(YamlProblem):
        parse_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [echo]",
        "a: !!python/name:os.system",
        "a: !!binary aGk=",
        "a: !!set {x, y}",
        "a: !!timestamp 2024-01-01",
        "a: !include other.yaml",
    ],
)
def test_tags_beyond_plain_data_are_refused_with_their_place(text: str) -> None:
    with pytest.raises(YamlProblem, match=r"line 1, column 4: .*tag"):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2\nb: 3\n", "line 2, column "),
        ("a: b: c\n", "line 1, column 5"),
        ("a: 1\n\tb: 2\n", "line 2, column 1"),
        ("- a\n- b\n", "top level must be a block"),
        ("", "empty file"),
        ("a: 1\n---\nb: 2\n", "line 2"),
        ("a: \x00", "character 3"),
        ("? [a, b]\n: 1\n", "a key must be a word"),
    ],
)
def test_broken_files_are_described_by_place(text: str, words: str) -> None:
    with pytest.raises(YamlProblem) as caught:
        parse_yaml(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_huge_file_is_refused() -> None:
    with pytest.raises(YamlProblem, match="larger than 256 KiB"):
        parse_yaml("# " + "x" * reader.MAX_BYTES)

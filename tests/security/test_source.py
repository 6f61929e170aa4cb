"""What the source itself must not do: load pickles, run texts or shells, import by names from files; and the explained rest."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "gkd_bench"
MODULES = {
    "pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "shelve",
    "marshal",
    "joblib",
    "code",
    "codeop",
    "xmlrpc",
    "telnetlib",
}
BUILT_IN = {"eval", "exec", "compile", "__import__"}
NEEDS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
ONLY_IN = {
    "import_module": {"registry.py", "cluster/engine.py"},  # of closed lists, and of the stage runner that code names
    "torch.export.load": {"export/pt2_file.py"},  # which hands it a copy that it made itself
    "yaml.load": set(),
    "yaml.unsafe_load": set(),
    "yaml.full_load": set(),
    "torch.jit.load": set(),
    "pd.read_pickle": set(),
    "os.system": set(),
    "os.popen": set(),
}

EXPLAINED = {
    ("S311", "data/readers/folder_subjects.py"): "deals subjects to splits, which must be the same every time",
    ("S603", "report/dashboard.py"): "starts MLflow without a shell; every word is the package's own",
    ("S704", "report/page/html.py"): "style and script of the page, which are files of this package",
}
"""Findings of ruff's flake8-bandit rules that are no weakness, and why."""
EVERYWHERE = {"S101": "asserts tell the type checker what is known; nothing of a user is judged by one"}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def problems(path: Path) -> Iterator[str]:
    place = path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        yield from (f"{place} imports {name}" for name in names if name.partition(".")[0] in MODULES)
    for name, call in calls(path):
        given = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
        argument, value = NEEDS.get(name, ("", None))
        if argument and given.get(argument) is not value:
            yield f"{place}:{call.lineno} {name} without {argument}={value}"
        if name in BUILT_IN or place not in ONLY_IN.get(name, {place}) or given.get("shell"):
            yield f"{place}:{call.lineno} {name}"


def test_no_module_loads_pickles_or_runs_texts() -> None:
    assert [line for path in sorted(PACKAGE.rglob("*.py")) for line in problems(path)] == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from joblib import load", "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f)",
        "np.load(f, allow_pickle=True)", "eval(text)", "yaml.load(f)", "subprocess.run(text, shell=True)",
        "import_module(name)", "torch.export.load(f)",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(text: str, tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(text)
    assert [*problems(tmp_path / "some.py")]


def test_lint_for_weaknesses_is_clean_or_explained() -> None:
    words = ["check", "--isolated", "--no-cache", "--select", "S", "--output-format", "json", str(PACKAGE)]
    run = subprocess.run(
        [sys.executable, "-m", "ruff", *words], capture_output=True, text=True, timeout=120, check=False
    )
    found = {
        (one["code"], Path(one["filename"]).relative_to(PACKAGE).as_posix())
        for one in json.loads(run.stdout)
        if one["code"] not in EVERYWHERE
    }
    assert sorted(found - EXPLAINED.keys()) == []
    assert sorted(EXPLAINED.keys() - found) == [], "explained, but no longer found"


FIRST_SOUND = {
    "torch": ((2, 6), "before it, `weights_only=True` could run code (CVE-2025-32434)"),
    "PyYAML": ((5, 4), "before it, loaders could run code (CVE-2020-14343)"),
    "ray": ((2, 54), "before it, web pages could delete the jobs of a Ray without a token (CVE-2026-27482)"),
    "Jinja2": ((3, 1, 6), "before it, templates could leave their sandbox (CVE-2025-27516)"),
    "pillow": ((11, 3), "before it, writing DDS could overflow (CVE-2025-48379)"),
}


@pytest.mark.parametrize("name", FIRST_SOUND)
def test_installed_packages_are_those_of_after_known_weaknesses(name: str) -> None:
    needed, why = FIRST_SOUND[name]
    there = tuple(int(part) for part in version(name).partition("+")[0].split(".")[: len(needed)])
    assert there >= needed, why

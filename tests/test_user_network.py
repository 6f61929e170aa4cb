"""A network from a package of its own, as docs/extending.md tells it: the files of the page, a sweep, a new version."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from .stages.lab import TINY

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def block(start: str) -> str:
    """The code block of the page that begins with a line."""
    found = [text for text in re.findall(r"```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL) if text.startswith(start)]
    assert len(found) == 1, f"{start!r} begins {len(found)} blocks of {PAGE.name}"
    return str(found[0])


class Package:
    """The page's package as an installer leaves it: a module, and the metadata of its distribution."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project: dict[str, Any] = tomllib.loads(block("# pyproject.toml"))["project"]
        (folder / "my_segnets").mkdir(parents=True)
        (folder / "my_segnets" / "__init__.py").touch()
        (folder / "my_segnets" / "tiny.py").write_text(block("# my_segnets/tiny.py"))
        self.install(self.project["version"])

    def install(self, version: str) -> None:
        for old in self.folder.glob("*.dist-info/*"):
            old.unlink()
        for old in self.folder.glob("*.dist-info"):
            old.rmdir()
        info = self.folder / f"my_segnets-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {self.project['name']}\nVersion: {version}\n")
        ((group, entries),) = self.project["entry-points"].items()
        lines = [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python beside the package, with the package on its path."""
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH", "")]))
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder.parent,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path / "site")


def sweep_file(folder: Path) -> None:
    """The tiny sweep with the page's student, and methods scratch and kd."""
    student = yaml.safe_load(block("networks:"))["networks"]["student"]
    settings = {
        **TINY,
        "networks": {**TINY["networks"], "teacher": {"name": "little_unet", "width": 0.5}, "student": student},
        "pairs": {"sources": ["phantom_clear"], "targets": "all"},
        "methods": {"kd": {}, "controls": []},
        "compute": {"engine": "inprocess"},
        "tracking": {"enabled": False},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(plain(settings)))


def plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def still_to_run(package: Package) -> dict[str, int]:
    """Stage kind -> how many of them the plan would run."""
    shown = package.python("-m", "gkd_bench.sweep", "tiny.yaml", "--plan").stdout
    rows = re.findall(r"^\W*(\w+)\W+\d+\W+\d+\W+(\d+)\W", shown, re.MULTILINE)
    assert rows, shown
    return {kind: int(count) for kind, count in rows}


@pytest.mark.slow
def test_a_sweep_runs_with_a_network_of_another_package_and_trains_a_new_version_anew(
    package: Package, tmp_path: Path
) -> None:
    sweep_file(tmp_path)
    done = package.python("-m", "gkd_bench.sweep", "tiny.yaml")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "results" / "tiny"
    assert "tiny_net" in (out / "report.md").read_text()
    rows = csv.DictReader(line for line in (out / "triple.csv").open() if not line.startswith("#"))
    assert {row["target"] for row in rows} == {"phantom_clear", "phantom_dim"}

    assert set(still_to_run(package).values()) == {0}
    package.install("0.2.0")
    anew = still_to_run(package)
    assert anew["teacher"] == 0 and (anew["baseline"], anew["distill"]) == (1, 2)


@pytest.mark.slow
def test_the_pages_own_test_passes(package: Package) -> None:
    (package.folder / "test_tiny.py").write_text(block("# tests/test_tiny.py"))
    done = package.python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(package.folder / "test_tiny.py"))
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_without_the_package_the_name_is_an_error_that_lists_the_others(tmp_path: Path) -> None:
    from gkd_bench.config.load import load_sweep
    from gkd_bench.errors import ConfigError

    sweep_file(tmp_path)
    with pytest.raises(ConfigError, match=r"'tiny_net' is not a network; allowed: fanet, .*resenc_unet"):
        load_sweep(tmp_path / "tiny.yaml")

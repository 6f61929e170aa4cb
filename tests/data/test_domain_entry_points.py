"""Domains of other packages, found through entry points: packages are made up in a folder on the import path.

The last tests run the code of docs/extending.md.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gkd_bench.config.data import Data
from gkd_bench.data import catalogue as opening
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.domain import PhotographReader
from gkd_bench.errors import ConfigError, DataError
from gkd_bench.registry import DOMAINS, Registry

from .conftest import save

GROUP = "gkd_bench.domains"
BUILT_IN = {"phantom_clear": "gkd_bench.data.readers.phantom:PhantomClear"}
PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
GOOD = """
from gkd_bench.data.readers.phantom import PhantomDim

class Mine(PhantomDim):
    pass
"""

Install = Callable[..., str]


@pytest.fixture
def install(offer: Install) -> Install:
    """Make up an installed distribution with one module; returns the module's name."""
    return lambda code, dist="my-data", **entry: offer(code, group=GROUP, dist=dist, **entry)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry that has not looked for entry points yet, in the place of the real one."""
    fresh = Registry("domain", BUILT_IN, GROUP)
    monkeypatch.setattr(opening, "DOMAINS", fresh)
    return fresh


def test_offered_domain_is_listed_and_imported_only_when_it_is_opened(install: Install, registry: Registry) -> None:
    module = install(GOOD)
    assert list(registry) == ["phantom_clear", "mine"] and registry.provider("mine") == "my-data==1.2"
    assert module not in sys.modules
    reader = Catalogue().open("mine")
    assert module in sys.modules and isinstance(reader, PhotographReader) and reader.images()


def test_unknown_name_lists_offered_ones(install: Install, registry: Registry) -> None:
    install(GOOD)
    with pytest.raises(DataError, match="unknown domain; known are phantom_clear, mine"):
        Catalogue().open("yours")


def test_name_of_two_packages_is_an_error_that_names_both(install: Install, registry: Registry) -> None:
    install(GOOD, dist="one-data")
    install(GOOD, dist="other-data", version="2.0")
    with pytest.raises(ConfigError, match=r"domain 'mine' is offered by .*rename") as caught:
        Catalogue().open("mine")
    assert "one-data==1.2" in str(caught.value) and "other-data==2.0" in str(caught.value)


def test_built_in_name_wins(install: Install, registry: Registry) -> None:
    install(GOOD, entry="phantom_clear")
    assert list(registry) == ["phantom_clear"]
    assert type(Catalogue().open("phantom_clear")).__module__ == "gkd_bench.data.readers.phantom"


FAULTS = {
    "import gkd_bench_extras_that_nobody_has": "cannot import .*ModuleNotFoundError",
    "": "cannot import .*AttributeError",
    "def Mine(root): ...": "is no subclass of gkd_bench.data.domain.PhotographReader or StackReader",
    "class Mine: ...": "is no subclass of gkd_bench.data.domain.PhotographReader or StackReader",
}


@pytest.mark.parametrize("code", FAULTS)
def test_domain_that_cannot_be_used_is_one_clear_error(code: str, install: Install, registry: Registry) -> None:
    install(code)
    with pytest.raises(ConfigError, match=FAULTS[code]) as caught:
        Catalogue().open("mine")
    assert all(problem.startswith("domain 'mine' of my-data==1.2") for problem in caught.value.problems)


def test_classes_that_an_offered_domain_lacks_are_named(install: Install, registry: Registry) -> None:
    install(GOOD)
    with pytest.raises(DataError, match="has no class liver; its labels tell apart: vessel"):
        Catalogue(classes=("liver",)).open("mine")


def test_the_real_registry_looks_into_the_documented_group() -> None:
    assert DOMAINS.group == GROUP
    assert all(DOMAINS.is_built_in(name) == (DOMAINS.provider(name) == "") for name in DOMAINS)


# ---------------------------------------------------------------- the page


def block(start: str) -> str:
    """The code block of the page that begins with a line."""
    found = [text for text in re.findall(r"```\w*\n(.*?)```", PAGE.read_text(), re.DOTALL) if text.startswith(start)]
    assert len(found) == 1, f"{start!r} begins {len(found)} blocks of {PAGE.name}"
    return str(found[0])


def test_the_pages_reader_is_found_and_can_be_prepared(install: Install, registry: Registry, tmp_path: Path) -> None:
    project: dict[str, Any] = tomllib.loads(block("# of my-eyes: pyproject.toml"))["project"]
    ((group, entries),) = project["entry-points"].items()
    ((name, value),) = entries.items()
    assert group == GROUP
    install(block("# my_eyes/rings.py"), entry=name, attribute=value.partition(":")[2], dist=project["name"])
    catalogue = Catalogue(classes=("cup",))
    reader = catalogue.open(name)
    assert isinstance(reader, PhotographReader) and reader.card.name == name
    assert reader.problems() == [] and catalogue.numbers(reader) == (0, 0, 1)
    assert {int(level) for level in np.unique(reader.read(reader.images()[0]).label)} == {0, 1, 2}


def test_the_pages_folder_block_reads_the_layout_that_it_describes(tmp_path: Path) -> None:
    tree = yaml.safe_load(block("data:\n  folders:"))["data"]
    tree["folders"]["clinic"]["path"] = str(tmp_path)
    tree["classes"], tree["domains"] = tuple(tree["classes"]), tuple(tree["domains"])
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30], mask[15:20, 15:20] = 128, 255
    names = [f"p{number:02d}_{eye}" for number in range(4) for eye in "LR"]
    for name in names:
        save(np.random.default_rng(0).integers(90, 200, (40, 40, 3), np.uint8), tmp_path / "images" / f"{name}.jpg")
        save(mask, tmp_path / "masks" / f"{name}_mask.png")
    data = Data.model_validate(tree)
    reader = Catalogue.of(data).open("clinic")
    assert reader.problems() == [] and reader.card.classes == ("disc", "cup") and len(reader.splits()) == 4

    table = block("image,subject,split").replace(
        "p02_L,p02,test", "p02_L,p02,val\np02_R,p02,val\np03_L,p03,test\np03_R,p03,test"
    )
    (tmp_path / "patients.csv").write_text(table + "p00_L,p00,train\np00_R,p00,train\n")
    folder = data.folders["clinic"].model_copy(update={"table": "patients.csv"})
    told = Catalogue(folders={"clinic": folder}).open("clinic")
    names = [
        "subject_001",
        "subject_002",
        "subject_003",
        "subject_004",
    ]  # of p00 to p03: names may be those of patients
    assert told.problems() == []
    assert told.splits() == dict(zip(names, ["train", "train", "val", "test"], strict=True))

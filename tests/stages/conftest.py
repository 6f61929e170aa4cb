"""Fixtures around the tiny sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gkd_bench.config.schema import Sweep
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.prepare import prepare_domain
from gkd_bench.data.stress import prepare_stress
from gkd_bench.plan import Planner

from .lab import DOMAINS, TINY, Lab


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make_planner(cache: Path) -> Callable[..., Planner]:
    def make(**changes: Any) -> Planner:
        sweep = Sweep.model_validate(TINY | changes)
        domains = {name: prepare_domain(name, Catalogue(None, sweep.data.prepare), cache) for name in DOMAINS}
        references = {name: domain.reference for name, domain in domains.items()}
        stress = sweep.data.stress
        banks = {name: prepare_stress(domain, Catalogue(), stress, cache).reference for name, domain in domains.items()}
        return Planner(sweep, references, banks)

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path, make_planner: Callable[..., Planner]) -> Lab:
    """A store that holds every model of the tiny sweep's first source."""
    lab = Lab(tmp_path_factory.mktemp("store"), cache, make_planner())
    lab.make(*lab.models("scratch", "kd", "gkd"))
    return lab


@pytest.fixture
def empty(tmp_path: Path, cache: Path, make_planner: Callable[..., Planner]) -> Lab:
    """An empty store."""
    return Lab(tmp_path / "store", cache, make_planner())

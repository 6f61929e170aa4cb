from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gkd_bench.config.load import LoadedSweep, load_sweep
from gkd_bench.errors import ConfigError

MINIMAL = {"name": "tiny", "data": {"domains": ["phantom_clear", "phantom_dim"]}}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def load(write: Callable[[str], Path]) -> Callable[..., LoadedSweep]:
    """Load a minimal sweep with some top-level blocks added or replaced."""

    def load(*overrides: str, profile: str | None = None, env: dict[str, str] | None = None, **blocks: object):
        path = write(yaml.safe_dump(MINIMAL | blocks, sort_keys=False))
        return load_sweep(path, profile, overrides, env or {})

    return load


@pytest.fixture
def problems(load: Callable[..., LoadedSweep]) -> Callable[..., tuple[str, ...]]:
    """The problems of such a sweep; fails when there are none."""

    def problems(*overrides: str, **blocks: object) -> tuple[str, ...]:
        with pytest.raises(ConfigError) as caught:
            load(*overrides, **blocks)
        return caught.value.problems

    return problems

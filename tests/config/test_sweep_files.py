from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gkd_bench.config.load import load_sweep

SWEEPS = Path(__file__).parents[2] / "sweeps"
ENV = {"GKD_DATA_ROOT": "/data"}


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_file_is_valid_with_each_of_its_profiles(path: Path) -> None:
    profiles = yaml.safe_load(path.read_text()).get("profiles", {})
    for profile in (None, *profiles):
        sweep = load_sweep(path, profile, env=ENV).sweep
        assert sweep.name == path.stem


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_file_says_how_to_run_it_how_long_and_what_to_expect(path: Path) -> None:
    head = path.read_text().split("\nname:")[0]
    for word in ("Run it:", "Takes:", "Shows:", "Expect:", f"python -m gkd_bench.sweep sweeps/{path.name}"):
        assert word in head


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_sweep_file_leaves_its_expected_result_open(path: Path) -> None:
    assert "to be filled" not in path.read_text()


def test_readme_has_no_open_places() -> None:
    assert re.findall(r"@[A-Z]+@", (SWEEPS.parent / "README.md").read_text(encoding="utf-8")) == []


def test_quickstart_needs_no_data_and_no_gpu() -> None:
    sweep = load_sweep(SWEEPS / "quickstart.yaml", env={}).sweep
    assert all(name.startswith("phantom_") for name in sweep.data.domains)
    assert not any(pool.gpus for pool in sweep.compute.pools)


def test_small_profile_needs_no_gpu_and_keeps_the_domains() -> None:
    full = load_sweep(SWEEPS / "vessel_cross.yaml", env=ENV).sweep
    small = load_sweep(SWEEPS / "vessel_cross.yaml", "small", env=ENV).sweep
    assert full.data.domains == small.data.domains
    assert any(pool.gpus for pool in full.compute.pools)
    assert not any(pool.gpus for pool in small.compute.pools)

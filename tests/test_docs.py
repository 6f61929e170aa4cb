"""What the documents say about methods and sweep files is what the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

from gkd_bench.config.load import load_sweep
from gkd_bench.config.method_options import METHOD_OPTIONS

ROOT = Path(__file__).parents[1]
METHODS = (ROOT / "docs" / "methods.md").read_text()


@pytest.mark.parametrize("name", METHOD_OPTIONS)
def test_the_table_of_methods_has_every_method_with_its_default_weights_and_footnote(name: str) -> None:
    kind = METHOD_OPTIONS[name]
    (row,) = [line for line in METHODS.splitlines() if line.startswith(f"| `{name}` |")]
    options = kind()
    assert kind.title in row and kind.paper in row and kind.port in row
    assert all(f"`{option}` {getattr(options, option):g}" in row for option in kind.terms.values())


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_sweep_file_says_how_to_run_it_and_is_valid_in_every_profile(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GKD_DATA_ROOT", "data")
    head = file.read_text().split("\nname:")[0]
    assert all(word in head for word in ("# Run it:", f"sweeps/{file.name}", "# Takes:", "# Shows:", "# Expect:"))
    assert load_sweep(file).sweep.name.startswith(file.stem)
    if "--profile small" in head:
        assert load_sweep(file, profile="small").sweep.seeds

"""The main job with every method, control, remedy and kind of variant, as a user asks for them in one sweep file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gkd_bench import sweep
from gkd_bench.registry import METHODS
from gkd_bench.store.artefacts import LocalStore

from .stages.lab import TINY
from .test_sweep import plain

VARIANTS: dict[str, Any] = {
    "scratch_style": {"of": "scratch", "set": {"remedies": ["style"]}},
    "scratch_swa": {"of": "scratch", "set": {"remedies": ["swa"]}},
    "scratch_bn_adapt": {"of": "scratch", "set": {"remedies": ["bn_adapt"]}},
    "kd_everything": {"of": "kd", "set": {"remedies": ["style", "swa", "bn_adapt"]}},
    "skd_holistic": {"of": "skd", "set": {"holistic": 0.1}},
    "gkd_without_act": {"of": "gkd", "alignment": {"trained": False}},
    "gkd_without_psae": {"of": "gkd", "alignment": {"weights": {"align": 0.0, "sem": 0.0}}},
    "scratch_little": {"of": "scratch", "student": {"name": "little_unet", "width": 0.5}},
    "gkd_little": {"of": "gkd", "student": {"name": "little_unet", "width": 0.5}},
}
SETTINGS: dict[str, Any] = {
    **TINY,
    "augment": {"photometric": "none"},
    "networks": {**TINY["networks"], "teacher": {"name": "unet", "width": 0.05}},
    "pairs": {"sources": ["phantom_clear"], "targets": ["phantom_dim"]},
    "methods": {name: {} for name in METHODS if name not in ("scratch", "bn_views")} | {"variants": VARIANTS},
    "compute": {"engine": "inprocess"},
    "tracking": {"enabled": False},
}


def rows(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


@pytest.mark.slow
def test_every_method_control_remedy_and_variant_is_trained_scored_and_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(plain(SETTINGS)))
    assert sweep.main(["tiny.yaml"]) == 0

    results, store = tmp_path / "results" / "tiny", LocalStore(tmp_path / ".gkd_store")
    asked = {*METHODS, *VARIANTS, "scratch_photometric", "kd_photometric"}
    records = [
        json.loads(line)
        for line in (tmp_path / ".gkd_store" / "sweeps" / "tiny" / "records.jsonl").read_text().splitlines()
    ]
    scored = {(r["method"], r["target"]) for r in records if r["record"] == "image"}
    assert {method for method, target in scored if target == "phantom_dim"} == asked | {"teacher", "baseline"}
    # adaptation at test time trains nothing of its own; everything else does
    assert len(list(store.keys("distill"))) == len(asked) - 1
    ratios = {(r["method"], r["check"]): r["value"] for r in records if r["record"] == "health"}
    for name in METHODS:
        found = [value for (method, check), value in ratios.items() if method == name and "gradient ratio" in check]
        assert bool(found) == (name not in ("scratch", "bn_views"))
        assert all(value > 1e-3 for value in found), (name, found)
    titles = {row["method"] for row in rows(results / "methods.csv")}
    assert len(titles) >= len(asked)

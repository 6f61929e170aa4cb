"""What somebody who may write to the store, or who names files and databases, makes this package read, show and keep."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from gkd_bench import sweep
from gkd_bench.config.schema import Sweep
from gkd_bench.errors import DataError, StoreError
from gkd_bench.publish import shown
from gkd_bench.store.artefacts import Draft, LocalStore
from gkd_bench.store.node import StageNode, canonical_json
from gkd_bench.store.packing import sha256

NODE = StageNode("teacher", {"a": 1}, 0, {"source": "phantom_clear@0"})
MARKUP = "[/red] [bold red]x[/bold red] [link=http://evil.example]y[/link]"


def forged(store: LocalStore, name: str, content: bytes) -> None:
    """Make the artefact's manifest, checksum and all, vouch for one more file, wherever it is."""
    (path,) = store.root.rglob(f"artefacts/??/{NODE.key}/manifest.json")
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    manifest.pop("checksum")
    manifest["files"][name] = {"bytes": len(content), "sha256": sha256(content)}
    path.write_text(json.dumps({**manifest, "checksum": sha256(canonical_json(manifest).encode())}))


@pytest.mark.parametrize("name", ["../../../../secret.png", "/secret.png", "a/../../../../../secret.png", "a//b", "."])
def test_artefacts_have_no_files_outside_of_their_folder(tmp_path: Path, name: str) -> None:
    store = LocalStore(tmp_path / "store")
    store.publish(NODE, Draft({"network": {"w": torch.ones(2)}}, {"a/b.png": b"x"}))
    (tmp_path / "secret.png").write_bytes(b"secret")
    forged(store, name.replace("/secret", f"{tmp_path}/secret") if name.startswith("/") else name, b"secret")
    with pytest.raises(StoreError, match="names a file elsewhere"):
        store.get(NODE.key, verify=False)
    assert "names a file elsewhere" in store.verify(NODE.key)[0]


def test_names_of_files_are_shown_as_they_are() -> None:
    """Terminals are told styles in square brackets; a name in such must neither vanish nor end the sweep."""
    out = io.StringIO()
    sweep._missing({"mine": DataError([f"/data/{MARKUP}: torn"])}, Console(file=out, width=400))
    assert MARKUP in out.getvalue()


def test_passwords_of_databases_are_in_no_report() -> None:
    tracked = {"uri": "postgresql://me:hunter2@db.example/mlflow"}
    made = Sweep.model_validate({"name": "a", "data": {"domains": ("phantom_clear",)}, "tracking": tracked})
    assert "hunter2" not in json.dumps(shown(made)) and "db.example" in shown(made)["tracking"]["uri"]


def test_passwords_of_the_command_line_are_not_kept_with_it() -> None:
    given = argparse.Namespace(
        file=Path("a.yaml"),
        profile=None,
        set=["tracking.uri=postgresql://me:hunter2@db.example/x"],
        allow_missing=False,
    )
    assert "hunter2" not in sweep.command_line(given) and "db.example" in sweep.command_line(given)

"""Every file that is read, replaced by or filled with a pickle that runs code: nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gkd_bench.config.load import load_sweep
from gkd_bench.config.schema import Prepare
from gkd_bench.data.cache import open_prepared
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.dicom import dicom
from gkd_bench.data.digests import FileDigests
from gkd_bench.data.nifti import nifti
from gkd_bench.data.prepare import prepare_domain
from gkd_bench.data.readers.folder_subjects import read_table
from gkd_bench.data.stacks import _read_note
from gkd_bench.errors import GkdBenchError, StoreError
from gkd_bench.export.model_file import open_model
from gkd_bench.export.segment import read_photograph
from gkd_bench.report.archive import load_sweep_records
from gkd_bench.store.artefacts import Draft, LocalStore
from gkd_bench.store.node import StageNode, canonical_json
from gkd_bench.store.packing import sha256
from gkd_bench.store.records import RecordLog

from .bombs import Bomb, bomb

NODE = StageNode("teacher", {"a": 1}, 0, {"source": "phantom_clear@0"})


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "unpickled"


def store_with_an_artefact(folder: Path) -> LocalStore:
    store = LocalStore(folder / "store")
    store.publish(NODE, Draft({"network": {"w": torch.ones(2)}}, {"a/b.png": b"x"}, [{"record": "x"}], {"n": 1}))
    return store


def vouched(store: LocalStore, name: str, content: bytes) -> None:
    """Replace a file of the artefact and make the manifest vouch for it, as whoever may write to the store can."""
    (path,) = store.root.rglob(f"artefacts/??/{NODE.key}/{name}")
    path.write_bytes(content)
    (listed,) = store.root.rglob(f"artefacts/??/{NODE.key}/manifest.json")
    manifest = json.loads(listed.read_bytes())
    manifest.pop("checksum")
    manifest["files"][name] = {"bytes": len(content), "sha256": sha256(content)}
    listed.write_text(json.dumps({**manifest, "checksum": sha256(canonical_json(manifest).encode())}))


def torch_file(mark: Path) -> bytes:
    """What ``torch.save`` makes of a bomb."""
    made = io.BytesIO()
    torch.save({"epoch": 1, "w": Bomb(mark)}, made)
    return made.getvalue()


def object_array(mark: Path) -> bytes:
    """An array of Python objects, which NumPy pickles."""
    made = io.BytesIO()
    np.save(made, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    return made.getvalue()


def object_archive(mark: Path) -> bytes:
    made = io.BytesIO()
    np.savez_compressed(made, array=np.array([Bomb(mark)], dtype=object))
    return made.getvalue()


def test_the_bombs_work(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        pickle.loads(bomb(tmp_path))  # the folder is there: it did run
    with pytest.raises(FileExistsError):
        torch.load(io.BytesIO(torch_file(tmp_path)), weights_only=False)
    with pytest.raises(FileExistsError):
        np.load(io.BytesIO(object_array(tmp_path)), allow_pickle=True)
    with pytest.raises(FileExistsError):
        np.load(io.BytesIO(object_archive(tmp_path)), allow_pickle=True)["array"]


@pytest.mark.parametrize("make", [bomb, torch_file], ids=["pickle", "torch"])
def test_checkpoints(tmp_path: Path, mark: Path, make: Callable[[Path], bytes]) -> None:
    store, content = LocalStore(tmp_path / "store"), make(mark)
    store.checkpoint_save("key1", {"epoch": 1})
    (path,) = store.root.rglob("checkpoints/*")
    for planted in (content, sha256(content).encode() + b"\n" + content):
        path.write_bytes(planted)
        assert store.checkpoint_load("key1") is None  # damaged: the stage starts again
    assert not mark.exists()


@pytest.mark.parametrize("make", [bomb, torch_file], ids=["pickle", "torch"])
@pytest.mark.parametrize("name", ["network.safetensors", "records.jsonl", "a/b.png", "manifest.json"])
def test_artefacts(tmp_path: Path, mark: Path, make: Callable[[Path], bytes], name: str) -> None:
    store = store_with_an_artefact(tmp_path)
    if name == "manifest.json":
        next(store.root.rglob("artefacts/??/*/manifest.json")).write_bytes(make(mark))
    else:
        vouched(store, name, make(mark))
    for read in (lambda one: one.tensors("network"), lambda one: one.records(), lambda one: one.bytes("a/b.png")):
        with contextlib.suppress(Exception):  # which error is for other tests; whether anything ran is for this one
            read(store.get(NODE.key, verify=False))
    assert store.verify(NODE.key) or name != "manifest.json"
    assert not mark.exists()


@pytest.mark.parametrize("file", ["records.jsonl", "origin.json"])
def test_records_and_journals_of_sweeps(tmp_path: Path, mark: Path, file: str) -> None:
    store, folder = LocalStore(tmp_path / "store"), tmp_path / "store" / "sweeps" / "some"
    folder.mkdir(parents=True)
    for name in ("records.jsonl", "origin.json"):
        (folder / name).write_bytes(bomb(mark) + b"\n" if name == file else b"{}\n")
    with pytest.raises((GkdBenchError, KeyError, ValueError)):
        load_sweep_records("some", store)
    (folder / "journal.jsonl").write_bytes(bomb(mark) + b"\n")
    with pytest.raises(StoreError, match="not a JSON record"):
        RecordLog(folder / "journal.jsonl").read()
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("manifest.json", bomb),
        ("images.npy", object_array),
        ("images.npy", bomb),
        ("labels.npy", torch_file),
        ("native_fov.npy", object_archive),
    ],
)
def test_prepared_photographs(tmp_path: Path, mark: Path, name: str, make: Callable[[Path], bytes]) -> None:
    small = Prepare.model_validate({"scale": {"rule": "fov_width", "value": 48}})
    domain = prepare_domain("phantom_clear", Catalogue(None, small), tmp_path)
    (domain.folder / name).write_bytes(make(mark))
    with pytest.raises(StoreError, match="torn"):
        open_prepared(tmp_path, "phantom_clear", domain.manifest.fingerprint).source_splits().train.image(0)
    assert not mark.exists()


def test_prepared_stacks_and_their_notes(tmp_path: Path, mark: Path) -> None:
    domain = prepare_domain("phantom_mr", Catalogue(), tmp_path)
    part = domain.manifest.stacks[0].part
    for name, make in (
        ("native_labels.npz", object_archive),
        ("images.npy", object_array),
        ("native_labels.npz", bomb),
    ):
        (domain.folder / f"{part}-{name}").write_bytes(make(mark))
        arrays = open_prepared(tmp_path, "phantom_mr", domain.manifest.fingerprint)._arrays
        planted = arrays.native_labels if "native" in name else arrays.images
        with pytest.raises(StoreError, match="torn"):
            planted[0, slice(4), slice(4)]
    note = domain.folder / f"{part}.json"
    note.write_bytes(bomb(mark))
    assert _read_note(domain.folder, 0, domain.manifest.stacks[0].name) is None
    (tmp_path / "digests.json").write_bytes(bomb(mark))
    assert FileDigests(tmp_path / "digests.json")(note)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
@pytest.mark.parametrize("make", [bomb, torch_file, object_archive], ids=["pickle", "torch", "numpy"])
def test_models(tmp_path: Path, mark: Path, name: str, make: Callable[[Path], bytes]) -> None:
    (tmp_path / name).write_bytes(make(mark))
    with pytest.raises(GkdBenchError):
        open_model(tmp_path / name)
    assert not mark.exists()


READERS: dict[str, Callable[[Path], Any]] = {
    "a.dcm": lambda path: [*dicom([path]).read([0])],
    "a.nii": lambda path: [*nifti(path).read([0])],
    "a.nii.gz": lambda path: [*nifti(path).read([0])],
    "a.png": read_photograph,
    "a.ppm.gz": read_photograph,
    "a.csv": lambda path: read_table(path.parent, path.name, {}),
    "a.yaml": load_sweep,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("make", [bomb, torch_file, object_array], ids=["pickle", "torch", "numpy"])
def test_files_of_users(tmp_path: Path, mark: Path, name: str, make: Callable[[Path], bytes]) -> None:
    (tmp_path / name).write_bytes(make(mark))
    with pytest.raises((GkdBenchError, OSError)):
        READERS[name](tmp_path / name)
    assert not mark.exists()


def test_text_inside_a_picture_is_no_pickle_either(tmp_path: Path, mark: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("pickle", bomb(mark, 0).decode())
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert read_photograph(tmp_path / "a.png").shape == (8, 8, 3)
    assert not mark.exists()

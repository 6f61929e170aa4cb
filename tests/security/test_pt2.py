"""``.pt2`` files of strangers: everything in which torch would run code is refused before torch sees the file."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gkd_bench.errors import GkdBenchError
from gkd_bench.export.graph import export_program
from gkd_bench.export.model_file import open_model
from gkd_bench.export.pt2_file import load_program
from gkd_bench.networks.build import build

from .bombs import Bomb, bomb

Files = dict[str, bytes]
MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS, EXAMPLE = "data/constants/model_constants_config.json", "data/sample_inputs/model.pt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network as ``gkd-bench export`` writes it."""
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    network = build("little_unet", 0.25, seed=0).eval()
    torch.export.save(export_program(network), path, extra_files={"metadata.json": "{}"})
    return path


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def members(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, files: Files, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(f"model/{name}", content)
    return path


def edited(files: Files, name: str, edit: Callable[[Any], None]) -> Files:
    tree = json.loads(files[name])
    edit(tree)
    return {**files, name: json.dumps(tree).encode()}


def pickled(mark: Path) -> bytes:
    made = io.BytesIO()
    torch.save((Bomb(mark),), made)
    return made.getvalue()


def graph(tree: Any) -> Any:
    return tree["graph_module"]["graph"]


def node(tree: Any) -> Any:
    return graph(tree)["nodes"][-1]


def weight(tree: Any) -> Any:
    return next(iter(tree["config"].values()))


def python(mark: Path) -> str:
    return f"__import__('os').mkdir({str(mark)!r})"


def symbols(tree: Any) -> Any:
    return next(iter(graph(tree)["sym_int_values"].values()))["as_expr"]


MODEL_EDITS: dict[str, Callable[[Any, Path], None]] = {
    "expression": lambda tree, mark: symbols(tree).update(expr_str=python(mark)),
    "expression inside": lambda tree, mark: symbols(tree).update(expr_str=f"Add(Integer(1), {python(mark)})"),
    "symbol": lambda tree, mark: symbols(tree).update(expr_str=f"Symbol({python(mark)})"),
    "keyword": lambda tree, mark: symbols(tree).update(expr_str=f"Integer(1, x={python(mark)})"),
    "attribute": lambda tree, mark: symbols(tree).update(expr_str="Add.__class__.mro()"),
    "guard": lambda tree, mark: tree.update(guards_code=[python(mark)]),
    "operator of the system": lambda tree, mark: node(tree).update(target="torch.os.mkdir"),
    "operator by dunder": lambda tree, mark: node(tree).update(target="torch.ops.aten.__class__.mro"),
    "operator that writes files": lambda tree, mark: node(tree).update(target="torch.ops.aten.from_file.default"),
    "operator of another package": lambda tree, mark: node(tree).update(target="torch.ops.mine.evil.default"),
    "operator by name": lambda tree, mark: node(tree).update(target="_operator.methodcaller"),
    "operator of math": lambda tree, mark: node(tree).update(target="math.factorial"),
    "name of a node": lambda tree, mark: node(tree).update(name=f"x = {python(mark)}; y"),
    "name with a line": lambda tree, mark: node(tree).update(name=f"x\n{python(mark)}"),
    "name of an argument": lambda tree, mark: node(tree)["inputs"][0].update(name=f"a={python(mark)}"),
    "name of a value": lambda tree, mark: graph(tree)["tensor_values"].update({"x y": {}}),
    "parameter": lambda tree, mark: tree["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
        parameter_name="a'b"
    ),
    "operator as argument": lambda tree, mark: node(tree)["inputs"][0].update(arg={"as_operator": "torch.os.mkdir"}),
    "graph as argument": lambda tree, mark: node(tree)["inputs"][0].update(
        arg={"as_graph": {"name": "x", "graph": {}}}
    ),
    "object as argument": lambda tree, mark: node(tree)["inputs"][0].update(
        arg={"as_custom_obj": {"name": "x", "class_fqn": "os.mkdir"}}
    ),
    "layout of arguments": lambda tree, mark: tree["graph_module"]["module_call_graph"][0]["signature"].update(
        in_spec='[1, {"type": "collections.defaultdict", "context": '
        '{"default_factory_module": "os", "default_factory_name": "abort"}, "children_spec": []}]'
    ),
    "unprintable text": lambda tree, mark: node(tree)["inputs"].append({"name": "m", "arg": {"as_string": "a\n#"}}),
    "device": lambda tree, mark: node(tree)["inputs"].append({"name": "m", "arg": {"as_device": {"type": "x'"}}}),
    "unknown block": lambda tree, mark: tree.update(hooks={"load": "os.mkdir"}),
}


@pytest.mark.parametrize("what", MODEL_EDITS)
def test_text_that_torch_would_run_is_refused(what: str, whole: Path, tmp_path: Path, mark: Path) -> None:
    files = edited(members(whole), MODEL, lambda tree: MODEL_EDITS[what](tree, mark))
    with pytest.raises(GkdBenchError, match=r"is not loaded.*could run any program; use the .onnx file"):
        load_program(write(tmp_path / "model.pt2", files))
    assert not mark.exists()


def test_pickled_tensors_and_objects_are_refused(whole: Path, tmp_path: Path, mark: Path) -> None:
    files = members(whole)
    path = weight(json.loads(files[WEIGHTS]))["path_name"]
    planted = [
        edited(files, WEIGHTS, lambda tree: weight(tree).update(use_pickle=True))
        | {f"data/weights/{path}": pickled(mark)},
        edited(files, WEIGHTS, lambda tree: weight(tree).update(use_pickle=1)),
        edited(files, WEIGHTS, lambda tree: weight(tree).update(path_name="../../../etc/passwd")),
        edited(files, WEIGHTS, lambda tree: tree["config"].update(x=[{"use_pickle": True, "path_name": "weight_0"}])),
        edited(
            files, CONSTANTS, lambda tree: tree["config"].update(x={"path_name": "opaque_obj_0", "use_pickle": True})
        )
        | {"data/constants/opaque_obj_0": bomb(mark)},
        files | {"data/weights/model.pt": pickled(mark)},
        files | {"data/constants/custom_obj_0": bomb(mark)},
        files | {"data/aotinductor/model/evil.so": b"\x7fELF"},
        files | {"models/other.json": files[MODEL]},
        files | {"serialized_exported_program.json": b"{}"},
    ]
    for number, changed in enumerate(planted):
        with pytest.raises(GkdBenchError, match="is not loaded"):
            load_program(write(tmp_path / f"{number}.pt2", changed))
    assert not mark.exists()


def test_archives_that_readers_could_read_in_two_ways_are_refused(whole: Path, tmp_path: Path) -> None:
    files, twice = members(whole), tmp_path / "twice.pt2"
    with pytest.raises(GkdBenchError, match=r"is not loaded.*compressed"):
        load_program(write(tmp_path / "packed.pt2", files, zipfile.ZIP_DEFLATED))
    write(twice, files)
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"model/{MODEL}", b"{}")
    with pytest.raises(GkdBenchError, match="is not loaded"):
        load_program(twice)
    legacy = tmp_path / "legacy.pt2"
    with zipfile.ZipFile(legacy, "w") as archive:
        archive.writestr("version", "8.1")
        archive.writestr("serialized_state_dict.pt", b"x")
    with pytest.raises(GkdBenchError, match="is not loaded"):
        load_program(legacy)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02x."], ids=["empty", "torn", "pickle"])
def test_torn_files_are_one_message(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(GkdBenchError, match=r"it is torn, or no \.pt2 file at all"):
        open_model(tmp_path / "model.pt2")


def test_what_export_writes_is_loaded_without_its_pickle(whole: Path, tmp_path: Path, mark: Path) -> None:
    """The example input is the one pickle that torch itself writes; it is dropped, bomb or not."""
    files = members(whole) | {EXAMPLE: pickled(mark)}
    program, text = load_program(write(tmp_path / "model.pt2", files))
    assert text == "{}" and not mark.exists()
    images = torch.rand(2, 1, 40, 56)
    trusted = torch.export.load(whole).module()(images)
    assert torch.equal(program.module()(images), trusted)


def test_result_of_several_tensors_and_constants_are_no_strange_operators(tmp_path: Path) -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.arange(4.0)  # not a buffer: becomes a constant of the file

        def forward(self, images: Tensor) -> Tensor:
            best, places = images.max(dim=1)
            return best + places + self.table

    path, images = tmp_path / "model.pt2", torch.rand(3, 4, 4)
    torch.export.save(torch.export.export(Several(), (images,)), path, extra_files={"metadata.json": "{}"})
    program, _ = load_program(path)
    assert torch.equal(program.module()(images), Several()(images))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["example", "expression"])
def test_torch_alone_would_have_run_it(what: str, whole: Path, tmp_path: Path, mark: Path) -> None:
    files = members(whole)
    if what == "example":
        files[EXAMPLE] = pickled(mark)
    else:
        files = edited(files, MODEL, lambda tree: symbols(tree).update(expr_str=python(mark)))
    path = write(tmp_path / "model.pt2", files)
    try:
        torch.export.load(path)
    except Exception as error:  # having run it, torch may go on or not
        print(error)
    assert mark.exists(), (
        f"torch {torch.__version__} no longer runs this; is the check still needed? {os.listdir(tmp_path)}"
    )

"""Reads ``.pt2`` files of anybody without running anything in them.

``torch.export.load`` is not made for files of strangers: it unpickles, evaluates texts as Python, imports what names say and runs
compiled code that a file brings along. So it is never given the file, but a copy that holds nothing else than tensors as plain
bytes, numbers, plain names, sums and products of sizes, and operators of torch's own list. What does not fit is refused.
"""

from __future__ import annotations

import ast
import io
import json
import operator
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gkd_bench.errors import GkdBenchError
from gkd_bench.export.facts import METADATA_FILE

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_MODEL = "models/model.json"
_EXAMPLE = "data/sample_inputs/model.pt"  # pickled; replaced by nothing, which torch takes for "none"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_FACTS = f"extra/{METADATA_FILE}"
_KNOWN = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(?:version|serialization_id)|data/weights/weight_[0-9]+"
    r"|data/constants/tensor_[0-9]+|" + "|".join(map(re.escape, (_MODEL, _EXAMPLE, *_CONFIGS, _FACTS)))
)
_OPERATOR = re.compile(r"torch\.ops\.aten\.(?P<name>[a-z0-9_]+)\.[A-Za-z0-9_]+")
_ARITHMETIC = frozenset({"add", "sub", "mul", "floordiv", "mod", "neg", "gt", "ge", "lt", "le", "eq", "ne"})
_TOUCH_FILES = frozenset({"from_file", "save"})  # of all operators of the list
_SIZES = frozenset({
    "Add", "Mul", "FloorDiv", "CleanDiv", "Mod", "PythonMod", "ModularIndexing", "Max", "Min", "StrictGreaterThan",
    "GreaterThan", "StrictLessThan", "LessThan", "Equality", "Unequality", "And", "Or", "Not",
})  # fmt: skip
_LONGEST = 20_000  # characters of a text
_LARGEST = 2**63

# ---------------------------------------------------------------- texts, by the key that they stand under


def _named(pattern: str) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text) is not None


_IDENTIFIER = _named(r"[A-Za-z_][A-Za-z0-9_]*")  # becomes a name in code that torch writes and runs
_DOTTED = _named(r"(?:[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)?")
_NUMBER_WORD = _named(r"-?Infinity|NaN")


def _is_target(text: str) -> bool:
    module, _, name = text.partition(".")
    if module == "_operator":
        return name in _ARITHMETIC
    found = _OPERATOR.fullmatch(text)
    return found is not None and "__" not in text and found["name"] not in _TOUCH_FILES


def _is_size(text: str) -> bool:
    """Whether it is an expression of sizes and nothing else: torch hands it to sympy, which evaluates it as Python."""
    try:
        return _is_size_node(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_size_node(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    if node.func.id == "Symbol":
        return _is_symbol(node)
    if node.keywords:
        return False
    if node.func.id == "Integer":
        return len(node.args) == 1 and _is_integer(node.args[0])
    return node.func.id in _SIZES and all(map(_is_size_node, node.args))


def _is_symbol(node: ast.Call) -> bool:
    """``Symbol('s14', positive=True, integer=True)``."""
    flags = [one.value for one in node.keywords]
    plain = all(isinstance(flag, ast.Constant) and isinstance(flag.value, bool) for flag in flags)
    if not plain or len(node.args) != 1 or not isinstance(node.args[0], ast.Constant):
        return False
    name = node.args[0].value
    return isinstance(name, str) and re.fullmatch(r"[a-z]+[0-9]+", name) is not None


def _is_integer(node: ast.expr) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else node
    return isinstance(inner, ast.Constant) and type(inner.value) is int and inner.value < _LARGEST


def _is_layout_of_arguments(text: str) -> bool:
    """A tree of tuples, lists and dicts; other types would be looked up by their names."""
    try:
        version, tree = json.loads(text)
    except (ValueError, TypeError):
        return False
    return version == 1 and _is_argument(tree)


def _is_argument(tree: Any) -> bool:
    if not isinstance(tree, dict) or tree.keys() != {"type", "context", "children_spec"}:
        return False
    known = tree["type"] in (None, "builtins.tuple", "builtins.list", "builtins.dict")
    return known and tree["context"] in (None, "null", "[]") and all(map(_is_argument, tree["children_spec"]))


_TEXTS: Mapping[str, Callable[[str], bool]] = {
    "target": _is_target,
    "expr_str": _is_size,
    "in_spec": _is_layout_of_arguments,
    "out_spec": _is_layout_of_arguments,
    **dict.fromkeys(("name", "as_name", "forward_arg_names"), _IDENTIFIER),
    **dict.fromkeys(("fqn", "parameter_name", "buffer_name", "tensor_constant_name"), _DOTTED),
    **dict.fromkeys(("as_float", "as_floats", "min_val", "max_val"), _NUMBER_WORD),
    "as_string": str.isprintable,
    "path_name": _named(r"(?:weight|tensor)_[0-9]+"),
    "type": _named("cpu"),
    "torch_version": _named(r"[0-9A-Za-z.+-]+"),
    "verifiers": _named(r"[A-Z_]+"),
}
_BLOCKS = frozenset({
    "graph_module", "graph", "inputs", "outputs", "nodes", "arg", "kind", "is_hop_single_tensor_return", "as_tensor",
    "as_tensors", "as_optional_tensor", "as_optional_tensors", "as_none", "as_int", "as_ints", "as_bool", "as_bools",
    "as_sym_int", "as_sym_ints", "as_sym_float", "as_sym_bool", "as_expr", "hint", "as_scalar_type",
    "as_memory_format", "as_layout", "as_device", "index", "tensor_values", "sym_int_values", "sym_bool_values",
    "sym_float_values", "dtype", "sizes", "strides", "storage_offset", "layout", "device", "requires_grad",
    "is_single_tensor_return", "signature", "input_specs", "output_specs", "parameter", "buffer", "persistent",
    "tensor_constant", "user_input", "user_output", "buffer_mutation", "module_call_graph", "opset_version", "aten",
    "range_constraints", "schema_version", "major", "minor", "config", "is_param", "tensor_meta",
})  # fmt: skip
_BY_NAME = {"config": _DOTTED} | dict.fromkeys(
    ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values", "range_constraints"), _IDENTIFIER
)
"""Blocks whose keys are names -> what these may be."""


class _Refused(Exception):
    """The file holds something that only a stranger's would; the argument says what."""


def _cleaned(value: Any, key: str) -> Any:
    """The value that stands under a key, known to be harmless. Raises _Refused."""
    if isinstance(value, dict):
        return {name: _member(key, name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item, key) for item in value]
    if isinstance(value, str) and not (len(value) <= _LONGEST and key in _TEXTS and _TEXTS[key](value)):
        raise _Refused(f"{key}: {value[:60]!r}")
    return value


def _member(key: str, name: str, value: Any) -> Any:
    if key in _BY_NAME:
        if not _BY_NAME[key](name) or not isinstance(value, dict):
            raise _Refused(f"{key}: {name[:60]!r}")
        return _cleaned(value, "")
    if name == "metadata":  # where each operator comes from: for people only
        return {}
    if name == "use_pickle" and value is False:
        return value
    if name not in _TEXTS and name not in _BLOCKS and value not in ({}, [], None):
        raise _Refused(f"{name}: {str(value)[:60]!r}")
    return _cleaned(value, name)


# ---------------------------------------------------------------- the archive


def load_program(path: Path) -> tuple[ExportedProgram, str]:
    """The program of a ``.pt2`` file and the text of its facts, which is empty where it has none.

    Raises:
        GkdBenchError: torn, foreign, or with anything in it that ``gkd-bench export`` does not write.
    """
    import torch

    try:
        members = _members(path.read_bytes())
        copy = _copy(members)
    except _Refused as error:
        raise GkdBenchError(
            f"{path}: is not loaded, since `gkd-bench export` writes no such thing ({error}): such a file could run any program; "
            "use the .onnx file, or load it with torch yourself if you trust who made it"
        ) from None
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise _broken(path, error) from error
    try:
        program = torch.export.load(io.BytesIO(copy))
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise _broken(path, error) from error
    _require_operators(path, program)
    return program, members.get(_FACTS, b"").decode(errors="replace")


def _members(content: bytes) -> dict[str, bytes]:
    """Name without the archive's own folder -> bytes. Raises _Refused for names that export does not write."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        found: dict[str, bytes] = {}
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            if not _KNOWN.fullmatch(name) or name in found:
                raise _Refused(f"file {info.filename[:60]!r}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(content):
                raise _Refused(f"file {info.filename[:60]!r}, compressed")
            found[name] = archive.read(info)
    return found


def _copy(members: Mapping[str, bytes]) -> bytes:
    """An archive of what is known to be harmless. Raises _Refused."""
    files = {**members, _EXAMPLE: b""}
    for name in (_MODEL, *_CONFIGS):
        files[name] = json.dumps(_cleaned(json.loads(members[name]), "")).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(f"model/{name}", content)
    return made.getvalue()


def _require_operators(path: Path, program: ExportedProgram) -> None:
    """Whatever the names of operators led to, they must be operators."""
    from torch._ops import OpOverload

    known = {operator.getitem, *(getattr(operator, name) for name in _ARITHMETIC)}  # getitem: one of several results
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    strange = [call for call in calls if not isinstance(call, OpOverload) and call not in known]
    if strange:
        raise GkdBenchError(f"{path}: is not loaded, since {strange[0]} is no operator of torch; use the .onnx file")


def _broken(path: Path, error: Exception) -> GkdBenchError:
    text = str(error).strip().splitlines()
    words = f"{type(error).__name__}: {text[0] if text else 'no message'}"[:300]
    return GkdBenchError(f"{path}: torch.export cannot load it ({words}); it is torn, or no .pt2 file at all")

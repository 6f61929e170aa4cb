"""What an artefact is made of: its files as bytes, and the manifest that vouches for them."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from gkd_bench.errors import LostArtefact, StoreError
from gkd_bench.store.node import StageNode, canonical_json
from gkd_bench.store.records import encode_records

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
RECORDS = "records.jsonl"
TENSOR_SUFFIX = ".safetensors"
MANIFEST_FORMAT = 1

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{1,127}")
_NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=@+-]{0,127}")
_PACKAGES = ("gkd_bench", "numpy", "opencv-python-headless", "ray", "safetensors", "torch")
_PLAIN = (str, int, float, bool, type(None))


@dataclass
class Draft:
    """What a stage has made and wants to publish.

    Attributes:
        tensors: name -> state (parameter name -> tensor); each becomes one safetensors file.
        files: relative name -> content, such as pictures. ``a/b.png`` is allowed, ``..`` and absolute names are not.
        records: flat records, see :func:`gkd_bench.store.records.encode_records`.
        summary: small JSON values that planning and reports read without opening the artefact's files.
    """

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def is_key(key: str) -> bool:
    """Whether ``key`` may name an artefact: safe as a file name on every system."""
    return _KEY.fullmatch(key) is not None


def check_key(key: str) -> str:
    """``key`` itself when :func:`is_key`; StoreError otherwise."""
    if not is_key(key):
        raise StoreError(f"{key!r} is not an artefact key: letters, digits, '-' and '_' only, 2 to 128 of them")
    return key


def pack(node: StageNode, draft: Draft) -> dict[str, bytes]:
    """All files of an artefact, manifest last.

    Raises:
        StoreError: unsafe or reserved names (all listed), records that are not flat JSON, a summary that is not JSON.
    """
    _check_names(draft)
    files = {f"{name}{TENSOR_SUFFIX}": _encode_tensors(state) for name, state in draft.tensors.items()}
    files |= draft.files
    if draft.records:
        files[RECORDS] = encode_records(draft.records)
    files[MANIFEST] = _encode_manifest(node, draft.summary, files)
    return files


def read_manifest(content: bytes, key: str, removal: str) -> dict[str, Any]:
    """The manifest in ``content``; for ``removal`` see :func:`corrupt`.

    Raises:
        StoreError: not JSON, not of this key, of a newer format, or changed since it was written.
    """
    try:
        manifest: dict[str, Any] = json.loads(content)
        checksum = manifest.pop("checksum")
        whole = checksum == sha256(canonical_json(manifest).encode())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise corrupt(key, MANIFEST, f"torn or not JSON ({error})", removal) from error
    if not whole:
        raise corrupt(key, MANIFEST, "does not match its own checksum", removal)
    if manifest["format"] > MANIFEST_FORMAT:
        raise StoreError(
            f"artefact {key}: format {manifest['format']} is newer than {MANIFEST_FORMAT}; update gkd_bench"
        )
    if manifest["key"] != key:
        raise corrupt(key, MANIFEST, f"belongs to {manifest['key']}", removal)
    if strange := [name for name in manifest["files"] if not _is_name(name)]:
        raise corrupt(key, MANIFEST, f"names a file elsewhere, {strange[0]!r}", removal)
    return manifest


def file_problem(content: bytes | None, expected: Mapping[str, Any]) -> str | None:
    """What is wrong with a file's bytes (None = it is missing), or None when they match the manifest's entry."""
    if content is None:
        return "missing"
    if len(content) != expected["bytes"]:
        return f"torn: {len(content)} bytes, not {expected['bytes']}"
    if sha256(content) != expected["sha256"]:
        return "does not match its checksum"
    return None


def corrupt(key: str, name: str, problem: str, removal: str) -> LostArtefact:
    """The error for a broken file of an artefact; ``removal``: shell command that removes the artefact."""
    advice = "delete the artefact and run the sweep again, which recomputes it"
    return LostArtefact(key, f"artefact {key}, file {name}: {problem}; {advice}: {removal}")


def sha256(content: bytes) -> str:
    """Hex SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()


def decode_tensors(content: bytes) -> dict[str, Tensor]:
    """State of a safetensors file, on the CPU."""
    from safetensors.torch import load

    return load(content)


def encode_checkpoint(state: Mapping[str, Any]) -> bytes:
    """A checksum line and ``torch.save(state)``.

    Raises:
        StoreError: ``state`` holds something that ``torch.load(weights_only=True)`` could not read back (all listed).
    """
    import torch

    state = dict(state)
    problems = _unsafe_values(state, "state")
    if problems:
        raise StoreError("\n".join(["checkpoint holds values that cannot be read back safely:", *problems]))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return sha256(payload).encode() + b"\n" + payload


def decode_checkpoint(content: bytes) -> dict[str, Any]:
    """The state that :func:`encode_checkpoint` wrote, on the CPU. Raises StoreError when ``content`` is damaged."""
    import torch

    digest, _, payload = content.partition(b"\n")
    if digest != sha256(payload).encode():
        raise StoreError("torn, or does not match its checksum")
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def _is_name(name: str) -> bool:
    """Whether a file of that name lies in the artefact's own folder, on every system."""
    return all(map(_NAME_PART.fullmatch, name.split("/")))


def _check_names(draft: Draft) -> None:
    names = [*draft.files, *(f"{name}{TENSOR_SUFFIX}" for name in draft.tensors)]
    problems = [f"  {name!r}: unsafe name" for name in names if not _is_name(name)]
    reserved = [name for name in draft.files if name in (MANIFEST, RECORDS) or name.endswith(TENSOR_SUFFIX)]
    problems += [f"  {name!r}: reserved for the store" for name in reserved]
    if problems:
        allowed = "relative names of letters, digits and _.=@+- are allowed, '/' between folders"
        raise StoreError("\n".join([f"artefact files cannot be named so ({allowed}):", *problems]))


def _encode_tensors(state: Mapping[str, Tensor]) -> bytes:
    """Safetensors bytes; cloned first, since the format refuses tensors that share memory (tied weights, views)."""
    import torch
    from safetensors.torch import save

    return save({k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()})


def _encode_manifest(node: StageNode, summary: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    manifest = {
        "format": MANIFEST_FORMAT,
        "key": node.key,
        "node": node.to_json(),
        "summary": dict(summary),
        "files": {name: {"bytes": len(content), "sha256": sha256(content)} for name, content in files.items()},
        "versions": package_versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        manifest["checksum"] = sha256(canonical_json(manifest).encode())
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"summary of {node} is not plain finite JSON ({error}); write None for undefined values"
        ) from error
    return (json.dumps(manifest, sort_keys=True, indent=1) + "\n").encode()


@cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a stage's numbers; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _unsafe_values(value: Any, where: str) -> list[str]:
    """Places of values other than tensors, plain scalars, and dicts, lists and tuples of them.

    Types are compared exactly: NumPy scalars are floats to ``isinstance``, and refused by ``weights_only``.
    """
    import torch

    if type(value) in (dict, OrderedDict):
        keys = [f"  {where}: key {k!r} is a {type(k).__name__}" for k in value if type(k) not in _PLAIN]
        return keys + [line for k, item in value.items() for line in _unsafe_values(item, f"{where}[{k!r}]")]
    if type(value) in (list, tuple):
        return [line for i, item in enumerate(value) for line in _unsafe_values(item, f"{where}[{i}]")]
    if isinstance(value, torch.Tensor) or type(value) in _PLAIN:
        return []
    return [f"  {where}: {type(value).__name__}"]

"""An exported file that is ready to run: ONNX through onnxruntime, or ``.pt2`` through torch, which is imported for it only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.windows import Floats, slide
from gkd_bench.errors import GkdBenchError
from gkd_bench.export.facts import INPUT, ONNX_FILE, OUTPUT, PT2_FILE, Facts, from_properties, from_text

if TYPE_CHECKING:
    import torch
    from onnxruntime import InferenceSession

EXTRA = "pip install 'gkd-bench[export]'"
_BATCH = 16


@dataclass(frozen=True)
class ModelFile:
    """An exported model.

    Attributes:
        path: its file.
        facts: what it says of itself.
        run: (batch, channels, height, width) float32 in [0, 1] -> (batch, foreground classes, height, width) probabilities.
    """

    path: Path
    facts: Facts
    run: Callable[[Floats], Floats]

    def probabilities(self, image: NDArray[np.uint8], size: tuple[int, int]) -> Floats:
        """What the model finds in one prepared image or slice, by windows and then resized bilinearly, as when it was scored.

        Args:
            image: (height, width) or, in colour, (height, width, 3) uint8, prepared.
            size: (height, width) to come out, that of the image before it was prepared.

        Returns:
            (foreground classes, *size) float32 in [0, 1].
        """
        facts, (height, width) = self.facts, size
        found = slide(image, facts.tile, self.run, facts.overlap, _BATCH, facts.blend)
        resized = [cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in found]
        return np.asarray(np.clip(np.stack(resized), 0.0, 1.0), np.float32)


def require_packages(*names: str) -> None:
    """Raise GkdBenchError when one of the packages of the extra ``export`` is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise GkdBenchError(f"{', '.join(missing)}: not installed; {EXTRA}")


def open_model(path: Path, device: str = "cpu") -> ModelFile:
    """Load an exported model.

    Args:
        path: ``.onnx``, ``.pt2``, or the folder of an export, of which the ONNX file is taken if it is there.
        device: ``cpu``, or ``cuda`` with an optional number.

    Raises:
        GkdBenchError: it is not there, of another kind, not a file of ``gkd-bench export``, or its packages are missing.
    """
    file = _file_of(path)
    if file.suffix == ".onnx":
        return _open_onnx(file, device)
    if file.suffix == ".pt2":
        return _open_pt2(file, device)
    raise GkdBenchError(f"{path}: a model is an .onnx file, a .pt2 file, or the folder that `gkd-bench export` wrote")


def _file_of(path: Path) -> Path:
    if path.is_dir():
        found = [path / name for name in (ONNX_FILE, PT2_FILE) if (path / name).is_file()]
        if not found:
            raise GkdBenchError(f"{path}: neither {ONNX_FILE} nor {PT2_FILE} is in this folder")
        return found[0]
    if not path.exists():
        raise GkdBenchError(f"{path}: there is no such model; `gkd-bench export` makes one")
    return path


# ---------------------------------------------------------------- ONNX


def _open_onnx(path: Path, device: str) -> ModelFile:
    require_packages("onnxruntime")
    session = _session(path, device)
    facts = from_properties(session.get_modelmeta().custom_metadata_map, str(path))

    def run(images: Floats) -> Floats:
        (found,) = session.run([OUTPUT], {INPUT: images})
        return np.asarray(found, np.float32)

    return ModelFile(path, facts, run)


def _session(path: Path, device: str) -> InferenceSession:
    import onnxruntime

    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    known = onnxruntime.get_available_providers()
    if not device.startswith(("cpu", "cuda")) or not set(wanted) <= set(known):
        raise GkdBenchError(f"--device {device}: this onnxruntime offers {', '.join(known)}; use cpu, or the .pt2 file")
    try:
        return onnxruntime.InferenceSession(str(path), providers=[*wanted, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an exception of its own for every way in which a file can be wrong
        raise GkdBenchError(f"{path}: onnxruntime cannot load it ({_first_line(error)})") from error


# ---------------------------------------------------------------- pt2


def _open_pt2(path: Path, device: str) -> ModelFile:
    import torch

    from gkd_bench.export.pt2_file import load_program

    program, text = load_program(path)
    facts = from_text(text, str(path))
    place = _torch_device(device)
    if place.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, place)
    module = program.module()

    def run(images: Floats) -> Floats:
        with torch.no_grad():
            found: Floats = module(torch.from_numpy(images).to(place)).cpu().numpy()
        return found

    return ModelFile(path, facts, run)


def _torch_device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise GkdBenchError(f"--device {name}: no device of torch; use cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise GkdBenchError(f"--device {name}: torch sees no GPU; use cpu")
    return device


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"[:300]

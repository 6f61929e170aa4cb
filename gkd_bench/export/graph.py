"""A segmentation network as a graph that any batch and any image size go through: torch.export, and ONNX made of that."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from gkd_bench.export.facts import INPUT, METADATA_FILE, OUTPUT, Facts
from gkd_bench.networks.base import SegmentationNetwork, class_probabilities

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

OPSET = 18
AXES = ("batch", None, "height", "width")
_BATCH, _SIZE = 5, (77, 101)  # no size is a multiple of a stride, or it would be taken for a rule
_LEAST_SIDE = 2


class Exportable(nn.Module):
    """Images (batch, channels, height, width) float32 in [0, 1] -> (batch, foreground classes, height, width) probabilities.

    The padding to the network's stride and the crop are gathers, since their sizes are then formulas of height and width
    that an exporter can keep; the network itself pads only as far as it must, with numbers. Values are the same.
    """

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Any height and width of at least 2."""
        height, width = images.shape[-2:]
        padded = _clamped(images, height, width, self.network.stride)
        probability = class_probabilities(self.network(padded))
        rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
        return probability[:, :, rows][:, :, :, columns]


def _clamped(images: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Images whose last row and column are repeated up to multiples of ``stride``."""
    rows, columns = (
        torch.arange((size + stride - 1) // stride * stride, device=images.device).clamp(max=size - 1)
        for size in (height, width)
    )
    return images[:, :, rows][:, :, :, columns]


def export_program(network: SegmentationNetwork) -> ExportedProgram:
    """A copy of the network with a symbolic batch, height and width, on the CPU and in eval mode."""
    plain = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    side = {0: Dim("batch", min=1), 2: Dim("height", min=_LEAST_SIDE), 3: Dim("width", min=_LEAST_SIDE)}
    shape = torch.Size((_BATCH, network.in_channels, *_SIZE))
    example = torch.linspace(0, 1, shape.numel()).reshape(shape)
    with _any_size(), _quiet():
        program = torch.export.export(
            Exportable(plain).eval(),  # channels last would make rules of sizes
            (example,),
            dynamic_shapes=({**side},),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of the machine that exported
    return program


def least_side(program: ExportedProgram, network: SegmentationNetwork) -> int:
    """Smallest height and width that the program takes: 2, or more than one stride where its bottleneck needs two positions."""
    try:
        program.module()(torch.zeros(1, network.in_channels, _LEAST_SIDE, _LEAST_SIDE))
    except (RuntimeError, AssertionError):
        return network.stride + 1
    return _LEAST_SIDE


def save_program(program: ExportedProgram, facts: Facts, path: Path) -> None:
    """Write a ``.pt2`` file with the facts inside, as the extra file ``metadata.json``."""
    with _quiet():
        torch.export.save(program, path, extra_files={METADATA_FILE: facts.to_text()})


def onnx_model(program: ExportedProgram, facts: Facts) -> ModelProto:
    """The program as an ONNX model with named dynamic axes and the facts as its metadata."""
    with _any_size(), _quiet():
        made = torch.onnx.export(
            _spelled(program),
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert made is not None
    model: ModelProto = made.model_proto
    _strip(model)
    _name_axes(model)
    for name, text in facts.to_properties().items():
        model.metadata_props.add(key=name, value=text)
    return model


# ---------------------------------------------------------------- operators that ONNX lacks for symbolic sizes


def _spelled(program: ExportedProgram) -> ExportedProgram:
    """The program without the operators of the list below; most networks have none of them, and need no rewriting."""
    table = _spelled_out()
    needed = any(node.target in table for node in program.graph.nodes)
    return program.run_decompositions(table) if needed else program


def _spelled_out() -> dict[Any, Callable[..., Any]]:
    """Operator -> the same in operators that ONNX has whatever the sizes are."""
    aten = torch.ops.aten
    return {
        aten.adaptive_avg_pool2d.default: pool_to_grid,
        aten._adaptive_avg_pool2d.default: pool_to_grid,
        aten.remainder.Scalar: floored_remainder,
    }


def pool_to_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """``F.adaptive_avg_pool2d`` as two matrix products: (..., h, w) -> (..., *grid)."""
    height, width = features.shape[-2:]
    rows, columns = _bins(height, grid[0], features), _bins(width, grid[1], features)
    return rows @ features @ columns.transpose(0, 1)


def floored_remainder(values: Tensor, divisor: int) -> Tensor:
    """``torch.remainder`` by its definition; the divisor may be a symbol."""
    return values - torch.div(values, divisor, rounding_mode="floor") * divisor


def _bins(size: int, count: int, like: Tensor) -> Tensor:
    """(count, size) weights: bin ``i`` is the mean of floor(i size / count) to ceil((i + 1) size / count) - 1."""
    bins, places = torch.arange(count)[:, None], torch.arange(size)[None]
    start = torch.div(bins * size, count, rounding_mode="floor")
    end = torch.div((bins + 1) * size + count - 1, count, rounding_mode="floor")
    inside = ((places >= start) & (places < end)).to(like.dtype)
    return inside / (end - start).to(like.dtype)


# ---------------------------------------------------------------- the ONNX file


def _strip(model: ModelProto) -> None:
    """Leave out where each node came from: paths of the machine that exported, and most of the file."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for function in model.functions:
        del function.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]


def _name_axes(model: ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, AXES, strict=True):
            if name is not None:
                axis.dim_param = name


# ---------------------------------------------------------------- torch's switches


@contextmanager
def _any_size() -> Iterator[None]:
    """Sizes that happen to be 1, such as a bottleneck's of a small image, are no reason for a graph of their own."""
    from torch.fx.experimental import _config

    # torch.onnx sets the same switch; there is no public name for it yet.
    with _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that are not needed and on torch's own deprecations."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)

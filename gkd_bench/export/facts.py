"""What an exported model says of itself: everything needed to feed it as the benchmark did. Needs neither torch nor a store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gkd_bench.config.data import Prepare, Volumes
from gkd_bench.data.domain import Modality
from gkd_bench.data.windows import Blend
from gkd_bench.errors import GkdBenchError

SCHEMA = 2
"""Raised when an older reader could misread a newer file."""
PREFIX = "gkd_bench."
"""Start of the names under which the facts stand in an ONNX file."""
INPUT, OUTPUT = "images", "probability"
METADATA_FILE, CARD_FILE, ONNX_FILE, PT2_FILE = "metadata.json", "README.md", "model.onnx", "model.pt2"

_Settings = TypeVar("_Settings", Prepare, Volumes)


def input_form(channels: int = 1, picture: str = "image") -> str:
    """Shape, type and range of the input: grey, or red, green and blue."""
    values = "grey level" if channels == 1 else "red, green and blue"
    return f"(batch, {channels}, height, width) float32 in [0, 1]: {values} of the prepared {picture} / 255"


def output_form(classes: Sequence[str] = ()) -> str:
    """Shape, type and range of the output, by the names of the foreground classes."""
    if len(classes) < 2:
        return "(batch, 1, height, width) float32 in [0, 1]: probability of the foreground"
    return (
        f"(batch, {len(classes)}, height, width) float32 in [0, 1]: probabilities of {', '.join(classes)}; what they lack of 1 "
        "is the background's"
    )


class Network(BaseModel):
    """The network.

    Attributes:
        name, width: its name in the registry and its width multiplier.
        stride: pixels per position of its bottleneck; the file pads its input to multiples of it by itself.
        least_side: smallest height and width that the file takes, pixels.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    width: float
    stride: int
    least_side: int


class Working(BaseModel):
    """The pixel scale of the source domain, all in working pixels.

    Attributes:
        factor: working pixels per native pixel of the source; of volumes the median.
        fov_width: typical width of the field of view; of volumes the median of a slice's longer side.
        vessel_width: nominal mean width of vessels; 0 = unknown.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    factor: float
    fov_width: float
    vessel_width: float


class Facts(BaseModel):
    """Metadata of an exported model.

    Attributes:
        schema_version: version of this description.
        package_version: version of the package that wrote the file.
        sweep, task, source, method, seed: the training.
        key: content key of the training.
        variant, epoch: which of its epochs: ``best`` validation Dice, or the ``last``.
        network: what computes.
        tile: side of the windows that it was trained and scored on, pixels.
        overlap: smallest share of a window that its neighbour covers as well, as it was scored.
        threshold: probability from which a pixel is foreground; of several classes the most probable is taken.
        blend: how overlapping windows are averaged.
        largest_component: whether only the largest component of every class was kept when it was scored.
        classes: names of the foreground classes, number 1 first; none = the task's only one.
        channels: of the input: 1 or, in colour, 3.
        modality: what the pixels of the source are; see ``DomainCard``.
        prepare: how a photograph becomes its input: channel, CLAHE, intensity, scale rule and value; none for volumes.
        volumes: how a slice of CT or MR becomes its input: window, size or spacing; none for photographs.
        working: the source's pixel scale.
        factors: domain of the sweep -> working pixels per native pixel that it was scored with.
        rule: selection rule that took the epoch.
        chosen: how this training came to be exported, in words.
        input_form, output_form: shapes, types and ranges.
        versions: packages that wrote the files.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA
    package_version: str
    sweep: str
    task: str
    source: str
    method: str
    seed: int
    key: str
    variant: str
    epoch: int
    network: Network
    tile: int
    overlap: float
    threshold: float
    blend: Blend = "uniform"
    largest_component: bool = False
    classes: tuple[str, ...] = ()
    channels: int = 1
    modality: Modality = "photograph"
    prepare: Prepare | None = None
    volumes: Volumes | None = None
    working: Working
    factors: Mapping[str, float]
    rule: str
    chosen: str
    input_form: str = input_form()
    output_form: str = output_form()
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        """A short plain name: source, method and seed."""
        return f"{self.source}, {self.method}, seed {self.seed}"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the foreground classes, number 1 first; at least one."""
        return self.classes or (self.task or "foreground",)

    @property
    def photographs(self) -> Prepare:
        """How photographs are prepared. Raises GkdBenchError for a model of volumes."""
        return _required(self.prepare, f"{self.name}: is a model of volumes, not of photographs")

    @property
    def slices(self) -> Volumes:
        """How slices of volumes are prepared. Raises GkdBenchError for a model of photographs."""
        return _required(self.volumes, f"{self.name}: is a model of photographs, not of volumes")

    def to_text(self) -> str:
        """JSON text; ``from_text`` gives equal facts back."""
        return self.model_dump_json(indent=1) + "\n"

    def to_properties(self) -> dict[str, str]:
        """One text per fact, as ONNX files keep them: ``gkd_bench.<name>`` -> JSON."""
        tree = self.model_dump(mode="json")
        return {f"{PREFIX}{name}": json.dumps(value, sort_keys=True) for name, value in tree.items()}


def from_text(text: str | bytes, where: str) -> Facts:
    """Facts that ``to_text`` wrote. Raises GkdBenchError for anything else, naming ``where``."""
    try:
        return _checked(json.loads(text), where)
    except ValueError as error:
        raise _foreign(where, str(error)) from error


def from_properties(properties: Mapping[str, str], where: str) -> Facts:
    """Facts that ``to_properties`` wrote. Raises GkdBenchError for anything else, naming ``where``."""
    try:
        found = {k.removeprefix(PREFIX): json.loads(v) for k, v in properties.items() if k.startswith(PREFIX)}
    except ValueError as error:
        raise _foreign(where, str(error)) from error
    return _checked(found, where)


def _checked(tree: Any, where: str) -> Facts:
    version = tree.get("schema_version") if isinstance(tree, dict) else None
    if not isinstance(version, int):
        raise _foreign(where, "no schema_version")
    if version > SCHEMA:
        raise GkdBenchError(
            f"{where}: written by a newer gkd-bench ({tree.get('package_version', 'unknown')}, schema {version}); update "
            "this one, or export the model again"
        )
    try:
        return Facts.model_validate(tree)
    except ValidationError as error:
        raise _foreign(
            where, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        ) from error


def _required(settings: _Settings | None, problem: str) -> _Settings:
    if settings is None:
        raise GkdBenchError(problem)
    return settings


def _foreign(where: str, why: str) -> GkdBenchError:
    return GkdBenchError(
        f"{where}: not a model of `gkd-bench export`, its metadata cannot be read ({why}); give model.onnx, model.pt2 or the "
        "folder that the export wrote"
    )

"""What a prepared domain says of itself: its photographs or stacks, how they were prepared, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from gkd_bench.data.domain import Spacing
from gkd_bench.data.splits import Split

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""A name that cannot lead out of its folder."""


class PreparedImage(BaseModel):
    """What is known of one image, a photograph or a slice; sizes are (height, width).

    Attributes:
        stack: the volume, or the loose slices of a patient, that a slice belongs to; empty for photographs.
        spacing: millimetres between slices, rows and columns; none for photographs and where unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    subject: str
    split: Split
    size: tuple[int, int]
    native_size: tuple[int, int]
    stack: str = ""
    spacing: Spacing | None = None


class PreparedStack(BaseModel):
    """What the manifest says of one stack.

    Attributes:
        part: how the names of its files begin.
        size, native_size: (height, width) of its slices.
        spacing: millimetres between slices, rows and columns; none where unknown, or where slices are no neighbours.
        foreground: ``1`` for every slice with foreground at the working scale, ``0`` for one without.
        window: value that became black, and value that became white.
        remark: how its orientation was found, if not from its header.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    subject: str
    split: Split
    part: FileName
    size: tuple[int, int]
    native_size: tuple[int, int]
    spacing: Spacing | None
    foreground: str
    window: tuple[float, float]
    remark: str = ""

    @property
    def slices(self) -> int:
        """Number of slices."""
        return len(self.foreground)

    def images(self) -> list[PreparedImage]:
        """Its slices."""
        common = self.model_dump(include={"subject", "split", "size", "native_size", "spacing"})
        return [
            PreparedImage.model_construct(name=f"{self.name}_{number:04d}", stack=self.name, **common)
            for number in range(self.slices)
        ]


class Manifest(BaseModel):
    """Description of a prepared domain.

    Attributes:
        factor: working pixels per native pixel; of stacks the median.
        fov_diameter: median extent of the field of view, native pixels; of stacks the median of the longer side.
        images: photographs; none in a domain of stacks.
        stacks: stacks; none in a domain of photographs.
        channels: of every image.
        classes: names of the labels' foreground classes, number 1 first; none = the only one there is.
        left_out: image or stack -> what is wrong with it.
        checksums: SHA-256 of each array file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str
    fingerprint: str
    settings: dict[str, Any]
    reader_version: int
    prepare_version: int
    factor: float
    fov_diameter: float
    images: tuple[PreparedImage, ...] = ()
    stacks: tuple[PreparedStack, ...] = ()
    channels: int = 1
    classes: tuple[str, ...] = ()
    left_out: dict[str, tuple[str, ...]] = {}
    checksums: dict[FileName, str]

    def everything(self) -> tuple[PreparedImage | PreparedStack, ...]:
        """Photographs or stacks."""
        return self.images or self.stacks


def thin_empty(rows: Sequence[int], filled: str, share: float) -> list[int]:
    """The rows that have foreground, and of the others, evenly spaced, so many that at most ``share`` of all are empty.

    Args:
        rows: slices, in order.
        filled: ``1`` for every slice of the domain with foreground.
        share: in [0, 1).
    """
    full = [row for row in rows if filled[row] == "1"]
    empty = [row for row in rows if filled[row] != "1"]
    count = min(len(empty), int(len(full) * share / (1 - share)))
    return sorted(full + [empty[(2 * i + 1) * len(empty) // (2 * count)] for i in range(count)])

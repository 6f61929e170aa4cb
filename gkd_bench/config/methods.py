"""The options of every distillation method: one block each, every default stated here."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from gkd_bench.config.block import Block, Fraction

ViewKind = Literal["hflip", "vflip", "rot90", "photometric", "noise_blur", "strong"]


GuideName = Literal["teacher", "tan", "san"]


class MethodOptions(Block):
    """Base of the options of a method.

    Attributes:
        guides: frozen networks the method consults; they become inputs of its distill stage.
    """

    guides: ClassVar[tuple[GuideName, ...]] = ()


class ScratchOptions(MethodOptions):
    """Student alone, continued with cross-entropy for as many steps as the distilled student gets."""


class KdOptions(MethodOptions):
    """Pixel-wise knowledge distillation (Hinton et al. 2015)."""

    guides: ClassVar[tuple[GuideName, ...]] = ("teacher",)

    weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 4.0


class GkdOptions(MethodOptions):
    """DCGD (intra, inter) and DICD (cross)."""

    guides: ClassVar[tuple[GuideName, ...]] = ("teacher", "tan", "san")

    intra: NonNegativeFloat = 0.1
    inter: NonNegativeFloat = 0.1
    cross: NonNegativeFloat = 0.3
    views: tuple[ViewKind, ...] = Field(("photometric", "noise_blur", "strong", "photometric"), min_length=1)
    graph_loss: Literal["mse", "softmax_kl"] = "mse"
    graph_temperature: PositiveFloat = 0.1
    inter_scope: Literal["batch", "views"] = "batch"
    standardise: bool = True
    divergence: Literal["kl", "ce", "mse"] = "kl"
    temperature: PositiveFloat = 1.0
    teacher_skip_drop: Fraction = 0.0
    view_statistics: Literal["frozen", "updated"] = Field(
        "frozen", description="the student's BatchNorm running statistics in passes of views and of rebuilt bottlenecks"
    )


class Methods(Block):
    """Methods of the sweep, each with its options. ``scratch`` is the fair student-alone row and is always there."""

    scratch: ScratchOptions = ScratchOptions()
    kd: KdOptions | None = None
    gkd: GkdOptions | None = None

    def chosen(self) -> dict[str, MethodOptions]:
        """The methods that the sweep asks for, in table order, with their options."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}

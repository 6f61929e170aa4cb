"""The options of every distillation method: one block each, every default stated here."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, ValidationError, model_validator

from gkd_bench.config.block import Block, Fraction

ViewKind = Literal["hflip", "vflip", "rot90", "photometric", "noise_blur", "strong"]


GuideName = Literal["teacher", "tan", "san"]
RESERVED_METHODS = frozenset({"teacher", "baseline", "p-sae", "tan", "san"})
"""Rows of a table that are no methods."""


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


class Variant(Block):
    """A row of an ablation: method ``of`` with some of its options changed, everything else as that method has it.

    Searched options of the method are taken over before the changes are made.
    """

    of: str
    set: dict[str, Any] = Field(min_length=1)


class Methods(Block):
    """Methods of the sweep, each with its options. ``scratch`` is the fair student-alone row and is always there."""

    scratch: ScratchOptions = ScratchOptions()
    kd: KdOptions | None = None
    gkd: GkdOptions | None = None
    variants: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Variant] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _variants_are_possible(self) -> Self:
        for name, variant in self.variants.items():
            if name in RESERVED_METHODS or name in type(self).model_fields:
                raise ValueError(f"variants.{name}: the name is taken; choose another")
            if variant.of not in self._plain():
                known = ", ".join(self._plain())
                raise ValueError(f"variants.{name}.of: {variant.of!r} is not a method of this sweep; allowed: {known}")
            self._options(name)
        return self

    def chosen(self) -> dict[str, MethodOptions]:
        """The methods that the sweep asks for, in table order, variants behind them, with their options."""
        return self._plain() | {name: self._options(name) for name in self.variants}

    def base_of(self, name: str) -> str:
        """The method that a variant changes; a method itself."""
        return self.variants[name].of if name in self.variants else name

    def _plain(self) -> dict[str, MethodOptions]:
        names = [name for name in type(self).model_fields if name != "variants"]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _options(self, name: str) -> MethodOptions:
        variant = self.variants[name]
        base = self._plain()[variant.of]
        try:
            return type(base).model_validate({**base.model_dump(), **variant.set})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"variants.{name}.set.{place}: {first['msg']}") from None

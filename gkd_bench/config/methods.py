"""The methods of a sweep, the controls that stand beside them, and the rows of an ablation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, ValidationError, model_validator

from gkd_bench.config import method_options as options
from gkd_bench.config.block import Block
from gkd_bench.config.method_options import METHOD_OPTIONS, MethodOptions

Control = Literal["bn_views", "scratch_photometric", "kd_photometric"]
RESERVED_METHODS = frozenset({"teacher", "baseline", "p-sae", "tan", "san"})
"""Rows of a table that are no methods."""


class Network(Block):
    """A registered segmentation network and its width multiplier (1.0 = the published size)."""

    name: str
    width: PositiveFloat = 1.0


class Variant(Block):
    """A row of an ablation: method ``of`` with something changed, everything else as that method has it.

    Searched options of the method are taken over before the changes are made.

    Attributes:
        of: a method of the sweep.
        set: options of the method.
        alignment: settings of ``stages.alignment``; blocks inside are changed, not replaced.
        student: another student network, whose own continuation it is compared with.
    """

    of: str
    set: dict[str, Any] = Field(default_factory=dict)
    alignment: dict[str, Any] = Field(default_factory=dict)
    student: Network | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not (self.set or self.alignment or self.student):
            raise ValueError("changes nothing; give set, alignment or student")
        return self


CONTROLS: dict[str, Variant] = {
    "scratch_photometric": Variant(of="scratch", set={"remedies": ["photometric"]}),
    "kd_photometric": Variant(of="kd", set={"remedies": ["photometric"]}),
}
"""Controls that are a method with a remedy; ``bn_views`` is a method of its own."""


class Methods(Block):
    """Methods of the sweep, each with its options. ``scratch`` is the fair student-alone row and is always there.

    Attributes:
        controls: rows without which a gain can be an illusion; all of them unless the sweep says otherwise.
        variants: rows of an ablation.
    """

    scratch: options.ScratchOptions = options.ScratchOptions()
    bn_views: options.BnViewsOptions | None = None
    kd: options.KdOptions | None = None
    fitnet: options.FitnetOptions | None = None
    at: options.AtOptions | None = None
    fsp: options.FspOptions | None = None
    skd: options.SkdOptions | None = None
    ifvd: options.IfvdOptions | None = None
    cwd: options.CwdOptions | None = None
    dsd: options.DsdOptions | None = None
    cirkd: options.CirkdOptions | None = None
    coco: options.CocoOptions | None = None
    graph_flow: options.GraphFlowOptions | None = None
    emkd: options.EmkdOptions | None = None
    xded: options.XdedOptions | None = None
    ccdistill: options.CcdistillOptions | None = None
    diga: options.DigaOptions | None = None
    gkd: options.GkdOptions | None = None
    controls: tuple[Control, ...] = ("bn_views", "scratch_photometric", "kd_photometric")
    variants: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Variant] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _variants_are_possible(self) -> Self:
        for name, variant in self.variants.items():
            if name in RESERVED_METHODS or name in METHOD_OPTIONS or name in CONTROLS:
                raise ValueError(f"variants.{name}: the name is taken; choose another")
            if variant.of not in self.plain():
                known = ", ".join(self.plain())
                raise ValueError(f"variants.{name}.of: {variant.of!r} is not a method of this sweep; allowed: {known}")
            self._options(name, variant)
        return self

    def chosen(self) -> dict[str, MethodOptions]:
        """The rows that the sweep asks for with their options: methods in table order, then controls and variants."""
        return self.plain() | {name: self._options(name, variant) for name, variant in self.rows().items()}

    def plain(self) -> dict[str, MethodOptions]:
        """The methods, ``bn_views`` among them when it is a control, without variants."""
        found = {name: value for name in METHOD_OPTIONS if (value := getattr(self, name)) is not None}
        if "bn_views" in self.controls and "bn_views" not in found:
            found = {name: found[name] for name in ("scratch",)} | {"bn_views": options.BnViewsOptions()} | found
        return found

    def rows(self) -> Mapping[str, Variant]:
        """What stands beside the methods: controls that are a method with a remedy, and variants."""
        return {name: CONTROLS[name] for name in CONTROLS if name in self.controls} | self.variants

    def base_of(self, name: str) -> str:
        """The method that a control or variant changes; a method itself."""
        rows = self.rows()
        return rows[name].of if name in rows else name

    def _options(self, name: str, variant: Variant) -> MethodOptions:
        base = self.plain().get(variant.of) or METHOD_OPTIONS[variant.of]()
        try:
            return type(base).model_validate({**base.model_dump(), **variant.set})
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"variants.{name}.set.{place}: {first['msg']}") from None

"""The blocks of a sweep file that say where images are and how they become arrays."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from gkd_bench.config.block import Block, Fraction

CorruptionName = Literal["gamma", "contrast", "colour_cast", "blur", "noise", "resolution", "illumination"]
NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=40)]
Sampling = Literal["centred", "inside", "grid"]
MOST_CLASSES = 32

# ---------------------------------------------------------------- preparation


class Clahe(Block):
    """Contrast-limited adaptive histogram equalisation of the chosen channel."""

    clip: PositiveFloat = 2.0
    grid: PositiveInt = 8


class Scale(Block):
    """How the pixel scales of the domains are matched, so that the domain gap is not merely image size.

    ``vessel_width``: resize so that the domain's nominal mean vessel width (a constant of the data set's card) becomes
    ``value`` pixels. ``angular``: ``value`` pixels per degree of the camera's field of view. ``fov_width``: the field of
    view is ``value`` pixels wide. ``none``: native pixels; ``value`` must be left out.
    """

    rule: Literal["vessel_width", "angular", "fov_width", "none"] = "vessel_width"
    value: PositiveFloat | None = None

    @model_validator(mode="after")
    def _value_belongs_to_rule(self) -> Self:
        if self.rule == "none" and self.value is not None:
            raise ValueError("rule 'none' keeps native pixels and takes no value")
        return self


class Prepare(Block):
    """How photographs become the canonical 8-bit arrays. Part of every data fingerprint.

    ``channel: rgb`` keeps all three channels; networks then take three.
    """

    channel: Literal["green", "luminance", "rgb"] = "green"
    clahe: Clahe | None = Clahe()
    intensity: Literal["unit", "zscore"] = "unit"
    scale: Scale = Scale()


class Interval(Block):
    """Values that become black and white."""

    low: float
    high: float

    @model_validator(mode="after")
    def _has_a_width(self) -> Self:
        if self.high <= self.low:
            raise ValueError(f"high must be above low, found {self.low:g} ... {self.high:g}")
        return self


class Window(Interval):
    """Hounsfield units that become black and white, for CT."""

    low: float = -160.0
    high: float = 240.0


class Percentiles(Interval):
    """Percentiles of a volume's voxels above its smallest value that become black and white, for MR."""

    low: Annotated[float, Field(ge=0.0, le=100.0)] = 0.5
    high: Annotated[float, Field(ge=0.0, le=100.0)] = 99.5


class Volumes(Block):
    """How slices of CT and MR become the canonical 8-bit arrays. Part of their data fingerprint.

    ``size``: pixels of a slice's longer side; ``spacing``, if given, instead: millimetres per pixel, where a data set knows
    its own. ``empty_share``: share of slices without foreground among those that are trained on; all are scored.
    """

    window: Window = Window()
    percentiles: Percentiles = Percentiles()
    size: Annotated[int, Field(ge=32)] = 256
    spacing: PositiveFloat | None = None
    empty_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25


# ---------------------------------------------------------------- data sets of one's own


class Split(Block):
    """Shares of subjects in each split, dealt out by a seeded shuffle of their sorted names."""

    train: Fraction = 0.6
    val: Fraction = 0.2
    test: Fraction = 0.2
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"the shares must add up to 1, found {self.train + self.val + self.test:g}")
        return self


class Folder(Block):
    """A data set of one's own, told in the sweep file alone; ``gkd-bench data init FOLDER`` writes such a block.

    Attributes:
        path: its folder, below ``data.root`` unless absolute.
        title, source, terms: for readers of the report.
        kind: what one image file is: a ``photograph``, a single ``slice`` of CT or MR, or a whole ``volume`` (NIfTI, or
            a folder of DICOM files).
        modality: of slices and volumes: ``ct`` (Hounsfield units), ``mr`` or ``grey`` (8-bit levels, used as they are).
        images: files (or DICOM folders) below ``path``: a glob such as ``images/*.png``, or with ``{name}`` for the part that
            tells images apart, such as ``img{name}.nii.gz``; ``{folder}`` before it, if the names are unique in a folder
            only. Files that ``masks`` or ``fov`` fit are no images.
        masks: mask of each image; ``{name}`` stands for the image's name, by default its file name without its ending, ``*``
            for anything, ``.*`` at the end for any ending. A file that fits two names belongs to the longer one.
        fov: field-of-view masks of photographs, in the same way; none = computed, or everything where that finds nothing.
        subject: regular expression searched in the image's name, with a group ``(?P<subject>...)``; none = every image
            is a subject of its own. The wrong choice leaks: two images of one patient must share a subject.
        table: CSV file below ``path`` with the columns ``image`` (name), ``subject`` and, if wanted, ``split``; wins over
            ``subject`` and ``split``.
        split: shares of subjects, where the table does not say.
        names: what images and subjects are called in everything that is written: ``numbered`` (``image_012``, the twelfth of the
            files by name; ``subject_007``), since names of files may name patients; or ``kept``, where they are public.
        levels: class name -> grey levels that mean it in masks, ``background`` included (of masks with a colour palette: its
            numbers); none = one class, above 127 in pictures, above 0 in NIfTI and DICOM. Any other level is an error.
        spacing: of volumes, millimetres between slices, rows and columns, where files do not say.
        flip: axes of slices and volumes to turn round, so that the liver is on the left of the picture and the spine at its bottom.
        detail: mean width of the structures as a share of the field of view; needed by ``scale.rule: vessel_width``.
        camera_degrees: angle of the camera's field of view; needed by ``scale.rule: angular``.
    """

    path: str = Field(min_length=1)
    title: str = ""
    source: str = "the user's own"
    terms: str = "not stated"
    kind: Literal["photograph", "slice", "volume"] = "photograph"
    modality: Literal["ct", "mr", "grey"] = "grey"
    images: str = "images/*"
    masks: str = "masks/{name}.*"
    fov: str | None = None
    subject: str | None = None
    table: str | None = None
    split: Split = Split()
    names: Literal["numbered", "kept"] = "numbered"
    levels: dict[Name, tuple[NonNegativeInt, ...]] | None = Field(None, min_length=2, max_length=MOST_CLASSES + 1)
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    flip: tuple[Literal["rows", "columns"], ...] = ()
    detail: PositiveFloat | None = None
    camera_degrees: PositiveFloat | None = None

    @field_validator("subject")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groupindex
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
        if "subject" not in groups:
            raise ValueError("needs a group (?P<subject>...), the part of the name that tells the patient")
        return value

    @field_validator("path")
    @classmethod
    def _relative_stays_below(cls, value: str) -> str:
        if not value.startswith(("/", "~")) and ".." in re.split(r"[/\\]", value):
            raise ValueError(f"must stay below data.root; a folder elsewhere needs its absolute path, found {value!r}")
        return value

    @field_validator("images", "masks", "fov", "table")
    @classmethod
    def _stays_below(cls, value: str | None) -> str | None:
        if value is not None and (value.startswith(("/", "~", "\\")) or ".." in re.split(r"[/\\]", value)):
            raise ValueError(f"must stay below the folder, found {value!r}")
        return value

    @field_validator("images", "masks", "fov")
    @classmethod
    def _has_known_parts(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = re.findall(r"[{][^{}]*[}]?|[}]", value)
        if any(part not in ("{name}", "{folder}") for part in parts) or len(set(parts)) < len(parts):
            raise ValueError(f"may contain {{name}} and, before it, {{folder}}, each once; found {value!r}")
        if "**" in value or "{folder}" in value.partition("{name}")[2]:
            raise ValueError(f"must name every level of folders, {{folder}} before {{name}}; found {value!r}")
        return value

    @field_validator("masks", "fov")
    @classmethod
    def _names_the_image(cls, value: str | None) -> str | None:
        if value is not None and "{name}" not in value:
            raise ValueError("must contain {name}, the image's file name without its ending")
        return value

    @field_validator("levels")
    @classmethod
    def _levels_differ(cls, value: dict[str, tuple[int, ...]] | None) -> dict[str, tuple[int, ...]] | None:
        if value is None:
            return None
        if "background" not in value:
            raise ValueError("must name the grey levels of 'background' as well, so that no level is taken silently")
        every = [level for levels in value.values() for level in levels]
        if len(set(every)) < len(every):
            raise ValueError("gives one grey level to two classes")
        if empty := [name for name, levels in value.items() if not levels]:
            raise ValueError(f"gives no grey level to {', '.join(empty)}")
        return value

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> Self:
        photograph = self.kind == "photograph"
        foreign: tuple[str, ...] = ("flip", "spacing") if photograph else ("fov", "detail", "camera_degrees")
        foreign += ("spacing",) if self.kind == "slice" else ()
        if given := [name for name in foreign if getattr(self, name)]:
            raise ValueError(f"a {self.kind} takes no {' and no '.join(given)}; leave out what it does not have")
        return self

    @model_validator(mode="after")
    def _folders_go_together(self) -> Self:
        patterns = [pattern for pattern in (self.images, self.masks, self.fov) if pattern is not None]
        if len({"{folder}" in pattern for pattern in patterns}) > 1:
            raise ValueError("{folder} must be in images, masks and fov, or in none of them")
        return self


# ---------------------------------------------------------------- the block


class Stress(Block):
    """A fixed, seeded bank of scanner-like corruptions of a source's validation images; a stand-in for unseen scanners.

    Corruptions act on the raw images, before the domain's own preparation. ``images``: at most so many, evenly spaced.
    """

    corruptions: tuple[CorruptionName, ...] = Field(
        ("gamma", "contrast", "colour_cast", "blur", "noise", "resolution", "illumination"), min_length=1
    )
    strengths: tuple[Annotated[int, Field(ge=1, le=3)], ...] = Field((1, 2, 3), min_length=1)
    images: PositiveInt = 8
    seed: NonNegativeInt = 0


class Data(Block):
    """Where the domains are and how they are prepared.

    ``sampling``: where training tiles lie. ``centred``: their centre is anywhere in the field of view, images are mirrored
    at their borders. ``inside``: anywhere inside the image; a tile as large as the slice is the slice. ``grid``: on the
    cells of a grid that does not overlap, such as the 2 x 2 tiles of a slice.
    """

    root: str | None = Field(None, description="folder that holds the data sets' official folders; phantoms need none")
    domains: tuple[str, ...] = Field(min_length=1)
    folders: dict[Name, Folder] = Field(default_factory=dict, description="data sets of one's own, by domain name")
    classes: tuple[Name, ...] | None = Field(
        None,
        min_length=1,
        max_length=MOST_CLASSES,
        description="names of the foreground classes; none = the task's own one",
    )
    prepare: Prepare = Prepare()
    volumes: Volumes = Volumes()
    broken: Literal["stop", "skip"] = Field(
        "stop", description="what to do with images that are missing or broken: stop, or leave them out and list them"
    )
    tile: Annotated[int, Field(ge=32, multiple_of=16)] = 128
    sampling: Sampling = "centred"
    stress: Stress = Stress()

"""The options of every distillation method: one block each, every default stated here with where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from gkd_bench.config.block import Block, Fraction

ViewKind = Literal["hflip", "vflip", "rot90", "photometric", "noise_blur", "strong"]
PIXEL_ALIGNED: tuple[ViewKind, ...] = ("photometric", "noise_blur", "strong")
GuideName = Literal["teacher", "tan", "san"]
Tap = Literal["shallow", "bottleneck", "deep"]
Statistics = Literal["frozen", "updated"]
Remedy = Literal["photometric", "style", "swa", "bn_adapt"]
"""Generalisation baselines that need no teacher; any method can take them.

``photometric``: strong photometric augmentation of the student's training tiles. ``style``: random intensity curves,
random convolutions and style mixing of them. ``swa``: stochastic weight averaging over the last half of the training.
``bn_adapt``: batch statistics re-estimated on the target's unlabelled test images, at test time.
"""

SILENT_RATIO = 1e-3
"""Gradient norm of a term relative to cross-entropy's below which the term teaches nothing."""
AUTHORS_CODE = "the GKD authors' sister project Graph Flow"
OURS = "our choice"
OURS_MEASURED = "our measurement"


def moved_pixels(kinds: Sequence[ViewKind], method: str) -> str | None:
    """What is wrong with views for a method that compares them pixel by pixel; none where nothing is."""
    moved = sorted(set(kinds) - set(PIXEL_ALIGNED))
    if not moved:
        return None
    return f"{', '.join(moved)} moves pixels, and {method} compares them one by one; use {', '.join(PIXEL_ALIGNED)}"


class MethodOptions(Block):
    """Base of the options of a method.

    Attributes:
        guides: frozen networks the method consults; they become inputs of its distill stage.
        terms: loss term -> the option that is its weight; terms of weight zero are not computed.
        title: what tables show.
        paper: authors and year.
        port: what differs from the published method where that was made for another setting; else empty.
        default_from: where the default weights come from.
        compares_pixels: whether its ``views`` are compared pixel by pixel, so that none of them may move pixels.
    """

    guides: ClassVar[tuple[GuideName, ...]] = ()
    terms: ClassVar[dict[str, str]] = {}
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    port: ClassVar[str] = ""
    default_from: ClassVar[str] = OURS
    compares_pixels: ClassVar[bool] = False

    remedies: tuple[Remedy, ...] = Field((), description="generalisation baselines combined with the method")


class TeacherOptions(MethodOptions):
    """Base of the options of the methods that consult the teacher and nothing else."""

    guides: ClassVar[tuple[GuideName, ...]] = ("teacher",)


class ScratchOptions(MethodOptions):
    """Student alone, continued with cross-entropy for as many steps as the distilled student gets."""

    title: ClassVar[str] = "student alone"


class BnViewsOptions(MethodOptions):
    """Control: augmented views pass through the student's BatchNorm, without a loss on them."""

    title: ClassVar[str] = "student alone + BN views"

    views: tuple[ViewKind, ...] = Field(("photometric", "noise_blur", "strong", "photometric"), min_length=1)


class KdOptions(TeacherOptions):
    """Pixel-wise knowledge distillation."""

    terms: ClassVar[dict[str, str]] = {"kd": "weight"}
    title: ClassVar[str] = "KD"
    paper: ClassVar[str] = "Hinton et al. 2015"
    default_from: ClassVar[str] = f"weight: {AUTHORS_CODE}; temperature: EMKD"

    weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 4.0


class FitnetOptions(TeacherOptions):
    """Hints: the student's projected features match the teacher's."""

    terms: ClassVar[dict[str, str]] = {"hint": "weight"}
    title: ClassVar[str] = "FitNets"
    paper: ClassVar[str] = "Romero et al. 2015"
    port: ClassVar[str] = "published for image classification, as a training before the student's own; here beside it"
    default_from: ClassVar[str] = f"{OURS_MEASURED}, for an error relative to the teacher's features"

    weight: NonNegativeFloat = 0.03
    taps: tuple[Tap, ...] = Field(("bottleneck",), min_length=1)


class AtOptions(TeacherOptions):
    """Attention transfer."""

    terms: ClassVar[dict[str, str]] = {"attention": "weight"}
    title: ClassVar[str] = "AT"
    paper: ClassVar[str] = "Zagoruyko and Komodakis 2017"
    port: ClassVar[str] = "published for image classification; here on the maps of a segmentation network"
    default_from: ClassVar[str] = f"weight: {AUTHORS_CODE} and {OURS_MEASURED}; power: paper"

    weight: NonNegativeFloat = 1.0
    power: float = Field(2.0, ge=1.0)
    taps: tuple[Tap, ...] = Field(("shallow", "deep"), min_length=1)


class FspOptions(TeacherOptions):
    """Flow of the solution procedure: Gram matrices between two layers."""

    terms: ClassVar[dict[str, str]] = {"flow": "weight"}
    title: ClassVar[str] = "FSP"
    paper: ClassVar[str] = "Yim et al. 2017"
    port: ClassVar[str] = "published for image classification, for equal channels; here with learned 1x1 projections"
    default_from: ClassVar[str] = f"{OURS_MEASURED}, for an error relative to the teacher's matrix"

    weight: NonNegativeFloat = 0.03


class CriticOptions(Block):
    """The opponent of an adversarial term (WGAN-GP) and its own Adam optimiser."""

    lr: PositiveFloat = 4e-4
    gradient_penalty: NonNegativeFloat = 10.0
    channels: PositiveInt = 32


class SkdOptions(TeacherOptions):
    """Structured knowledge distillation: pixel-wise, pair-wise and, where its weight is not 0, holistic (adversarial)."""

    terms: ClassVar[dict[str, str]] = {"pixel": "pixel", "pair": "pair", "holistic": "holistic"}
    title: ClassVar[str] = "SKD"
    paper: ClassVar[str] = "Liu et al. 2019"
    default_from: ClassVar[str] = f"{AUTHORS_CODE} and {OURS_MEASURED}; 10 and 10 in the paper"

    pixel: NonNegativeFloat = 1.0
    pair: NonNegativeFloat = 0.1
    holistic: NonNegativeFloat = Field(0.0, description="0.1 in the paper, and about cross-entropy's gradient")
    pool_scale: Fraction = Field(0.5, gt=0.0, description="side of a pair-wise node, as a share of the feature map's")
    critic: CriticOptions = CriticOptions()


class IfvdOptions(TeacherOptions):
    """Intra-class feature variation distillation."""

    terms: ClassVar[dict[str, str]] = {"ifv": "weight", "pixel": "pixel"}
    title: ClassVar[str] = "IFVD"
    paper: ClassVar[str] = "Wang et al. 2020"
    default_from: ClassVar[str] = f"{AUTHORS_CODE} and {OURS_MEASURED}; 200 in the method's own code"

    weight: NonNegativeFloat = 1.0
    pixel: NonNegativeFloat = Field(0.0, description="pixel-wise distillation beside it, as in the paper's full loss")


class CwdOptions(TeacherOptions):
    """Channel-wise knowledge distillation on logits and, where its weight is not 0, on features."""

    terms: ClassVar[dict[str, str]] = {"logits": "weight", "features": "features"}
    title: ClassVar[str] = "CWD"
    paper: ClassVar[str] = "Shu et al. 2021"
    default_from: ClassVar[str] = f"weight: {OURS_MEASURED}, 3 in the paper; temperature: paper"

    weight: NonNegativeFloat = 1.0
    features: NonNegativeFloat = Field(0.0, description="50 in the paper; 1 is about cross-entropy's gradient")
    temperature: PositiveFloat = 4.0
    taps: tuple[Tap, ...] = Field(("deep",), min_length=1, description="the features")


class DsdOptions(TeacherOptions):
    """Double similarity distillation: pixel-wise and category-wise similarity."""

    terms: ClassVar[dict[str, str]] = {"pixel_similarity": "psd", "category_similarity": "csd"}
    title: ClassVar[str] = "DSD"
    paper: ClassVar[str] = "Feng et al. 2021"
    default_from: ClassVar[str] = f"{OURS_MEASURED}; temperature: CIRKD's code"

    psd: NonNegativeFloat = 0.3
    csd: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 4.0
    taps: tuple[Tap, ...] = Field(("shallow", "deep"), min_length=2, description="layers of the residual attention")


class CirkdOptions(TeacherOptions):
    """Cross-image relational distillation: in the batch, and against memory banks of pixels and regions."""

    terms: ClassVar[dict[str, str]] = {
        "pixel": "pixel", "batch": "batch", "memory_pixel": "memory_pixel", "memory_region": "memory_region",
    }  # fmt: skip
    title: ClassVar[str] = "CIRKD"
    paper: ClassVar[str] = "Yang et al. 2022"
    default_from: ClassVar[str] = "the authors' code; batch: our measurement (1 there)"

    pixel: NonNegativeFloat = 1.0
    batch: NonNegativeFloat = Field(
        0.3, description="1 in the authors' code, which pulls 12 to 21 times as hard as cross-entropy here"
    )
    memory_pixel: NonNegativeFloat = 0.1
    memory_region: NonNegativeFloat = 0.1
    temperature: PositiveFloat = 0.1
    bank: PositiveInt = Field(
        512, description="pixel embeddings and regions kept per class; 20000 and 2000 in the authors' code"
    )


class CocoOptions(TeacherOptions):
    """CoCo DistillNet: cross-layer correlations, and, where its weight is not 0, an adversarial term."""

    terms: ClassVar[dict[str, str]] = {"correlation": "weight", "adversarial": "adversarial"}
    title: ClassVar[str] = "CoCo"
    paper: ClassVar[str] = "Zou et al. 2021"
    port: ClassVar[str] = "reconstruction from the abstract: the criterion was never published; no paraphraser"
    default_from: ClassVar[str] = AUTHORS_CODE

    weight: NonNegativeFloat = 1.0
    adversarial: NonNegativeFloat = Field(0.0, description="0.1 in the authors' code")
    critic: CriticOptions = CriticOptions()


class GraphFlowOptions(TeacherOptions):
    """Graph Flow: how channel saliences change between layers."""

    terms: ClassVar[dict[str, str]] = {
        "vertices": "vertices", "edges": "edges", "pixel": "pixel", "adversarial": "adversarial",
    }  # fmt: skip
    title: ClassVar[str] = "Graph Flow"
    paper: ClassVar[str] = "Zou et al. 2022"
    port: ClassVar[str] = "reconstruction from the abstract: the criterion was never published; no paraphraser"
    default_from: ClassVar[str] = (
        "our measurement, for means (the authors' 1e-5 and 1e-8 belong to sums); pixel: the authors' code"
    )

    vertices: NonNegativeFloat = 1.0
    edges: NonNegativeFloat = 1.0
    pixel: NonNegativeFloat = 1.0
    adversarial: NonNegativeFloat = Field(0.0, description="0.1 in the authors' code")
    critic: CriticOptions = CriticOptions()


class EmkdOptions(TeacherOptions):
    """EMKD: prediction maps, importance maps and region affinity."""

    terms: ClassVar[dict[str, str]] = {"prediction": "pmd", "importance": "imd", "region": "rad"}
    title: ClassVar[str] = "EMKD"
    paper: ClassVar[str] = "Qin et al. 2021"
    default_from: ClassVar[str] = "prediction: the authors' code; importance, region: our measurement (0.9 there)"

    pmd: NonNegativeFloat = 0.1
    imd: NonNegativeFloat = Field(
        0.3, description="0.9 in the authors' code, 8 to 11 times as strong as cross-entropy here"
    )
    rad: NonNegativeFloat = Field(
        0.1, description="0.9 in the authors' code, 17 to 24 times as strong as cross-entropy here"
    )
    temperature: PositiveFloat = 4.0
    power: PositiveFloat = 4.0


class XdedOptions(TeacherOptions):
    """XDED: predictions of all styles of a class are pulled to their ensemble."""

    terms: ClassVar[dict[str, str]] = {"ensemble": "weight", "pixel": "pixel"}
    compares_pixels: ClassVar[bool] = True
    title: ClassVar[str] = "XDED"
    paper: ClassVar[str] = "Lee et al. 2022"
    port: ClassVar[str] = (
        "made for several source domains, without a teacher: "
        "samples are pixels, domains are photometric views, pixel-wise KD beside it, no UniStyle"
    )
    default_from: ClassVar[str] = "temperature: the authors' code; weight: our measurement (5 in the authors' code)"

    weight: NonNegativeFloat = Field(
        0.3, description="5 in the authors' code, 25 to 70 times as strong as cross-entropy here"
    )
    pixel: NonNegativeFloat = Field(1.0, description="pixel-wise distillation from the teacher beside it")
    temperature: PositiveFloat = 4.0
    views: tuple[ViewKind, ...] = Field(("photometric", "strong"), min_length=1)
    view_statistics: Statistics = "frozen"


class CcdistillOptions(TeacherOptions):
    """CCDistill: content and style differences between pairs of views of one image."""

    terms: ClassVar[dict[str, str]] = {"content": "content", "style": "style"}
    compares_pixels: ClassVar[bool] = True
    title: ClassVar[str] = "CCDistill"
    paper: ClassVar[str] = "Gao et al. 2022"
    port: ClassVar[str] = (
        "made for adaptation to night scenes with unlabelled target images: pairs are a tile and its photometric view"
    )

    content: NonNegativeFloat = 1.0
    style: NonNegativeFloat = 1.0
    views: tuple[ViewKind, ...] = Field(("strong",), min_length=1)
    view_statistics: Statistics = "frozen"


class DigaOptions(TeacherOptions):
    """DiGA's warm-up: symmetric distillation between clean and augmented views."""

    terms: ClassVar[dict[str, str]] = {"forward": "forward", "backward": "backward"}
    compares_pixels: ClassVar[bool] = True
    title: ClassVar[str] = "DiGA"
    paper: ClassVar[str] = "Shen et al. 2023"
    port: ClassVar[str] = (
        "made for adaptation with a moving average of the student as teacher: "
        "the trained teacher in its place, the warm-up alone, no mixing with target images"
    )
    default_from: ClassVar[str] = "the authors' code"

    forward: NonNegativeFloat = 0.5
    backward: NonNegativeFloat = 0.25
    views: tuple[ViewKind, ...] = Field(("strong",), min_length=1)
    view_statistics: Statistics = "frozen"


class GkdOptions(MethodOptions):
    """DCGD (intra, inter) and DICD (cross)."""

    guides: ClassVar[tuple[GuideName, ...]] = ("teacher", "tan", "san")
    terms: ClassVar[dict[str, str]] = {"intra": "intra", "inter": "inter", "cross": "cross"}
    title: ClassVar[str] = "GKD"
    paper: ClassVar[str] = "Qi et al. 2024"
    port: ClassVar[str] = "reconstruction: the authors published networks only"
    default_from: ClassVar[str] = "a prototype of ours; 1, 1, 1 with the preset paper_like"

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
    view_statistics: Statistics = Field(
        "frozen", description="the student's BatchNorm running statistics in passes of views and of rebuilt bottlenecks"
    )


METHOD_OPTIONS: dict[str, type[MethodOptions]] = {
    "scratch": ScratchOptions,
    "bn_views": BnViewsOptions,
    "kd": KdOptions,
    "fitnet": FitnetOptions,
    "at": AtOptions,
    "fsp": FspOptions,
    "skd": SkdOptions,
    "ifvd": IfvdOptions,
    "cwd": CwdOptions,
    "dsd": DsdOptions,
    "cirkd": CirkdOptions,
    "coco": CocoOptions,
    "graph_flow": GraphFlowOptions,
    "emkd": EmkdOptions,
    "xded": XdedOptions,
    "ccdistill": CcdistillOptions,
    "diga": DigaOptions,
    "gkd": GkdOptions,
}
"""Name of a method -> its options, in table order."""

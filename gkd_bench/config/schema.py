"""The shape of a sweep file: one frozen pydantic model per block, unknown keys refused, every default stated here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from gkd_bench.config.block import Block as Block
from gkd_bench.config.block import Fraction, merge
from gkd_bench.config.data import Clahe as Clahe
from gkd_bench.config.data import CorruptionName as CorruptionName
from gkd_bench.config.data import Data as Data
from gkd_bench.config.data import Folder as Folder
from gkd_bench.config.data import Prepare as Prepare
from gkd_bench.config.data import Sampling as Sampling
from gkd_bench.config.data import Scale as Scale
from gkd_bench.config.data import Stress as Stress
from gkd_bench.config.data import Volumes as Volumes
from gkd_bench.config.method_options import GkdOptions as GkdOptions
from gkd_bench.config.method_options import KdOptions as KdOptions
from gkd_bench.config.method_options import MethodOptions as MethodOptions
from gkd_bench.config.method_options import ScratchOptions as ScratchOptions
from gkd_bench.config.method_options import ViewKind as ViewKind
from gkd_bench.config.methods import Methods as Methods
from gkd_bench.config.methods import Network as Network
from gkd_bench.config.methods import Variant as Variant
from gkd_bench.config.search import OBJECTIVES as OBJECTIVES
from gkd_bench.config.search import Choice as Choice
from gkd_bench.config.search import Objective as Objective
from gkd_bench.config.search import Range as Range
from gkd_bench.config.search import Search as Search
from gkd_bench.config.search import Selection as Selection

SWEEP_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
StageKind = Literal["teacher", "baseline", "semantic", "alignment", "distill", "stress", "evaluate", "efficiency"]
STAGE_KINDS: tuple[StageKind, ...] = (
    "teacher", "baseline", "semantic", "alignment", "distill", "stress", "evaluate", "efficiency",
)  # fmt: skip

# ---------------------------------------------------------------- pairs


class Pairs(Block):
    """Sources are trained on, targets are only scored. ``all`` means every domain of the sweep.

    ``everyone``: targets of which every subject is scored, not the test split alone; none of them may be a source.
    """

    sources: Literal["all"] | tuple[str, ...] = "all"
    targets: Literal["all"] | tuple[str, ...] = "all"
    everyone: tuple[str, ...] = ()


class Augment(Block):
    """One augmentation switch for every network and method of the sweep."""

    flips: bool = True
    rotations: bool = True
    photometric: Literal["none", "light", "strong"] = "none"


# ---------------------------------------------------------------- networks


class Header(Block):
    """Shape of the alignment networks (TAN, SAN) and of the semantic autoencoder's vector part."""

    kind: Literal["shared_mlp", "per_channel", "grid", "flat"] = "flat"
    dim: PositiveInt = 512
    hidden: PositiveInt = 64
    mixing: Literal["always", "when_needed"] = "always"


class Networks(Block):
    """Teacher, student, and the networks that tie them together."""

    teacher: Network = Network(name="fanet")
    student: Network = Network(name="mobile_unet")
    semantic_width: PositiveFloat = 1.0
    header: Header = Header()


# ---------------------------------------------------------------- stages


class Optimiser(Block):
    """Optimiser and learning-rate schedule over the whole stage."""

    name: Literal["adam", "adamw"] = "adamw"
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 2e-4
    schedule: Literal["constant", "cosine", "poly", "step"] = "cosine"


class Budget(Block):
    """``epochs`` x ``epoch_steps`` optimiser steps of ``batch`` tiles.

    ``batch`` is the global batch, shared by all workers of the stage. The stage validates and checkpoints once an epoch.
    """

    epochs: PositiveInt = 50
    epoch_steps: PositiveInt = 100
    batch: PositiveInt = 32
    optimiser: Optimiser = Optimiser()


class Training(Budget):
    """One supervised or self-supervised training run; ``keep``: the epoch whose weights are used."""

    keep: Literal["best", "last"] = "best"


class SupervisedStage(Training):
    """A segmentation network trained with cross-entropy, and soft Dice where ``dice_weight`` is not 0."""

    dice_weight: NonNegativeFloat = 0.0


class SemanticStage(Block):
    """P-SAE: the mask autoencoder, then the vector part on the frozen autoencoder."""

    autoencoder: Training = Training(epochs=15, optimiser=Optimiser(weight_decay=0.0))
    vector: Training = Training(epochs=20, optimiser=Optimiser(weight_decay=0.0))
    empty_share: Fraction = Field(0.2, description="largest share of tiles without foreground")
    feature_weight: NonNegativeFloat = Field(1.0, description="weight of the rebuilt bottleneck's squared error")
    mask_weight: NonNegativeFloat = Field(1.0, description="weight of the decoded mask's cross-entropy")


class AlignmentWeights(Block):
    """Weights of ACT's five terms."""

    align: NonNegativeFloat = 1.0
    rec: NonNegativeFloat = 1.0
    con: NonNegativeFloat = 1.0
    sem: NonNegativeFloat = 0.5
    view: NonNegativeFloat = 0.1


class AlignmentStage(Training):
    """ACT: trains one alignment network on a frozen host; stops early when validation alignment stops falling."""

    optimiser: Optimiser = Optimiser(weight_decay=1e-4)
    weights: AlignmentWeights = AlignmentWeights()
    trained: bool = Field(True, description="false: the alignment network stays untrained, the ablation without ACT")
    cached_tiles: NonNegativeInt = Field(
        0, description="fixed tiles whose host features are computed once; 0 = fresh tiles"
    )
    patience: NonNegativeInt = Field(
        10, description="epochs without a better validation alignment before stopping; 0 = never"
    )


class DistillStage(Budget):
    """Training of the student under a method; also the equal-steps continuation of the student alone.

    The weights of the best and of the last epoch are both kept; ``selection.rule`` decides between them.
    """

    dice_weight: NonNegativeFloat = 0.0
    epochs: PositiveInt = 100
    optimiser: Optimiser = Optimiser(lr=3e-4)
    student_init: Literal["baseline", "random"] = "baseline"
    warmup_epochs: NonNegativeInt = Field(5, description="linear warm-up of every method weight")
    balance: Literal["none", "gradient_norm"] = "none"
    balance_target: PositiveFloat = Field(
        0.3, description="gradient norm of a term of weight 1 relative to cross-entropy's"
    )


class StressStage(Block):
    """A trained network on the source's validation images under the stress bank of ``data.stress``. Reads no target."""

    fsd_tiles: PositiveInt = Field(500, description="largest number of tiles in each Frechet distance")


class EfficiencyStage(Block):
    """What a network costs at the deployed input, one tile: parameters, multiply-accumulates, latency, memory."""

    warmup: NonNegativeInt = 5
    repeats: PositiveInt = Field(50, description="timed passes of one tile")


class EvaluateStage(Block):
    """Sliding-window scoring of one model on one domain's test subjects."""

    overlap: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    batch: PositiveInt = 32
    threshold: Fraction = Field(0.5, description="of one foreground class; of several the most probable class is taken")
    blend: Literal["uniform", "gaussian"] = Field("uniform", description="weights of overlapping windows")
    largest_component: bool = Field(False, description="keep the largest component of every class, per volume")
    tolerance: PositiveFloat = Field(2.0, description="tolerance of the normalised surface Dice, native pixels or mm")
    overlays: NonNegativeInt = Field(3, description="pictures per model and target: worst, median, best, ...")
    fixed_pictures: NonNegativeInt = Field(2, description="pictures of the same images for all models of a target")
    vectors: NonNegativeInt = Field(128, description="semantic vectors kept per domain, for the embedding figure")
    fsd_tiles: PositiveInt = Field(2000, description="largest number of tiles per domain in a Frechet distance")
    fsd_bootstrap: NonNegativeInt = Field(100, description="bootstrap replicates of the Frechet distance's interval")


class Stages(Block):
    """The settings of every stage."""

    teacher: SupervisedStage = SupervisedStage(epochs=250, optimiser=Optimiser(lr=3e-3, schedule="step"))
    baseline: SupervisedStage = SupervisedStage(epochs=250, optimiser=Optimiser(lr=3e-3, schedule="step"))
    semantic: SemanticStage = SemanticStage()
    alignment: AlignmentStage = AlignmentStage()
    distill: DistillStage = DistillStage()
    stress: StressStage = StressStage()
    evaluate: EvaluateStage = EvaluateStage()
    efficiency: EfficiencyStage = EfficiencyStage()


# ---------------------------------------------------------------- running


class Pool(Block):
    """Worker groups of one shape. Each group is ``workers`` processes that run one stage together."""

    stages: Literal["all"] | tuple[StageKind, ...] = "all"
    groups: PositiveInt = 1
    workers: PositiveInt = 1
    cpus: PositiveInt = Field(1, description="CPUs, and torch threads, of each worker")
    gpus: NonNegativeFloat = Field(0.0, description="GPUs of each worker")


class Compute(Block):
    """Where stages run."""

    engine: Literal["ray", "inprocess"] = "ray"
    address: str | None = Field(
        None, description="address of a running Ray cluster; none = RAY_ADDRESS, else a local one"
    )
    pools: tuple[Pool, ...] = Field((Pool(),), min_length=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    max_failures: NonNegativeInt = Field(2, description="how often a stage is retried after its worker group died")
    start_minutes: PositiveFloat = Field(
        10.0, description="how long a pool may wait for its first worker group, machines that must start included"
    )

    @model_validator(mode="after")
    def _every_stage_has_one_pool(self) -> Self:
        for kind in STAGE_KINDS:
            count = sum(pool.stages == "all" or kind in pool.stages for pool in self.pools)
            if count != 1:
                raise ValueError(f"stage {kind!r} must be served by exactly one pool, not {count}")
        return self

    def pool_of(self, kind: StageKind) -> Pool:
        """The pool that runs stages of this kind."""
        return next(pool for pool in self.pools if pool.stages == "all" or kind in pool.stages)


class Tracking(Block):
    """MLflow. ``uri`` none = an SQLite file in the results folder."""

    enabled: bool = True
    uri: str | None = None
    experiment: str = "gkd_bench"


class Storage(Block):
    """Where artefacts and prepared data are kept, and where tables go."""

    root: str = Field(
        ".gkd_store", description="the store: a folder, on several machines a shared one, or s3://bucket/folder"
    )
    cache: str | None = Field(
        None, description="prepared data on each machine; none = in the store, for s3:// in ~/.cache/gkd_bench"
    )
    results: str = "results"


class Sweep(Block):
    """Everything one sweep file asks for."""

    name: Annotated[str, Field(pattern=SWEEP_NAME_PATTERN)]
    task: Literal["vessel", "liver", "segmentation"] = "vessel"
    preset: Literal["findings", "paper_like"] = "findings"
    data: Data
    pairs: Pairs = Pairs()
    augment: Augment = Augment()
    networks: Networks = Networks()
    stages: Stages = Stages()
    methods: Methods = Methods(gkd=GkdOptions())
    search: Search = Search()
    selection: Selection = Selection()
    seeds: tuple[NonNegativeInt, ...] = Field((0, 1, 2), min_length=1)
    compute: Compute = Compute()
    tracking: Tracking = Tracking()
    storage: Storage = Storage()

    def sources(self) -> tuple[str, ...]:
        """Names of the source domains."""
        return self.data.domains if self.pairs.sources == "all" else self.pairs.sources

    def targets(self) -> tuple[str, ...]:
        """Names of the target domains; a source is also scored on its own test subjects."""
        return self.data.domains if self.pairs.targets == "all" else self.pairs.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the foreground classes, class number 1 first."""
        return self.data.classes or (self.task,)

    @property
    def channels(self) -> int:
        """Channels of a prepared image."""
        return 3 if self.data.prepare.channel == "rgb" else 1

    def of_row(self, name: str) -> Sweep:
        """The sweep as a row of its table has it: with the alignment settings and the student that a variant asks for."""
        variant = self.methods.rows().get(name)
        if variant is None or not (variant.alignment or variant.student):
            return self
        alignment = AlignmentStage.model_validate(merge(self.stages.alignment.model_dump(), variant.alignment))
        stages = self.stages.model_copy(update={"alignment": alignment})
        networks = self.networks.model_copy(update={"student": variant.student or self.networks.student})
        return self.model_copy(update={"stages": stages, "networks": networks})

    def dump(self) -> dict[str, Any]:
        """The whole sweep as plain JSON values, defaults included."""
        return self.model_dump(mode="json")

"""The search and selection blocks of a sweep file: what is searched, for which objectives, and what is taken in the end."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from gkd_bench.config.block import Block

Objective = Literal["source_val", "source_val_stressed", "stress_fsd", "student_macs"]
OBJECTIVES: dict[str, Literal["up", "down"]] = {
    "source_val": "up",
    "source_val_stressed": "up",
    "stress_fsd": "down",
    "student_macs": "down",
}
"""What a search may optimise, and which way; everything is measured on the source's validation subjects."""


class Range(Block):
    """A number between ``low`` and ``high``; ``log``: uniform in the logarithm; ``points``: size of its grid."""

    low: float
    high: float
    log: bool = False
    points: PositiveInt = 3

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range must start above 0, not at {self.low}")
        return self


class Choice(Block):
    """One of the listed values."""

    choice: tuple[float | int | str | bool, ...] = Field(min_length=1)


class Search(Block):
    """Search of loss weights, one study per source domain and method, on the source's validation subjects only.

    ``spaces`` maps a method's name to its search space: dotted path in this file -> distribution. Paths may start with
    ``methods.<that method>.``, ``stages.alignment.weights.`` or ``networks.student.``. With several ``objectives`` the
    Pareto front is kept and ``selection.pick`` takes one point of it; ASHA sees the validation Dice of every epoch.

    ``order`` decides what the sampler and ASHA know when they decide about a trial. ``fixed``: trial n is proposed when
    trials up to n - ``concurrency`` have ended, and they are all that counts for it, so that a search is a function of its
    settings and seed, however fast or often interrupted its workers were. ``arrival``: whatever has arrived by then; no
    worker ever waits, and two runs of one search differ.
    """

    spaces: dict[str, dict[str, Range | Choice]] = Field(default_factory=dict)
    objectives: tuple[Objective, ...] = Field(("source_val",), min_length=1)
    score_trials: bool = Field(
        True, description="score complete trials on the targets after the search, to compare selection rules"
    )
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    scheduler: Literal["asha", "none"] = "asha"
    trials: NonNegativeInt = 0
    order: Literal["fixed", "arrival"] = "fixed"
    concurrency: PositiveInt = 1
    startup_trials: PositiveInt = Field(5, description="random trials before TPE's model is used")
    grace_epochs: PositiveInt = Field(1, description="epochs before ASHA may stop a trial")
    reduction: Annotated[int, Field(ge=2)] = 3
    memory_retries: NonNegativeInt = Field(
        0, description="how often a trial that ran out of memory is tried again with half its distillation batch"
    )
    minutes: PositiveFloat | None = Field(None, description="no new trial of a study is started after this long")


class Selection(Block):
    """How one trained student is chosen among the trials of a search and the epochs of a training.

    ``rule``: ``source_val`` (validation Dice), ``source_val_stressed`` (validation Dice under the stress bank) or ``last``
    (last epoch; its validation Dice among trials). ``pick``, with several search objectives: the point of the Pareto
    front that the rule likes best, or the one ``closest_to_ideal`` with every objective scaled to [0, 1] over the front.
    No rule reads a target. The report also prints an ``oracle`` that does, marked, and never uses it.
    """

    rule: Literal["source_val", "source_val_stressed", "last"] = "source_val"
    pick: Literal["rule", "closest_to_ideal"] = "rule"

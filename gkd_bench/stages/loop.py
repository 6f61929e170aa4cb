"""The one training loop: draw, step, validate once an epoch, checkpoint, stop when asked, resume bit by bit.

Everything random is a function of (seed, step, rank), and so are learning rate and warm-up: a checkpoint holds weights,
optimiser, running sums and history, and a run that was killed continues as if it had not been.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gkd_bench.config.schema import Budget
from gkd_bench.distillation.adversary import Opponent
from gkd_bench.errors import StageError
from gkd_bench.networks.norm import frozen_statistics
from gkd_bench.stages.averaging import WeightAverage
from gkd_bench.stages.collective import any_rank, is_distributed, mean_over_ranks
from gkd_bench.stages.context import StageContext, StageStopped
from gkd_bench.stages.monitor import Progress
from gkd_bench.stages.numerics import autocast, seed_step
from gkd_bench.stages.opponent import OpponentStep
from gkd_bench.stages.probe import gradient_report
from gkd_bench.stages.schedule import learning_rate_factor, warm_up

STOP_CHECK_STEPS = 5
CHECKPOINT_SECONDS = 120.0
LARGEST_BALANCE = 100.0  # a term that hardly pulls on one batch must not be blown up for a whole epoch


@dataclass(frozen=True)
class Task:
    """What one loop trains.

    Attributes:
        module: ``module(batch)`` gives unweighted scalar loss terms by name; holds frozen parts as well.
        kept: the trained part: checkpointed, selected, returned.
        draw: step -> this rank's batch.
        weights: name -> weight of every term.
        validate: metrics on the source's validation subjects, equal on all ranks.
        score: the metric that selects the epoch, and its direction.
        main: term that gradient norms and cosines are measured against; none = no gradient report.
        ramped: terms whose weight is warmed up over ``warmup_epochs`` (and balanced).
        balance: gradient norm of each ramped term relative to the main term's, multiplied by its weight; none = plain.
        patience: epochs without a better score before the loop ends; 0 = never.
        keep: the epoch whose weights the kept module carries in the end.
        extra: what else is trained or remembered, live tensors; checkpointed and put back, and dropped at the end.
        opponent: networks trained against the kept one, a step after each of its steps, by an optimiser of their own.
        average: running average of the kept module's weights.
    """

    module: nn.Module
    kept: nn.Module
    draw: Callable[[int], Any]
    weights: Mapping[str, float]
    validate: Callable[[], dict[str, float]]
    score: str = "val/dice"
    maximise: bool = True
    main: str | None = None
    ramped: frozenset[str] = frozenset()
    warmup_epochs: int = 0
    balance: float | None = None
    patience: int = 0
    keep: Literal["best", "last"] = "best"
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    opponent: Opponent | None = None
    average: WeightAverage | None = None


@dataclass(frozen=True)
class Span:
    """Where a loop stands in its stage: checkpoint name, first epoch and number of epochs of the whole stage."""

    name: str
    first_epoch: int = 0
    stage_epochs: int = 0


@dataclass
class LoopState:
    """Everything a checkpoint holds besides weights and optimiser."""

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    balance: dict[str, float] = field(default_factory=dict)
    best_score: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Trained:
    """Result of a loop; the kept module already carries the chosen weights.

    Attributes:
        history: one flat dict per epoch: ``epoch``, validation metrics, mean loss terms, gradient ratios and cosines.
        epoch: the chosen epoch.
        score: its validation score.
        steps: optimiser steps done.
        seconds: training time over all resumed parts.
        last: weights of the last epoch, where that is not the chosen one.
    """

    history: list[dict[str, Any]]
    epoch: int
    score: float
    steps: int
    seconds: float
    last: dict[str, Tensor] | None = None


class Loop:
    """Trains one task. ``run`` resumes from the checkpoint of the same name when there is one."""

    def __init__(self, task: Task, training: Budget, context: StageContext, span: Span | None = None) -> None:
        self.task, self.training, self.context = task, training, context
        self.span = span or Span(context.node.key, 0, training.epochs)
        self.total = training.epochs * training.epoch_steps
        self.parameters = [p for p in task.module.parameters() if p.requires_grad]
        self.optimiser = _optimiser(training, self.parameters)
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=context.precision == "fp16")
        self.state = LoopState()
        self.best: dict[str, Tensor] | None = None
        self.opponent = OpponentStep(task.opponent) if task.opponent else None
        self.wrapped = _distributed(task.module, context)
        self._running: dict[str, Tensor | float] = {}
        self._gradients: dict[str, float] = {}
        self._last_saved = time.monotonic()

    def run(self) -> Trained:
        """Train to the end. Raises StageStopped when asked to stop, StageError when a loss is not finite."""
        self._resume()
        started = time.monotonic() - self.state.seconds
        self.task.module.train()
        while self.state.step < self.total and not self._out_of_patience():
            self._one_step()
            self.state.seconds = time.monotonic() - started
            if self.state.step % self.training.epoch_steps == 0:
                self._end_epoch()
            self._housekeeping()
        return self._chosen()

    # -- one step

    def _one_step(self) -> None:
        step = self.state.step
        if step % self.training.epoch_steps == 0:
            self._measure_gradients(step)
        seed_step(self.context.node.seed, step, self.context.place.rank)
        self._set_learning_rate(step)
        with autocast(self.context.device, self.context.precision):
            terms = self.wrapped(self.task.draw(step))
        total = sum((self._weight(name, step) * term for name, term in terms.items()), torch.zeros(()))
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.opponent:
            terms = terms | {"critic": self.opponent.step()}
        if self.task.average:
            self.task.average.update(step)
        self._add_to_sums(terms)
        self.state.step = step + 1

    def _weight(self, name: str, step: int) -> float:
        weight = self.task.weights[name]
        if name in self.task.ramped:
            ramp = warm_up(step, self.task.warmup_epochs * self.training.epoch_steps)
            weight *= ramp * self.state.balance.get(name, 1.0)
        return weight

    def _set_learning_rate(self, step: int) -> None:
        settings = self.training.optimiser
        for group in self.optimiser.param_groups:
            group["lr"] = settings.lr * learning_rate_factor(settings.schedule, step, self.total)

    def _add_to_sums(self, terms: Mapping[str, Tensor]) -> None:
        for name, term in terms.items():
            self._running[name] = self._running.get(name, 0.0) + term.detach()

    def _measure_gradients(self, step: int) -> None:
        """Once an epoch: each term's gradient norm relative to the main term's, its cosine with it, and the balance."""
        task = self.task
        if task.main is None or len(task.weights) < 2:
            return
        seed_step(self.context.node.seed, step, self.context.place.rank)
        with frozen_statistics(task.module):
            terms = task.module(task.draw(step))
        # of the kept module alone: a term that trains nothing but its own projection is silent
        kept = [parameter for parameter in task.kept.parameters() if parameter.requires_grad]
        report = mean_over_ranks(gradient_report(terms, task.main, kept))
        self._gradients = report
        if task.balance is not None:
            for name in task.ramped:
                self.state.balance[name] = min(task.balance / max(report[f"grad_ratio/{name}"], 1e-6), LARGEST_BALANCE)

    # -- one epoch

    def _end_epoch(self) -> None:
        losses = self._mean_losses()
        self.task.module.eval()
        with torch.no_grad(), autocast(self.context.device, self.context.precision):
            metrics = mean_over_ranks(self.task.validate())  # equal up to rounding; ranks must agree to the last bit
        self.task.module.train()
        epoch = self.state.step // self.training.epoch_steps
        number, values = self.span.first_epoch + epoch, {**metrics, **losses, **self._gradients}
        self.state.history.append({"epoch": number, **values})
        self._keep_best(metrics[self.task.score], epoch)
        self._save()
        if self.context.is_main:
            self._tell(self.state.history[-1])

    def _mean_losses(self) -> dict[str, float]:
        sums = {name: float(value) / self.training.epoch_steps for name, value in self._running.items()}
        self._running = {}
        losses = {f"loss/{name}": value for name, value in mean_over_ranks(sums).items()}
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            raise StageError(
                f"{self.context.node}: {', '.join(broken)} is not finite; lower the learning rate or weight"
            )
        return losses

    def _keep_best(self, score: float, epoch: int) -> None:
        state = self.state
        value = score if self.task.maximise else -score
        if state.best_score is None or value > state.best_score:
            state.best_score, state.best_epoch = value, epoch
            self.best = {name: tensor.detach().clone() for name, tensor in self.task.kept.state_dict().items()}

    def _out_of_patience(self) -> bool:
        epoch = self.state.step // self.training.epoch_steps
        return 0 < self.task.patience <= epoch - self.state.best_epoch

    def _chosen(self) -> Trained:
        state = self.state
        epoch = last = state.step // self.training.epoch_steps
        last_weights = None
        if self.task.keep == "best" and self.best is not None and state.best_epoch != last:
            last_weights = {name: tensor.detach().clone() for name, tensor in self.task.kept.state_dict().items()}
            self.task.kept.load_state_dict(self.best)
            epoch = state.best_epoch
        self.task.module.eval()
        score = float(state.history[epoch - 1][self.task.score])
        return Trained(state.history, self.span.first_epoch + epoch, score, state.step, state.seconds, last_weights)

    # -- stopping, checkpoints

    def _resume(self) -> None:
        saved = self.context.store.checkpoint_load(self.span.name)
        if saved is None:
            return
        self.state = LoopState(**saved["loop"])
        self._running, self._gradients = dict(self.state.sums), dict(saved["gradients"])
        self.task.kept.load_state_dict(saved["kept"])
        self.best = saved["best"]
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        for name, tensor in self.task.extra.items():
            tensor.data.copy_(saved["extra"][name])
        if self.opponent:
            self.opponent.optimiser.load_state_dict(saved["opponent"])
        if self.task.average:
            self.task.average.load(saved["average"])
        if (
            self.context.is_main
        ):  # whoever hears them may have died before they arrived, or before they were written down
            for epoch in self.state.history:
                self._tell(epoch)

    def _tell(self, epoch: Mapping[str, Any]) -> None:
        metrics = {name: value for name, value in epoch.items() if name != "epoch"}
        self.context.monitor.report(Progress(epoch["epoch"], self.span.stage_epochs, metrics, self.state.seconds))

    def _housekeeping(self) -> None:
        state, context = self.state, self.context
        if context.is_main:
            done = self.span.first_epoch * self.training.epoch_steps + state.step
            context.monitor.step(done, self.span.stage_epochs * self.training.epoch_steps)
        together = is_distributed()  # ranks agree in a collective, which costs; one worker looks after every step
        if (not together or state.step % STOP_CHECK_STEPS == 0) and any_rank(
            context.is_main and context.monitor.should_stop()
        ):
            self._save()
            raise StageStopped
        if time.monotonic() - self._last_saved > CHECKPOINT_SECONDS:
            self._save()

    def _save(self) -> None:
        self._last_saved = time.monotonic()
        self.state.sums = {name: float(value) for name, value in self._running.items()}
        if not self.context.is_main:
            return
        self.context.store.checkpoint_save(
            self.span.name,
            {
                "loop": copy.deepcopy(self.state.__dict__),
                "gradients": dict(self._gradients),
                "kept": self.task.kept.state_dict(),
                "best": self.best,
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "extra": {name: tensor.detach() for name, tensor in self.task.extra.items()},
                "opponent": self.opponent.optimiser.state_dict() if self.opponent else None,
                "average": self.task.average.state() if self.task.average else None,
            },
        )


def _optimiser(training: Budget, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    settings = training.optimiser
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def _distributed(module: nn.Module, context: StageContext) -> nn.Module:
    """The module under DDP when several workers run the stage; batch statistics are synchronised by its own layers."""
    if not is_distributed():
        return module
    devices = [context.device] if context.device.type == "cuda" else None
    with warnings.catch_warnings():  # newer torch renames the option, older ones know this name only
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)

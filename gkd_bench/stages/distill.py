"""Stage ``distill``: the student trained under a method, every frozen part consulted, nothing else updated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gkd_bench.config.method_options import METHOD_OPTIONS, SILENT_RATIO, MethodOptions
from gkd_bench.config.schema import DistillStage
from gkd_bench.data.augment import Rows, make_views, step_generator
from gkd_bench.data.tiles import TileSampler
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.build import seeded
from gkd_bench.registry import METHODS
from gkd_bench.stages.averaging import WeightAverage, refresh_statistics
from gkd_bench.stages.collective import mean_over_ranks
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.loop import Loop, Task, Trained
from gkd_bench.stages.models import input_network, load_aligned, new_network
from gkd_bench.stages.numerics import derived_seed
from gkd_bench.stages.results import health, network_draft
from gkd_bench.stages.supervised import segmentation_terms, source_sampler, supervised_weights
from gkd_bench.stages.validation import validation_dice
from gkd_bench.store.artefacts import Draft

VIEW_STREAM = 10
METHOD_STREAM = 13
HEALTH_TILES = 32


class DistillTraining(nn.Module):
    """The student and its method; ``forward`` gives the supervised and the method's terms of a batch."""

    def __init__(self, student: SegmentationNetwork, method: Method, with_dice: bool) -> None:
        super().__init__()
        self.student, self.method, self.with_dice = student, method, with_dice

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Unweighted scalar terms."""
        features = self.student.encode(batch.images)
        decoded = self.student.decode(features.bottleneck, features.skips)
        terms = segmentation_terms(decoded.logits, batch.labels, self.with_dice)
        return terms | self.method.terms(self.student, StudentOutput(features, decoded), batch)


def initial_student(context: StageContext, stage: DistillStage) -> SegmentationNetwork:
    """The baseline's weights, or new ones, as the stage's settings say."""
    student = new_network(context.setting("network"), context.node.seed, context.device)
    if stage.student_init == "baseline":
        student.load_state_dict(context.input("baseline").tensors("network"))
    return student


def build_method(context: StageContext, student: SegmentationNetwork) -> Method:
    """The method of the node's settings with its frozen guides; its own weights are seeded."""
    name = str(context.setting("method"))
    options = METHOD_OPTIONS[name].model_validate(context.setting("options"))
    guides = load_guides(context, options)
    with seeded(derived_seed(context.node.seed, METHOD_STREAM)):
        method: Method = METHODS.load(name)(options, guides, student)
    return method.to(context.device)


def load_guides(context: StageContext, options: MethodOptions) -> Guides:
    """The frozen networks that a method asks for."""
    teacher = input_network(context, "teacher") if "teacher" in options.guides else None
    tan = load_aligned(context.input("tan"), teacher) if teacher and "tan" in options.guides else None
    san = load_aligned(context.input("san"), input_network(context, "baseline")) if "san" in options.guides else None
    return Guides(teacher, tan, san)


def draw_batch(sampler: TileSampler, method: Method, context: StageContext, step: int, size: int) -> Batch:
    """This rank's share of the batch of a step, with the method's augmented views."""
    rows = Rows(size, context.place.rank, context.place.workers)
    tiles = sampler.draw(step, rows.batch, rows.rank, rows.workers)
    if not method.views:
        return Batch(tiles.images, tiles.labels, tiles.images.new_empty(0))
    generator = step_generator(context.node.seed, step, VIEW_STREAM)
    return Batch(tiles.images, tiles.labels, make_views(tiles.images, method.views, generator, rows))


def run_distill(context: StageContext) -> Draft:
    """Train the student; ``network`` in the draft is the epoch with the best validation Dice, ``last`` the last one.

    With weight averaging there is one network, the average.
    """
    stage = context.settings("distill", DistillStage)
    student = initial_student(context, stage)
    method, sampler = build_method(context, student), source_sampler(context)
    task = distill_task(context, stage, student, method, sampler)
    trained = Loop(task, stage, context).run()
    if task.average:
        trained = averaged(context, stage, student, task, sampler, trained)
    records = [
        *term_health(trained.history, method.weights()),
        *view_health(context, student, method, sampler),
        *method_health(student, method, context, sampler),
    ]
    return network_draft(context, student, trained, records, keep_last=True)


def distill_task(
    context: StageContext, stage: DistillStage, student: SegmentationNetwork, method: Method, sampler: TileSampler
) -> Task:
    """What the loop trains: the student, with what the method trains and remembers beside it."""
    validation, weights = context.domain().source_splits().val, method.weights()
    steps = stage.epochs * stage.epoch_steps
    return Task(
        module=DistillTraining(student, method, stage.dice_weight > 0),
        kept=student,
        draw=lambda step: draw_batch(sampler, method, context, step, stage.batch),
        weights=supervised_weights(stage) | dict(weights),
        validate=lambda: validation_dice(student, validation, context),
        main="ce",
        ramped=frozenset(weights),
        warmup_epochs=stage.warmup_epochs,
        balance=stage.balance_target if stage.balance == "gradient_norm" else None,
        extra=method.own_state(),
        opponent=method.opponent,
        average=WeightAverage(student, steps // 2) if context.node.settings.get("swa") else None,
    )


def averaged(
    context: StageContext,
    stage: DistillStage,
    student: SegmentationNetwork,
    task: Task,
    sampler: TileSampler,
    trained: Trained,
) -> Trained:
    """The student with the averaged weights, batch statistics of its own, and the validation Dice it has with them."""
    assert task.average is not None
    student.load_state_dict(task.average.weights(), strict=False)
    rows = Rows(stage.batch, context.place.rank, context.place.workers)
    refresh_statistics(
        student, lambda step: sampler.draw(step, rows.batch, rows.rank, rows.workers).images, stage.epoch_steps
    )
    student.eval()
    with torch.no_grad():
        metrics = mean_over_ranks(task.validate())
    history = [*trained.history[:-1], trained.history[-1] | metrics]
    return replace(trained, history=history, epoch=stage.epochs, score=metrics[task.score], last=None)


def term_health(history: list[dict[str, Any]], terms: Iterable[str]) -> list[dict[str, Any]]:
    """Mean gradient norm of every term relative to cross-entropy's; a term without gradient is a warning."""
    records = []
    for term in terms:
        ratio, cosine = (
            sum(float(row[f"{kind}/{term}"]) for row in history) / len(history)
            for kind in ("grad_ratio", "grad_cosine")
        )
        warning = None
        if ratio < SILENT_RATIO:
            warning = f"term {term!r} has next to no gradient ({ratio:.1e} of cross-entropy's): it teaches nothing"
        records.append(health(f"gradient ratio {term}", ratio, 1.0, ok=warning is None, warning=warning))
        records.append(health(f"gradient cosine {term}", cosine, None))
    return records


def method_health(
    student: SegmentationNetwork, method: Method, context: StageContext, sampler: TileSampler
) -> list[dict[str, Any]]:
    """The method's own measurements on one batch of training tiles."""
    student.eval()
    batch = draw_batch(sampler, method, context, 0, HEALTH_TILES)
    features = student.encode(batch.images)
    own = StudentOutput(features, student.decode(features.bottleneck, features.skips))
    return [health(check, value) for check, value in method.health(student, own, batch).items()]


@torch.no_grad()
def view_health(
    context: StageContext, student: SegmentationNetwork, method: Method, sampler: TileSampler
) -> list[dict[str, Any]]:
    """Cosine of anchor and view in the student's standardised vectors, per view kind."""
    aligned = method.guides.san
    if aligned is None or not method.views:
        return []
    student.eval()
    anchors = sampler.draw(0, HEALTH_TILES).images
    records = []
    for kind in dict.fromkeys(method.views):
        view = make_views(anchors, (kind,), step_generator(context.node.seed, 0, VIEW_STREAM))[0]
        vectors = aligned.vectors(student.encode(torch.cat([anchors, view])).bottleneck, standardised=True)
        first, second = vectors.chunk(2)
        cosine = float(torch.cosine_similarity(first, second, dim=1).mean())
        records.append(health(f"anchor-view cosine {kind}", cosine, 1.0, host="student"))
    return records

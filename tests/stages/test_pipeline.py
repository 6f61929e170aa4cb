"""Every stage of the tiny sweep: what it reads, what it writes, what it must not touch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from gkd_bench.data.cache import open_prepared
from gkd_bench.data.tiles import TileSampler
from gkd_bench.errors import LeakError, StageError
from gkd_bench.metrics.overlap import score_image
from gkd_bench.plan import Planner
from gkd_bench.stages import supervised
from gkd_bench.stages.context import StageContext
from gkd_bench.stages.evaluate import spread_ranks
from gkd_bench.stages.loop import Loop
from gkd_bench.stages.models import kept_networks, load_aligned, load_network, load_prior
from gkd_bench.stages.monitor import Workplace
from gkd_bench.stages.predict import predict_slices
from gkd_bench.stages.stress import image_dice
from gkd_bench.stages.validation import validation_dice
from gkd_bench.store.artefacts import Artefact
from gkd_bench.store.node import StageNode

from .lab import DOMAINS, TINY, Lab, Recorder

SOURCE, TARGET = DOMAINS
CPU = torch.device("cpu")


def records(artefact: Artefact, kind: str) -> list[dict[str, object]]:
    return [record for record in artefact.records() if record["record"] == kind]


def node_of(lab: Lab, kind: str) -> StageNode:
    planner = lab.planner
    nodes = {
        "teacher": planner.teacher(SOURCE, 0),
        "semantic": planner.semantic(SOURCE, 0),
        "tan": planner.alignment(planner.teacher(SOURCE, 0), SOURCE, 0),
        "san": planner.alignment(planner.baseline(SOURCE, 0), SOURCE, 0),
        "gkd": planner.distill("gkd", SOURCE, 0),
        "kd": planner.distill("kd", SOURCE, 0),
    }
    return nodes[kind]


# ---------------------------------------------------------------- training stages


def test_every_training_stage_records_its_epochs_and_its_cost(trained: Lab) -> None:
    for node in trained.models("scratch", "kd", "gkd"):
        artefact = trained.store.get(node.key)
        epochs = 4 if node.kind == "semantic" else 2
        assert [record["epoch"] for record in records(artefact, "epoch")] == list(range(1, epochs + 1))
        (cost,) = records(artefact, "cost")
        assert cost["steps"] == 4 * epochs
        assert cost["parameters"] > 0


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("semantic", {"P-SAE mask Dice at 0.5", "P-SAE mask Dice at best threshold", "P-SAE effective rank"}),
        (
            "tan",
            {"alignment error", "retrieval@1", "reconstructed Dice", "shuffled-vector Dice", "mean-bottleneck Dice"},
        ),
        (
            "gkd",
            {
                "gradient ratio intra",
                "gradient cosine cross",
                "anchor-view cosine photometric",
                "edge spread student",
                "q1 gradient to the student vector",
            },
        ),
    ],
)
def test_health_checks_are_recorded_where_they_can_be_measured(trained: Lab, kind: str, expected: set[str]) -> None:
    found = {record["check"]: record for record in records(trained.store.get(node_of(trained, kind).key), "health")}
    assert expected <= set(found)
    assert all(np.isfinite(record["value"]) for record in found.values())


def test_an_untrained_alignment_network_is_warned_about_in_plain_words(trained: Lab) -> None:
    found = records(trained.store.get(node_of(trained, "tan").key), "health")
    warnings = [str(record["warning"]) for record in found if record["ok"] is False]
    assert any("the mean" in warning for warning in warnings)


def test_gradient_ratio_and_cosine_of_every_term_are_logged_each_epoch(trained: Lab) -> None:
    for row in records(trained.store.get(node_of(trained, "gkd").key), "epoch"):
        for term in ("intra", "inter", "cross"):
            assert row[f"grad_ratio/{term}"] >= 0 and -1 <= row[f"grad_cosine/{term}"] <= 1
            assert row[f"loss/{term}"] >= 0


def test_alignment_statistics_are_those_of_its_own_vectors(trained: Lab) -> None:
    host = load_network(trained.store.get(trained.planner.teacher(SOURCE, 0).key), CPU)
    aligned = load_aligned(trained.store.get(node_of(trained, "tan").key), host)
    splits = open_prepared(trained.cache, *trained.planner.references[SOURCE].split("@")).source_splits()
    tiles = TileSampler(splits.train, 32, seed=5).draw(0, 128)
    with torch.no_grad():
        vectors = aligned.vectors(host.encode(tiles.images).bottleneck, standardised=True)
    assert vectors.mean().abs() < 0.3
    assert 0.5 < vectors.std(dim=0).mean() < 1.5


def test_the_prior_decodes_masks_from_vectors(trained: Lab) -> None:
    prior = load_prior(trained.store.get(node_of(trained, "semantic").key), CPU)
    masks = torch.zeros(3, 1, 32, 32)
    vectors = prior.vector(masks)
    assert vectors.shape == (3, 32)
    assert prior.mask_logits(vectors, (32, 32)).shape == (3, 1, 32, 32)
    assert (prior.v_sd > 0).all()


def test_balanced_terms_pull_as_hard_as_the_settings_say(
    trained: Lab, make_planner: Callable[..., Planner], monkeypatch: pytest.MonkeyPatch
) -> None:
    """weight x balance x ratio = weight x target, whatever the term's own scale."""
    seen: list[float] = []
    plain_weight = Loop._weight

    def spy(loop: Loop, name: str, step: int) -> float:
        weight = plain_weight(loop, name, step)
        if name == "kd" and step == 0:
            seen.append(weight)
        return weight

    monkeypatch.setattr(Loop, "_weight", spy)
    distill = TINY["stages"]["distill"] | {"balance": "gradient_norm", "balance_target": 0.3, "warmup_epochs": 0}
    node = make_planner(stages=TINY["stages"] | {"distill": distill}).distill("kd", SOURCE, 0)
    ratio = records(trained.make(node), "epoch")[0]["grad_ratio/kd"]
    assert seen[0] * ratio == pytest.approx(0.3)


def test_a_student_from_random_weights_ignores_the_baseline(trained: Lab, make_planner: Callable[..., Planner]) -> None:
    distill = TINY["stages"]["distill"] | {"student_init": "random", "epochs": 1, "epoch_steps": 1}
    planner = make_planner(stages=TINY["stages"] | {"distill": distill})
    fresh = trained.make(planner.distill("scratch", SOURCE, 0)).tensors("network")
    warm = trained.store.get(trained.planner.baseline(SOURCE, 0).key).tensors("network")
    assert max(float((fresh[k].float() - warm[k].float()).abs().max()) for k in fresh) > 0.05


# ---------------------------------------------------------------- scoring


def test_scores_match_an_independent_prediction_of_one_image(trained: Lab) -> None:
    planner = trained.planner
    teacher = planner.teacher(SOURCE, 0)
    artefact = trained.make(planner.evaluate(teacher, SOURCE, TARGET, 0))
    images = open_prepared(trained.cache, *planner.references[TARGET].split("@")).test_split().images
    network = load_network(trained.store.get(teacher.key), CPU)
    probability = predict_slices(network, images.image(0)[None], 32, CPU, 0.0)[0, 0]
    label, fov = images.native_label(0), images.native_fov(0)
    resized = cv2.resize(probability, label.shape[::-1], interpolation=cv2.INTER_LINEAR)
    row = next(r for r in records(artefact, "image") if r["image"] == images.name(0))
    assert row["dice_fov"] == pytest.approx(score_image(resized, label, fov).metrics()["dice"])
    assert row["dice"] == pytest.approx(score_image(resized, label).metrics()["dice"])


def test_evaluation_records_images_pooled_scores_distances_and_pictures(trained: Lab) -> None:
    planner = trained.planner
    artefact = trained.make(*planner.scores(planner.distill("gkd", SOURCE, 0), SOURCE, 0))
    variants = {row["variant"] for row in records(artefact, "candidate")} or {"best"}
    best = [row for row in records(artefact, "image") if row["variant"] == "best"]
    assert len(best) == 4 and len(records(artefact, "image")) == 4 * len(networks_of(trained, "gkd"))
    assert variants <= {"best", "last"}
    assert {"hd95_fov", "assd_fov", "nsd_fov", "cldice_fov", "components_fov", "ece_fov", "brier_fov"} <= best[0].keys()
    pooled = next(row for row in records(artefact, "pooled") if row["variant"] == "best")
    assert pooled["images"] == 4 and pooled["subjects"] == 4
    uses = {(record["use"], record["space"]) for record in records(artefact, "fsd")}
    spaces = {("domain", space) for space in ("bottleneck", "aligned", "aligned_own", "random_header")}
    assert uses == spaces | {("semantic", "aligned"), ("teacher_student", "aligned")}
    vectors = artefact.tensors("vectors-best")
    assert vectors["source"].shape[1] == vectors["target"].shape[1] == 32


def test_pictures_show_the_worst_to_best_images_and_the_same_ones_for_every_model(trained: Lab) -> None:
    planner, seen = trained.planner, []
    for model in (planner.teacher(SOURCE, 0), planner.baseline(SOURCE, 0)):
        artefact = trained.make(*planner.scores(model, SOURCE, 0))
        rows = records(artefact, "picture")
        assert {role for row in rows for role in str(row["roles"]).split(",")} == {"median", "fixed"}
        seen.append([row["image"] for row in rows if "fixed" in str(row["roles"])])
        for part in ("photo", "label", "found"):
            picture = np.frombuffer(artefact.bytes(f"{rows[0]['folder']}/{part}.png"), np.uint8)
            assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape[2] == 3
    assert seen[0] == seen[1] and len(seen[0]) == 1


def networks_of(lab: Lab, method: str) -> set[str]:
    """Kept epochs of a method's student."""
    return set(kept_networks(lab.store.get(node_of(lab, method).key), CPU))


# ---------------------------------------------------------------- stress and the last epoch


def test_the_last_epoch_is_kept_beside_a_better_one(trained: Lab) -> None:
    found = {}
    for method in ("scratch", "kd", "gkd"):
        artefact = trained.store.get(trained.planner.distill(method, SOURCE, 0).key)
        scores = [row["val/dice"] for row in records(artefact, "epoch")]
        best = max(range(len(scores)), key=lambda at: (scores[at], -at))
        found[method] = best == len(scores) - 1
        assert artefact.summary["epoch"] == best + 1
        assert ("last/epoch" in artefact.summary) == (not found[method])
        if not found[method]:
            first, last = artefact.tensors("network"), artefact.tensors("last")
            assert any(not torch.equal(first[name], last[name]) for name in first)
            assert artefact.summary["last/val/dice"] == scores[-1]


def test_clean_stress_scores_are_the_validation_scores(trained: Lab) -> None:
    """The bank holds all validation images here, so its clean condition must repeat what training measured."""
    node = trained.planner.stress(trained.planner.baseline(SOURCE, 0), SOURCE, 0)
    artefact = trained.make(*trained.planner.scores(trained.planner.baseline(SOURCE, 0), SOURCE, 0)[:-2], node)
    rows = records(artefact, "stress")
    clean = [float(row["dice"]) for row in rows if row["corruption"] == "none"]
    model = trained.store.get(trained.planner.baseline(SOURCE, 0).key)
    assert np.mean(clean) == pytest.approx(model.summary["val/dice"])
    conditions = {(row["corruption"], row["strength"]) for row in rows}
    assert conditions == {("none", 0), ("gamma", 1), ("gamma", 3), ("noise", 1), ("noise", 3)}
    (candidate,) = records(artefact, "candidate")
    stressed = [float(row["dice"]) for row in rows if row["corruption"] != "none"]
    assert candidate["val_dice_stressed"] == pytest.approx(np.mean(stressed))
    spaces = {row["space"] for row in records(artefact, "stress_fsd")}
    assert spaces == {"aligned_own", "bottleneck"}
    assert all(row["split"] == "val" for row in artefact.records() if row["record"] != "cost")
    assert list(node.data) == ["source", "stress"]


def test_the_cost_of_a_network_is_measured_once_for_all_sources(trained: Lab) -> None:
    node = trained.planner.efficiency("student")
    (row,) = records(trained.make(node), "efficiency")
    assert row["input"] == "1x1x32x32" and row["role"] == "student"
    assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"]
    assert row["parameters"] > 0 and row["macs"] > 0 and node.data == {}


def test_spread_ranks_run_from_worst_to_best() -> None:
    assert spread_ranks(9, 3) == [0, 4, 8]
    assert spread_ranks(2, 5) == [0, 1]
    assert spread_ranks(4, 1) == [2]
    assert spread_ranks(4, 0) == []


# ---------------------------------------------------------------- leaks


def test_a_planted_leak_is_caught(empty: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training code that reaches for the test split is refused, whatever it pretends."""

    def leaky(context: StageContext) -> TileSampler:
        return TileSampler(context.domain().test_split().images, 32)  # type: ignore[arg-type]

    monkeypatch.setattr(supervised, "source_sampler", leaky)
    with pytest.raises(LeakError, match="test split"):
        empty.run(empty.planner.baseline(SOURCE, 0))


def test_a_test_split_cannot_select_an_epoch(trained: Lab) -> None:
    """Validation is selection: handed test images it refuses, whatever the type checker was told."""
    node = trained.planner.baseline(SOURCE, 0)
    context = StageContext(node, Workplace(trained.folder, trained.cache), Recorder(), trained.store)
    network = load_network(trained.store.get(node.key), CPU)
    for images in (context.domain().test_split().images, context.domain().test_split()):
        with pytest.raises(LeakError, match="trains or selects"):
            validation_dice(network, images, context)  # type: ignore[arg-type]
        with pytest.raises(LeakError, match="trains or selects"):
            image_dice(context, network, images, 0)  # type: ignore[arg-type]


def test_no_training_stage_reads_a_target_domain(trained: Lab) -> None:
    for node in trained.models("scratch", "kd", "gkd"):
        assert list(node.data) == ["source"]


def test_a_failing_stage_names_itself_and_publishes_nothing(empty: Lab) -> None:
    node = replace(
        empty.planner.baseline(SOURCE, 0), settings={**empty.planner.baseline(SOURCE, 0).settings, "tile": "x"}
    )
    with pytest.raises(StageError, match=r"baseline phantom_clear baseline seed 0 \(key "):
        empty.run(node)
    assert not empty.store.has(node.key)


def test_every_pair_of_teacher_and_student_goes_through_gkd(empty: Lab, make_planner: Callable[..., Planner]) -> None:
    """One short step of every stage for networks of different shapes and skips."""
    once = {"epochs": 1, "epoch_steps": 1, "batch": 2}
    stages = {
        "teacher": once,
        "baseline": once,
        "semantic": {"autoencoder": once, "vector": once},
        "alignment": once | {"cached_tiles": 4},
        "distill": once,
    }
    for teacher, student in itertools.zip_longest(("fanet", "unet"), ("enet", "erfnet")):
        networks = TINY["networks"] | {
            "teacher": {"name": teacher, "width": 0.05},
            "student": {"name": student, "width": 0.25},
        }
        planner = make_planner(stages=stages, networks=networks)
        artefact = empty.make(*empty.models("gkd", planner=planner))
        (row,) = records(artefact, "epoch")
        assert all(np.isfinite(value) for value in row.values() if isinstance(value, float))

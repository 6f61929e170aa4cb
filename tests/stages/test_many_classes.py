"""Several organs, and colour, through the whole pipeline: every stage, every kind of method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gkd_bench.config.schema import Sweep
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.prepare import prepare_domain
from gkd_bench.data.stress import prepare_stress
from gkd_bench.plan import Planner
from gkd_bench.stages.models import load_prior, new_network
from gkd_bench.store.artefacts import Artefact

from .lab import TINY, Lab

ORGANS = ("liver", "spleen", "left_kidney")
VOLUMES: dict[str, Any] = {
    "task": "segmentation",
    "data": {
        "domains": ("phantom_ct", "phantom_mr"),
        "classes": ORGANS,
        "tile": 32,
        "volumes": {"size": 32},
        "sampling": "inside",
        "stress": {"corruptions": ("gamma",), "strengths": (2,), "images": 3},
    },
    "stages": TINY["stages"]
    | {"evaluate": TINY["stages"]["evaluate"] | {"blend": "gaussian", "largest_component": True}},
}
COLOUR: dict[str, Any] = {"data": TINY["data"] | {"prepare": TINY["data"]["prepare"] | {"channel": "rgb"}}}
METHODS: dict[str, Any] = {
    "methods": {
        "controls": (),
        **{name: {} for name in ("kd", "ifvd", "emkd", "cirkd", "xded", "diga", "coco", "dsd")},
        "gkd": {"views": ("photometric", "noise_blur")},
        "variants": {"scratch_style": {"of": "scratch", "set": {"remedies": ["style"]}}},
    }
}


def make_lab(folder: Path, changes: dict[str, Any]) -> Lab:
    sweep = Sweep.model_validate(TINY | changes)
    place, cache = Catalogue.of(sweep.data, sweep.classes), folder / "cache"
    domains = {name: prepare_domain(name, place, cache) for name in sweep.data.domains}
    banks = {name: prepare_stress(one, place, sweep.data.stress, cache).reference for name, one in domains.items()}
    planner = Planner(sweep, {name: one.reference for name, one in domains.items()}, banks)
    return Lab(folder / "store", cache, planner)


@pytest.fixture(scope="module")
def organs(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("organs"), VOLUMES | METHODS)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return make_lab(tmp_path_factory.mktemp("colour"), COLOUR | METHODS)


def evaluated(lab: Lab, source: str, target: str, method: str = "gkd") -> Artefact:
    planner = lab.planner
    student = planner.student(method, source, 0)
    lab.make(*planner.ancestors(source, 0), *student)
    *inputs, _, first, second = planner.scores(student[-1], source, 0)
    return lab.make(*inputs, first, second)


def records(artefact: Artefact, kind: str) -> list[dict[str, Any]]:
    return [record for record in artefact.records() if record["record"] == kind]


@pytest.mark.slow
def test_organs_are_trained_aligned_distilled_and_scored_one_by_one(organs: Lab) -> None:
    artefact = evaluated(organs, "phantom_ct", "phantom_mr")
    images = records(artefact, "image")
    assert {record["subject"] for record in images} and all(record["slices"] == 16 for record in images)
    for record in images:
        for metric in ("dice", "hd95_mm", "nsd_mm"):
            each = [record[f"{metric}/{organ}"] for organ in ORGANS]
            assert record[metric] == pytest.approx(sum(each) / len(each))
    pooled = records(artefact, "pooled")[0]
    assert pooled["slices"] == 64 and pooled["subjects"] == 4 and f"iou/{ORGANS[2]}" in pooled
    assert {record["use"] for record in records(artefact, "fsd")} == {"domain", "semantic", "teacher_student"}


@pytest.mark.slow
def test_autoencoder_takes_one_map_per_class_and_the_networks_one_logit_more(organs: Lab) -> None:
    planner, store = organs.planner, organs.store
    organs.make(*planner.ancestors("phantom_ct", 0))
    prior = load_prior(store.get(planner.semantic("phantom_ct", 0).key), __import__("torch").device("cpu"))
    assert prior.autoencoder.classes == 3
    spec = store.get(planner.teacher("phantom_ct", 0).key).node.settings["network"]
    assert new_network(spec, 0, __import__("torch").device("cpu")).classes == 4


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS["methods"] if name not in ("controls", "variants", "gkd")])
def test_every_kind_of_method_takes_several_classes(organs: Lab, method: str) -> None:
    planner = organs.planner
    organs.make(*planner.ancestors("phantom_ct", 0), *planner.student(method, "phantom_ct", 0))


@pytest.mark.slow
def test_colour_goes_through_every_stage(colour: Lab) -> None:
    artefact = evaluated(colour, "phantom_clear", "phantom_dim")
    assert records(artefact, "image")[0]["dice_fov"] is not None
    student = colour.store.get(artefact.node.inputs["model"])
    assert student.node.settings["network"]["in_channels"] == 3
    (cost,) = [r for r in colour.make(colour.planner.efficiency("student")).records() if r["record"] == "efficiency"]
    assert cost["input"] == "1x3x32x32"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["scratch_style", "coco", "xded", "diga"])
def test_methods_with_views_or_critics_take_colour(colour: Lab, method: str) -> None:
    planner = colour.planner
    colour.make(*planner.ancestors("phantom_clear", 0), *planner.student(method, "phantom_clear", 0))


def test_keys_of_one_grey_class_are_those_of_before(tmp_path: Path) -> None:
    """Nothing that users have trained may be trained again because other tasks have more settings."""
    planner = Planner(Sweep.model_validate(TINY), {"phantom_clear": "phantom_clear@0"}, {"phantom_clear": "bank@0"})
    settings = planner.teacher("phantom_clear", 0).settings
    assert set(settings) == {"task", "tile", "numerics", "augment", "network", "training"}
    assert set(settings["network"]) == {"name", "width"}

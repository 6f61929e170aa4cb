"""What rows are: controls, ports, adapted rows, and the student alone that each is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gkd_bench.config.method_options import METHOD_OPTIONS
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.frame import Origin, SweepRecords, methods_in_order
from gkd_bench.report.names import METHOD_TITLES, method_title
from gkd_bench.report.rows import (
    alone_of,
    counterpart,
    headliners,
    is_distilled,
    kind_of,
    method_cell,
    method_heading,
    method_notes,
    remedies_of,
)  # fmt: skip
from gkd_bench.report.students import selected_students

from .made_up import model_key, stresses
from .made_up_many import SMALL, VARIANTS
from .small import image_rows, scored

SCORES = {"teacher": [0.9], "scratch": [0.7], "gkd": [0.75], "scratch_small": [0.5], "gkd_small": [0.65]}


def students(**scores: Any) -> SweepRecords:
    variants = {name: VARIANTS[name] for name in ("scratch_small", "gkd_small")}
    return scored({**SCORES, **scores}, variants=variants)


def test_order_has_controls_of_the_student_alone_together_and_of_kd_behind_kd() -> None:
    names = [
        "kd_a",
        "kd_photometric",
        "gkd",
        "scratch_photometric",
        "kd",
        "bn_views",
        "scratch_small",
        "scratch",
        "teacher",
    ]
    variants = {**VARIANTS, "kd_a": {"of": "kd", "set": {"weight": 2}}}
    expected = [
        "teacher",
        "scratch",
        "scratch_small",
        "bn_views",
        "scratch_photometric",
        "kd",
        "kd_photometric",
        "kd_a",
        "gkd",
    ]
    assert methods_in_order(names, variants) == expected


def test_titles_are_those_of_the_options_and_variants_name_the_longest_method_they_start_with() -> None:
    assert all(METHOD_TITLES[name] == options.title for name, options in METHOD_OPTIONS.items())
    assert (
        method_title("graph_flow_edges") == "Graph Flow edges"
        and method_title("bn_views_two") == "student alone + BN views two"
    )
    assert method_title("graph_x") == "graph_x" and method_title("kd_photometric") == "KD + photometric"


def test_row_with_another_student_is_compared_with_the_student_alone_of_that_student() -> None:
    records = students()
    gains = Evidence.of(records).gain_cells("dice_fov")
    assert gains["hrf", "stare", "gkd_small"].value == pytest.approx(0.65 - 0.5)
    assert gains["hrf", "stare", "gkd"].value == pytest.approx(0.75 - 0.7)
    assert ("hrf", "stare", "scratch_small") not in gains
    assert (alone_of(records, "gkd_small"), alone_of(records, "gkd")) == ("scratch_small", "scratch")


def test_gap_of_another_student_starts_at_that_student_and_ends_at_the_teacher() -> None:
    gaps = Evidence.of(students()).gaps("dice_fov")
    assert gaps["hrf", "stare", "gkd_small"].closed.value == pytest.approx((0.65 - 0.5) / (0.9 - 0.5))
    assert gaps["hrf", "stare", "gkd"].closed.value == pytest.approx((0.75 - 0.7) / (0.9 - 0.7))


def test_without_a_student_alone_of_its_size_a_row_is_compared_with_nothing() -> None:
    rows = {name: scores for name, scores in SCORES.items() if name != "scratch_small"}
    records = scored(rows, variants={"gkd_small": VARIANTS["gkd_small"]})
    assert alone_of(records, "gkd_small") is None
    assert ("hrf", "stare", "gkd_small") not in Evidence.of(records).gain_cells("dice_fov")


def test_against_kd_a_row_with_another_student_needs_kd_with_that_student() -> None:
    assert counterpart(students(), "kd", "gkd") == "kd" and counterpart(students(), "kd", "gkd_small") is None


def test_variant_that_names_the_sweeps_own_student_is_compared_with_the_plain_student_alone() -> None:
    same = {"of": "gkd", "set": {}, "student": {"name": "mobile_unet", "width": 0.5}}
    assert alone_of(scored({"scratch": [0.7], "gkd_same": [0.7]}, variants={"gkd_same": same}), "gkd_same") == "scratch"


def test_kinds_tell_references_controls_methods_and_variants_apart() -> None:
    records = scored(SCORES, variants=VARIANTS)
    kinds = {
        name: kind_of(records, name)
        for name in ("teacher", "scratch_small", "bn_views", "kd_photometric", "kd", "gkd_intra")
    }
    assert [*kinds.values()] == ["reference", "reference", "control", "control", "method", "variant"]
    assert is_distilled(records, "gkd_intra") and not is_distilled(records, "kd_photometric")


def test_student_alone_of_another_size_is_a_reference_only_without_further_changes() -> None:
    changed = {"of": "scratch", "set": {"remedies": ["swa"]}, "student": SMALL}
    assert kind_of(scored(SCORES, variants={"scratch_small": changed}), "scratch_small") == "variant"


def test_adapted_row_is_marked_and_explained_wherever_it_is_named() -> None:
    records = scored({"scratch": [0.7], "kd_adapted": [0.8]}, variants=VARIANTS)
    assert "adapted" in method_cell(records, "kd_adapted").flags and method_heading(records, "kd_adapted").endswith("§")
    assert any("unlabelled target images" in note for note in method_notes(records, records.methods))
    assert not method_notes(records, ["scratch"])[1:]


def test_remedies_are_read_from_the_settings_of_the_training() -> None:
    plain, strong = {"augment": {"photometric": "mild"}}, {"augment": {"photometric": "strong"}}
    settings = {
        model_key("teacher", "hrf", 0): plain,
        model_key("kd", "hrf", 0): strong | {"swa": True, "adapt": "batch_norm"},
        model_key("gkd", "hrf", 0): plain,
    }
    records = scored({"teacher": [0.8], "kd": [0.7], "gkd": [0.7]}, settings=settings)
    assert remedies_of(records, "kd") == ("photometric", "swa", "bn_adapt") and remedies_of(records, "gkd") == ()


def test_strong_augmentation_of_the_whole_sweep_is_no_remedy_of_a_row() -> None:
    settings = {model_key(name, "hrf", 0): {"augment": {"photometric": "strong"}} for name in ("teacher", "kd")}
    assert remedies_of(scored({"teacher": [0.8], "kd": [0.7]}, settings=settings), "kd") == ()


def test_network_that_is_adapted_to_its_targets_is_never_handed_over(adapted: SweepRecords) -> None:
    assert {one.method for one in selected_students(adapted).values()} == {"kd"}


@pytest.fixture
def adapted() -> SweepRecords:
    """An adapted row that validates better than the others."""
    best = stresses(np.random.default_rng(0), {"kd": 0.7, "kd_adapted": 0.9}, (0,))
    images = image_rows({"kd": [0.7], "kd_adapted": [0.9]})
    return SweepRecords.from_dicts([*images, *best], Origin(variants=VARIANTS))


def test_footnotes_name_only_ports_of_the_table_and_controls_that_coincide() -> None:
    same = {"of": "kd", "set": {"remedies": ["photometric"]}, "control": True, "same_as": "kd"}
    notes = method_notes(scored({"kd": [0.7], "gkd": [0.8]}, variants={"kd_photometric": same}), ["kd", "gkd"])
    assert [note.partition(":")[0] for note in notes] == ["◇ KD + photometric", "¶ GKD"]
    assert METHOD_OPTIONS["gkd"].port in notes[1]


def test_headliners_are_references_gkd_and_the_best_in_table_order() -> None:
    records = SweepRecords.from_dicts(image_rows({"scratch": [0.5]}), Origin())
    ranked = ["cwd", "at", "fsp", "gkd", "kd", "skd", "scratch", "teacher"]
    assert headliners(records, ranked, 6) == ["teacher", "scratch", "kd", "at", "cwd", "gkd"]
    assert headliners(records, ranked, 8) == records.in_order(ranked)

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from gkd_bench.report.evidence import NO_GAP, Evidence
from gkd_bench.report.frame import SweepRecords

from .made_up import Record
from .small import image_rows, scored

KEY = ("hrf", "stare", "gkd")
BETTER = [0.03, 0.05, 0.02, 0.06, 0.04, 0.07, 0.05, 0.03]


def sweep(gains: list[float], seeds: int = 2, **more: list[float]) -> Evidence:
    """Student alone at 0.5 for every subject, and GKD ahead of it by the given gains."""
    levels = {"scratch": [[0.5] * len(gains)] * seeds, "gkd": [[0.5 + gain for gain in gains]] * seeds}
    levels |= {method: [[0.5 + gain for gain in values]] * seeds for method, values in more.items()}
    return Evidence(scored(levels))


def test_evidence_is_made_once_for_the_same_records(sweep_records: SweepRecords) -> None:
    assert Evidence.of(sweep_records) is Evidence.of(sweep_records)
    assert Evidence.of(sweep_records).cells("dice_fov") is Evidence.of(sweep_records).cells("dice_fov")


def test_metrics_are_in_the_order_of_the_catalogue_inside_the_field_of_view_first(sweep_records: SweepRecords) -> None:
    found = Evidence.of(sweep_records).metrics
    assert found[:2] == ["dice_fov", "iou_fov"]
    assert found.index("brier_fov") < found.index("dice")


def test_headline_is_of_the_whole_image_in_a_task_without_a_field_of_view() -> None:
    rows = [
        {name: value for name, value in row.items() if not name.endswith("_fov")} for row in image_rows({"gkd": [0.7]})
    ]
    assert Evidence(SweepRecords.from_dicts(rows)).headline == "dice"


def test_cell_has_both_intervals_and_says_what_it_rests_on() -> None:
    cell = Evidence(scored({"gkd": [[0.5, 0.7], [0.6, 0.8]]})).cells("dice_fov")[KEY]
    assert cell.value == pytest.approx(0.65)
    assert cell.half == pytest.approx(12.7062 * 0.1 / np.sqrt(2) / np.sqrt(2), rel=1e-4)
    assert (cell.low, cell.high) == (pytest.approx(0.5), pytest.approx(0.8))
    assert (cell.n, cell.subjects) == (2, 2)


def test_undefined_subject_is_seen_in_the_count_not_in_the_mean_of_others() -> None:
    rows = image_rows({"gkd": [[0.5, 0.7], [0.6, 0.8]]})
    rows[0]["dice_fov"] = float("nan")
    cell = Evidence(SweepRecords.from_dicts(rows)).cells("dice_fov")[KEY]
    assert (cell.value, cell.n, cell.subjects) == (pytest.approx((0.7 + 0.7) / 2), 2, 1)


def test_seed_without_a_defined_score_does_not_count() -> None:
    cell = Evidence(scored({"gkd": [0.5, float("nan"), 0.7]})).cells("dice_fov")[KEY]
    assert (cell.value, cell.n) == (pytest.approx(0.6), 2)


def test_significant_gain_is_marked_with_the_p_of_scipy() -> None:
    cell = sweep(BETTER).gain_cells("dice_fov")[KEY]
    expected = scipy.stats.permutation_test(
        (np.array(BETTER),), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert cell.p == pytest.approx(expected.pvalue)
    assert "better" in cell.flags
    assert "worse" not in cell.flags


def test_gain_of_a_metric_where_less_is_better_is_a_loss() -> None:
    levels = {"scratch": [[5.0] * 8], "gkd": [[5.0 + gain for gain in BETTER]]}
    cell = Evidence(scored(levels, metric="hd95_fov")).gain_cells("hd95_fov")[KEY]
    assert "worse" in cell.flags


def test_more_comparisons_make_the_same_gain_less_certain() -> None:
    alone, several = sweep(BETTER), sweep(BETTER, kd=BETTER, other=BETTER)
    first, third = (one.gain_cells("dice_fov")[KEY].p for one in (alone, several))
    assert third == pytest.approx(3 * (first or 0))
    assert several.verdicts("dice_fov")[KEY].family == 3


def test_family_has_distilled_methods_only() -> None:
    evidence = sweep(BETTER, teacher=BETTER, baseline=BETTER, kd=BETTER)
    assert {key[2] for key in evidence.verdicts("dice_fov")} == {"kd", "gkd"}
    assert {key[2] for key in evidence.verdicts("dice_fov", "kd")} == {"gkd"}
    assert evidence.gain_cells("dice_fov")["hrf", "stare", "teacher"].p is None


def test_difference_from_kd_has_marks_of_its_own() -> None:
    cell = sweep([2 * gain for gain in BETTER], kd=BETTER).gain_cells("dice_fov", "kd")[KEY]
    assert "better_kd" in cell.flags
    assert "better" not in cell.flags


@pytest.mark.parametrize(("gain", "tie"), [(0.004, True), (0.006, False), (-0.004, True), (-0.006, False)])
def test_difference_below_the_metric_s_own_threshold_is_a_tie(gain: float, tie: bool) -> None:
    cell = Evidence(scored({"scratch": [0.5] * 3, "gkd": [0.5 + gain] * 3})).gain_cells("dice_fov")[KEY]
    assert ("tie" in cell.flags) is tie


def test_too_few_subjects_for_any_significance_are_known() -> None:
    assert sweep(BETTER[:4]).powerless("dice_fov")
    assert not sweep(BETTER).powerless("dice_fov")


def test_gap_closed_is_the_share_of_the_way_to_the_teacher() -> None:
    cell = sweep([0.1] * 5, teacher=[0.4] * 5).gaps("dice_fov")[KEY].cell
    assert (cell.value, cell.low, cell.high) == (pytest.approx(0.25), pytest.approx(0.25), pytest.approx(0.25))
    assert (cell.n, cell.subjects) == (2, 5)


def test_gap_to_a_teacher_that_is_not_better_is_undefined() -> None:
    assert sweep([0.1] * 5, teacher=[-0.1] * 5).gaps("dice_fov")[KEY].cell.value == NO_GAP


def test_overall_means_use_only_pairs_and_seeds_that_every_method_has() -> None:
    rows = image_rows({"scratch": [0.5, 0.6, 0.1], "gkd": [0.6, 0.8]})
    rows += image_rows({"scratch": [0.9]}, target="chase_db1")
    evidence = Evidence(SweepRecords.from_dicts(rows))
    assert evidence.common("dice_fov") == ([("hrf", "stare")], [0, 1])
    several = evidence.several("dice_fov", "scratch")
    assert several is not None
    assert several.cell.value == pytest.approx(0.55)


def test_unknown_metric_is_refused(sweep_records: SweepRecords) -> None:
    with pytest.raises(KeyError, match="hausdorff"):
        Evidence.of(sweep_records).cells("hausdorff")


def test_records_without_scores_have_no_evidence(made_up: list[Record]) -> None:
    evidence = Evidence(SweepRecords.from_dicts([row for row in made_up if row["record"] == "trial"]))
    assert (evidence.metrics, evidence.cells("dice_fov"), evidence.common("dice_fov")) == ([], {}, ([], []))

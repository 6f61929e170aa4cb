from __future__ import annotations

import pytest
import scipy.stats

from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.paired import significance

from .small import cells_of, image_rows, row_of, scored

GAINS = [0.03, 0.05, -0.02, 0.06, 0.04, 0.07, 0.055, 0.035, 0.045]


def sweep(**more: list[float]) -> SweepRecords:
    levels = {"scratch": [0.0] * len(GAINS), "gkd": GAINS, **more}
    return scored({name: [[0.5 + gain for gain in gains]] for name, gains in levels.items()})


def test_row_has_the_wilcoxon_p_of_scipy_and_the_effect_sizes_by_hand() -> None:
    row = cells_of(significance(sweep()))
    assert row["p_wilcoxon"].value == pytest.approx(scipy.stats.wilcoxon(GAINS, method="exact").pvalue)
    # ranks of magnitude: 0.02 is the smallest, so R- = 1 of 45
    assert row["rank_biserial"].value == pytest.approx((44 - 1) / 45)
    mean = sum(GAINS) / 9
    deviation = (sum((gain - mean) ** 2 for gain in GAINS) / 8) ** 0.5
    assert row["cohen_dz"].value == pytest.approx(mean / deviation)
    assert (row["subjects"].value, row["smallest_p"].value) == (9, pytest.approx(2 / 2**9))


def test_family_is_the_table_so_that_the_smallest_p_is_multiplied_by_its_rows() -> None:
    table = significance(sweep(kd=[gain + 0.01 for gain in GAINS], other=[gain / 2 for gain in GAINS]))
    rows = [cells_of(table, at) for at in range(3)]
    least = min(row["p_permutation"].value for row in rows)  # type: ignore[type-var]
    assert min(row["p_permutation_holm"].value for row in rows) == pytest.approx(3 * least)  # type: ignore[operator, type-var]
    assert "Holm over the 3 comparisons" in table.caption


def test_against_kd_there_is_no_row_of_kd() -> None:
    table = significance(sweep(kd=[0.0] * len(GAINS)), "kd")
    assert [row[2].value for row in table.rows] == ["GKD"]
    assert cells_of(table)["verdict"].value == "better"
    assert "better_kd" in cells_of(table)["difference"].flags


def test_significant_difference_below_a_tie_is_said_to_be_too_little() -> None:
    records = sweep(kd=[0.001 + gain / 1000 for gain in GAINS])
    assert row_of(significance(records), "hrf", "stare", "KD")["verdict"].value == "better, but too little to matter"


def test_one_subject_gives_no_p_and_says_why() -> None:
    row = cells_of(significance(scored({"scratch": [0.5], "gkd": [0.6]})))
    assert row["p_permutation"].value is row["p_wilcoxon_holm"].value is None
    assert "at least two subjects" in str(row["verdict"].value)


def test_caption_says_when_nothing_can_be_significant() -> None:
    few = scored({"scratch": [[0.5, 0.5, 0.5]], "gkd": [[0.6, 0.61, 0.62]]})
    assert "nothing can be significant here" in significance(few).caption
    assert "nothing can be significant" not in significance(sweep()).caption


def test_in_domain_pairs_are_marked() -> None:
    records = SweepRecords.from_dicts(image_rows({"scratch": [[0.5, 0.4]], "gkd": [[0.6, 0.7]]}, "a", "a"))
    assert "in_domain" in cells_of(significance(records))["target"].flags

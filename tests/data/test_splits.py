from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gkd_bench.data.catalogue import open_reader
from gkd_bench.data.splits import parse_splits, read_splits, split_problems
from gkd_bench.errors import DataError
from gkd_bench.registry import DOMAIN_CLASSES

CHAOS_MR = (14, 2, 4)
COUNTS = {
    "chase_db1": (8, 2, 4),
    "stare": (8, 2, 10),
    "drive": (9, 2, 29),
    "hrf": (18, 6, 21),
    "chaos_ct": (28, 4, 8),
    "chaos_ct_slices": (2, 1, 1),
    **dict.fromkeys(("chaos_mr", "chaos_mr_t1_out", "chaos_mr_t2", "chaos_mr_slices"), CHAOS_MR),
    "chaos_mr_volumes": (1, 1, 2),
    "lits": (101, 10, 20),
    "lits_slices": (90, 12, 20),
    "ircadb": (14, 2, 4),
}
PATHOLOGICAL = {"im0001", "im0002", "im0003", "im0004", "im0005", "im0044", "im0139", "im0291", "im0319", "im0324"}


@pytest.mark.parametrize("name", DOMAIN_CLASSES)
def test_split_sizes_are_the_documented_ones(name: str) -> None:
    counts = Counter(open_reader(name, Path("/nowhere")).splits().values())
    assert (counts["train"], counts["val"], counts["test"]) == COUNTS.get(name, (6, 2, 4))


def test_hrf_groups_are_balanced_in_every_split() -> None:
    counts = Counter((split, subject.split("_")[1]) for subject, split in read_splits("hrf").items())
    assert {count for (split, _), count in counts.items() if split == "train"} == {6}
    assert {count for (split, _), count in counts.items() if split == "test"} == {7}


def test_half_of_every_stare_split_is_pathological() -> None:
    for split in ("train", "val", "test"):
        subjects = {subject for subject, home in read_splits("stare").items() if home == split}
        assert len(subjects & PATHOLOGICAL) * 2 == len(subjects)


def test_subject_in_two_splits_is_refused() -> None:
    with pytest.raises(DataError, match="subject 01 is already in train"):
        parse_splits("train 01\nval 02\ntest 01\n")


def test_all_wrong_lines_are_listed_at_once() -> None:
    with pytest.raises(DataError) as error:
        parse_splits("# comment\ntrian 01\ntrain 02 03\ntrain 04  # fine\n")
    assert len(error.value.problems) == 4  # two lines, and no subject in val, in test
    assert "line 2" in error.value.problems[0] and "line 3" in error.value.problems[1]


def test_unplaced_and_absent_subjects_are_problems_unless_optional() -> None:
    splits = parse_splits("train 01\nval 02\ntest 03\ntest 04\n")
    found = split_problems(splits, ["01", "02", "03", "05"])
    assert found == ["subject 05 is in no split", "subject 04 of the split file has no image"]
    assert split_problems(splits, ["01", "02", "03"], optional=["04"]) == []

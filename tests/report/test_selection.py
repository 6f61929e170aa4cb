"""Selection rules choose by the source's validation only, and what they choose."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from gkd_bench.config.schema import OBJECTIVES, Selection
from gkd_bench.errors import LeakError
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.selection import RULES, Candidate, TargetScores, choose, closest_to_ideal, oracle

from .made_up import base, make_origin, make_records, model_key

FIRST = Candidate("a", "best", "chase_db1", "gkd", 0, 0, 3, val_dice=0.70, val_dice_stressed=0.60)
CANDIDATES = (
    FIRST,
    replace(FIRST, variant="last", epoch=5, val_dice=0.69, val_dice_stressed=0.66),
    replace(FIRST, model="b", trial=1, val_dice=0.72, val_dice_stressed=0.58),
    replace(FIRST, model="b", trial=1, variant="last", epoch=5, val_dice=0.65, val_dice_stressed=0.55),
    replace(FIRST, model="c", trial=2, epoch=5, val_dice=0.68, val_dice_stressed=0.63),  # its best epoch is its last
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("source_val", ("b", "best")), ("source_val_stressed", ("a", "last")), ("last", ("a", "last"))],
)
def test_each_rule_takes_the_candidate_it_names(rule: str, expected: tuple[str, str]) -> None:
    for order in itertools.permutations(CANDIDATES):
        chosen = choose(RULES[rule], order)
        assert (chosen.model, chosen.variant) == expected


def test_the_last_rule_counts_a_best_epoch_that_is_the_last_one() -> None:
    better = replace(CANDIDATES[-1], val_dice=0.71)
    assert choose(RULES["last"], [*CANDIDATES[:-1], better]).model == "c"


def test_equal_candidates_give_the_earliest_trial_and_the_best_epoch() -> None:
    same = [replace(one, val_dice=0.7) for one in reversed(CANDIDATES)]
    chosen = choose(RULES["source_val"], same)
    assert (chosen.trial, chosen.variant) == (0, "best")


def test_every_rule_of_a_sweep_file_exists_and_none_is_the_oracle() -> None:
    names = Selection.model_fields["rule"].annotation
    assert set(RULES) == set(names.__args__)  # type: ignore[union-attr]
    assert "oracle" not in RULES


def test_the_oracle_takes_what_the_target_likes() -> None:
    scores = TargetScores({("a", "best"): 0.5, ("b", "last"): 0.6, ("c", "best"): 0.4})
    chosen = oracle(CANDIDATES, scores)
    assert (chosen.model, chosen.variant) == ("b", "last")


def test_closest_to_ideal_scales_every_objective_over_the_front() -> None:
    """By hand: scaled costs (0, 1), (0.5, 0.25), (1, 0): distances 1, 0.559, 1."""
    points = [
        {"source_val": 0.80, "student_macs": 9e6},
        {"source_val": 0.78, "student_macs": 3e6},
        {"source_val": 0.76, "student_macs": 1e6},
    ]
    assert closest_to_ideal(points, {name: OBJECTIVES[name] for name in ("source_val", "student_macs")}) == 1


def test_an_objective_that_is_the_same_everywhere_does_not_count() -> None:
    points = [{"source_val": 0.5, "student_macs": 1e6}, {"source_val": 0.6, "student_macs": 1e6}]
    assert closest_to_ideal(points, {name: OBJECTIVES[name] for name in ("source_val", "student_macs")}) == 1


# ---------------------------------------------------------------- leaks


def test_a_candidate_holds_nothing_of_a_target() -> None:
    names = {field.name for field in fields(Candidate)}
    assert not any("target" in name or "test" in name for name in names)


@pytest.mark.parametrize("change", [{"split": "test"}, {"target": "stare"}, {"split": "train"}])
def test_a_planted_leak_into_selection_is_caught(change: dict[str, Any]) -> None:
    """A record of a test split cannot become a candidate, whatever its fields are called."""
    record = next(r for r in make_records() if r["record"] == "candidate")
    assert Candidate.from_record(record)
    with pytest.raises(LeakError, match="validation subjects only"):
        Candidate.from_record({**record, **change})


def test_a_planted_leak_in_the_records_stops_the_report() -> None:
    """A candidate whose validation Dice was measured on a target's test split: no table is made of it."""
    leak = base("stress", "gkd", "stare", "hrf", 0, "test") | {"variant": "best", "record": "candidate", "epoch": 3}
    numbers = {"val_dice": 0.99, "val_dice_stressed": 0.99, "stress_fsd": None, "macs": 1.0}
    with pytest.raises(LeakError, match="stare -> hrf"):
        SweepRecords.from_dicts([*make_records(), leak | numbers], make_origin())


@pytest.mark.slow
def test_the_type_checker_refuses_target_scores_in_a_rule(tmp_path: Path) -> None:
    code = """
from gkd_bench.report.selection import RULES, Candidate, TargetScores, choose, oracle

def honest(candidates: list[Candidate]) -> Candidate:
    return choose(RULES["source_val"], candidates)

def leaky(scores: TargetScores) -> Candidate:
    return choose(RULES["source_val"], scores)
"""
    planted = tmp_path / "leak.py"
    planted.write_text(code)
    settings = tmp_path / "mypy.ini"
    settings.write_text("[mypy]\nfollow_imports = silent\n[mypy-pydantic.*]\nfollow_imports = skip\n")
    options = ["--config-file", str(settings), "--cache-dir", str(tmp_path), "--ignore-missing-imports"]
    command = [sys.executable, "-m", "mypy", *options, str(planted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wrong = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(wrong) == 1, done.stdout + done.stderr
    assert ":8: error" in wrong[0] and 'expected "Iterable[Candidate]"' in wrong[0]


# ---------------------------------------------------------------- in the records


def test_tables_show_the_epoch_that_the_rule_takes() -> None:
    """Seed 0 of every student kept two epochs; the made-up last one is worse in validation."""
    best = SweepRecords.from_dicts(make_records(), make_origin())
    last = SweepRecords.from_dicts(make_records(), make_origin(rule="last"))
    model = model_key("gkd", "stare", 0)
    assert (best.chosen_variants[model], last.chosen_variants[model]) == ("best", "last")
    for records, variant in ((best, "best"), (last, "last")):
        shown = records.final("image", "test")
        assert set(shown[shown["model"] == model]["variant"]) == {variant}
        assert shown["trial"].isna().all()
    assert len(best.seed_scores) == len(last.seed_scores)


def test_trials_are_candidates_and_never_cells() -> None:
    records = SweepRecords.from_dicts(make_records(), make_origin())
    numbers = {one.trial for one in records.candidates if one.method == "gkd" and one.seed == 0}
    assert numbers == {None, 0, 3}
    assert len(records.candidate_scores("dice_fov")) > len(records.seed_scores)

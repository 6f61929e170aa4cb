"""How strongly loss terms pulled, and that a silent one is seen in the table, on the terminal and in the answer."""

from __future__ import annotations

from typing import Any

import pytest

from gkd_bench.report.comparison import comparison
from gkd_bench.report.contents import answer, terminal_tables
from gkd_bench.report.frame import Origin, SweepRecords
from gkd_bench.report.method_tables import budgets_of, methods_table, terms_table
from gkd_bench.report.pulls import loss_terms, pull_cell, silent_rows, verdict

from .made_up import Record, base, model_key
from .small import image_rows, row_of

LEVELS = {"teacher": [[0.9] * 3] * 2, "scratch": [[0.7] * 3] * 2, "gkd": [[0.72, 0.73, 0.74]] * 2}


def gradient(method: str, seed: int, term: str, ratio: float, cosine: float = 0.2) -> list[Record]:
    labels = base("distill", method, "hrf", None, seed, "train") | {"record": "health", "host": None, "reference": 1.0}
    words = None if ratio >= 1e-3 else "it teaches nothing"
    return [
        {**labels, "check": f"gradient ratio {term}", "value": ratio, "ok": words is None, "warning": words},
        {**labels, "check": f"gradient cosine {term}", "value": cosine, "ok": None, "warning": None},
    ]


def sweep(
    ratios: dict[str, tuple[float, float]], options: dict[str, float] | None = None, **origin: Any
) -> SweepRecords:
    """GKD with gradient ratios of two seeds per term."""
    checks = [
        one
        for term, both in ratios.items()
        for seed, ratio in enumerate(both)
        for one in gradient("gkd", seed, term, ratio)
    ]
    weights = {"intra": 0.1, "inter": 0.5, "cross": 0.0} if options is None else options
    settings = {model_key("gkd", "hrf", seed): {"options": weights, **origin.pop("stage", {})} for seed in (0, 1)}
    return SweepRecords.from_dicts([*image_rows(LEVELS), *checks], Origin(**{"settings": settings, **origin}))


PULLING = {"intra": (0.2, 0.4), "inter": (0.06, 0.02)}


def test_pull_is_the_largest_mean_ratio_times_weight() -> None:
    records = sweep(PULLING)
    assert pull_cell(records, "gkd").value == pytest.approx(max(0.1 * 0.3, 0.5 * 0.04))
    assert verdict(records, "gkd") == "pulls" and not silent_rows(records)


def test_terms_of_weight_zero_are_not_listed() -> None:
    assert [term.name for term in loss_terms(sweep(PULLING))["gkd"]] == ["intra", "inter"]


def test_term_table_has_weight_ratio_pull_and_cosine_of_every_term() -> None:
    row = row_of(terms_table(sweep(PULLING)), "GKD", "inter")
    assert (row["weight"].value, row["ratio"].value, row["pull"].value) == (
        "0.5",
        pytest.approx(0.04),
        pytest.approx(0.02),
    )
    assert row["cosine"].value == pytest.approx(0.2) and row["silent"].value == "0 of 2"


def test_each_training_counts_with_its_own_weight() -> None:
    settings = {model_key("gkd", "hrf", seed): {"options": {"intra": weight}} for seed, weight in ((0, 0.1), (1, 1.0))}
    term = loss_terms(sweep({"intra": (0.2, 0.4)}, settings=settings))["gkd"][0]
    assert term.pull.value == pytest.approx((0.1 * 0.2 + 1.0 * 0.4) / 2) and term.weight_words == "0.1 to 1"


def test_balanced_term_pulls_as_strongly_as_it_is_told() -> None:
    stage = {"distill": {"balance": "gradient_norm", "balance_target": 0.5}}
    options = {"intra": 0.2, "inter": 0.0, "cross": 0.0}
    settings = {model_key("gkd", "hrf", seed): {"options": options, **stage} for seed in (0, 1)}
    assert pull_cell(sweep({"intra": (0.004, 0.008)}, settings=settings), "gkd").value == pytest.approx(0.2 * 0.5)


def test_silent_term_is_seen_in_the_tables_on_the_terminal_and_in_the_answer() -> None:
    records = sweep({"intra": (0.2, 0.4), "inter": (1e-5, 3e-5)})
    row = row_of(methods_table(records), "GKD")
    assert row["verdict"].value == "silent: inter" and "warning" in row["verdict"].flags
    assert row["weakest"].value == pytest.approx(2e-5) and "warning" in row["weakest"].flags
    assert "warning" in row_of(comparison(records), "GKD")["pull"].flags
    shown = next(table for table in terminal_tables(records) if table.name == "comparison")
    assert "warning" in row_of(shown, "GKD")["pull"].flags
    assert "Silent losses" in answer(records) and "GKD (inter)" in answer(records)


def test_method_whose_every_term_is_silent_is_silent_as_a_whole() -> None:
    records = sweep({"intra": (1e-5, 1e-5), "inter": (0.0, 0.0)})
    assert silent_rows(records) == {"gkd": "silent"} and "teaches nothing: GKD." in answer(records)


def test_silence_in_one_run_is_not_averaged_away() -> None:
    assert verdict(sweep({"intra": (0.2, 0.4), "inter": (0.4, 1e-6)}), "gkd") == "silent: inter in 1 of 2 runs"


def test_rows_without_terms_and_without_measurements_say_so() -> None:
    records = sweep({})
    assert (verdict(records, "scratch"), verdict(records, "gkd")) == ("no loss term", "not measured")
    assert pull_cell(records, "scratch").value is None and "Silent" not in answer(records)


def test_network_adapted_at_test_time_has_the_gradients_of_the_training_it_shares() -> None:
    rows = [
        {**row, "model": f"{row['model']}+batch_norm"} if row["method"] == "gkd" else row for row in image_rows(LEVELS)
    ]
    rows += [one for seed in (0, 1) for one in gradient("another label", seed, "intra", 0.3)]
    known = {model_key("another label", "hrf", seed): model_key("gkd", "hrf", seed) for seed in (0, 1)}
    records = SweepRecords.from_dicts([{**row, "model": known.get(row["model"], row["model"])} for row in rows])
    assert loss_terms(records)["gkd"][0].ratio.value == pytest.approx(0.3)


def trials(method: str, states: list[str]) -> list[Record]:
    labels = base("distill", method, "hrf", None, 0, "val")
    return [
        {**labels, "record": "trial", "study": f"hrf {method}", "number": at, "params": "{}", "state": state, "value": None,
         "cause": "", "objectives": "{}"}
        for at, state in enumerate(states)
    ]  # fmt: skip


def test_budget_is_said_with_how_trials_ended_and_a_difference_is_not_hidden() -> None:
    kd, gkd = trials("kd", ["complete", "pruned"]), trials("gkd", ["complete", "complete"])
    rows = image_rows({**LEVELS, "kd": [[0.7] * 3] * 2})
    table = methods_table(SweepRecords.from_dicts([*rows, *kd, *gkd]))
    assert "same budget, 2 trials per source" in table.caption and "KD 1/1, GKD 2/0" in table.caption
    assert row_of(table, "GKD")["from"].value == "searched, 2 trials per source"
    unequal = methods_table(SweepRecords.from_dicts([*rows, *kd, *gkd[:1]]))
    assert "budgets that DIFFER" in unequal.caption


def test_weights_that_were_not_searched_name_their_origin() -> None:
    variants = {"gkd_intra": {"of": "gkd", "set": {"inter": 0.0}}}
    records = SweepRecords.from_dicts(image_rows({**LEVELS, "gkd_intra": [[0.7] * 3] * 2}), Origin(variants=variants))
    table = methods_table(records)
    assert "prototype of ours" in str(row_of(table, "GKD")["from"].value)
    assert row_of(table, "GKD intra")["from"].value == "the variant; others as GKD"
    assert not budgets_of(records) and "No weight was searched" in table.caption

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.model_card import Card, model_card, summary
from gkd_bench.report.models import selected_cards

from .made_up import DOMAINS, Record, make_origin
from .mlflow_help import student, students


@pytest.fixture(scope="module")
def card(made_up: list[Record]) -> Card:
    records = SweepRecords.from_dicts(made_up, make_origin())
    (found,) = [one for one in selected_cards(records, students()) if one.candidate.source == "hrf"]
    return found


def rows(text: str) -> dict[str, list[str]]:
    """First cell of a table's row -> the others."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines}


def test_card_has_every_part_a_stranger_needs(card: Card) -> None:
    titles = re.findall(r"^#+ (.*)$", model_card(card), re.MULTILINE)
    assert titles == [
        "gkd_bench.made_up.hrf", "Use", "Scores", "How it was selected", "Training", "Preparation of images", "Limits",
    ]  # fmt: skip


def test_scores_are_those_of_this_very_model(made_up: list[Record], card: Card) -> None:
    one = card.candidate
    images = [
        record for record in made_up
        if record["record"] == "image" and record["model"] == one.model and record["variant"] == one.variant
    ]  # fmt: skip
    shown = rows(model_card(card))
    for target in DOMAINS:
        mine = [record for record in images if record["target"] == target]
        subjects = {
            name: [r["dice_fov"] for r in mine if r["subject"] == name] for name in {r["subject"] for r in mine}
        }
        means = [float(np.mean(values)) for values in subjects.values()]
        dice, interval, count = shown[target + (" ◦" if target == one.source else "")][:3]
        assert float(dice) == pytest.approx(np.mean(means), abs=6e-4)
        assert int(count) == len(means)
        low, high = map(float, interval.split(" to "))
        assert min(means) - 6e-4 <= low <= float(dice) <= high <= max(means) + 6e-4


def test_card_says_how_it_was_selected_and_that_no_number_is_the_papers(card: Card) -> None:
    text = model_card(card)
    assert "Rule `source_val`: best validation Dice of the source" in text
    assert f"{card.candidate.val_dice:.3f}" in text
    assert "none of these numbers is the paper's" in text
    assert "n = 1 seed" in text
    assert "Over all 3 seeds" in text


def test_card_says_how_images_are_prepared_and_how_to_load_it(card: Card) -> None:
    text = model_card(card)
    assert "* scale.rule: `none`" in text
    assert "tiles of 32 x 32 pixels" in text
    assert 'load_model("models:/gkd_bench.made_up.hrf@selected")' in text
    assert "foreground from probability 0.5" in text


def test_card_says_what_it_must_not_be_used_for(card: Card) -> None:
    assert "Never to be used for diagnosis" in model_card(card)
    assert "9 health checks of the sweep failed" in model_card(card)


def test_card_names_data_and_command(card: Card) -> None:
    text = model_card(card)
    assert card.records.origin.fingerprints["hrf"][:12] in text
    assert "python -m gkd_bench.sweep sweeps/made_up.yaml" in text


def test_card_without_test_scores_says_so(made_up: list[Record]) -> None:
    kept = [record for record in made_up if record["record"] in ("candidate", "cost")]
    cards = selected_cards(SweepRecords.from_dicts(kept, make_origin(sources=DOMAINS)), students())
    assert len(cards) == len(DOMAINS)
    assert "has not been scored" in model_card(cards[0])


def test_only_students_with_weights_have_a_card(card: Card) -> None:
    assert selected_cards(card.records, []) == []
    others = [student("hrf", "scratch", 0)]
    assert selected_cards(card.records, others) == []


def test_summary_names_network_source_and_rule(card: Card) -> None:
    text = summary(replace(card, student=replace(card.student, network={"name": "enet", "width": 0.5})))
    assert "enet x0.5 trained on hrf only by GKD" in text
    assert "best validation Dice of the source" in text

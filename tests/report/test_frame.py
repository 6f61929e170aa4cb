from __future__ import annotations

import json
import random

import pytest

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.contents import file_tables, page_tables
from gkd_bench.report.frame import Origin, SweepRecords, methods_in_order

from .made_up import Record, base, make_origin, make_records, metrics


def image(subject: str, name: str, level: float, seed: int = 0) -> Record:
    labels = {**base("evaluate", "gkd", "hrf", "stare", seed), "variant": "best", "record": "image"}
    return {**labels, "subject": subject, "image": name, **metrics(level)}


def test_subjects_weigh_the_same_however_many_images_they_have() -> None:
    rows = [image("s1", "a", 0.9), image("s1", "b", 0.9), image("s1", "c", 0.9), image("s2", "a", 0.5)]
    scores = SweepRecords.from_dicts(rows).seed_scores
    assert scores["dice_fov"].tolist() == pytest.approx([0.7])
    assert (scores["subjects"].item(), scores["images"].item()) == (2, 4)


def test_undefined_metric_of_an_image_does_not_enter_its_subjects_mean() -> None:
    rows = [image("s1", "a", 0.9), {**image("s1", "b", 0.1), "sensitivity": None}]
    scores = SweepRecords.from_dicts(rows).seed_scores
    assert scores["sensitivity"].item() == pytest.approx(0.9 - 0.02)


def test_only_test_records_are_scored() -> None:
    rows = [image("s1", "a", 0.9), {**image("s2", "a", 0.1), "split": "val"}]
    assert SweepRecords.from_dicts(rows).seed_scores["dice_fov"].item() == pytest.approx(0.9)


def test_stage_shared_by_a_trial_and_a_final_training_counts_once() -> None:
    rows = [{**image("s1", "a", 0.9), "trial": 3}, image("s1", "a", 0.9)]
    frame = SweepRecords.from_dicts(rows).of("image")
    assert len(frame) == 1
    assert frame["trial"].isna().all()


def test_cell_scored_by_two_trainings_is_refused() -> None:
    rows = [image("s1", "a", 0.9), {**image("s1", "a", 0.8), "key": "f" * 24}]
    with pytest.raises(GkdBenchError, match="hrf -> stare, gkd, seed 0: scored by 2 trainings"):
        SweepRecords.from_dicts(rows)


def test_every_incomplete_record_and_foreign_sweep_is_named_at_once() -> None:
    bare: Record = {"record": "cost", "sweep": "other", "key": "k"}
    with pytest.raises(GkdBenchError) as caught:
        SweepRecords.from_dicts([image("s1", "a", 0.9), {"record": "missing", "sweep": "made_up"}, bare])
    message = str(caught.value)
    assert "'missing' of stage None lacks domain, reason" in message
    assert "'cost' of stage k lacks device" in message
    assert "several sweeps (made_up, other)" in message


def test_no_records_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(GkdBenchError, match="run the sweep first"):
        SweepRecords.from_dicts([])


def test_kinds_of_a_later_version_are_left_out() -> None:
    rows = [image("s1", "a", 0.9), {"record": "hologram", "sweep": "made_up"}]
    assert "hologram" not in SweepRecords.from_dicts(rows).frames


def test_asked_domains_come_first_and_in_the_asked_order(made_up: list[Record]) -> None:
    records = SweepRecords.from_dicts(made_up, Origin(sources=("stare", "chase_db1"), targets=("stare", "drive")))
    assert records.sources == ["stare", "chase_db1", "hrf"]
    assert records.targets == ["stare", "drive", "chase_db1", "hrf"]


def test_methods_are_listed_teacher_first_then_as_registered(sweep_records: SweepRecords) -> None:
    assert sweep_records.methods == ["teacher", "baseline", "scratch", "kd", "gkd", "gkd_intra"]
    assert sweep_records.seeds == [0, 1, 2]


def test_order_of_the_records_does_not_matter(made_up: list[Record], sweep_records: SweepRecords) -> None:
    shuffled = random.Random(0).sample(made_up, len(made_up))
    assert page_tables(SweepRecords.from_dicts(shuffled)) == page_tables(sweep_records)


def test_variants_follow_their_method_whatever_their_name() -> None:
    variants = {name: {"of": base} for name, base in (("a_variant", "gkd"), ("gkd_intra", "gkd"), ("b", "kd"))}
    names = ["stranger", "gkd_intra", "a_variant", "gkd", "b", "kd", "teacher"]
    assert methods_in_order(names, variants) == ["teacher", "kd", "b", "gkd", "a_variant", "gkd_intra", "stranger"]


def test_a_missing_value_beside_text_is_missing() -> None:
    """pandas makes NaN of a missing target; candidates must not take that for a target."""
    records = SweepRecords.from_dicts(make_records(), make_origin())
    assert all(one.stress_fsd == 3.5 for one in records.candidates)


def test_origin_survives_json() -> None:
    origin = make_origin(sources=("stare",))
    assert Origin.from_json(json.loads(json.dumps(origin.to_json()))) == origin


def test_sweep_that_scored_nothing_yet_still_has_its_tables(made_up: list[Record]) -> None:
    unscored = [record for record in made_up if record["kind"] != "evaluate"]
    records = SweepRecords.from_dicts(unscored, Origin(sources=("hrf",), targets=("stare",)))
    assert {"health", "search", "cost"} <= {table.name for table in page_tables(records)}
    assert file_tables(records)["trials"].rows

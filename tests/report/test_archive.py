"""A sweep's records on disk, read back, and several sweeps as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.archive import (
    ORIGIN,
    RECORDS,
    TIMINGS,
    SavedSweep,
    load_sweep_records,
    merged,
    save_sweep,
    sweep_file,
)
from gkd_bench.report.frame import SweepRecords
from gkd_bench.store.artefacts import LocalStore
from gkd_bench.store.node import StageNode

from .made_up import make_origin, make_records, model_key

NODE = StageNode("distill", {"tile": 32}, 0, {"source": "stare@1"}, labels={"source": "stare", "method": "gkd"})


def sweep(name: str, keep: Any = lambda record: True, change: Any = lambda record: {}, **origin: Any) -> SavedSweep:
    records = [{**record, "sweep": name, **change(record)} for record in make_records() if keep(record)]
    return SavedSweep(name, tuple(records), make_origin(**origin), (NODE,))


def of_source(*sources: str) -> Any:
    return lambda record: record.get("source") in (None, *sources)


def other_model(*methods: str) -> Any:
    """Records of these methods as if they had been trained in another way."""

    def change(record: dict[str, Any]) -> dict[str, Any]:
        if record.get("method") not in methods:
            return {}
        return {name: f"other-{record[name]}" for name in ("key", "model") if name in record}

    return change


def test_a_saved_sweep_is_read_back_equal(tmp_path: Path) -> None:
    saved = sweep("one")
    store = LocalStore(tmp_path)
    save_sweep(saved, store)
    assert sorted(path.name for path in (tmp_path / "sweeps" / "one").iterdir()) == [ORIGIN, RECORDS, TIMINGS]
    assert load_sweep_records("one", store) == saved


def test_an_unknown_sweep_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(GkdBenchError, match="run a sweep first"):
        load_sweep_records("two", LocalStore(tmp_path))
    save_sweep(sweep("one"), LocalStore(tmp_path))
    with pytest.raises(GkdBenchError, match="there are one"):
        load_sweep_records("two", LocalStore(tmp_path))


def test_a_torn_origin_says_what_to_do(tmp_path: Path) -> None:
    save_sweep(sweep("one"), LocalStore(tmp_path))
    (tmp_path / sweep_file("one", ORIGIN)).write_text('{"origin": ')
    with pytest.raises(GkdBenchError, match="run the sweep's command again"):
        load_sweep_records("one", LocalStore(tmp_path))


def test_a_single_sweep_is_left_as_it_is() -> None:
    one = sweep("one")
    assert merged([one]) is one


def test_sources_run_apart_give_the_tables_of_one_sweep() -> None:
    parts = [sweep("a", of_source("chase_db1")), sweep("b", of_source("hrf", "stare"))]
    both = merged(parts)
    assert both.name == "a+b" and both.stages == (NODE,)
    joined = SweepRecords.from_dicts(both.records, both.origin)
    whole = SweepRecords.from_dicts(make_records(), make_origin())
    assert joined.seed_scores.equals(whole.seed_scores)
    assert len(joined.of("efficiency")) == len(whole.of("efficiency"))


def test_equal_trainings_of_two_sweeps_count_once() -> None:
    both = merged([sweep("a"), sweep("b")])
    joined = SweepRecords.from_dicts(both.records, both.origin)
    assert len(joined.of("image")) == len(SweepRecords.from_dicts(make_records()).of("image"))


def test_a_method_trained_differently_stands_under_the_later_sweeps_name() -> None:
    both = merged([sweep("a"), sweep("b", change=other_model("gkd"))])
    records = SweepRecords.from_dicts(both.records, both.origin)
    assert {"gkd", "gkd@b"} <= set(records.methods) and "kd@b" not in records.methods
    assert {study for study in records.of("trial")["study"] if "stare" in study} == {"stare gkd", "stare gkd@b"}


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (sweep("b", change=other_model("teacher")), "teacher differs"),
        (sweep("b", change=other_model("scratch")), "scratch differs"),
        (sweep("b", rule="last"), "selection rules differ"),
        (sweep("b", fingerprints={"stare": "other"}), "stare was prepared differently"),
    ],
)
def test_sweeps_that_cannot_stand_in_one_table_are_refused(second: SavedSweep, words: str) -> None:
    with pytest.raises(GkdBenchError, match=words):
        merged([sweep("a"), second])


def test_other_settings_of_a_reference_are_refused_even_for_another_source_or_seed() -> None:
    """Two student widths under one name would be averaged as if they were seeds of one network."""
    narrow, wide = (
        {model_key("scratch", source, seed): {"network": {"width": width}} for seed in (0, 1, 2)}
        for source, width in (("stare", 0.25), ("hrf", 1.0))
    )
    with pytest.raises(GkdBenchError, match="scratch differs"):
        merged([sweep("a", of_source("stare"), settings=narrow), sweep("b", of_source("hrf"), settings=wide)])


def test_a_domain_that_one_sweep_has_is_not_missing() -> None:
    lost = {"record": "missing", "sweep": "a", "domain": "hrf", "reason": "not there"}
    first = sweep("a", lambda record: record.get("target") != "hrf", fingerprints={})
    both = merged([replace(first, records=(*first.records, lost)), sweep("b")])
    assert SweepRecords.from_dicts(both.records, both.origin).missing == {}


def test_a_renamed_variant_keeps_its_own_description() -> None:
    other = {"gkd_intra": {"of": "gkd", "set": {"cross": 0.0}}}
    both = merged([sweep("a"), sweep("b", change=other_model("gkd_intra"), variants=other)])
    assert both.origin.variants["gkd_intra"]["set"] == {"inter": 0.0, "cross": 0.0}
    assert both.origin.variants["gkd_intra@b"] == other["gkd_intra"]


def test_origins_are_joined() -> None:
    first, second = sweep("a", of_source("stare"), sources=("stare",)), sweep("b", of_source("hrf"), sources=("hrf",))
    origin = merged([first, replace(second, origin=replace(second.origin, command="run b"))]).origin
    assert origin.sources == ("stare", "hrf")
    assert origin.command.endswith("&& run b") and origin.sweep_yaml.count("name: made_up") == 2

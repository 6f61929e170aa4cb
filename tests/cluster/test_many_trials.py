"""A sweep of many trials whose stages do nothing, as its benchmark runs it. Only counts and values: nothing is timed here."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from gkd_bench.report.archive import load_sweep_records
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.searching import search_summary
from gkd_bench.store.artefacts import LocalStore
from gkd_bench.store.records import RecordLog

TRIALS = 30


@pytest.fixture(scope="module")
def bench() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "many_trials.py"
    spec = spec_from_file_location("benchmark_many_trials", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The row of a small sweep in process, and the folder of its store."""
    folder = tmp_path_factory.mktemp("store")
    with bench.in_process(folder) as engine:
        return bench.measure("inprocess", engine, "random", TRIALS, folder), folder


def journal(bench: Any, folder: Path) -> list[dict[str, Any]]:
    sweep = bench.make_sweep("inprocess", "random", TRIALS, folder)
    return RecordLog(folder / "sweeps" / sweep.name / "journal.jsonl").read()


def test_every_trial_runs_to_its_end_and_journals_every_epoch_once(bench: Any, measured: tuple[Any, Path]) -> None:
    records = journal(bench, measured[1])
    kinds = Counter(record["record"] for record in records)
    assert kinds == {"trial_start": TRIALS, "trial_epoch": bench.EPOCHS * TRIALS, "trial_end": TRIALS}
    told = {(record["number"], record["epoch"]) for record in records if record["record"] == "trial_epoch"}
    assert told == {(number, epoch) for number in range(TRIALS) for epoch in range(1, bench.EPOCHS + 1)}
    ends = [record for record in records if record["record"] == "trial_end"]
    assert {record["state"] for record in ends} == {"complete"}
    assert len({record["value/source_val"] for record in ends}) == TRIALS


def test_the_report_knows_every_trial_and_its_epochs(bench: Any, measured: tuple[Any, Path]) -> None:
    row, folder = measured
    saved = load_sweep_records(bench.make_sweep("inprocess", "random", TRIALS, folder).name, LocalStore(folder))
    records = SweepRecords.from_dicts(saved.records, saved.origin)
    assert row.records == len(saved.records)
    epochs = records.of("epoch").groupby("trial").size()
    assert list(epochs.index) == list(range(TRIALS)) and set(epochs) == {bench.EPOCHS}
    (line,) = search_summary(records).rows
    best = max(journal(bench, folder), key=lambda record: record.get("value/source_val", -1.0))
    assert [cell.value for cell in line[1:3]] == [TRIALS, TRIALS] and best["number"] in [cell.value for cell in line]


def test_a_search_of_tpe_depends_on_its_seed_and_nothing_else(bench: Any, tmp_path: Path) -> None:
    found = []
    for name in ("first", "second"):
        with bench.in_process(tmp_path / name) as engine:
            bench.measure("inprocess", engine, "tpe", 8, tmp_path / name)
        sweep = bench.make_sweep("inprocess", "tpe", 8, tmp_path / name)
        found.append((tmp_path / name / "sweeps" / sweep.name / "journal.jsonl").read_bytes())
    assert found[0] == found[1] and len(found[0]) > 8 * bench.EPOCHS


def test_time_inside_a_method_is_counted_under_its_label_and_the_method_comes_back(bench: Any) -> None:
    class Busy:
        def work(self) -> int:
            return sum(range(200_000))

    meter, kept = bench.Meter(), Busy.work
    with meter.counting("optuna", Busy, "work"):
        assert Busy().work() == sum(range(200_000))
    assert Busy.work is kept
    assert 0 < meter.inside["optuna"] <= meter.spent()[0] and meter.inside["callbacks"] == 0


def test_memory_grows_by_the_slope_over_the_second_half(bench: Any) -> None:
    meter = bench.Meter()
    meter.memory = [1000.0 * trial for trial in range(10)] + [9000.0 + 3 * trial for trial in range(10)]
    assert meter.growth() == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ()),
        ({"driver": 17.0}, ("21.0 ms",)),
        ({"driver": 17.0, "sampler": "tpe"}, ()),  # Optuna's own time grows with the trials, and is given apart
        ({"driver": 21.0, "sampler": "tpe"}, ("21.0 ms",)),
        ({"growth": 35.0}, ("35.0 KB",)),
        ({"driver": 99.0, "growth": 99.0, "trials": 100}, ()),
    ],
)
def test_targets_are_those_of_a_thousand_trials(
    bench: Any, measured: tuple[Any, Path], changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    fine = replace(measured[0], trials=1000, driver=10.0, optuna=4.0, growth=5.0)
    missed = bench.missed_goals([replace(fine, **changes)])
    assert len(missed) == len(words) and all(word in line for word, line in zip(words, missed, strict=True))


def test_kept_rows_are_not_measured_again(
    bench: Any, measured: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [replace(measured[0], trials=trials, driver=1.0, optuna=0.0, growth=0.0) for trials in (10, 1000)]
    asked: list[list[int]] = []

    def child(engine: str, sampler: str, sizes: list[int]) -> list[Any]:
        asked.append(list(sizes))
        return [row for row in rows if row.trials in sizes]

    keep, figure = tmp_path / "rows.jsonl", tmp_path / "figure.webp"
    monkeypatch.setattr(bench, "in_a_process", child)
    command = ["many_trials.py", "--engine", "inprocess", "--sampler", "random", "--keep", str(keep), "--trials"]
    for sizes in (["10"], ["10", "1000"]):
        monkeypatch.setattr(sys, "argv", [*command, *sizes, "--figure", str(figure)])
        assert bench.main() == 0
    assert asked == [[10], [1000]]
    assert [json.loads(line)["trials"] for line in keep.read_text().splitlines()] == [10, 1000]
    assert figure.read_bytes()[8:12] == b"WEBP"

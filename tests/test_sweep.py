"""The main job as a user runs it, in this process: tables, a second run, missing data, a kill in the middle."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from gkd_bench import cli, sweep
from gkd_bench.data.readers.phantom import PhantomClear, PhantomDim
from gkd_bench.report.archive import RECORDS, sweep_file
from gkd_bench.stages.run import STAGES
from gkd_bench.store.artefacts import Draft, LocalStore
from gkd_bench.store.records import RecordLog

from .stages.lab import TINY

SETTINGS = {
    **TINY,
    "networks": {**TINY["networks"], "teacher": {"name": "unet", "width": 0.05}},
    "pairs": {"sources": ["phantom_clear"], "targets": "all"},
    "search": {
        "trials": 2,
        "sampler": "random",
        "scheduler": "none",
        "spaces": {"gkd": {"methods.gkd.cross": {"low": 0.1, "high": 1.0}}},
    },
    "compute": {"engine": "inprocess"},
}


def plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(plain(SETTINGS)))
    return tmp_path


def without_gkd(folder: Path, **changes: object) -> list[str]:
    """A faster sweep file in the folder; the arguments to run it."""
    settings = {
        **SETTINGS,
        "methods": {"kd": {}, "controls": []},
        "search": {},
        "tracking": {"enabled": False},
        **changes,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(plain(settings)))
    return ["tiny.yaml"]


def stamps(store: LocalStore) -> dict[str, int]:
    """Key -> when its artefact was published."""
    folders = (store.root / "artefacts").glob("??/*")
    return {folder.name: folder.stat().st_mtime_ns for folder in folders if store.has(folder.name)}


def results(folder: Path) -> tuple[bytes, dict[str, list[str]]]:
    """Records, and the checksums of every artefact's weights."""
    store = LocalStore(folder / ".gkd_store")
    files = {key: store.get(key).manifest["files"] for key in store.keys()}  # noqa: SIM118 - a store is no dict
    weights = {k: [f["sha256"] for name, f in one.items() if name.endswith(".safetensors")] for k, one in files.items()}
    return (store.root / sweep_file("tiny", RECORDS)).read_bytes(), weights


def tables(folder: Path) -> dict[str, bytes]:
    """The files of a report that hold results and no times."""
    out = folder / "results" / "tiny"
    return {
        name: (out / name).read_bytes() for name in ("triple.csv", "scores.csv", "fsd.csv", "trials.csv", "health.csv")
    }


def test_the_main_job_leaves_tables_pictures_and_mlflow_runs_and_a_second_run_trains_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(["tiny.yaml"]) == 0
    first = tables(folder)
    shown = capsys.readouterr().out
    assert "GKD - student alone" in shown.replace("\n", " ") or "GKD" in shown
    assert "mlflow ui --backend-store-uri" in shown
    assert list((folder / "results" / "tiny" / "overlays").glob("*.png"))
    assert "<html" in (folder / "results" / "tiny" / "index.html").read_text()
    rows = csv.DictReader(line for line in (folder / "results/tiny/further.csv").open() if not line.startswith("#"))
    assert all(int(row["parameters"]) > 100 for row in rows)
    store = LocalStore(folder / ".gkd_store")
    counts = {kind: len(list(store.keys(kind))) for kind in STAGES}
    # scratch, kd, and gkd's two trials, the better of which is the final student; the other one is scored as well
    trained = {"teacher": 1, "baseline": 1, "semantic": 1, "alignment": 2, "distill": 4}
    assert counts == trained | {"stress": 6, "evaluate": 12, "efficiency": 2}

    assert sweep.main(["tiny.yaml"]) == 0
    assert "nothing to train" in capsys.readouterr().out
    assert tables(folder) == first

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/results/mlflow.db")
    experiment = client.get_experiment_by_name("gkd_bench")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert "GKD" in parents[0].data.tags["mlflow.note.content"]
    assert len(runs) > 6


def test_a_report_is_made_again_byte_for_byte_from_the_records_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First with the store's pictures, then from nothing but the sweep's records."""
    options = without_gkd(folder)
    assert sweep.main(options) == 0
    out = folder / "results" / "tiny"
    first = contents(out)
    shutil.rmtree(out)
    assert cli.main(["report", "tiny", "--no-mlflow"]) == 0
    assert contents(out) == first

    shutil.rmtree(out)
    shutil.rmtree(folder / ".gkd_store" / "artefacts")
    assert cli.main(["report", "tiny", "--no-mlflow", "--no-figures"]) == 0
    tables = {name: content for name, content in first.items() if name.endswith(".csv")}
    assert tables and tables.items() <= contents(out).items()
    assert "student alone" in capsys.readouterr().out


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_selection_rule_trains_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = without_gkd(folder)
    assert sweep.main(options) == 0
    before = stamps(LocalStore(folder / ".gkd_store"))
    assert sweep.main([*options, "--set", "selection.rule=last"]) == 0
    assert "nothing to train" in capsys.readouterr().out
    assert stamps(LocalStore(folder / ".gkd_store")) == before


def test_several_objectives_keep_a_front_and_take_the_point_the_sweep_asks_for(folder: Path) -> None:
    search = {
        **SETTINGS["search"],
        "objectives": ["source_val", "source_val_stressed", "student_macs"],
        "spaces": {
            "kd": {"methods.kd.weight": {"choice": [0.5, 2.0]}, "networks.student.width": {"choice": [0.1, 0.15]}}
        },
        "sampler": "grid",
        "trials": 4,
    }
    options = without_gkd(folder, search=search, selection={"pick": "closest_to_ideal"})
    assert sweep.main(options) == 0
    trials = [r for r in RecordLog(folder / ".gkd_store/sweeps/tiny/records.jsonl").read() if r["record"] == "trial"]
    points = [json.loads(trial["objectives"]) for trial in trials]
    assert all(set(point) == set(search["objectives"]) for point in points)
    assert len({point["student_macs"] for point in points}) == 2
    (taken,) = [json.loads(trial["objectives"]) for trial in trials if trial["taken"]]
    assert not any(dominates(point, taken) for point in points)
    assert "Pareto" in (folder / "results" / "tiny" / "report.md").read_text()


def dominates(one: dict[str, float], other: dict[str, float]) -> bool:
    signs = {name: -1 if name == "student_macs" else 1 for name in one}
    return one != other and all(signs[name] * one[name] >= signs[name] * other[name] for name in one)


def test_an_image_that_is_trained_on_and_tested_stops_the_sweep_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leak is planted: a target with the source's images, some of which it tests while the source trains on them."""
    splits = PhantomDim(None).splits()
    turned = dict(zip(splits, reversed(splits.values()), strict=True))
    monkeypatch.setattr(PhantomDim, "style", PhantomClear.style)
    monkeypatch.setattr(PhantomDim, "splits", lambda self: turned)
    assert sweep.main(without_gkd(folder)) == 2
    message = capsys.readouterr().err
    assert "trained or selected on" in message and "phantom_dim" in message
    assert not stamps(LocalStore(folder / ".gkd_store"))


def test_adding_a_seed_computes_the_new_seed_only(folder: Path) -> None:
    options = without_gkd(folder)
    assert sweep.main(options) == 0
    store = LocalStore(folder / ".gkd_store")
    before = stamps(store)
    assert sweep.main([*options, "--set", "seeds=[0, 1]"]) == 0
    after = stamps(store)
    assert before.items() <= after.items()
    seeds = [store.get(key).node.seed for key in after.keys() - before.keys()]
    once = len(list(store.keys("efficiency")))  # what a network costs does not depend on the seed
    assert set(seeds) == {1} and len(seeds) == len(before) - once


def test_the_plan_is_shown_and_nothing_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["tiny.yaml", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "What would run" in shown and "distill" in shown and "search phantom_clear gkd" in shown
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.yaml"]


def test_missing_domains_are_listed_with_their_source_and_can_be_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("stare-images", "labels-ah"):
        (folder / "data" / "STARE" / name).mkdir(parents=True)
    data = {**TINY["data"], "root": "data", "domains": ["phantom_clear", "stare"]}
    options = without_gkd(folder, data=data)
    assert sweep.main(options) == 2
    message = capsys.readouterr().err
    assert message.count("im0001") >= 1 and "im0324" in message
    assert "clemson" in message and "--allow-missing" in message
    assert not (folder / "results").exists()

    assert sweep.main([*options, "--allow-missing"]) == 0
    assert "n/a" in (folder / "results" / "tiny" / "triple.csv").read_text()


def test_mistakes_in_the_file_end_with_code_2_before_anything_starts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(["tiny.yaml", "--set", "networks.student.name=mobil_unet", "--set", "seeds=[]"]) == 2
    message = capsys.readouterr().err
    assert "mobile_unet" in message and "seeds" in message
    assert not (folder / ".gkd_store").exists()


def test_a_failing_alignment_stage_costs_its_method_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(context: object) -> Draft:
        raise RuntimeError("no semantic today")

    monkeypatch.setitem(STAGES, "semantic", broken)
    options = without_gkd(folder, methods={"kd": {}, "gkd": {"views": ["photometric"]}, "controls": []})
    assert sweep.main(options) == 1
    shown = capsys.readouterr().out
    assert "no semantic today" in shown
    rows = (folder / "results" / "tiny" / "triple.csv").read_text().splitlines()
    header, row = next((a, b) for a, b in itertools.pairwise(rows) if a.startswith("source,target"))
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    assert float(cells["teacher"]) >= 0 and float(cells["kd"]) >= 0
    assert cells.get("gkd", "-") in ("", "-")


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_gives_the_same_tables(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    undisturbed = tmp_path_factory.mktemp("undisturbed")
    (undisturbed / "tiny.yaml").write_text((folder / "tiny.yaml").read_text())
    command = [sys.executable, "-m", "gkd_bench.sweep", "tiny.yaml", "--set", "tracking.enabled=false"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, cwd=undisturbed, env=environment, check=True, capture_output=True)

    store = LocalStore(folder / ".gkd_store")
    for wanted in (2, 6):
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        while len(stamps(store)) < wanted and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = stamps(store)
    assert len(finished) >= 6
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    assert tables(folder) == tables(undisturbed)
    assert results(folder) == results(undisturbed)
    assert finished.items() <= stamps(store).items()
    starts = [
        r["number"]
        for r in RecordLog(folder / ".gkd_store/sweeps/tiny/journal.jsonl").read()
        if r["record"] == "trial_start"
    ]
    assert sorted(starts) == [0, 1]


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_that_are_killed_like_their_driver_give_the_results_of_the_in_process_engine(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same keys, the same bits: groups of one worker and one thread compute what this process computes.

    ``benchmarks/chaos.py`` kills more, and longer.
    """
    alone = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "gkd_bench.sweep", str(folder / "tiny.yaml"), "--set", "tracking.enabled=false"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, cwd=alone, env=environment, check=True, capture_output=True)
    ray = [*command, "--set", "compute.engine=ray", "--set", "compute.pools.0.groups=2"]
    environment |= {"GKD_TEST_TOKEN": folder.name}
    store, killed = LocalStore(folder / ".gkd_store"), []
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(ray, cwd=folder, env=environment, stdout=log, stderr=log)
    for wanted, title in ((2, b"ray::RayTrainWorker"), (6, b"")):
        while len(stamps(store)) < wanted and process.poll() is None:
            time.sleep(0.1)
        killed += [process.pid if not title else processes(folder.name, title)[0]]
        os.kill(killed[-1], signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20  # Ray's own processes notice it within seconds
    while (left := processes(folder.name)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    done = subprocess.run(ray, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = ({k: without_command(v) for k, v in tables(where).items()} for where in (alone, folder))
    assert first == second
    assert results(alone) == results(folder)


def processes(token: str, title: bytes = b"") -> list[int]:
    """Processes that inherited a token, whose command begins so."""
    found, mark = [], f"GKD_TEST_TOKEN={token}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (path / "environ").read_bytes().split(b"\0") and (path / "cmdline").read_bytes().startswith(
                title
            ):
                found.append(int(path.name))
    return found


def without_command(table: bytes) -> bytes:
    return b"\n".join(line for line in table.split(b"\n") if not line.startswith(b"# command"))

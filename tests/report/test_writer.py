from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.tables import fsd_matrix, matrix
from gkd_bench.report.writer import ReportFiles, page_tables, write_report

from .made_up import METHODS, Record

PNG = b"\x89PNG made up"
YAML = "name: made_up\nnote: '```'\n"


def write(records: SweepRecords, out: Path) -> ReportFiles:
    return write_report(records, out, {"gkd-hrf-stare": PNG, "b.png": PNG}, YAML, "gkd-bench report made_up", "2 cores")


def test_report_has_its_files_and_nothing_half_written(sweep_records: SweepRecords, tmp_path: Path) -> None:
    files = write(sweep_records, tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    names = ["dice", "fsd", "triple", "health", "trials", "cost", "search", "fsd_domain"]
    names += [f"matrix_{metric}_{method}" for metric in ("dice", "fsd") for method in METHODS]
    tables = {f"{name}.csv" for name in names}
    assert found == {"report.md", "sweep.yaml", "overlays/gkd-hrf-stare.png", "overlays/b.png"} | tables
    assert files.pictures["b.png"].read_bytes() == PNG
    assert files.sweep.read_text() == YAML


def test_every_table_of_the_page_is_a_csv_file_with_the_same_numbers(
    sweep_records: SweepRecords, tmp_path: Path
) -> None:
    files = write(sweep_records, tmp_path)
    assert {table.name for table in page_tables(sweep_records)} <= set(files.tables)
    for name, table in (("dice", matrix(sweep_records, method="kd")), ("fsd", fsd_matrix(sweep_records, method="kd"))):
        frame = pd.read_csv(files.tables[f"matrix_{name}_kd"], comment="#", index_col="source")
        assert frame.at["hrf", "stare"] == pytest.approx(table.rows[1][3].value, abs=1e-5)


def test_failed_trial_says_why_in_the_file_of_trials(sweep_records: SweepRecords, tmp_path: Path) -> None:
    frame = pd.read_csv(write(sweep_records, tmp_path).tables["trials"], comment="#").set_index(["study", "number"])
    assert tuple(frame.loc[("hrf/gkd", 2), ["state", "cause"]]) == ("failed", "its loss is not finite")


def test_every_table_file_states_command_seeds_and_machine(sweep_records: SweepRecords, tmp_path: Path) -> None:
    files = write(sweep_records, tmp_path)
    for path in [files.report, *files.tables.values()]:
        text = path.read_text()
        for words in (
            "command: gkd-bench report made_up",
            "seeds: 0, 1, 2 (n = 3)",
            "machine: 2 cores",
            "torch = 2.13.0",
        ):
            assert words in text, path


def test_page_shows_warnings_tables_pictures_and_the_sweep_file(sweep_records: SweepRecords, tmp_path: Path) -> None:
    page = write(sweep_records, tmp_path).report.read_text()
    assert page.index("## Warnings") < page.index("teacher, student alone and distilled student")
    assert "![b](overlays/b.png)" in page
    assert page.endswith(f"````yaml\n{YAML}````\n")
    assert "none of these numbers is the paper's" in page


def test_report_written_again_is_the_same_byte_for_byte(made_up: list[Record], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(SweepRecords.from_dicts(made_up), tmp_path / name)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_left_out_domain_and_its_reason_are_in_every_file(made_up: list[Record], tmp_path: Path) -> None:
    missing = {"record": "missing", "sweep": "made_up", "domain": "drive", "reason": "no images folder"}
    files = write(SweepRecords.from_dicts([*made_up, missing]), tmp_path)
    assert "domain drive left out: no images folder" in files.tables["dice"].read_text()
    assert "| chase_db1 | drive | n/a |" in files.report.read_text()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a\\b"])
def test_picture_name_that_could_leave_the_folder_is_refused(
    sweep_records: SweepRecords, tmp_path: Path, name: str
) -> None:
    with pytest.raises(GkdBenchError, match="plain names"):
        write_report(sweep_records, tmp_path / "out", {name: PNG}, YAML, "x")
    assert not (tmp_path / "out").exists()


def test_failed_replace_leaves_the_old_file_and_no_rest(
    sweep_records: SweepRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(sweep_records, tmp_path)
    before = files.tables["dice"].read_bytes()

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("gkd_bench.report.writer.os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write(sweep_records, tmp_path)
    assert files.tables["dice"].read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))

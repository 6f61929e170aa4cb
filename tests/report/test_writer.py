from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from gkd_bench.errors import GkdBenchError
from gkd_bench.metrics.pictures import FALSE_NEGATIVE, encode_png
from gkd_bench.report.contents import file_tables, page_tables
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.page.panels import panel_text, picture_panel
from gkd_bench.report.tables import matrix
from gkd_bench.report.writer import FILE_LIST, FORMS, ReportFiles, write_report

from .made_up import Record, make_origin
from .made_up_page import make_figures, picture

YAML = "name: made_up\nnote: '```'\n"
PICTURES = (picture("hrf", "stare", "gkd", 0, 1), picture("hrf", "stare", "kd", 0, 0))


@pytest.fixture(scope="module")
def records(made_up: list[Record]) -> SweepRecords:
    origin = make_origin(sweep_yaml=YAML, command="gkd-bench report made_up", machine="2 cores")
    return SweepRecords.from_dicts(made_up, origin)


@pytest.fixture(scope="module")
def written(records: SweepRecords, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportFiles, Path]:
    out = tmp_path_factory.mktemp("report")
    return write(records, out), out


def write(records: SweepRecords, out: Path) -> ReportFiles:
    return write_report(records, Extras(PICTURES), out, make_figures())


@pytest.fixture(scope="module")
def few(made_up: list[Record]) -> SweepRecords:
    """Records of two tables, health and cost: what happens to files does not depend on their number."""
    return SweepRecords.from_dicts([one for one in made_up if one["record"] in ("cost", "health")], make_origin())


def names(out: Path) -> set[str]:
    return {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- what is written


def test_report_has_its_files_and_nothing_half_written(
    records: SweepRecords, written: tuple[ReportFiles, Path]
) -> None:
    files, out = written
    expected = {"index.html", "report.md", "sweep.yaml", "tables.tex", FILE_LIST}
    expected |= {table.csv for table in file_tables(records).values()}
    expected |= {f"tables/{table.name}.tex" for table in page_tables(records)}
    expected |= {f"figures/{figure.name}.{form}" for figure in make_figures() for form in FORMS}
    expected |= {f"overlays/{one.name}.png" for one in PICTURES}
    assert names(out) == expected
    assert files.sweep.read_text() == YAML
    assert files.figures["forest.pdf"].read_bytes() == make_figures()[0].pdf
    paths = [files.page, files.report, files.sweep]
    groups = (files.tables, files.latex, files.figures, files.pictures)
    assert {
        str(path.relative_to(out)) for path in [*paths, *(path for group in groups for path in group.values())]
    } == expected - {FILE_LIST}


def test_every_table_of_the_page_is_a_csv_file_with_the_same_numbers(
    records: SweepRecords, written: tuple[ReportFiles, Path]
) -> None:
    files, _ = written
    assert {table.name for table in page_tables(records)} <= set(files.tables)
    table = matrix(records, method="kd")
    frame = pd.read_csv(files.tables[table.name], comment="#", index_col="source")
    assert frame.at["hrf", "stare"] == pytest.approx(table.rows[1][3].value, abs=1e-5)


def test_every_file_the_page_and_the_report_link_to_is_there(written: tuple[ReportFiles, Path]) -> None:
    files, out = written
    links = set(re.findall(r'href="([^"#][^"]*)"', files.page.read_text()))
    links |= set(re.findall(r"\]\(([^)]*)\)", files.report.read_text()))
    full = set(re.findall(r'"full":"([^"]*)"', files.page.read_text()))
    assert {"index.html", "sweep.yaml", "figures/forest.pdf"} <= links and full
    assert links | full <= names(out)


def test_every_table_file_states_command_seeds_rule_and_machine(written: tuple[ReportFiles, Path]) -> None:
    files, _ = written
    lines = (
        "command: gkd-bench report made_up",
        "seeds: 0, 1, 2 (n = 3)",
        "machine: 2 cores",
        "torch = 2.13.0",
        "source_val",
    )
    for path in [files.report, *files.tables.values()]:
        text = path.read_text().replace("\\", "")
        assert all(words in text for words in lines), path


def test_report_shows_warnings_tables_figures_pictures_and_the_sweep_file(
    records: SweepRecords, written: tuple[ReportFiles, Path]
) -> None:
    text = written[0].report.read_text()
    places = [
        text.index(words)
        for words in ("## Warnings", "| source | target |", "figures/forest.png", "overlays/", "## Sweep file")
    ]
    assert places == sorted(places)
    assert f"![{make_figures()[0].alt}](figures/forest.png)" in text
    assert text.endswith(f"````yaml\n{YAML}````\n")
    assert "none of these numbers is the paper's" in text


def test_left_out_domain_and_its_reason_are_in_every_file(made_up: list[Record], tmp_path: Path) -> None:
    missing = {"record": "missing", "sweep": "made_up", "domain": "drive", "reason": "no images folder"}
    costs = [one for one in made_up if one["record"] == "cost"]
    left_out = SweepRecords.from_dicts([*costs, missing], make_origin())
    files = write_report(left_out, Extras(), tmp_path)
    for path in (files.page, files.report, *files.tables.values()):
        assert "no images folder" in path.read_text()


# ---------------------------------------------------------------- panels


def test_panel_shows_image_label_and_found_with_a_name_above_and_colours_below() -> None:
    one = PICTURES[0]
    panel = cv2.cvtColor(cv2.imdecode(np.frombuffer(picture_panel(one), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    height, width = 96, 120
    assert panel.shape == (22 + height + 22, 3 * width + 8, 3)
    for at, part in enumerate((one.photo, one.label, one.found)):
        expected = cv2.cvtColor(cv2.imdecode(np.frombuffer(part, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        left = at * (width + 4)
        assert (panel[22:-22, left : left + width] == expected).all()
    assert (panel[:22] == 255).any()
    assert (panel[-22:] == FALSE_NEGATIVE).all(axis=2).any()
    assert panel_text(one) == "hrf -> stare, gkd, seed 0: s1a (fixed, median), Dice 0.700"


def test_parts_of_different_sizes_are_refused_with_the_pictures_name() -> None:
    odd = replace(PICTURES[0], label=encode_png(np.zeros((10, 20, 3), np.uint8)))
    with pytest.raises(GkdBenchError, match=f"{odd.name}: its three parts have different sizes .*20 x 10"):
        picture_panel(odd)


# ---------------------------------------------------------------- files


def test_report_written_again_is_the_same_byte_for_byte(
    made_up: list[Record], written: tuple[ReportFiles, Path], tmp_path: Path
) -> None:
    _, out = written
    origin = make_origin(sweep_yaml=YAML, command="gkd-bench report made_up", machine="2 cores")
    write(SweepRecords.from_dicts(made_up[::-1], origin), tmp_path)
    assert names(tmp_path) == names(out)
    assert [name for name in sorted(names(out)) if (out / name).read_bytes() != (tmp_path / name).read_bytes()] == []


def test_files_the_new_report_does_not_have_are_taken_away(
    made_up: list[Record], few: SweepRecords, tmp_path: Path
) -> None:
    write(few, tmp_path)
    assert {"health.csv", "cost.csv", "tables/health.tex", "figures/forest.svg"} <= names(tmp_path)
    costs = SweepRecords.from_dicts([one for one in made_up if one["record"] == "cost"], make_origin())
    write_report(costs, Extras(), tmp_path)
    assert names(tmp_path) == {
        "index.html",
        "report.md",
        "sweep.yaml",
        "tables.tex",
        FILE_LIST,
        "cost.csv",
        "tables/cost.tex",
    }
    assert not (tmp_path / "figures").exists() and not (tmp_path / "overlays").exists()


def test_files_of_others_are_never_taken_away(few: SweepRecords, tmp_path: Path) -> None:
    foreign = tmp_path / "overlays" / "mine.png"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    write(few, tmp_path)
    changed = tmp_path / "figures" / "forest.svg"
    changed.write_bytes(b"drawn by hand")
    write_report(few, Extras(), tmp_path)
    assert foreign.read_bytes() == b"mine" and changed.read_bytes() == b"drawn by hand"
    assert not (tmp_path / "figures" / "forest.pdf").exists()


@pytest.mark.parametrize("listed", ["../outside.txt", "/outside.txt", "a/../../outside.txt"])
def test_list_of_files_cannot_lead_out_of_the_folder(few: SweepRecords, tmp_path: Path, listed: str) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside.txt"
    outside.write_bytes(b"")
    out.mkdir()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (out / FILE_LIST).write_text(json.dumps({listed if listed[0] != "/" else str(outside): empty}))
    write_report(few, Extras(), out)
    assert outside.exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"'])
def test_broken_list_of_files_takes_nothing_away(few: SweepRecords, tmp_path: Path, content: str) -> None:
    write(few, tmp_path)
    (tmp_path / FILE_LIST).write_text(content)
    write_report(few, Extras(), tmp_path)
    assert (tmp_path / "figures" / "forest.svg").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a\\b"])
def test_name_that_could_leave_the_folder_is_refused_and_nothing_is_written(
    few: SweepRecords, tmp_path: Path, name: str
) -> None:
    figure = replace(make_figures()[0], name=name)
    with pytest.raises(GkdBenchError, match="figures need plain names"):
        write_report(few, Extras(), tmp_path / "out", (figure,))
    odd = replace(PICTURES[0], image="a/b")
    with pytest.raises(GkdBenchError, match="pictures need plain names"):
        write_report(few, Extras((odd,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_pictures_of_one_name_are_refused(few: SweepRecords, tmp_path: Path) -> None:
    with pytest.raises(GkdBenchError, match=f"several are called '{PICTURES[0].name}'"):
        write_report(few, Extras((PICTURES[0], PICTURES[0])), tmp_path)


def test_failed_replace_leaves_the_old_file_and_no_rest(
    few: SweepRecords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(few, tmp_path)
    before = files.page.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("gkd_bench.store.files.os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write(few, tmp_path)
    assert files.page.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))

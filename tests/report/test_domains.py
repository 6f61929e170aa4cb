"""What every domain is made of, and which of its images were left out."""

from __future__ import annotations

import pytest

from gkd_bench.report.archive import SavedSweep, merged
from gkd_bench.report.contents import file_tables, page_tables
from gkd_bench.report.domains import domains_table, left_out_lines, window_of
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.page import html_page
from gkd_bench.report.page.markdown import markdown_page
from gkd_bench.report.render import to_csv

from .made_up import Record, make_origin
from .made_up_volumes import CT, LEFT_OUT, LOOSE, domain, left_out, make_discs, make_liver, volumes_origin
from .small import row_of


def records(broken: int = 2) -> SweepRecords:
    return SweepRecords.from_dicts(make_liver(broken), volumes_origin())


def test_row_says_modality_window_patients_and_slices_per_split() -> None:
    row = row_of(domains_table(records()), CT)
    assert [row[name].value for name in ("title", "modality", "window", "pixels")] == [
        "Abdominal CT of one hospital", "CT", "HU -160 ... 240", "1.5 mm per pixel, 256 x 256",
    ]  # fmt: skip
    assert [row[f"{split}_subjects"].value for split in ("train", "val", "test")] == [3, 1, 6]
    assert [row[f"{split}_slices"].value for split in ("train", "val", "test")] == [30, 10, 63]
    assert row["left_out"].value == 0


def test_headings_speak_as_the_task_does() -> None:
    volumes = {column.key: column.title for column in domains_table(records()).columns}
    assert (volumes["test_subjects"], volumes["images"]) == ("test patients", "stacks")
    discs = SweepRecords.from_dicts(make_discs())
    photographs = {column.key: column.title for column in domains_table(discs).columns}
    assert (photographs["test_subjects"], photographs["images"]) == ("test subjects", "images")
    assert not any("slices" in key for key in photographs)
    assert row_of(domains_table(discs), "canon")["modality"].value == "photographs"


def test_totals_stand_in_where_splits_are_not_known() -> None:
    bare = {"record": "domain", "sweep": "made_up", "domain": CT, "title": "CT", "subjects": 10, "slices": 103}
    table = domains_table(SweepRecords.from_dicts([bare]))
    row = row_of(table, CT)
    assert (row["subjects"].value, row["slices"].value, row["window"].value) == (10, 103, None)


def test_images_left_out_are_counted_and_listed_with_their_reasons() -> None:
    table = domains_table(records())
    assert row_of(table, LOOSE)["left_out"].value == 2
    assert table.notes == tuple(f"left out of {LOOSE}: stack_{at:02}, {LEFT_OUT}" for at in range(2))
    assert left_out_lines(records()) == [f"{LOOSE}: 2 broken images were left out; see the table of domains"]


def test_a_long_list_ends_with_how_many_more_there_are() -> None:
    notes = domains_table(records(25)).notes
    assert len(notes) == 21 and notes[-1] == "and 5 more"


def test_domain_that_only_lost_images_has_a_row() -> None:
    rows = [row for row in make_liver() if row["record"] != "domain"]
    table = domains_table(SweepRecords.from_dicts(rows))
    assert [row[0].value for row in table.rows] == [LOOSE]


def test_old_sweeps_have_no_table_of_domains(sweep_records: SweepRecords) -> None:
    assert "domains" not in file_tables(sweep_records)
    assert left_out_lines(sweep_records) == []


def test_table_follows_the_answer_and_is_in_every_form() -> None:
    found = records()
    page = page_tables(found)
    assert [table.name for table in page[:3]] == ["triple", "gap", "domains"]
    html, text = html_page(found, page, (), Extras()), markdown_page(found, page, (), ())
    for part in (html, text):
        assert "HU -160 ... 240" in part and LEFT_OUT in part and "2 broken images were left out" in part
    assert f"{CT},Abdominal CT of one hospital,CT,HU -160 ... 240,10,3,1,6,30,10,63," in to_csv(domains_table(found))


def test_order_of_records_does_not_matter() -> None:
    assert domains_table(SweepRecords.from_dicts(make_liver()[::-1])) == domains_table(
        SweepRecords.from_dicts(make_liver())
    )


def test_window_of_a_domain_is_its_sentence_or_nothing(sweep_records: SweepRecords) -> None:
    assert window_of(records(), CT) == "HU -160 ... 240"
    assert window_of(records(), "elsewhere") == window_of(sweep_records, "stare") == ""


@pytest.mark.parametrize("name", ["a<b>", "x & y | z"])
def test_text_of_readers_is_escaped(name: str) -> None:
    row = domain(CT, name, "ct", "HU", 5)
    found = SweepRecords.from_dicts([row, *left_out(CT, 1)])
    assert "a<b>" not in html_page(found, page_tables(found), (), Extras())


def test_merged_sweeps_keep_their_descriptions_once(made_up: list[Record]) -> None:
    extra = [domain("stare", "STARE", "photograph", "green channel", None), *left_out("stare", 1)]
    one, two = (
        SavedSweep(name, tuple({**row, "sweep": name} for row in [*made_up, *extra]), make_origin(), ())
        for name in ("one", "two")
    )
    both = merged([one, two])
    found = SweepRecords.from_dicts(both.records, both.origin)
    assert [row[0].value for row in domains_table(found).rows] == ["stare"]
    assert len(domains_table(found).notes) == 1


def test_domains_of_which_everyone_is_scored_are_marked() -> None:
    rows = [domain(CT, "CT", "ct", "HU", 5), domain("mr", "MR", "mr", "percentiles", 3) | {"scored": "everyone"}]
    table = domains_table(SweepRecords.from_dicts([rows[0] | {"scored": "test"}, rows[1]]))
    place = [column.key for column in table.columns].index("scored")
    assert [row[place].value for row in table.rows] == ["test", "everyone"] and "everyone" in table.caption
    assert "scored" not in [column.key for column in domains_table(SweepRecords.from_dicts(rows[:1])).columns]

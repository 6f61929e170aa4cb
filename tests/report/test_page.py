from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import pytest

from gkd_bench.errors import GkdBenchError
from gkd_bench.metrics.pictures import encode_png
from gkd_bench.report.cells import Cell, Column, Table
from gkd_bench.report.contents import answer, page_tables
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.page.album import Album, first_seeds, make_album, shrunk
from gkd_bench.report.page.heat import heat_data, shown_metrics
from gkd_bench.report.page.html import html_page, warnings
from gkd_bench.report.page.view import LONG_TABLE, figure_sections, figure_view, legend, table_sections, table_view

from .made_up import DOMAINS, METHODS, Record, make_origin, make_records
from .made_up_page import make_extras, make_figures, make_pictures, picture

EVIL = "</script><img src=x onerror=alert(1)>&\"'"
VOID = {"meta", "img", "input", "br", "link", "hr"}


class Outline(HTMLParser):
    """The elements of a page in order, each with its attributes, and the text of every element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def json(self, name: str) -> Any:
        """The content of ``<script type="application/json" id=name>``."""
        scripts = [text for tag, text in self.texts if tag == "script"]
        ids = [attrs.get("id") for attrs in self.all("script")]
        return json.loads(scripts[ids.index(name)])


@pytest.fixture(scope="module")
def records(made_up: list[Record]) -> SweepRecords:
    return SweepRecords.from_dicts(made_up, make_origin())


@pytest.fixture(scope="module")
def few(made_up: list[Record]) -> SweepRecords:
    """Records without scores."""
    costs = [one for one in made_up if one["record"] in ("cost", "epoch")]
    return SweepRecords.from_dicts(costs, make_origin())


@pytest.fixture(scope="module")
def page(records: SweepRecords) -> str:
    return html_page(records, page_tables(records), make_figures(), make_extras())


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return Outline(page)


# ---------------------------------------------------------------- what is in it


def test_page_tells_its_story_in_order(page: str) -> None:
    parts = ("run", "answer", "heat", "warnings", "tables", "figures", "file", "again")
    places = [page.index(f' id="{part}"') for part in parts]
    assert places == sorted(places)


def test_page_says_what_was_run_and_what_the_numbers_are_not(
    page: str, outline: Outline, records: SweepRecords
) -> None:
    text = " ".join(text for _, text in outline.texts)
    for words in (
        *DOMAINS,
        "student alone",
        "mobile_unet x0.5 (student)",
        "unet x0.5 (teacher)",
        "2 CPU cores",
        "0, 1, 2",
    ):
        assert words in text
    for words in (
        "best validation Dice of the source",
        "torch = 2.13.0",
        answer(records),
        "none of these numbers is the paper's",
    ):
        assert words in text
    assert "name: made_up" in text and "python -m gkd_bench.sweep sweeps/made_up.yaml" in text
    assert all(fingerprint in text for fingerprint in records.origin.fingerprints.values())


def test_every_element_is_closed_and_headings_never_skip_a_level(outline: Outline) -> None:
    assert outline.open == []
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_page_has_language_landmarks_a_skip_link_and_alternatives(outline: Outline) -> None:
    assert outline.all("html")[0]["lang"] == "en"
    assert len(outline.all("main")) == len(outline.all("nav")) == 1
    assert any(link.get("class") == "skip" and link["href"] == "#answer" for link in outline.all("a"))
    assert outline.all("img") and all(image.get("alt") for image in outline.all("img"))
    assert all(head.get("scope") in ("col", "row") for head in outline.all("th"))
    assert len(outline.all("caption")) == len(outline.all("table"))


def test_no_id_is_used_twice_and_every_link_inside_leads_somewhere(outline: Outline) -> None:
    ids = [str(attrs["id"]) for _, attrs in outline.elements if attrs.get("id")]
    assert len(ids) == len(set(ids))
    inside = {str(link["href"])[1:] for link in outline.all("a") if str(link["href"]).startswith("#")}
    assert inside <= set(ids)
    named = {
        str(value)
        for _, attrs in outline.elements
        for key, value in attrs.items()
        if key.startswith("aria-") and key.endswith("by")
    }
    assert named <= set(ids)


def test_page_asks_for_nothing_outside_itself(page: str, outline: Outline) -> None:
    assert not re.search(r"https?://|//[a-z]+\.", re.sub(r"data:[^\"']+", "", page))
    assert all(str(image["src"]).startswith("data:") for image in outline.all("img"))
    assert not outline.all("link") and not outline.all("iframe")
    assert "src" not in {key for script in outline.all("script") for key in script}


def test_policy_of_the_page_lets_only_its_own_script_run(page: str, outline: Outline) -> None:
    policy = next(str(meta["content"]) for meta in outline.all("meta") if meta.get("http-equiv"))
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; ")
    assert "unsafe" not in policy.split("style-src")[0]


def test_same_records_in_another_order_give_the_same_page(made_up: list[Record], page: str) -> None:
    again = SweepRecords.from_dicts(made_up[::-1], make_origin())
    assert html_page(again, page_tables(again), make_figures(), make_extras()) == page


def test_page_of_records_without_scores_has_no_heat_map(few: SweepRecords) -> None:
    page = html_page(few, page_tables(few), (), Extras())
    assert 'id="heat"' not in page and "No network was scored" in page
    assert Outline(page).open == []


# ---------------------------------------------------------------- untrusted text


def test_text_from_records_and_files_stays_text() -> None:
    swapped = [json.loads(json.dumps(one).replace("stare", json.dumps(EVIL)[1:-1])) for one in make_records()]
    records = SweepRecords.from_dicts(
        swapped, make_origin(sweep_yaml=EVIL, command=EVIL, machine=EVIL, fingerprints={EVIL: EVIL})
    )
    column = Column("a", EVIL)
    table = Table("table", EVIL, EVIL, (column, Column("b", EVIL)), ((Cell(EVIL), Cell(EVIL)),), "health")
    outline = Outline(html_page(records, (table,), (), Extras((picture("hrf", "hrf", "kd", 0, 1),))))
    assert not any("onerror" in attrs for _, attrs in outline.elements)
    assert outline.open == []
    assert EVIL in outline.json("heat-data")["targets"]
    assert any(EVIL in text for tag, text in outline.texts if tag == "td")


def test_script_and_style_cannot_end_early(page: str) -> None:
    assert page.count("</script>") == 3 and page.count("</style>") == 1


# ---------------------------------------------------------------- heat-map


def test_heat_map_says_what_the_scores_say(records: SweepRecords) -> None:
    data: Any = heat_data(records)
    mine = {seed: _mean(records, "hrf", "stare", "gkd", seed) for seed in (0, 1, 2)}
    alone = {seed: _mean(records, "hrf", "stare", "scratch", seed) for seed in (0, 1, 2)}
    home = {seed: _mean(records, "hrf", "hrf", "gkd", seed) for seed in (0, 1, 2)}
    cell = data["cells"]["dice_fov"]["gkd"][data["sources"].index("hrf")][data["targets"].index("stare")]
    assert cell["v"] == pytest.approx(np.mean([*mine.values()]), abs=1e-5)
    assert cell["h"] == pytest.approx(4.302653 * np.std([*mine.values()], ddof=1) / np.sqrt(3), rel=1e-4)
    assert cell["d"]["v"] == pytest.approx(np.mean([mine[seed] - alone[seed] for seed in mine]), abs=1e-5)
    assert cell["r"]["v"] == pytest.approx(np.mean([mine[seed] - home[seed] for seed in mine]), abs=1e-5)
    assert (cell["n"], cell["s"], cell["d"]["s"]) == (3, 6, 6)
    assert cell["l"] < cell["v"] < cell["u"] and 0 < cell["d"]["p"] <= 1


def test_change_of_an_error_is_positive_where_the_target_is_worse(records: SweepRecords) -> None:
    data: Any = heat_data(records)
    row = data["cells"]["hd95_fov"]["gkd"][0]
    assert data["sources"][0] == data["targets"][0] and "r" not in row[0]
    assert row[1]["v"] > row[0]["v"] and row[1]["r"]["v"] == pytest.approx(row[1]["v"] - row[0]["v"], abs=1e-3)


def test_heat_map_has_every_metric_inside_the_field_of_view_headline_first(records: SweepRecords) -> None:
    metrics = shown_metrics(records)
    assert metrics[0] == "dice_fov" and len(metrics) == 13 and all(metric.endswith("_fov") for metric in metrics)


def test_task_without_field_of_view_shows_whole_images() -> None:
    plain = [{key: value for key, value in one.items() if not key.endswith("_fov")} for one in make_records()]
    metrics = shown_metrics(SweepRecords.from_dicts(plain, make_origin()))
    assert metrics[0] == "dice" and "auc" in metrics


def test_first_view_stands_in_the_page_without_scripts(page: str, records: SweepRecords) -> None:
    data: Any = heat_data(records)
    body = page[page.index('id="heat-table"') : page.index("<noscript>")]
    values = [float(text) for text in re.findall(r'class="value">([0-9.]+)<', body)]
    assert values == pytest.approx([cell["v"] for row in data["cells"]["dice_fov"]["gkd"] for cell in row], abs=5e-4)
    assert body.count("background-color:#") == 9 and body.count('class="home"') == 3


def test_left_out_domain_is_na_with_its_reason(made_up: list[Record]) -> None:
    missing = {"record": "missing", "sweep": "made_up", "domain": "drive", "reason": "no images folder"}
    records = SweepRecords.from_dicts([*made_up, missing], make_origin())
    data: Any = heat_data(records)
    assert data["missing"] == {"drive": "no images folder"}
    assert data["cells"]["dice_fov"]["gkd"][data["sources"].index("drive")] == [None] * 4
    assert warnings(records)[0] == "drive was left out: no images folder"
    assert "drive (left out)" in html_page(records, (), (), Extras())


def _mean(records: SweepRecords, source: str, target: str, method: str, seed: int) -> float:
    """Six subjects with two images each: the mean over subjects of means over images is the mean over images."""
    frame = records.final("image", "test")
    wanted = {"source": source, "target": target, "method": method, "seed": seed}
    scores = [row["dice_fov"] for row in frame.to_dict("records") if wanted.items() <= row.items()]
    assert len(scores) == 12
    return float(np.mean(scores))


# ---------------------------------------------------------------- tables and figures


def small_table(rows: int = 3) -> Table:
    cells = [(Cell(f"row {at}"), Cell(0.5 + at / 10, 0.01, n=3)) for at in range(rows)]
    cells[0] = (cells[0][0], cells[0][1].marked("best").marked("better"))
    cells[1] = (cells[1][0], Cell(0.7, flags=frozenset({"oracle"})))
    return Table(
        "a table",
        "A table",
        "n = 3.",
        (Column("name", "name"), Column("dice", "Dice", "up", True)),
        tuple(cells),
        "comparison",
    )


def test_cells_say_their_rank_to_eyes_and_to_screen_readers() -> None:
    view = table_view(small_table())
    assert view.rows[0][1].classes == "best better" and view.rows[0][1].spoken == "best"
    assert view.rows[1][1].spoken == "oracle, never used"
    assert [heading[1:] for heading in view.headings] == [("text short", "none"), ("number", "up")]
    assert [row[1].number for row in view.rows] == ["0.5", "0.7", "0.7"]
    assert view.key == "a-table"


def test_legend_explains_the_marks_that_are_there_and_no_others() -> None:
    assert [mark for mark, _ in legend([small_table()])] == ["bold", "*", "grey"]


def test_long_tables_are_folded_and_short_ones_are_not() -> None:
    assert not table_view(small_table(LONG_TABLE)).is_long and table_view(small_table(LONG_TABLE + 1)).is_long


def test_tables_are_grouped_by_topic_and_keep_their_order(records: SweepRecords) -> None:
    tables = page_tables(records)
    sections = table_sections(tables)
    assert sections[0][0] == "answer"
    assert sum(len(views) for _, _, views in sections) == len(tables)
    for key, _, views in sections:
        assert [view.name for view in views] == [table.name for table in tables if table.section == key]


def test_figure_is_an_image_of_its_own_and_a_heavy_one_is_pixels() -> None:
    light = make_figures()[0]
    view = figure_view(light)
    assert view.address == "data:image/svg+xml;base64," + base64.b64encode(light.svg).decode()
    assert view.width == round(252 * 1.7)
    assert view.files == tuple((form, f"figures/forest.{form}") for form in ("svg", "pdf", "png"))
    heavy = type(light)(*("x", "stress", "t", "c", "a"), light.svg + b" " * 500_000, b"", light.png)
    assert figure_view(heavy).address.startswith("data:image/webp;base64,")


# ---------------------------------------------------------------- pictures


def test_album_holds_the_first_seed_and_every_picture_once() -> None:
    pictures = make_pictures(methods=("scratch", "gkd"), seeds=(1, 2))
    album = make_album(pictures)
    assert {one.seed for one in album.pictures} == {1} and len(album.pictures) == len(pictures) // 2
    different = {content for one in album.pictures for content in (one.photo, one.label, one.found)}
    assert len(album.files) == len(different) < 3 * len(album.pictures)
    assert album.left_out == 0


def test_first_seed_is_that_of_each_cell_not_of_all() -> None:
    pictures = [
        picture("hrf", "hrf", "kd", 3, 0),
        picture("hrf", "hrf", "gkd", 1, 0),
        picture("hrf", "hrf", "gkd", 2, 0),
    ]
    assert [(one.method, one.seed) for one in first_seeds(pictures)] == [("kd", 3), ("gkd", 1)]


def test_small_picture_keeps_its_shape_and_its_looks() -> None:
    one = picture("hrf", "stare", "gkd", 0, 0, size=(300, 360))
    small = cv2.imdecode(np.frombuffer(shrunk(one.photo, 150, 80), np.uint8), cv2.IMREAD_COLOR)
    photo = cv2.imdecode(np.frombuffer(one.photo, np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (150, 180, 3)
    expected = photo.astype(float).reshape(150, 2, 180, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - expected).mean() < 6


def test_pictures_get_smaller_until_they_fit() -> None:
    pictures = make_pictures(methods=("gkd",), seeds=(0,), size=(500, 250))[:3]
    whole = make_album(pictures)
    size = sum(map(len, whole.files.values()))
    tight = make_album(pictures, size // 2)
    assert sum(map(len, tight.files.values())) <= size // 2
    assert tight.height < whole.height and tight.left_out == 0 and len(tight.pictures) == 3


def test_where_nothing_else_helps_the_least_telling_pictures_are_left_out() -> None:
    pictures = make_pictures(methods=("gkd",), seeds=(0,), size=(500, 250))[:3]
    smallest = sum(
        len(f"data:image/webp;base64,{base64.b64encode(shrunk(part, 200, 50)).decode()}")
        for one in pictures
        for part in (one.photo, one.label, one.found)
    )
    album = make_album(pictures, smallest // 2)
    assert 0 < album.left_out == 3 - len(album.pictures)
    assert sum(map(len, album.files.values())) <= smallest // 2
    assert [one for one in pictures if "fixed" in one.roles] == [one for one in album.pictures if "fixed" in one.roles]


def test_page_with_many_pictures_stays_within_its_budget(outline: Outline, page: str) -> None:
    album = outline.json("picture-data")["album"]
    assert set(album["cells"]) == {f"{source}|{target}" for source in DOMAINS for target in DOMAINS}
    cell = album["cells"]["hrf|stare"]
    assert list(cell) == ["fixed", "worst", "median", "best"]
    assert [one["method"] for one in cell["fixed"]] == list(METHODS)
    assert all(one[part] in album["files"] for one in cell["worst"] for part in ("photo", "label", "found"))
    assert len(page) < 8e6


def test_heavy_figures_leave_less_room_for_pictures(few: SweepRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets: list[int] = []
    monkeypatch.setattr("gkd_bench.report.page.html.make_album", lambda _, budget: budgets.append(budget) or Album())
    one = make_figures()[0]
    heavy = tuple(replace(one, name=f"f{at}", svg=one.svg + b" " * 390_000) for at in range(4))
    many = (replace(one, svg=one.svg + b" " * 90_000),) * 80
    for figures in ((), heavy, many):
        html_page(few, (), figures, Extras())
    assert budgets == [6_000_000, 8_000_000 - 1_000_000 - 4 * len(figure_view(heavy[0]).address), 1_500_000]


@pytest.mark.parametrize("content", [b"", b"no picture", encode_png(np.zeros((4, 4), np.uint8))[:20]])
def test_picture_that_cannot_be_read_is_one_clear_error(content: bytes) -> None:
    with pytest.raises(GkdBenchError, match="cannot be read as PNG"):
        shrunk(content, 100, 80)


def test_many_heavy_figures_are_shown_as_pixels_so_that_the_page_still_opens() -> None:
    one = make_figures()[0]
    heavy = replace(one, svg=one.svg + b" " * 390_000)
    for count, form in ((2, "svg+xml"), (12, "webp")):
        (_, _, views), *_ = figure_sections([heavy] * count)
        assert all(view.address.startswith(f"data:image/{form}") for view in views)

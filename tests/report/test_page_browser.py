"""The page in a real browser, from a folder, without a network: what pointers, keys and screen readers get."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from gkd_bench.report.contents import page_tables
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.page import html_page
from gkd_bench.report.palette import luminance

from .made_up import Record, make_origin
from .made_up_page import make_figures, make_pictures

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
Scheme = Literal["light", "dark"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no browser at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(made_up: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = {"record": "missing", "sweep": "made_up", "domain": "drive", "reason": "no images folder"}
    records = SweepRecords.from_dicts([*made_up, missing], make_origin())
    extras = Extras(make_pictures(methods=("teacher", "scratch", "gkd"), seeds=(0,)))
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(html_page(records, page_tables(records), make_figures(), extras), encoding="utf-8")
    return path


@contextmanager
def opened(
    browser: Browser, file: Path, scheme: Scheme = "light", width: int = 1300, scripts: bool = True
) -> Iterator[Page]:
    """The page in a window of its own; whatever it says to the console or asks of a network fails the test."""
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 900}, java_script_enabled=scripts
    )
    page, complaints = context.new_page(), list[str]()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url[:80]) if _leaves(request.url, file) else None)
    page.goto(file.as_uri())
    yield page
    context.close()
    assert complaints == []


def _leaves(address: str, file: Path) -> bool:
    return address.partition("#")[0] != file.as_uri() and not address.startswith("data:")


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    with opened(browser, file) as shown:
        yield shown


def cell(page: Page, row: int, column: int) -> Any:
    return page.locator("#heat-table tbody tr").nth(row).locator("td").nth(column)


# ---------------------------------------------------------------- heat-map


def test_pointing_at_a_cell_shows_its_seeds_intervals_subjects_and_p(page: Page) -> None:
    cell(page, 2, 3).hover()
    text = page.locator("#readout").inner_text()
    assert text.startswith("hrf → stare")
    for words in (
        "95 % t interval, n = 3 seeds",
        "95 % bootstrap, seeds and 6 test subjects",
        "its p, Holm-adjusted, n = 6 subjects",
    ):
        assert words in text
    assert page.locator("#readout .strips li").count() == 6
    assert page.locator("#readout .strips li.chosen").inner_text().startswith("GKD")


def test_left_out_cell_says_why(page: Page) -> None:
    cell(page, 0, 1).hover()
    assert cell(page, 0, 1).inner_text() == "n/a"
    assert page.locator("#readout").inner_text().endswith("Left out: no images folder")


def test_one_cell_is_in_the_tab_order_and_arrow_keys_walk(page: Page) -> None:
    assert page.locator('#heat-table td[tabindex="0"]').count() == 1
    page.locator('#heat-table td[tabindex="0"]').focus()
    for key in ("Control+Home", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "End", "ArrowRight"):
        page.keyboard.press(key)
    assert cell(page, 1, 3).evaluate("cell => cell === document.activeElement && cell.tabIndex === 0")
    assert page.locator('#heat-table td[tabindex="0"]').count() == 1
    page.keyboard.press("Home")
    assert cell(page, 1, 0).evaluate("cell => cell === document.activeElement")


def test_screen_readers_hear_place_value_and_doubt(page: Page) -> None:
    label = str(cell(page, 0, 2).get_attribute("aria-label"))
    assert re.match(r"trained on chase_db1, tested on hrf, GKD: Dice 0\.\d{3}; 95 % t interval, n = 3 seeds ", label)
    assert page.locator("#heat-table").get_attribute("role") == "grid"
    assert page.get_by_role("gridcell").count() == 16


def test_enter_opens_the_pictures_and_escape_returns_to_the_cell(page: Page) -> None:
    cell(page, 0, 2).focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible()
    assert page.locator("#viewer-title").inner_text() == "Trained on chase_db1, tested on hrf"
    headings = [heading.split(" of each")[0] for heading in page.locator("#viewer-body h3").all_inner_texts()]
    assert headings == ["The same images for every method", "The worst image", "A middling image", "The best image"]
    first = page.locator("#viewer-body .shots").first.locator("figcaption b").all_inner_texts()
    assert first == ["teacher", "student alone", "GKD"]
    for _ in range(40):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || document.getElementById('viewer').contains(document.activeElement)"
        )
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert cell(page, 0, 2).evaluate("cell => cell === document.activeElement")


def test_pictures_load_have_words_and_switch_to_label_and_image(page: Page) -> None:
    cell(page, 0, 2).click()
    image = page.locator("#viewer-body img").first
    page.wait_for_function("document.querySelector('#viewer-body img').naturalWidth > 0")
    assert "hits, false positives and misses in colour; Dice 0.700" in str(image.get_attribute("alt"))
    assert (
        page.locator("#viewer-body a").first.get_attribute("href") == "overlays/chase_db1_to_hrf_teacher_seed0_s1a.png"
    )
    before = image.get_attribute("src")
    page.locator("#viewer-layers label", has_text="label").click()
    assert image.get_attribute("src") != before and image.get_attribute("alt") == "the label of s1a"


def test_method_metric_and_mode_change_all_cells(page: Page) -> None:
    value = cell(page, 0, 2).inner_text()
    page.select_option("#heat-method", "teacher")
    assert cell(page, 0, 2).inner_text() != value
    page.select_option("#heat-metric", "hd95_fov")
    assert page.locator("#heat-caption").inner_text() == "teacher, HD95, px"
    page.select_option("#heat-method", "gkd")
    page.select_option("#heat-metric", "dice_fov")
    page.locator(".segments label", has_text="difference to student alone").click()
    assert cell(page, 0, 2).inner_text().startswith("+0.0")
    page.locator(".segments label", has_text="change from own domain").click()
    assert cell(page, 0, 0).inner_text() == "home" and cell(page, 0, 2).inner_text().startswith("-0.1")


def test_first_view_is_the_same_with_and_without_scripts(browser: Browser, file: Path, page: Page) -> None:
    look = (
        "cells => cells.map((cell) => [cell.innerText.replace(/\\s+/g, ' '), getComputedStyle(cell).backgroundColor])"
    )
    with opened(browser, file, scripts=False) as plain:
        shown = [text.replace("\n", " ") for text in plain.locator("#heat-table td").all_inner_texts()]
        colours = re.findall(r"<td[^>]*background-color:(#\w{6})", plain.content())
    drawn = page.locator("#heat-table td").evaluate_all(look)
    assert [text for text, _ in drawn] == [" ".join(text.split()) for text in shown]
    assert [colour for text, colour in drawn if text != "n/a"] == [_rgb(colour) for colour in colours]


def _rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})"


# ---------------------------------------------------------------- tables


def test_headings_sort_by_number_and_say_so(page: Page) -> None:
    table = page.locator("#tables-answer table.data").first
    heading = table.locator("th", has_text="GKD ¶ ↑").first
    place = heading.evaluate("heading => heading.cellIndex")

    def numbers() -> list[float]:
        cells = table.locator("tbody tr").evaluate_all(
            "(rows, at) => rows.map((row) => row.cells[at].dataset.number ?? '')", place
        )
        return [float(text) if text else float("-inf") for text in cells]

    original = numbers()
    heading.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert numbers() == sorted(original, reverse=True)
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    known = [number for number in original if number > float("-inf")]
    assert numbers()[: len(known)] == sorted(known), "cells without a number stay last"
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") is None and numbers() == original


def test_only_one_heading_of_a_table_is_sorted_by(page: Page) -> None:
    buttons = page.locator("#tables-answer table.data").first.get_by_role("button")
    buttons.nth(0).click()
    buttons.nth(2).click()
    assert page.locator("#tables-answer table.data").first.locator("[aria-sort]").count() == 1


def test_everything_can_be_read_without_scripts(browser: Browser, file: Path) -> None:
    with opened(browser, file, scripts=False) as plain:
        tables = plain.locator("table.data")
        assert tables.count() > 5 and all(table.is_visible() for table in tables.all())
        assert plain.locator("#heat-table").is_visible() and plain.locator("#yaml").is_visible()
        assert not any(part.is_visible() for part in plain.locator(".script-only").all())
        assert "Without scripts" in plain.locator("body").inner_text()


# ---------------------------------------------------------------- looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(browser: Browser, file: Path, scheme: Scheme) -> None:
    found = """() => [...document.querySelectorAll('main *, nav *')].filter((e) => e.checkVisibility() && !e.closest('.vh')
      && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => {
        let b = e;
        while (b && getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;
        return [getComputedStyle(e).color, getComputedStyle(b ?? document.body).backgroundColor, e.tagName + '.' + e.className];
      })"""
    with opened(browser, file, scheme) as page:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        pairs = {tuple(one) for one in page.evaluate(found)}
    weak = [(round(_contrast(ink, paper), 2), where) for ink, paper, where in pairs if _contrast(ink, paper) < 4.5]
    assert len(pairs) > 20 and weak == []


def _contrast(ink: str, paper: str) -> float:
    light = sorted(luminance(_hex(colour)) for colour in (ink, paper))
    return (light[1] + 0.05) / (light[0] + 0.05)


def _hex(colour: str) -> str:
    channels = [int(text) for text in re.findall(r"\d+", colour)[:3]]
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def test_colours_follow_the_system_until_chosen_and_the_choice_is_remembered(browser: Browser, file: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, file, "dark") as page:
        dark = page.evaluate(paper)
        page.get_by_role("button", name="Light colours").click()
        light = page.evaluate(paper)
        page.reload()
        assert page.evaluate(paper) == light != dark
        page.get_by_role("button", name="Dark colours").click()
        assert page.evaluate(paper) == dark


def test_page_works_where_nothing_can_be_remembered(browser: Browser, file: Path) -> None:
    with opened(browser, file) as page:
        page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } })")
        page.reload()
        page.get_by_role("button", name="Dark colours").click()
        assert page.locator("html").get_attribute("data-theme") == "dark"


@pytest.mark.parametrize("width", [1300, 390])
def test_page_is_never_wider_than_its_window(browser: Browser, file: Path, width: int) -> None:
    with opened(browser, file, width=width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cell(page, 0, 2).click()
        box = page.get_by_role("dialog").bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width


def test_styles_of_figures_do_not_reach_the_page(page: Page) -> None:
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).fill") == "rgb(0, 0, 0)"
    assert page.locator("#figures img").first.evaluate("image => image.complete && image.naturalWidth > 0")


def test_everything_is_unfolded_in_print(page: Page) -> None:
    assert page.locator("main details:not([open])").count() > 0
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("main details:not([open])").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("main details:not([open])").count() > 0


def test_skip_link_is_the_first_stop_and_leads_to_the_answer(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "answer"

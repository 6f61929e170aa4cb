"""MLflow in a real browser: what somebody who follows the printed links sees first.

``GKD_SHOTS`` names a folder for pictures of every page, for people to look at.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gkd_bench.report import dashboard
from gkd_bench.report.backend import Backend, Tracked, client_of
from gkd_bench.report.contents import answer, page_tables
from gkd_bench.report.dashboard import free_port, ui_command
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.parent import Shown
from gkd_bench.report.tracking import write_tracking
from gkd_bench.report.views import slug_of

from .made_up import DOMAINS, METHODS, SEEDS, Record, make_origin
from .mlflow_help import extras, new_backend

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = Path("/usr/bin/chromium")
EXPERIMENT = "gkd_bench"
PATIENCE = 45_000  # milliseconds; MLflow's pages load slowly on a busy machine
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no browser at {CHROMIUM}"),
]


@dataclass(frozen=True)
class Site:
    """A running MLflow with one sweep in it."""

    backend: Backend
    tracked: Tracked
    port: int

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}/#"

    def view(self, name: str, mode: str = "TABLE") -> str:
        slug = slug_of("made_up", name)
        query = f"workflowType=machine_learning&viewStateShareKey={slug}&compareRunsMode={mode}"
        return f"{self.root}/experiments/{self.tracked.experiment_id}/runs?{query}"

    def run_ids(self, *names: str) -> list[str]:
        runs = client_of(self.backend).search_runs([str(self.tracked.experiment_id)], max_results=1000)
        found = {run.info.run_name: run.info.run_id for run in runs}
        return [found[name] for name in names]


@pytest.fixture(scope="module")
def site(made_up: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    backend = new_backend(tmp_path_factory.mktemp("results"))
    records = SweepRecords.from_dicts(made_up, make_origin())
    shown = Shown(answer(records), page_tables(records), {"index.html": b"<h1>made up</h1>"})
    tracked = write_tracking(records, backend, EXPERIMENT, shown, extras())
    assert tracked.warning is None
    port = free_port(5900)
    with tempfile.TemporaryFile() as log, dashboard._server(backend, port, log):
        yield Site(backend, tracked, port)


@pytest.fixture
def page() -> Iterator[Page]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1500, "height": 950})
        opened.set_default_timeout(PATIENCE)
        yield opened
        browser.close()


def keep_picture(page: Page, name: str) -> None:
    folder = os.environ.get("GKD_SHOTS")
    if folder:
        _close_assistant(page)
        page.screenshot(path=Path(folder) / f"mlflow_{name}.png")


def _close_assistant(page: Page) -> None:
    """MLflow's own chat window opens itself on the first visit."""
    page.wait_for_timeout(2500)
    for button in page.get_by_role("button", name="Close").all():
        if button.is_visible():
            button.click()
    page.wait_for_timeout(2500)


def test_printed_link_lands_on_a_finished_comparison_of_the_methods(site: Site, page: Page) -> None:
    page.goto(ui_command(site.backend, site.tracked, site.port).link)
    for title in ("teacher", "GKD", "alone"):
        page.get_by_text(f"Group: {title}", exact=True).wait_for()
    page.locator(".js-plotly-plot .bars path").first.wait_for(state="attached")
    assert page.get_by_text(f"{len(METHODS) * len(DOMAINS) * len(SEEDS)} matching runs").count() == 1
    assert page.locator(".js-plotly-plot").count() >= 6
    for name in ("foreign/dice", "in_domain/dice", "stressed/dice"):
        assert page.get_by_text(name, exact=True).count() >= 1
    assert page.get_by_text("trial", exact=False).count() == 0
    keep_picture(page, "comparison")


def test_matrix_view_has_a_row_per_source_and_method_and_a_column_per_target(site: Site, page: Page) -> None:
    page.goto(site.view("matrix"))
    page.get_by_text("Group: hrf, GKD", exact=True).wait_for()
    groups = page.get_by_text(re.compile("^Group: "))
    assert groups.count() == len(DOMAINS) * len(METHODS)
    for target in DOMAINS:
        page.get_by_text(f"dice/{target}", exact=True).first.wait_for()
    keep_picture(page, "matrix")


def test_trainings_view_lists_labels_and_results(site: Site, page: Page) -> None:
    page.goto(site.view("trainings"))
    page.get_by_text("hrf: teacher, seed 0", exact=True).wait_for()
    for column in ("source", "method", "seed", "selected", "foreign/dice"):
        page.get_by_role("columnheader", name=column).first.wait_for()
    keep_picture(page, "trainings")


def test_search_view_draws_parameters_against_objectives(site: Site, page: Page) -> None:
    page.goto(site.view("search", "CHART"))
    page.get_by_text("Searched parameters and objectives").first.wait_for()
    page.get_by_text("Parallel Coordinates").first.wait_for()
    page.get_by_text("methods.gkd.intra").first.wait_for()
    assert page.get_by_text("12 matching runs").count() == 1
    keep_picture(page, "search")


def test_sweep_opens_on_its_answer_and_its_tables(site: Site, page: Page) -> None:
    page.goto(ui_command(site.backend, site.tracked, site.port).run_link)
    page.get_by_text(re.compile("^Mean Dice")).first.wait_for()
    page.get_by_text("Show more").first.click()
    page.locator("table td", has_text="chase_db1 ◦").first.wait_for()
    headings = page.locator("table th").all_inner_texts()
    assert {"source", "target", "student alone ↑", "GKD ¶ ↑"} <= {heading.strip() for heading in headings}
    keep_picture(page, "sweep")


def test_two_trainings_can_be_compared(site: Site, page: Page) -> None:
    runs = site.run_ids("hrf: student alone, seed 0", "hrf: GKD, seed 0")
    page.goto(
        f"{site.root}/compare-runs?runs={json.dumps(runs)}&experiments={json.dumps([site.tracked.experiment_id])}"
    )
    page.get_by_text("Comparing 2 Runs").wait_for()
    for name in ("hrf: student alone, seed 0", "hrf: GKD, seed 0"):
        page.locator("tr", has_text=name).first.wait_for()
    for name in ("cost/macs", "dice/chase_db1", "dice/hrf", "dice/stare"):
        page.get_by_role("link", name=name, exact=True).wait_for()
    keep_picture(page, "compare")


def test_training_says_what_it_is(site: Site, page: Page) -> None:
    (run,) = site.run_ids("hrf: GKD, seed 0")
    page.goto(f"{site.root}/experiments/{site.tracked.experiment_id}/runs/{run}?workflowType=machine_learning")
    page.get_by_text("trained on hrf only").first.wait_for()
    page.get_by_text("dice/chase_db1", exact=True).first.wait_for()
    keep_picture(page, "training")


def test_registered_student_shows_its_model_card(site: Site, page: Page) -> None:
    (link,) = [one for one in ui_command(site.backend, site.tracked, site.port).model_links if one.endswith("hrf")]
    page.goto(link)
    page.get_by_text("gkd_bench.made_up.hrf").first.wait_for()
    page.get_by_text("selected", exact=False).first.wait_for()
    page.get_by_text("Version 1").first.click()
    page.locator("table th", has_text="95 % interval").first.wait_for()
    page.get_by_text("Research only; no medical device.").wait_for()
    keep_picture(page, "model")


def test_table_of_the_sweep_opens_in_the_artifacts(site: Site, page: Page) -> None:
    link = f"{site.root}/experiments/{site.tracked.experiment_id}/runs/{site.tracked.run_id}/artifacts"
    page.goto(f"{link}?workflowType=machine_learning")
    page.get_by_text("mlflow_tables", exact=True).first.click()
    page.get_by_text("triple.json", exact=True).first.click()
    page.get_by_text("student alone ↑").first.wait_for()
    keep_picture(page, "table")

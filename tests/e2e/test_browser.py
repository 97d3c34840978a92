"""Comparing runs in MLflow's pages, as a user does it: in a real Chromium."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from .browsing import needs_chromium, screenshot, table_of_runs
from .conftest import ELASTIC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page

    from ltm_platform import tracking

DIFFERENCE = "engine.zero_stage"

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def runs(trained: Callable[..., tracking.RunRecord]) -> list[tracking.RunRecord]:
    """Two real runs, the better one first."""
    return sorted((trained(1, ELASTIC), trained(3)), key=top1, reverse=True)


@pytest.fixture(scope="module")
def open_table(
    runs: list[tracking.RunRecord],  # noqa: ARG001
    store: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[], Page]]:
    with table_of_runs(store, tmp_path_factory.mktemp("ui") / "ui.log") as open_table:
        yield open_table


@pytest.fixture
def page(open_table: Callable[[], Page]) -> Iterator[Page]:
    page = open_table()
    expect(page.get_by_role("link", name="zero-1")).to_be_visible()
    yield page
    page.close()


def top1(run: tracking.RunRecord) -> float:
    return run.metrics["val/top1"]


def shown(value: float) -> re.Pattern[str]:
    """The first digits of a number: all that a narrow column has room for."""
    return re.compile(re.escape(str(value)[:6]))


def rounded(value: float) -> str:
    """As MLflow's compare page rounds."""
    return f"{round(value, 3 if value < 10 else 2 if value < 100 else 1):g}"


def test_runs_are_sorted_compared_and_seen(page: Page, runs: list[tracking.RunRecord]) -> None:
    # the table, the best first, with columns of one's choice
    page.get_by_role("button", name="Columns").click()
    for metric in ("val/top1", "model/gmacs"):
        page.get_by_placeholder("Search columns").fill(metric)
        page.get_by_text(metric, exact=True).first.click()
    page.keyboard.press("Escape")
    names = page.get_by_role("link", name=re.compile("^zero-"))
    known = [name for name in names.all_inner_texts() if name in {run.name for run in runs}]
    assert known == [run.name for run in runs]
    for run in runs:
        expect(page.get_by_text(shown(top1(run))).first).to_be_visible()
    expect(page.get_by_text(shown(runs[0].metrics["model/gmacs"])).first).to_be_visible()
    screenshot(page, "runs")

    # side by side
    for run in runs:
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name=run.name))
        row.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", name="Comparing 2 Runs")).to_be_visible()
    expect(page.get_by_text("Parallel Coordinates Plot")).to_be_visible()
    screenshot(page, "compare")
    metrics = page.get_by_role("grid").last
    metrics.scroll_into_view_if_needed()
    metrics.hover()
    for metric in ("model/gmacs", "val/top1"):
        for run in runs:
            number = metrics.get_by_text(rounded(run.metrics[metric]), exact=True)
            expect(number.first).to_be_attached()
        page.mouse.wheel(0, 2000)  # rows that are out of sight are not in the page

    # what differs
    expect(page.get_by_role("rowheader", name="data.path")).to_be_attached()
    page.get_by_role("switch").first.click()
    expect(page.get_by_role("rowheader", name="data.path")).not_to_be_attached()
    expect(page.get_by_role("rowheader", name=DIFFERENCE)).to_be_visible()


def test_the_pictures_of_runs_are_shown_side_by_side(
    page: Page, runs: list[tracking.RunRecord]
) -> None:
    # The page draws its first ten runs, and other tests have trained, too.
    named = quote("attributes.run_name LIKE 'zero-%'")
    page.goto(f"{page.url}&compareRunsMode=CHART&searchFilter={named}")
    page.get_by_placeholder("Search metric charts").fill("heatmaps")
    for run in runs:
        picture = page.locator(f"img[src*='heatmaps'][src*='{run.run_id}']").first
        picture.scroll_into_view_if_needed()
        page.wait_for_function("image => image.naturalWidth > 0", arg=picture.element_handle())
    screenshot(page, "pictures")

"""MLflow's pages as a user sees them, in a real Chromium.

With ``LTM_SCREENSHOTS=docs/figures`` the pictures of docs/ are taken on the way.
"""

from __future__ import annotations

import io
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from ltm_platform import tracking

from .conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = os.environ.get("LTM_SCREENSHOTS")
PATIENCE_MS = 300_000

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium (apt-get install chromium)"
)


@contextmanager
def table_of_runs(store: str, log: Path) -> Iterator[Callable[[], Page]]:
    """Serve the store as `ui` does. Each call opens its table of runs on a page of its own."""
    port = free_port()
    with tracking.serving_ui(store, "127.0.0.1", port, log), sync_playwright() as playwright:
        address = tracking.runs_page(store, f"http://127.0.0.1:{port}")
        assert address
        # Chromium's sandbox does not start for root, as whom containers run.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        expect.set_options(timeout=PATIENCE_MS)

        def open_table() -> Page:
            page = browser.new_page(viewport={"width": 1500, "height": 800})
            page.set_default_timeout(PATIENCE_MS)
            page.goto(address)
            page.get_by_role("button", name="Close").last.click()  # MLflow's assistant
            return page

        yield open_table
        browser.close()


def screenshot(page: Page, name: str) -> None:
    if SCREENSHOTS:
        picture = Image.open(io.BytesIO(page.screenshot()))
        picture.quantize(64).save(Path(SCREENSHOTS) / f"mlflow-{name}.png", optimize=True)

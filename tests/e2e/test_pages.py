"""README and docs: their links lead somewhere, and what they name is there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml

from .pages import PAGES, ROOT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        page = (path.parent / file) if file else path
        assert page.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads}


def test_every_page_is_in_the_readme_which_is_short() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 120
    for path in PAGES:
        if path.name != "README.md":
            assert f"({path.relative_to(ROOT)})" in readme


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    folders = "benchmarks|docs|jobs|ltm|platform|tests"
    for name in re.findall(rf"`((?:{folders})/[\w./*-]+)`", path.read_text()):
        if name != "platform/ltm_platform/cli/commands/cost.py":  # an example to add
            assert list(ROOT.glob(name)), name


def test_the_citation_names_this_software_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert f"## [{citation['version']}]" in (ROOT / "CHANGELOG.md").read_text()
    (paper,) = citation["references"]
    assert paper["url"].endswith("2407.15219")

"""The examples of docs/extending.md, each installed as a package of its own and run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from .packages import ROOT, install_project, run

if TYPE_CHECKING:
    from pathlib import Path

TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"(?ms)^## (.+?)\n(.*?)(?=^## |\Z)", TEXT))
BLOCK = re.compile(r"(?ms)^```(\w+)\n(?:# (\S+\.(?:py|toml))\n)?(.*?)^```$")


@pytest.mark.slow
@pytest.mark.parametrize("title", ["A method", "A backbone"])
def test_an_example_works_and_touches_no_file_of_ours(title: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall(SECTIONS[title])
    files = {path: code for _, path, code in blocks if path}
    use = [code for language, path, code in blocks if language == "python" and not path]
    assert len(use) == 1
    install_project(tmp_path, files.pop("pyproject.toml"), files)
    run(tmp_path, use[0])

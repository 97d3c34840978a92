"""The examples of docs/library.md, each run as it stands there."""

from __future__ import annotations

import re

import pytest

from .packages import ROOT

TEXT = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?ms)^```python\n(.*?)^```$", TEXT)


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS, ids=[str(i) for i in range(len(BLOCKS))])
def test_an_example_works(code: str) -> None:
    exec(compile(code, "docs/library.md", "exec"), {"__name__": "example"})


def test_the_page_patches_eight_models_of_four_families() -> None:
    from ltm.backbones import find_backbone

    (code,) = (block for block in BLOCKS if "for name in (" in block)
    names = re.findall(r'"(\w+_\w+)",', code)
    assert len({*names}) == 8
    assert len({find_backbone(name)[1] for name in names}) == 4

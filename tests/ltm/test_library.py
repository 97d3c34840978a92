"""The examples of docs/library.md and docs/detection.md, each run as it stands there."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from .packages import ROOT


def blocks(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"(?ms)^```python\n(.*?)^```$", text)


BLOCKS = blocks("library.md")


def run(page: str, code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, f"docs/{page}", "exec"), names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS, ids=[str(i) for i in range(len(BLOCKS))])
def test_an_example_works(code: str) -> None:
    run("library.md", code)


def test_the_page_patches_eight_models_of_four_families() -> None:
    from ltm.backbones import find_backbone

    (code,) = (block for block in BLOCKS if "for name in (" in block)
    names = re.findall(r'"(\w+_\w+)",', code)
    assert len({*names}) == 8
    assert len({find_backbone(name)[1] for name in names}) == 4


@pytest.mark.slow
def test_a_detector_learns_on_the_maps_of_a_network_that_merges() -> None:
    (code,) = blocks("detection.md")
    names = run("detection.md", code)
    losses, network = names["losses"], names["backbone"].network
    assert all(torch.tensor(losses).isfinite())
    assert min(losses[-3:]) < losses[0]
    assert network.model.plan
    of_method = [p for name, p in network.named_parameters() if ".method." in name]
    assert of_method
    assert all(parameter.grad is not None for parameter in of_method)
    sides = [x.shape[-1] for x in network(torch.rand(1, 3, 64, 64))]
    assert sides == [32, 16, 8, 4]
    assert names["found"]["boxes"].shape[1:] == (4,)

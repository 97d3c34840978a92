"""Methods and backbones of other packages, found by their entry points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .packages import install, run

if TYPE_CHECKING:
    from pathlib import Path

HALVE = """
import torch
from ltm.interfaces import Method
from ltm.merge import Assigned


class Halve(Method):
    def __init__(self, sites, power: float = 1.0):
        super().__init__()

    def forward(self, given):
        B, N, _ = given.tokens.shape
        slot = torch.arange(N, device=given.tokens.device) * given.site.slots // N
        weight = torch.ones(B, N, device=given.tokens.device)
        return Assigned.normalised(slot.expand(B, -1), weight, given.site.slots)
"""
REPORT = """
import ltm
from ltm.errors import PluginError


def error(function, *args):
    try:
        function(*args)
    except PluginError as error:
        return error
    raise AssertionError("no error")
"""


def test_a_method_is_found_and_its_package_loaded_when_it_is_asked_for(tmp_path: Path) -> None:
    install(tmp_path, "Halving", {"halving.py": HALVE}, {"ltm.methods": {"halve": "halving:Halve"}})
    out = run(
        tmp_path,
        """
import sys, ltm, torch
assert "halve" in ltm.list_methods()
ltm.create_model("vit_nano_patch4_32", "tome")
assert "halving" not in sys.modules
assert ltm.plugins.packages() == ["halving"]
(plugin,) = ltm.plugins.plugins()
print(plugin.distribution, plugin.version, plugin.name, plugin.group)
model = ltm.create_model("vit_nano_patch4_32", "halve", plan={"blocks.1": 32}, power=2.0)
assert model.method.name == "halve"
assert model(torch.randn(1, 3, 32, 32)).shape == (1, 1000)
assert "halve" in ltm.list_token_methods()
""",
    )
    assert out == "Halving 1.0 halve ltm.methods"


@pytest.mark.slow
def test_a_decorator_beside_the_entry_point_does_no_harm(tmp_path: Path) -> None:
    decorated = HALVE.replace("class Halve", "@ltm.register_method('halve')\nclass Halve")
    files = {"halving.py": "import ltm\n" + decorated}
    install(tmp_path, "halving", files, {"ltm.methods": {"halve": "halving:Halve"}})
    run(
        tmp_path,
        """
import halving, ltm
assert ltm.list_methods().count("halve") == 1
ltm.create_model("vit_nano_patch4_32", "halve")
""",
    )


def test_a_broken_package_is_named_when_its_method_is_asked_for(tmp_path: Path) -> None:
    points = {"halve": "halving:Halve", "absent": "halving:Absent", "odd": "odd:number"}
    files = {"halving.py": "import nothing_of_that_name", "odd.py": "number = 3"}
    install(tmp_path, "halving", files, {"ltm.methods": points})
    out = run(
        tmp_path,
        REPORT
        + """
ltm.create_model("vit_nano_patch4_32", "tome")
for name in ("halve", "odd"):
    print(error(ltm.create_model, "vit_nano_patch4_32", name))
""",
    ).splitlines()
    assert out[0] == (
        "package 'halving' cannot be loaded, ModuleNotFoundError: No module named "
        "'nothing_of_that_name': entry point 'halve = halving:Halve' of ltm.methods"
    )
    assert out[1].startswith("package 'halving' is 3, which is no method")


def test_names_that_clash_are_named_with_both_packages(tmp_path: Path) -> None:
    files = {"halving.py": HALVE, "other.py": HALVE}
    install(tmp_path, "halving", files, {"ltm.methods": {"halve": "halving:Halve"}})
    install(tmp_path, "other", {}, {"ltm.methods": {"halve": "other:Halve"}})
    out = run(tmp_path, REPORT + "print(error(ltm.list_methods))")
    assert "'halving'" in out
    assert "'other'" in out
    assert "'halve = " in out


@pytest.mark.slow
def test_a_name_of_ours_cannot_be_taken(tmp_path: Path) -> None:
    files = {"halving.py": HALVE}
    install(tmp_path, "halving", files, {"ltm.methods": {"tome": "halving:Halve"}})
    out = run(tmp_path, REPORT + "print(error(ltm.list_methods))")
    assert out.startswith("package 'halving' has a method 'tome', which ltm has, too")


@pytest.mark.slow
def test_a_family_that_clashes_or_breaks_does_not_touch_what_we_have(tmp_path: Path) -> None:
    family = """
from ltm.backbones import StagedModel, register_family

@register_family("timm.models.swin_transformer", label="Another Swin")
class Another(StagedModel):
    pass
"""
    files = {"another.py": family}
    install(tmp_path, "another", files, {"ltm.backbones": {"swin": "another"}})
    out = run(
        tmp_path,
        REPORT
        + """
ltm.create_model("vit_nano_patch4_32")
print(error(ltm.create_model, "resnet50"))
""",
    )
    assert out.startswith("package 'another' cannot be loaded")
    assert "are those of Swin already" in out

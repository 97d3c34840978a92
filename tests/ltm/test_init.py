"""`import ltm` is cheap, and has all its names."""

import subprocess
import sys

import pytest

import ltm


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_neither_torch_nor_timm() -> None:
    code = """
import sys, ltm, ltm.errors, ltm.plan, ltm.plugins
dir(ltm)
ltm.FieldError, ltm.plugins.packages(), ltm.elastic_ratio((0.5, 1.0), 1)
print([name for name in ("torch", "timm", "torchvision", "numpy") if name in sys.modules])
"""
    assert in_a_fresh_process(code) == "[]"


def test_every_name_is_there_whatever_was_imported_before() -> None:
    code = """
import ltm.bottleneck, ltm.budget, ltm.create, ltm.flops, ltm.views, ltm.catalogue, ltm.plan
assert set(ltm.__all__) <= set(dir(ltm))
for name in ltm.__all__:
    getattr(ltm, name)
print(callable(ltm.heatmap), callable(ltm.table), callable(ltm.count))
"""
    assert in_a_fresh_process(code) == "True True True"


def test_names_of_ours_are_in_timms_registry_once_asked_for() -> None:
    code = """
import timm, ltm.timm_models
print(timm.is_model("ltm_vit_small_patch16_224"), timm.is_model("vit_nano_patch4_32"))
"""
    assert in_a_fresh_process(code) == "True True"


def test_what_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        _ = ltm.creat_model

from __future__ import annotations

import os
import sys

import pytest
import torch

from ltm_platform.compat.deepspeed import import_deepspeed, uncompiled, without


def test_a_module_is_missing_in_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with without("colorsys"), pytest.raises(ImportError):
        import colorsys
    import colorsys

    with without("colorsys"):
        import colorsys as again
    assert again is colorsys


def test_nothing_is_compiled_in_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x + x

    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    with uncompiled():
        assert torch.compile(twice) is twice
    assert torch.compile(twice, backend="eager") is not twice
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")
    with uncompiled():
        pass
    assert os.environ["TORCHDYNAMO_DISABLE"] == "0"


def test_deepspeed_looks_for_no_compiler() -> None:
    import_deepspeed()
    from deepspeed.comm.torch import build_shm_op

    assert build_shm_op() is None

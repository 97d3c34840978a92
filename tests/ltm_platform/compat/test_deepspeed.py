from __future__ import annotations

import os
import sys
from typing import Any

import pytest
import torch

from ltm_platform.compat.deepspeed import (
    config_problem,
    import_deepspeed,
    uncompiled,
    without,
)


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


BASE: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": 2,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 0.0,
    "zero_optimization": {"stage": 1},
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "steps_per_print": 100,
    "torch_autocast": {"enabled": True, "dtype": "bfloat16"},
    "fp16": {"enabled": False},
}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"wall_clock_breakdown": True},
        {"flops_profiler": {"enabled": True}},
        {"zero_optimization": {"stage": 1, "overlap_comm": True}},
        {"comms_logger": {"enabled": True}},
        {"communication_data_type": "fp16"},
    ],
)
def test_deepspeed_takes_its_settings(more: dict[str, Any]) -> None:
    assert config_problem(BASE | more) is None


def test_deepspeed_is_asked_which_settings_it_knows() -> None:
    key, why, known = config_problem(BASE | {"prescale_gradient": True}) or ("", "", set())
    assert (key, why) == ("prescale_gradient", "is no setting of DeepSpeed's")
    assert {"prescale_gradients", "zero_optimization", "fp16"} <= known
    key, why, _ = config_problem(BASE | {"zero_optimization": {"overlap_com": 1}}) or ("", "", 0)
    assert key == "overlap_com"
    assert "not permitted" in why

"""What a job leaves to its device: decided by the kind of device, the optimizer and the network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2

import ltm
from ltm_platform.job import JobSpec
from ltm_platform.training.engine.device import (
    fuse,
    has_bf16,
    own_precision,
    set_up,
    wants_channels_last,
    with_precision,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def job(**overrides: Any) -> JobSpec:
    values = {"model": {"backbone": "vit_nano_patch4_32"}, "data": {"path": "x"}}
    return JobSpec.from_dict(values | {"engine": overrides})


def test_torch_has_the_threads_that_ray_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for value in ("3", "0", "4,2"):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        set_up(CPU)
    assert asked == [3]


def test_a_gpu_is_set_up_as_timm_does_and_a_cpu_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    set_up(CPU)
    assert not torch.backends.cudnn.benchmark
    set_up(GPU)
    assert torch.backends.cudnn.benchmark
    assert asked == ["high"]


@pytest.mark.parametrize(("has", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_is_bf16_on_gpus_that_have_it(
    has: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    assert has_bf16(GPU) == has
    assert own_precision(job(), GPU) == expected
    assert own_precision(job(precision="fp16"), GPU) == torch.float16
    assert own_precision(job(), CPU) == torch.float32
    assert own_precision(job(precision="bf16"), CPU) == torch.bfloat16


@pytest.mark.usefixtures("only_rank")
def test_ranks_agree_on_a_precision_and_nobody_asks_for_one_that_is_given() -> None:
    assert with_precision(job(), CPU).engine.precision == "fp32"
    assert with_precision(job(precision="bf16"), CPU).engine.precision == "bf16"


def test_networks_of_convolutions_have_their_channels_last_on_gpus() -> None:
    vit: Any = ltm.create_model("vit_tiny_patch16_224", image_size=32)
    mobile: Any = ltm.create_model("mobilevit_xxs", image_size=64)
    swin: Any = ltm.create_model("swin_nano_patch2_window4_32")
    wanted = [wants_channels_last(job(), model, GPU) for model in (vit, mobile, swin)]
    assert wanted == [False, True, False]
    assert not wants_channels_last(job(), mobile, CPU)
    assert wants_channels_last(job(channels_last=True), vit, CPU)
    assert not wants_channels_last(job(channels_last=False), mobile, GPU)


@pytest.mark.parametrize(
    ("name", "fused"), [("adamw", True), ("adam", True), ("sgd", True), ("lion", False)]
)
def test_optimizers_that_can_update_all_in_one_pass_do(name: str, fused: bool) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = create_optimizer_v2(model, opt=name, lr=0.1, weight_decay=0.1)
    fuse(optimizer)
    assert [bool(group.get("fused")) for group in optimizer.param_groups] == [fused, fused]
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()

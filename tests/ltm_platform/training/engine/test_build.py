"""The DeepSpeed configuration that follows from a job, and the module that is wrapped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deepspeed.runtime.config import DeepSpeedConfig

import ltm
from ltm_platform.job import JobSpec
from ltm_platform.models import freeze
from ltm_platform.training.engine.build import Classifier, deepspeed_config


def config(workers: int = 1, **overrides: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"model": {"backbone": "vit_nano_patch4_32"}, "data": {"path": "x"}}
    job = JobSpec.from_dict(values)
    for key, value in overrides.items():
        job = job.replace(key.replace("__", "."), value)
    return deepspeed_config(job, job.batch(workers))


@pytest.mark.parametrize(("clip", "expected"), [(None, 0.0), (0.5, 0.5)])
def test_nothing_is_clipped_that_the_job_does_not_clip(clip: float | None, expected: float) -> None:
    assert DeepSpeedConfig(config(recipe__clip_grad=clip)).gradient_clipping == expected


@pytest.mark.parametrize(
    ("workers", "micro", "accumulation"), [(1, 4, 12), (2, 4, 6), (3, 16, 1), (4, 12, 1)]
)
def test_the_global_batch_is_kept(workers: int, micro: int, accumulation: int) -> None:
    got = config(workers, recipe__global_batch=48, recipe__micro_batch=micro)
    assert got["train_micro_batch_size_per_gpu"] == micro
    assert got["gradient_accumulation_steps"] == accumulation
    assert got["train_batch_size"] == micro * accumulation * workers == 48


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_stage_is_the_jobs(stage: int) -> None:
    assert config(2, engine__zero_stage=stage)["zero_optimization"]["stage"] == stage


def test_one_worker_alone_shares_out_nothing() -> None:
    def stage(**engine: Any) -> int:
        settings = {f"engine__{name}": value for name, value in engine.items()}
        return DeepSpeedConfig(config(1, **settings)).zero_optimization_stage

    assert [stage(zero_stage=one) for one in range(4)] == [0, 0, 0, 0]
    # what ZeRO alone can do
    assert stage(zero_stage=2, precision="fp16") == 2
    assert stage(zero_stage=1, offload="optimizer") == 1


@pytest.mark.parametrize(
    ("stage", "offload", "optimizer", "weights"),
    [(1, "none", None, None), (1, "optimizer", "cpu", None), (3, "all", "cpu", "cpu")],
)
def test_deepspeed_offloads_what_the_job_says(
    stage: int, offload: str, optimizer: str | None, weights: str | None
) -> None:
    told = DeepSpeedConfig(config(engine__zero_stage=stage, engine__offload=offload))
    found = (told.zero_config.offload_optimizer, told.zero_config.offload_param)
    assert [one and one.device for one in found] == [optimizer, weights]
    assert told.zero_force_ds_cpu_optimizer == (optimizer is None)


def test_precision_is_the_jobs() -> None:
    full = DeepSpeedConfig(config(engine__precision="fp32"))
    half = DeepSpeedConfig(config(engine__precision="bf16"))
    # what is left open is planned for GPUs: on CPUs it is decided already
    assert DeepSpeedConfig(config()).torch_autocast_dtype == torch.bfloat16
    assert not full.torch_autocast_enabled
    assert half.torch_autocast_enabled
    assert half.torch_autocast_dtype == torch.bfloat16
    # The optimizer keeps working in fp32.
    assert not half.bfloat16_config.enabled
    assert not half.float16_config.enabled


def test_fp16_scales_the_loss_by_what_fits() -> None:
    half = DeepSpeedConfig(config(engine__precision="fp16")).float16_config
    assert half.enabled
    assert half.auto_cast
    assert half.loss_scale == 0  # DeepSpeed's word for dynamic


def test_further_settings_reach_deepspeed_beside_ours() -> None:
    settings = {"zero_optimization": {"overlap_comm": True}, "prescale_gradients": True}
    values = config(2, engine__zero_stage=2, engine__deepspeed=settings)
    del values["train_batch_size"]  # there is one process here
    told = DeepSpeedConfig(values)
    assert (told.zero_config.stage, told.zero_config.overlap_comm) == (2, True)
    assert told.prescale_gradients


def test_images_are_laid_out_as_the_job_says() -> None:
    model: Any = ltm.create_model("efficientvit_b0", "none", image_size=64, num_classes=3).eval()
    seen: list[torch.Tensor] = []
    model.stages[0].register_forward_hook(lambda *args: seen.append(args[-1]))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = [Classifier(model, channels_last=last)(images)[0] for last in (False, True)]
    layouts = [out.is_contiguous(memory_format=torch.channels_last) for out in seen]
    assert layouts == [False, True]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    model: Any = ltm.create_model("efficientvit_b0", "none", image_size=64, num_classes=3)
    freeze(model, ["stem"])
    classifier = Classifier(model).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    classifier(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    moved = {n for n, buffer in model.named_buffers() if not torch.equal(buffer, before[n])}
    assert moved
    assert not any(name.startswith("stem.") for name in moved)
    assert {name for name in before if not name.startswith("stem.")} == moved


@pytest.mark.parametrize("method", ["none", "ltm"])
@pytest.mark.parametrize(
    ("backbone", "size"),
    [("vit_nano_patch4_32", 32), ("mobilevit_xxs", 64), ("efficientvit_b0", 64)],
)
def test_the_classifier_gives_the_models_logits_and_its_feature(
    backbone: str, size: int, method: str
) -> None:
    model: Any = ltm.create_model(backbone, method, image_size=size, num_classes=3).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    logits, feature = Classifier(model)(images)
    assert feature.shape == (2, model.head_hidden_size)
    torch.testing.assert_close(logits, model(images))

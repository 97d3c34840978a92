"""No step of training makes the host wait for the device, but where the meter reads it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_platform.training import step_metrics
from ltm_platform.training.measurement.evaluation import evaluate
from ltm_platform.training.step_metrics import CHECK_STEPS, StepMeter
from ltm_platform.training.stepping import Stepper

from .host_syncs import host_syncs
from .small_run import MODEL, FolderContext, small_job

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import StartRun
    from .small_run import SmallRun

# 12 steps
RECIPE: dict[str, Any] = {"epochs": 1, "global_batch": 4, "ema_decay": 0.9, "clip_grad": 1.0}
JOB = {"model": MODEL, "recipe": RECIPE}

CASES: dict[str, dict[str, Any]] = {
    "mixing and accumulation": {
        "recipe__mix": {"mixup": 0.8, "cutmix": 1.0},
        "recipe__micro_batch": 2,
    },
    "ZeRO 1": {"engine__zero_stage": 1},
    "ZeRO 2, bf16": {"engine__zero_stage": 2, "engine__precision": "bf16"},
    "ZeRO 3": {"engine__zero_stage": 3, "recipe__optimizer": "lion"},
    "any ratio": {"model__compression_ratio": None, "model__elastic": (0.3, 1.0)},
    "windows": {"model__backbone": "swin_nano_patch2_window4_32", "recipe__optimizer": "sgd"},
    "convolutions": {"model__backbone": "efficientvit_b0", "recipe__sync_bn": True},
    **{
        method: {"model__method": method}
        for method in ("tome", "dtem", "ltmp", "spvit", "dynamicvit", "s2vite")
    },
}


def syncs_by_step(run: SmallRun, job: Any) -> list[Counter[str]]:
    """What made the host wait in each step of an epoch."""
    meter = StepMeter(lambda _: None, run.components.batch.global_batch, _parts(run))
    stepper = Stepper(job, run.components, meter)
    batches = list(run.components.train_loader.epoch(0))
    steps: list[Counter[str]] = []
    with host_syncs() as found:
        for _ in stepper.epoch(0, batches):
            steps.append(found.counts - sum(steps, Counter()))
    return steps


def _parts(run: SmallRun) -> tuple[str, ...]:
    return run.components.objective.parts


@pytest.mark.parametrize("case", CASES)
def test_no_step_waits_for_the_device_but_where_the_meter_reads(
    start_run: StartRun, context: FolderContext, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_metrics, "SEND_INTERVAL_S", 1e9)
    job = small_job(JOB, **CASES[case])
    steps = syncs_by_step(start_run(job, context), job)
    assert len(steps) == 12
    for step, syncs in enumerate(steps, start=1):
        if step % CHECK_STEPS:
            assert not syncs, f"step {step}"
        else:
            assert 1 <= sum(syncs.values()) <= 2, "one reading of losses, one of seeds"


def test_the_meter_reads_at_most_once_an_interval(
    start_run: StartRun, context: FolderContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_metrics, "SEND_INTERVAL_S", 0.0)
    job = small_job(JOB)
    steps = syncs_by_step(start_run(job, context), job)
    for syncs in steps[: CHECK_STEPS - 1]:
        assert sum(syncs.values()) == 1
        assert all("step_metrics.py" in at for at in syncs)


def test_validation_waits_for_the_device_once_in_all(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB), context)
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    batches = list(run.components.val_loader)
    assert len(batches) > 2
    with host_syncs() as found:
        evaluate(run.components.engine, batches, run.components.to_network, confusion)
    assert sum(found.counts.values()) == 1


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(),
        lambda x: float(x.sum()),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x.to(torch.device("cpu")),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_fill_(x > 0, 0).unique(),
        lambda x: x.long().bincount(),
        lambda x: torch.tensor([1.0], device=x.device),
    ],
)
def test_what_would_wait_is_seen(wait: Callable[[torch.Tensor], object]) -> None:
    x = torch.rand(4)
    with host_syncs() as found:
        x.softmax(0).where(x > 0.5, 0.0).clone()
        assert not found.counts
        wait(x)
    assert sum(found.counts.values()) >= 1
    assert all(__file__ in at for at in found.counts)

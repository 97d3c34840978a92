"""Training steps: ours beside that of timm's train.py."""

from __future__ import annotations

import os
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

import ltm
from benchmarks.gpu.bench import EMA_DECAY, FULL, WARMUP, Bench, Row
from ltm_platform.models import create_model
from ltm_platform.training.measurement import estimates
from ltm_platform.training.prefetch import DevicePrefetcher
from ltm_platform.training.step_metrics import StepMeter
from ltm_platform.training.stepping import Stepper

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ltm_platform.job import JobSpec
    from ltm_platform.training.components import Components


def step(bench: Bench) -> list[Row]:
    rows = []
    for compiled in (False, True) if bench.size.compiles else (False,):
        for network in bench.size.networks:
            name = f"{network}{', compiled' if compiled else ''}"
            if bench.fits(f"step of {name}"):
                rows.append({"network": name} | _compared(bench, network, compiled))
    return rows


def _compared(bench: Bench, network: str, compiled: bool) -> Row:
    base, _ = _ours(bench, bench.job(network, compile=compiled))
    merged, peak = _ours(bench, bench.job(network, "ltm", compile=compiled))
    timm = _timms(bench, network, compiled)
    job, classes = bench.job(network, "ltm"), bench.classes
    costs = [ltm.count(create_model(bench.job(network, m), classes)) for m in ("none", "ltm")]
    macs = costs[0].gmacs / costs[1].gmacs
    row = {"timm": timm, "base": base, "base/timm": base / timm, "LTM": merged}
    row |= {"LTM/base": merged / base, "MACs": macs, "of MACs": merged / base / macs}
    if peak is not None:
        parameters = round(costs[1].params_m * 1e6)
        planned = estimates.model_states(parameters, 0, 1, half=False, ema=True)
        planned += bench.size.batch * estimates.activations(job, classes)
        row |= {"peak GiB": peak / 2**30, "planned GiB": planned / 2**30}
    return row


def _ours(bench: Bench, job: JobSpec) -> tuple[float, int | None]:
    """Images/s of the step on one batch again and again, and the peak of the memory."""
    its = bench.components(job)
    batch = next(iter(its.train_loader.epoch(0)))
    speed = _trained(bench, job, its, repeat(batch, WARMUP + bench.size.steps))
    peak = torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else None
    bench.end(its)
    return speed, peak


def _trained(bench: Bench, job: JobSpec, its: Components, batches: Iterable[Any]) -> float:
    parts = its.objective.parts
    stepper = Stepper(job, its, StepMeter(lambda _: None, its.batch.global_batch, parts))
    return bench.speed(stepper.epoch(0, batches))


def _timms(bench: Bench, network: str, compiled: bool) -> float:
    """Images/s of the step of timm's train.py, whose batches arrive as ours do."""
    pixels, classes = bench.size.networks[network], bench.classes
    channels_last = torch.channels_last
    model = create_model(bench.job(network), classes).to(bench.device)
    model = model.to(memory_format=channels_last)
    ema = ModelEmaV3(model, decay=EMA_DECAY)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.05)
    loss_of, trained = LabelSmoothingCrossEntropy(0.1), model
    if compiled:
        trained = torch.compile(model)
    images = torch.rand(bench.size.batch, 3, pixels, pixels)
    labels = torch.randint(classes, (bench.size.batch,))

    def steps() -> Iterable[None]:
        model.train()
        batches = repeat((images, labels), WARMUP + bench.size.steps)
        for there, wanted in DevicePrefetcher(batches, bench.device):
            there = there.contiguous(memory_format=channels_last)
            half = bench.device.type == "cuda"
            with torch.autocast(bench.device.type, torch.bfloat16, enabled=half):
                loss = loss_of(trained(there), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
            yield

    speed = bench.speed(steps())
    torch.compiler.reset()
    return speed


def disk(bench: Bench) -> list[Row]:
    network = next(iter(bench.size.networks))
    workers = max(1, (os.cpu_count() or 2) - 1) if bench.size is FULL else 0
    job = bench.job(network, "ltm").replace("data.loader_workers", workers)
    its = bench.components(job)
    wanted = WARMUP + bench.size.steps
    epochs = range(wanted // its.train_loader.steps(1) + 1)
    batches = (batch for epoch in epochs for batch in its.train_loader.epoch(epoch))
    speed = _trained(bench, job, its, islice(batches, wanted))
    bench.end(its)
    return [{"network": network, "decode processes": workers, "images/s": speed}]

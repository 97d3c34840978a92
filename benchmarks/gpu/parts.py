"""Parts of a step, the same losses on every device, and a whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ltm.backbones._transformer.proportional import proportional_attention
from ltm_platform.models import create_model
from ltm_platform.training.engine.build import build_engine, deepspeed_config
from ltm_platform.training.engine.device import set_up

if TYPE_CHECKING:
    from benchmarks.gpu.bench import Bench, Row

ROOT = Path(__file__).parents[2]
STAGES = (0, 1, 2, 3)
MOST_IMAGES = 8
"""In a batch whose loss is compared, which the CPU computes, too."""
OVERFLOWING = 2.0**40
"""A scale of the loss with which fp16 overflows."""
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
ALONE |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
"""What DeepSpeed wants to see of this process."""


def attention(bench: Bench) -> list[Row]:
    B, H, T, d = bench.size.attention
    rows = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        qkv = torch.randn(B, T, 3, H, d, device=bench.device, dtype=dtype, requires_grad=True)
        sizes = torch.randint(1, 9, (B, T), device=bench.device).float().log()

        def attend(appended: bool, qkv: Any = qkv, sizes: Any = sizes) -> None:
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            y = proportional_attention(q, k, v, sizes, scale=d**-0.5, appended=appended)
            y.sum().backward()
            qkv.grad = None

        times = {
            name: 1000 * bench.seconds(lambda form=form: attend(form))
            for name, form in (("mask ms", False), ("channels ms", True))
        }
        ratio = times["mask ms"] / times["channels ms"]
        rows.append({"dtype": str(dtype).removeprefix("torch.")} | times | {"gain": ratio})
    return rows


def copies(bench: Bench) -> list[Row]:
    pixels = next(iter(bench.size.networks.values()))
    images = torch.rand(bench.size.batch, 3, pixels, pixels)
    rows = [{"memory": "pageable", "ms": 1000 * bench.seconds(lambda: images.to(bench.device))}]
    if bench.device.type == "cuda":
        pinned = images.pin_memory()
        seconds = bench.seconds(lambda: pinned.to(bench.device, non_blocking=True))
        rows.append({"memory": "pinned", "ms": 1000 * seconds})
    return rows


def losses(bench: Bench) -> list[Row]:
    network = next(iter(bench.size.networks))
    torch.set_float32_matmul_precision("highest")
    expected = torch.tensor(_losses_at(bench, network, 0, torch.device("cpu")))
    rows = []
    for stage in STAGES:
        got = torch.tensor(_losses_at(bench, network, stage, bench.device))
        row: Row = {"ZeRO": stage, "from the CPU": float((got - expected).abs().max())}
        if stage and bench.device.type == "cuda":
            row |= _overflowed(bench, network, stage)
        rows.append(row)
    set_up(bench.device)
    return rows


def _engine(bench: Bench, network: str, stage: int, device: torch.device, precision: str) -> Any:
    torch.manual_seed(0)
    job = bench.job(network, "ltm", precision=precision, zero_stage=max(stage, 1))
    model = create_model(job, bench.classes)
    config = deepspeed_config(job, job.batch(1))
    config["zero_optimization"]["stage"] = stage
    if stage == 3:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return build_engine(model, optimizer, config, device=device)


def _train(bench: Bench, engine: Any, network: str, steps: int) -> list[float]:
    """Losses of a few steps on noise, that of each before its step."""
    pixels, device = bench.size.networks[network], engine.device
    draw = torch.Generator().manual_seed(0)
    count, losses = min(bench.size.batch, MOST_IMAGES), []
    for _ in range(steps):
        images = torch.randn(count, 3, pixels, pixels, generator=draw)
        labels = torch.randint(bench.classes, (count,), generator=draw)
        dtype = next(engine.module.parameters()).dtype
        logits, _ = engine(images.to(device, dtype))
        loss = torch.nn.functional.cross_entropy(logits.float(), labels.to(device))
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses


def _losses_at(bench: Bench, network: str, stage: int, device: torch.device) -> list[float]:
    engine = _engine(bench, network, stage, device, "fp32")
    losses = _train(bench, engine, network, 3)
    if stage:
        engine.destroy()
    return losses


def _overflowed(bench: Bench, network: str, stage: int) -> Row:
    engine = _engine(bench, network, stage, bench.device, "fp16")
    engine.optimizer.loss_scaler.cur_scale = OVERFLOWING
    losses = _train(bench, engine, network, 40)
    skipped = engine.skipped_steps
    engine.destroy()
    finite = bool(np.isfinite(losses[-1]))
    return {"fp16 steps skipped": skipped, "goes on": finite and 0 < skipped < 40}


def submit(bench: Bench) -> list[Row]:
    network = next(iter(bench.size.networks))
    job = bench.job(network, "ltm").to_dict()
    job["recipe"]["epochs"] = 2
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "gpu.json"
        file.write_text(json.dumps(job))
        paths = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
        environment = os.environ | {"LTM_PLATFORM_HOME": home, "PYTHONPATH": paths}
        for name in ALONE:
            environment.pop(name, None)
        code = (
            "import sys; from ltm_platform import api; "
            "print('SPEED', api.submit(sys.argv[1]).metrics['train/images_per_s'])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(file)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SPEED")]
    return [{"network": network, "images/s": float(line.split()[1])}]

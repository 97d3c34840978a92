"""What a checkpoint costs: how long training stands still, and what is written behind its back.

    python benchmarks/checkpoint.py --backbone vit_s --batch 16

One worker of Ray Train trains on noise with DeepSpeed and an EMA, and saves now and then. "stall"
is the time that the training thread spends in a save: weights checked, state copied, checkpoint
reported; "report" is the last of these. "write" is the time that Ray Train's thread needs meanwhile
to store it. Medians. "of an epoch" is the share that stalls take of an epoch of ImageNet-1k at
the measured step, saved at the default interval: `every_steps` and each epoch's end. The last line
is the step at which that share would be 1 %, on a machine that trains faster but copies no faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ltm_platform.api.output import captured_output
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster.embedded import embedded_ray, this_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from ltm_platform.storage.path import StoragePath

IMAGES = 1_281_167  # ImageNet-1k
CLASSES = 1000


def train(config: dict[str, Any]) -> dict[str, Any]:
    """In a Ray worker: steps and saves in turn. Seconds of each step, stall and write; bytes."""
    import torch
    from deepspeed.accelerator import get_accelerator
    from torch.nn import functional as F

    from ltm_platform.models import input_pixels
    from ltm_platform.storage.run_folder import RunIdentity
    from ltm_platform.training import checkpoint
    from ltm_platform.training.engine.build import build_engine, deepspeed_config
    from ltm_platform.training.engine.weights import ShardedEma, average_buffers, weights_are_finite
    from ltm_platform.training.recipe.network import build_network, build_objective
    from ltm_platform.training.recipe.optimization import build_optimizer
    from ltm_platform.training.worker_context import RayWorker

    place, job = RayWorker(RunIdentity("checkpoint", "")), JobSpec.from_dict(config["job"])
    model = build_network(job, CLASSES).model
    settings = deepspeed_config(job, job.batch(1))
    optimizer = build_optimizer(model, job.recipe)
    engine = build_engine(model, optimizer, settings, device=place.device)
    ema = ShardedEma(engine, 0.999)
    _, statistics_of_ib = build_objective(job, model, CLASSES, engine.device)
    state = checkpoint.State(engine, ema, statistics_of_ib)
    size = input_pixels(model).size
    images = torch.randn(job.recipe.global_batch, 3, size, size, device=engine.device)
    labels = torch.randint(CLASSES, (len(images),), device=engine.device)
    seen: dict[str, Any] = {"step": [], "stall": [], "report": [], "write": []}
    written = threading.Event()
    write = checkpoint.Snapshot.write

    def timed_write(
        taken: checkpoint.Snapshot, target: StoragePath, run: RunIdentity, metrics: dict[str, float]
    ) -> None:
        start = time.perf_counter()
        write(taken, target, run, metrics)
        seen["write"].append(time.perf_counter() - start)
        seen["bytes"] = sum(size for _, size in target.files())
        written.set()

    def step() -> None:
        logits, _ = engine(images)
        engine.backward(F.cross_entropy(logits, labels))
        engine.step()
        ema.update()
        get_accelerator().synchronize()

    def save(number: int) -> None:
        weights_are_finite(engine)
        average_buffers(engine, ema)
        taken = checkpoint.snapshot(job, state, number, "[]")
        timed("report", place.keep, taken, {})

    def timed(name: str, function: Callable[..., object], *args: Any) -> None:
        start = time.perf_counter()
        function(*args)
        seen[name].append(time.perf_counter() - start)

    with patch.object(checkpoint.Snapshot, "write", timed_write):
        step()
        for number in range(1, config["saves"] + 1):
            for _ in range(config["steps"]):
                timed("step", step)
            written.clear()
            timed("stall", save, number)
            written.wait()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_s")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--zero-stage", type=int, default=1)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="between saves")
    parser.add_argument("--verbose", action="store_true", help="show what Ray says")
    args = parser.parse_args()
    job = JobSpec.from_dict(
        {
            "model": {"backbone": args.backbone},
            "data": {"path": "digits"},  # not read
            "recipe": {"global_batch": args.batch},
            "engine": {"zero_stage": args.zero_stage},
        }
    )
    machine = this_machine()
    with (
        tempfile.TemporaryDirectory(prefix="ltm-checkpoint-") as storage,
        captured_output(Path(storage) / "ray.log", print if args.verbose else None),
        embedded_ray(machine),
    ):
        import ray.train
        from ray.train.torch import TorchTrainer

        trainer = TorchTrainer(
            train,
            train_loop_config={"job": job.to_dict(), "saves": args.saves, "steps": args.steps},
            scaling_config=ray.train.ScalingConfig(
                num_workers=1,
                use_gpu=machine.gpus >= 1,
                resources_per_worker={"CPU": machine.cpus},
            ),
            run_config=ray.train.RunConfig(
                storage_path=storage,
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            ),
        )
        seen = trainer.fit().return_value
    names = ("step", "stall", "report", "write")
    step, stall, report, write = (statistics.median(seen[name]) for name in names)
    steps = IMAGES // args.batch
    every = job.checkpoint.every_steps
    assert every
    saves = -(-steps // every)
    setting = f"{args.backbone}, batch {args.batch}, ZeRO {args.zero_stage}"
    print(f"{setting}, load {os.getloadavg()[0]:.1f}")
    print(f"step        {step:8.3f} s")
    print(f"stall       {stall:8.3f} s  ({min(seen['stall']):.3f} to {max(seen['stall']):.3f})")
    print(f"  report    {report:8.3f} s  ({min(seen['report']):.3f} to {max(seen['report']):.3f})")
    print(f"write       {write:8.3f} s  {seen['bytes'] / 1e6:.0f} MB")
    print(
        f"of an epoch {100 * saves * stall / (steps * step):8.4f} %  {saves} saves, {steps} steps"
    )
    print(f"1 % at      {100 * saves * stall / steps:8.4f} s a step")


if __name__ == "__main__":
    main()

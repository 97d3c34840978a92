"""Images a second of `ltm-platform submit` beside timm's plain training loop.

    python benchmarks/training.py
    python benchmarks/training.py --backbone vit_small_patch16_224 --batch 64 --images 6400

Both train the same backbone on the same JPEGs, generated first, at the same batch, precision,
threads, decode processes, transforms, optimizer and EMA; timm_loop.py is the plain one, with gloo
or NCCL. submit also runs the IB loss with its statistics and writes a checkpoint every epoch. A
round is one run each of submit without merging, timm and submit with LTM, and the fastest epoch
of all rounds counts, without a run's first one. submit's runs from the end of the validation before
to its last loss, as they stand in MLflow, so the stall of a checkpoint is in it. At ZeRO 0 every
worker holds all that the optimizer needs, as with torch's DDP.

"base" and "LTM" are submit's images/s, "base/timm" wants to be 1 or more, and "of MACs" is LTM/base
divided by the base's MACs over LTM's: 1 when time follows arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ltm_platform.tracking import find_run
from ltm_platform.tracking.store import connect

ROOT = Path(__file__).parents[1]
EMA_DECAY = 0.999


def generate(folder: Path, classes: int, images: int, side: int) -> None:
    """An image tree: soft noise, about as large in bytes as photographs."""
    draw = np.random.default_rng(0)
    # A few for validation; its time does not count.
    for split, count in (("train", images), ("val", classes)):
        for number in range(count):
            coarse = draw.integers(256, size=(side // 4, side // 4, 3), dtype=np.uint8)
            path = folder / split / f"class{number % classes}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)


def call(command: list[str], home: Path, threads: int) -> str:
    """What a Python command prints."""
    environment = os.environ | {
        "LTM_PLATFORM_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")]),
        "OMP_NUM_THREADS": str(threads),
    }
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def submit(
    args: argparse.Namespace, home: Path, method: str, workers: int
) -> tuple[float, float, float]:
    """The platform's images/s in the fastest epoch, and GMACs of the network and of its base."""
    job = {
        "model": {"backbone": args.backbone, "method": method, "image_size": args.image_size},
        "data": {"path": str(home / "images"), "loader_workers": 1},
        "recipe": {
            "epochs": args.epochs,
            "global_batch": args.batch,
            "ema_decay": EMA_DECAY,
        },
        "engine": {"precision": args.precision, "zero_stage": args.zero_stage},
        "checkpoint": {"keep": 1},
        "cluster": {"workers": workers, "cpus_per_worker": args.threads},
    }
    file = home / "job.yaml"
    file.write_text(json.dumps(job))
    name = f"run-{len(list(home.glob('runs/*')))}"
    call(["cli.py", "submit", str(file), "--name", name], home, args.threads)
    store = f"sqlite:///{home / 'mlflow.db'}"
    run = find_run(store, name)
    client, steps = connect(store), args.images // args.batch

    def seconds(metric: str) -> dict[int, float]:
        history = client.get_metric_history(run.run_id, metric)
        return {point.step: point.timestamp / 1000 for point in history}

    told, validated = seconds("train/loss"), seconds("val/top1")
    fastest = min(told[step] - validated[step - steps] for step in validated if step > steps)
    return args.images / fastest, run.metrics["model/gmacs"], run.metrics["model/gmacs_base"]


def plain(args: argparse.Namespace, home: Path, workers: int) -> float:
    """timm's images/s in the fastest epoch."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    options = {
        "data": home / "images",
        "backbone": args.backbone,
        "classes": args.classes,
        "image-size": args.image_size,
        "batch": args.batch,
        "epochs": args.epochs,
        "ema-decay": EMA_DECAY,
        "precision": args.precision,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    printed = call([*launcher, "benchmarks/timm_loop.py", *words], home, args.threads)
    return max(map(float, printed.split()[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16, help="over all workers")
    parser.add_argument("--images", type=int, default=256, help="an epoch")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--zero-stage", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    if args.epochs < 2 or args.images % args.batch:
        parser.error("--epochs must be 2 or more, and --images a multiple of --batch")
    print(
        f"{args.backbone}, {args.image_size} px, batch {args.batch}, {args.precision}, "
        f"ZeRO {args.zero_stage}"
    )
    print(
        f"{'workers':>8}{'base':>9}{'timm':>9}{'LTM':>9}"
        f"{'base/timm':>11}{'LTM/base':>10}{'of MACs':>9}{'load':>7}"
    )
    with tempfile.TemporaryDirectory(prefix="ltm-training-") as folder:
        home = Path(folder)
        generate(home / "images", args.classes, args.images, args.image_size * 8 // 7)
        for workers in args.workers:
            base = timm = merged = 0.0
            gain = 1.0
            for _ in range(args.rounds):
                base = max(base, submit(args, home, "none", workers)[0])
                timm = max(timm, plain(args, home, workers))
                speed, gmacs, base_gmacs = submit(args, home, "ltm", workers)
                merged, gain = max(merged, speed), base_gmacs / gmacs
            print(
                f"{workers:>8}{base:>9.1f}{timm:>9.1f}{merged:>9.1f}{base / timm:>11.3f}"
                f"{merged / base:>10.3f}{merged / base / gain:>9.3f}{os.getloadavg()[0]:>7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

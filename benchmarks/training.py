"""Images a second of `ltm-platform submit` beside timm's plain training loop.

    python benchmarks/training.py
    python benchmarks/training.py --backbone vit_small_patch16_224 --batch 64 --images 6400

Three trainings are started, submit without merging, timm and submit with LTM, and take turns of a
few seconds after their first epoch: one has the machine, and all processes of the others are
stopped. So what else happens on the machine, minute by minute, comes to all of them. The figures
are medians over the turns, of the steps that begin and end within one.

All train the same backbone on the same JPEGs, generated first, at the same batch, precision,
threads, decode processes, transforms, optimizer and EMA; timm_loop.py is the plain one, with gloo
or NCCL. submit also runs the IB loss with its statistics and writes a checkpoint every epoch, whose
stall counts. Validation does not. At ZeRO 0 every worker holds all that the optimizer needs, as
with torch's DDP.

"base" and "LTM" are submit's images/s, "base/timm" wants to be 1 or more, and "of MACs" is LTM/base
divided by the base's MACs over LTM's: 1 when time follows arithmetic.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
from PIL import Image

from ltm_platform.ray_cluster.forked_workers import client
from ltm_platform.tracking import find_run
from ltm_platform.tracking.store import connect

ROOT = Path(__file__).parents[1]
EMA_DECAY = 0.999
EPOCHS = 1000  # more than there is time for
POLL_S = 1.0
END_S = 60.0

Point = tuple[float, float]
"""When, and how many images had been trained by then."""
T = TypeVar("T", bound="Training")


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


class Training(ABC):
    """One that takes turns. Stopped and let go with all its processes."""

    def __init__(self, command: list[str], home: Path, threads: int) -> None:
        home.mkdir()
        environment = os.environ | {
            "LTM_PLATFORM_HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")]),
            "OMP_NUM_THREADS": str(threads),
        }
        # Workers are to be stopped with it: they come from a fork server of its own.
        environment.pop(client.SERVER, None)
        self._speeds: list[float] = []
        self._output = home / "output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def warm_up(self) -> None:
        """Run to the end of the first epoch, and wait."""
        while not self._is_warm():
            self._run(POLL_S)
        self.signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> None:
        """For so long, and until there is a speed to tell."""
        self.signal(signal.SIGCONT)
        start = time.time()
        self._run(seconds)
        while (speed := self._speed(start, time.time())) is None:
            self._run(POLL_S)
        self._speeds.append(speed)
        self.signal(signal.SIGSTOP)

    def signal(self, number: int) -> None:
        process = psutil.Process(self._process.pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def _run(self, seconds: float) -> None:
        time.sleep(seconds)
        if self._process.poll() is not None:
            raise SystemExit(self._output.read_text())

    def end(self) -> None:
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(END_S)

    def speed(self) -> float:
        """Images/s, the median over the turns."""
        return statistics.median(self._speeds)

    def _speed(self, start: float, end: float) -> float | None:
        """Of the steps that begin and end in that time; None where there are none."""
        points = sorted(point for point in self.points() if start <= point[0] <= end)
        steps = [(p, q) for p, q in pairwise(points) if q[1] > p[1]]  # else validation
        seconds = sum(q[0] - p[0] for p, q in steps)
        return sum(q[1] - p[1] for p, q in steps) / seconds if seconds else None

    @abstractmethod
    def points(self) -> list[Point]: ...

    @abstractmethod
    def _is_warm(self) -> bool: ...


class Submitted(Training):
    """`ltm-platform submit`."""

    def __init__(self, args: argparse.Namespace, home: Path, method: str, workers: int) -> None:
        job = {
            "model": {"backbone": args.backbone, "method": method, "image_size": args.image_size},
            "data": {"path": str(home / "images"), "loader_workers": 1},
            "recipe": {
                "epochs": EPOCHS,
                "global_batch": args.batch,
                "ema_decay": EMA_DECAY,
                "ib": {"warmup": 0.0},
            },
            "engine": {"precision": args.precision, "zero_stage": args.zero_stage},
            "checkpoint": {"keep": 1},
            "cluster": {"workers": workers, "cpus_per_worker": args.threads},
        }
        own = home / f"{method}-{workers}"
        file = home / f"{own.name}.yaml"
        file.write_text(json.dumps(job))
        self._store, self._batch = f"sqlite:///{own / 'mlflow.db'}", args.batch
        super().__init__(["cli.py", "submit", str(file), "--name", "run"], own, args.threads)

    def _is_warm(self) -> bool:
        return f"1/{EPOCHS}" in self._output.read_text()

    def points(self) -> list[Point]:
        client, run = connect(self._store), find_run(self._store, "run")
        return [
            (point.timestamp / 1000, point.step * self._batch)
            for metric in ("train/loss", "val/top1")
            for point in client.get_metric_history(run.run_id, metric)
        ]

    def gmacs(self) -> tuple[float, float]:
        """Of the network, and of its base."""
        metrics = find_run(self._store, "run").metrics
        return metrics["model/gmacs"], metrics["model/gmacs_base"]


class Plain(Training):
    """timm's loop."""

    def __init__(self, args: argparse.Namespace, home: Path, workers: int) -> None:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
        options = {
            "data": home / "images",
            "backbone": args.backbone,
            "classes": args.classes,
            "image-size": args.image_size,
            "batch": args.batch,
            "epochs": EPOCHS,
            "ema-decay": EMA_DECAY,
            "precision": args.precision,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        self._images = args.images
        command = [*launcher, "benchmarks/timm_loop.py", *words]
        super().__init__(command, home / f"timm-{workers}", args.threads)

    def _is_warm(self) -> bool:
        return any(images >= self._images for _, images in self.points())

    def points(self) -> list[Point]:
        lines = [line.split() for line in self._output.read_text().splitlines()]
        numbers = [line for line in lines if len(line) == 2 and line[1].isdigit()]
        return [(float(when), int(images)) for when, images in numbers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16, help="over all workers")
    parser.add_argument("--images", type=int, default=256, help="an epoch")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--zero-stage", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="a turn")
    args = parser.parse_args()
    if args.images % args.batch:
        parser.error("--images must be a multiple of --batch")
    print(
        f"{args.backbone}, {args.image_size} px, batch {args.batch}, {args.precision}, "
        f"ZeRO {args.zero_stage}, {args.turns} turns of {args.seconds:g} s"
    )
    print(
        f"{'workers':>8}{'base':>9}{'timm':>9}{'LTM':>9}"
        f"{'base/timm':>11}{'LTM/base':>10}{'of MACs':>9}{'load':>7}"
    )
    with tempfile.TemporaryDirectory(prefix="ltm-training-") as folder:
        home = Path(folder)
        generate(home / "images", args.classes, args.images, args.image_size * 8 // 7)
        for workers in args.workers:
            compare(args, home, workers)


def compare(args: argparse.Namespace, home: Path, workers: int) -> None:
    """A line of the table."""
    with ExitStack() as ends:

        def warm(training: T) -> T:
            ends.callback(training.end)
            training.warm_up()
            return training

        base = warm(Submitted(args, home, "none", workers))
        timm = warm(Plain(args, home, workers))
        ltm = warm(Submitted(args, home, "ltm", workers))
        for _ in range(args.turns):
            for training in (base, timm, ltm):
                training.turn(args.seconds)
        load = os.getloadavg()[0]
    gmacs, base_gmacs = ltm.gmacs()
    speeds = [training.speed() for training in (base, timm, ltm)]
    gain = speeds[2] / speeds[0]
    print(
        f"{workers:>8}" + "".join(f"{speed:>9.1f}" for speed in speeds),
        f"{speeds[0] / speeds[1]:>10.3f}{gain:>10.3f}{gain * gmacs / base_gmacs:>9.3f}{load:>7.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()

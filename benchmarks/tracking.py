"""What it costs to record the steps of many trials at once, and whether all of them arrive.

    python benchmarks/tracking.py                       20 trials, an sqlite file
    python benchmarks/tracking.py --server              the same through an MLflow server

Every trial is a process that trains a small network on one thread and records every step, as
rank 0 does. Time is counted in seconds of the CPU, which other work on the machine does not
change: the trial's training thread against all else in its process, and the server.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from torch.nn import functional as F

import ltm
from ltm_platform.events import Progress
from ltm_platform.job import JobSpec
from ltm_platform.tracking import serving_ui, tracked_run

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

METRICS = ("train/loss", "train/ce", "train/ib_bound", "train/lr")
"""What a trial records of every step."""
BATCH = 16
SWEEP = "0" * 32
"""Its run, which need not be there: that a run has a parent makes it a trial."""


@dataclass(frozen=True)
class Cost:
    """Seconds of the CPU."""

    run_id: str
    training: float
    recording: float
    handing_over: float
    """Of the training thread, in telling its metrics."""


def trial(uri: str, number: int, steps: int, start: Connection, answer: Connection) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(number)
    model = ltm.create_model("vit_nano_patch4_32", compression_ratio=0.7, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters())
    job = JobSpec.load("quickstart", [f"tracking.uri={uri}"])
    with tracked_run(job, f"trial-{number}", Path.cwd(), parent=SWEEP) as run:
        run(Progress(0, 0, dict.fromkeys(METRICS, 0.0)))
        run.flush()
        answer.send("ready")
        start.recv()
        process, thread, handing_over = time.process_time(), time.thread_time(), 0.0
        for step in range(1, steps + 1):
            images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            before = time.thread_time()
            run(Progress(step, 0, dict.fromkeys(METRICS, loss.item())))
            handing_over += time.thread_time() - before
        thread = time.thread_time() - thread
        run.flush()
        process = time.process_time() - process
        answer.send(Cost(run.run_id, thread - handing_over, process - thread, handing_over))
        start.recv()


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def measure(uri: str, trials: int, steps: int, servers: list[psutil.Process]) -> None:
    from mlflow import MlflowClient

    context = multiprocessing.get_context("fork")  # the imports are paid for once
    pipes = []
    for number in range(trials):
        (start, started), (answers, answer) = context.Pipe(), context.Pipe()
        context.Process(
            target=trial, args=(uri, number, steps, started, answer), daemon=True
        ).start()
        pipes.append((start, answers))
    for _, answers in pipes:
        answers.recv()
    before, began = cpu_seconds(servers), time.perf_counter()
    for start, _ in pipes:
        start.send("go")
    costs: list[Cost] = [answers.recv() for _, answers in pipes]
    serving, seconds = cpu_seconds(servers) - before, time.perf_counter() - began
    for start, _ in pipes:
        start.send("end")

    client = MlflowClient(tracking_uri=uri)
    arrived = sum(
        len({row.step for row in client.get_metric_history(cost.run_id, metric)} - {0})
        for cost in costs
        for metric in METRICS
    )
    training = sum(cost.training for cost in costs)
    recording = sum(cost.recording + cost.handing_over for cost in costs)
    told = trials * steps
    print(f"{trials} trials, {steps} steps each, {seconds:.0f} s: {told / seconds:.0f} steps/s")
    print(f"arrived     {arrived:,} of {told * len(METRICS):,} values")
    print(f"training    {1000 * training / told:7.2f} ms of the CPU a step")
    print(f"recording   {1000 * recording / told:7.2f} ms, {recording / training:.2%} of training")
    handed = sum(cost.handing_over for cost in costs)
    print(f"  of it in the training thread {1000 * handed / told:.3f} ms")
    if servers:
        print(f"server      {1000 * serving / told:7.2f} ms, {serving / training:.2%} of training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--server", action="store_true", help="through an MLflow server")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.chdir(folder)
        store, servers = f"sqlite:///{folder}/mlflow.db", []
        uri = store
        if options.server:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            log = Path(folder) / "server.log"
            server = psutil.Process(
                stack.enter_context(serving_ui(store, "127.0.0.1", port, log)).pid
            )
            uri, servers = f"http://127.0.0.1:{port}", [server, *server.children(recursive=True)]
        measure(uri, options.trials, options.steps, servers)


if __name__ == "__main__":
    main()

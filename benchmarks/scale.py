"""How the costs of the control path grow with the workers: start, reports, checkpoints, MLflow.

    python benchmarks/scale.py                         2, 8, 16 workers that train nothing
    python benchmarks/scale.py --workers 2 8 32 64     needs about 0.15 GB a worker

The nodes are Ray's own, eight workers each, all on this machine: what is measured is the driver's
and Ray's work, on the cores that there are, and no network. Every step rank 0 tells its metrics to
MLflow as in training; every report carries a checkpoint to which each rank adds a file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltm_platform.ray_cluster.embedded import ENVIRONMENT

WORKERS_A_NODE = 8
STEPS = 50
METRICS = ("train/loss", "train/ce", "train/ib_bound", "train/lr")


@dataclass(frozen=True)
class Costs:
    """Seconds, but for ``rows``."""

    nodes: float
    start: float
    """From the call of ``fit`` until every worker runs."""
    report: float
    """One report with its checkpoint, as rank 0 waits for it."""
    end: float
    """From the last step until ``fit`` returns."""
    record: float
    """Until MLflow has all rows, after that."""
    rows: int


def work(config: dict[str, Any]) -> None:
    """On every rank: no training, all that goes with it."""
    import ray.train

    from ltm_platform.events import EpochEnded, Progress, Sender, Started

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    send = Sender(config["events"])
    if rank == 0:
        steps = config["reports"] * STEPS
        send(Started(config["reports"], 0, steps, 0, device="cpu", workers=workers))
        send.flush()
    seconds = []
    for epoch in range(config["reports"]):
        if rank == 0:
            for step in range(STEPS):
                send(Progress(epoch * STEPS + step, epoch, dict.fromkeys(METRICS, 1.0)))
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"rank{rank}").write_bytes(bytes(1000))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"val/top1": float(epoch)}, checkpoint=checkpoint)
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        last = config["reports"] * STEPS
        send(EpochEnded(last, epoch, {"seconds_a_report": sum(seconds) / len(seconds)}))
        send.flush()


def measure(workers: int, reports: int) -> Costs:
    import ray
    import ray.train
    from ray.cluster_utils import Cluster
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from ltm_platform.events import Started, listening
    from ltm_platform.job import JobSpec
    from ltm_platform.runs.driver import event_queue
    from ltm_platform.tracking import tracked_run

    began = time.perf_counter()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for first in range(0, workers, WORKERS_A_NODE):
        cluster.add_node(num_cpus=min(WORKERS_A_NODE, workers - first))
    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    nodes = time.perf_counter() - began
    started: list[float] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            uri = f"sqlite:///{folder}/mlflow.db"
            job = JobSpec.load("quickstart", [f"tracking.uri={uri}"])
            events = event_queue()

            def note(event: object) -> None:
                if isinstance(event, Started):
                    started.append(time.perf_counter())

            with tracked_run(job, f"scale-{workers}", Path(folder)) as run:
                trainer = DataParallelTrainer(
                    work,
                    train_loop_config={"events": events, "reports": reports},
                    scaling_config=ray.train.ScalingConfig(num_workers=workers),
                    run_config=ray.train.RunConfig(name="scale", storage_path=folder),
                )
                called = time.perf_counter()
                with listening(events, run, note):
                    trainer.fit()
                returned = time.perf_counter()
                run.flush()
                recorded = time.perf_counter()
                report = run.metrics["seconds_a_report"]
            rows = reports * STEPS * len(METRICS)
            start = started[0] - called
            end = returned - started[0] - reports * report
            return Costs(nodes, start, report, end, recorded - returned, rows)
    finally:
        ray.shutdown()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 8, 16])
    parser.add_argument("--reports", type=int, default=5)
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT | {"RAY_AUTH_MODE": "disabled"})
    os.environ["PYTHONPATH"] = os.pathsep.join(
        str(Path(__file__).parents[1] / part) for part in ("", "platform")
    )
    print("workers  nodes s  start s  report s   end s  record s    rows")
    for workers in options.workers:
        costs = measure(workers, options.reports)
        print(
            f"{workers:>7}  {costs.nodes:7.1f}  {costs.start:7.1f}  {costs.report:8.2f}  "
            f"{costs.end:6.2f}  {costs.record:8.2f}  {costs.rows:6,}",
            flush=True,
        )


if __name__ == "__main__":
    main()

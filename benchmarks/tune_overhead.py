"""What a trial of `ltm-platform tune` costs beyond its own training.

    python benchmarks/tune_overhead.py
    python benchmarks/tune_overhead.py --trials 6 --workers 2     with Ray Train's own start-up

Runs a sweep of the quickstart, a few epochs a trial, and one trial at a time: its workers have all
CPUs. The overhead of a trial is the time from the end of the trial before it (from the
command, for the first) to its own end, without what it trains and validates: that is from the first
step's time to the last epoch's, as they stand in MLflow. So in it are the process, the imports, the
checks, the network, the data, checkpoints, measuring inference, and closing the run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlflow import MlflowClient

from ltm_platform.tracking import list_runs

ROOT = Path(__file__).parents[1]
NAME = "overhead"


def run_sweep(home: Path, trials: int, workers: int, epochs: int, overrides: list[str]) -> float:
    """Seconds since the epoch at which the command was given."""
    environment = os.environ | {
        "LTM_PLATFORM_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")]),
    }
    settings = [f"cluster.workers={workers}", f"recipe.epochs={epochs}", "recipe.warmup_epochs=0"]
    settings.append(f"cluster.cpus_per_worker={len(os.sched_getaffinity(0)) / workers}")
    settings += overrides
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, str(ROOT / "cli.py"), "tune", "--param", "compression_ratio"]
    command += ["--search", "random", "--trials", str(trials), "--name", NAME, *words]
    start = time.time()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for tune")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before = run_sweep(Path(folder), args.trials, args.workers, args.epochs, args.set)
        store = f"sqlite:///{folder}/mlflow.db"
        client = MlflowClient(tracking_uri=store)
        print("trial  total s  training s  overhead s")
        runs = [run for run in list_runs(store) if run.name.startswith(f"{NAME}-")]
        overheads = []
        for number, run in enumerate(sorted(runs, key=lambda run: run.started_ms), start=1):
            assert run.ended_ms
            ended = run.ended_ms / 1000
            steps = client.get_metric_history(run.run_id, "train/loss")
            epochs = client.get_metric_history(run.run_id, "val/top1")
            first = min(metric.timestamp for metric in steps)
            training = (max(metric.timestamp for metric in epochs) - first) / 1000
            overheads.append(ended - before - training)
            print(f"{number:5}  {ended - before:7.1f}  {training:10.1f}  {overheads[-1]:10.1f}")
            before = ended
        later = overheads[1:]
        print(f"after the first: {sum(later) / len(later):.1f} s, at most {max(later):.1f} s")


if __name__ == "__main__":
    main()

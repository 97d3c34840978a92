"""From the command to the first optimizer step: the quickstart beside a minimal script.

    python benchmarks/startup.py --rounds 3

"submit" is `ltm-platform submit jobs/quickstart.yaml` up to the time of its first loss in MLflow,
which is told at most half a second after the step. "minimal" is first_step.py: Ray Train, DeepSpeed
and the same network on two workers, with no job file, checks, images, tracking or screen. They take
turns, after one submit that creates the tracking store (`--cold` leaves that one out); the fastest
of each counts, and "ratio" is submit's over minimal's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ltm_platform.tracking import find_run
from ltm_platform.tracking.store import connect

ROOT = Path(__file__).parents[1]


def run(command: list[str], home: Path) -> float:
    """Carry out a command; the time at which it began."""
    environment = os.environ | {
        "LTM_PLATFORM_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")]),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    start = time.time()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return start


def submit(home: Path, name: str, overrides: list[str]) -> float:
    """Seconds to the first step of one epoch of the quickstart."""
    settings = ["recipe.epochs=1", "recipe.warmup_epochs=0", *overrides]
    words = [word for setting in settings for word in ("--set", setting)]
    start = run(["cli.py", "submit", "jobs/quickstart.yaml", "--name", name, *words], home)
    store = f"sqlite:///{home / 'mlflow.db'}"
    history = connect(store).get_metric_history(find_run(store, name).run_id, "train/loss")
    return min(metric.timestamp for metric in history) / 1000 - start


def minimal(home: Path) -> float:
    """Seconds to the first step of first_step.py."""
    file = home / "first_step"
    start = run(["benchmarks/first_step.py", str(file), str(home)], home)
    return float(file.read_text()) - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="the first submit counts, too")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for submit")
    args = parser.parse_args()
    print(f"{'round':>6}{'submit s':>10}{'minimal s':>11}{'ratio':>8}{'load':>7}")
    ours, least = [], []
    with tempfile.TemporaryDirectory(prefix="ltm-startup-") as folder:
        home = Path(folder)
        if not args.cold:
            submit(home, "first", args.set)
        for number in range(1, args.rounds + 1):
            least.append(minimal(home))
            ours.append(submit(home, f"round-{number}", args.set))
            line = f"{ours[-1]:>10.1f}{least[-1]:>11.1f}{ours[-1] / least[-1]:>8.2f}"
            print(f"{number:>6}{line}{os.getloadavg()[0]:>7.1f}", flush=True)
    best = min(ours), min(least)
    print(f"{'best':>6}{best[0]:>10.1f}{best[1]:>11.1f}{best[0] / best[1]:>8.2f}")


if __name__ == "__main__":
    main()

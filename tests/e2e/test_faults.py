"""What a run survives: however it is hit, it goes on and its loss curve is the undisturbed one."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
from mlflow import MlflowClient

from ltm_platform import tracking
from ltm_platform.errors import UserError
from ltm_platform.storage.manifest import read_manifest

from .conftest import ELASTIC, in_background, wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from .conftest import Cli

    Trained = Callable[..., tracking.RunRecord]
    Curve = dict[int, float]

KEYS = ("train/loss", "train/ce", "train/ib_bound", "train/lr")


def history(store: str, name: str, key: str) -> list[tuple[int, float]]:
    """What is recorded, step by step."""
    run = tracking.find_run(store, name)
    found = MlflowClient(tracking_uri=store).get_metric_history(run.run_id, key)
    return [(metric.step, metric.value) for metric in found]


def await_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until the run in a folder has written a checkpoint of that step or a later one."""
    wait_until(lambda: _steps_done(run) >= step, process, run)


def _steps_done(run: Path) -> int:
    done = 0
    for folder in run.glob("checkpoint_*/"):
        with suppress(UserError):  # it is written or removed just now
            done = max(done, read_manifest(folder).steps_done)
    return done


def submitted(
    environment: dict[str, str], job: Path, name: str, *overrides: str
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    words = [word for override in overrides for word in ("--set", override)]
    return in_background(environment, "submit", str(job), "--name", name, *words)


def training_ranks(process: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of Ray Train's workers below a run."""
    found = psutil.Process(process.pid).children(recursive=True)
    return sorted(p.pid for p in found if "RayTrainWorker" in " ".join(p.cmdline()))


def assert_same_curve(store: str, name: str, undisturbed: str) -> None:
    """To the bit, and every step once."""
    for key in KEYS:
        assert history(store, name, key) == history(store, undisturbed, key), key


def test_a_killed_run_resumes_to_the_same_curve(
    cli: Cli,
    environment: dict[str, str],
    store: str,
    home: Path,
    tiny_job: Path,
    trained: Trained,
) -> None:
    undisturbed = trained(1, ELASTIC).name
    overrides = ("engine.zero_stage=1", ELASTIC, "checkpoint.every_steps=10")
    with submitted(environment, tiny_job, "killed", *overrides) as process:
        await_step(home / "runs/killed", 50, process)
        process.kill()
    resume(cli, store, "killed")
    assert_same_curve(store, "killed", undisturbed)


def test_ranks_that_die_or_hang_and_a_kill_cost_nothing_but_time(
    cli: Cli,
    environment: dict[str, str],
    store: str,
    home: Path,
    tiny_job: Path,
    trained: Trained,
) -> None:
    undisturbed = trained(3).name
    overrides = (
        "engine.zero_stage=3",
        "checkpoint.every_steps=10",
        "cluster.hang_timeout_s=30",
        "cluster.max_failures=5",  # of a busy machine, not all are ours
    )
    run = home / "runs/hit"
    with submitted(environment, tiny_job, "hit", *overrides) as process:
        await_step(run, 10, process)
        os.kill(training_ranks(process)[1], signal.SIGKILL)
        await_step(run, 30, process)
        os.kill(training_ranks(process)[0], signal.SIGSTOP)
        await_step(run, 50, process)
        process.kill()
    tags = tracking.find_run(store, "hit").tags
    assert int(tags["ltm.restarts"]) >= 2
    resume(cli, store, "hit")
    assert_same_curve(store, "hit", undisturbed)


def resume(cli: Cli, store: str, name: str) -> None:
    done = cli("resume", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" in done.stdout
    assert tracking.find_run(store, name).status == "FINISHED"


def test_a_gradient_that_is_no_number_ends_the_run_and_a_lower_rate_goes_on(
    cli: Cli, store: str, tiny_job: Path, home: Path
) -> None:
    overrides = (
        "model.method=none",
        "cluster.workers=1",
        "engine.zero_stage=0",
        "engine.precision=fp32",
        "recipe.optimizer=adamw",
        "recipe.lr=10",
        "recipe.weight_decay=1e4",  # each step then multiplies the weights by thousands
        "recipe.clip_grad=null",
        "recipe.warmup_epochs=2",
        "checkpoint.every_steps=2",
    )
    words = [word for override in overrides for word in ("--set", override)]
    done = cli("submit", str(tiny_job), "--name", "diverged", *words)
    assert done.returncode == 1, done.stdout
    assert "is not finite" in done.stdout
    assert "step" in done.stdout
    assert "ltm-platform resume diverged" in done.stdout
    run = tracking.find_run(store, "diverged")
    assert run.status == "FAILED"
    assert "is not finite" in (run.error or "")
    assert "ltm.restarts" not in run.tags

    kept = sorted((home / "runs" / "diverged").glob("checkpoint_*/"))
    assert kept, "the last good checkpoint is gone"
    earliest = kept[0].name
    refused = cli("resume", "diverged", "--set", "model.compression_ratio=0.5")
    assert refused.returncode == 2
    assert "model.compression_ratio" in refused.stderr
    lower = ["--set", "recipe.lr=1e-7", "--set", "recipe.min_lr=0", "--set", "recipe.clip_grad=1"]
    done = cli("resume", "diverged", "--from", earliest, *lower)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tracking.find_run(store, "diverged")
    assert run.status == "FINISHED"
    assert run.error is None
    assert run.metrics["model/gmacs"] == run.metrics["model/gmacs_base"]
    assert run.tags["ltm.changed.recipe.lr"] == "10.0 -> 1e-07"

"""What a run survives: however it is hit, it goes on and its loss curve is the undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from ltm_platform import tracking
from ltm_platform.storage.checkpoints import stored
from ltm_platform.storage.manifest import check
from ltm_platform.storage.run_folder import RunFolder

from .conftest import (
    STEPS,
    TIMEOUT_S,
    await_step,
    free_port,
    history,
    in_background,
    settings,
    submitted,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .conftest import Cli

    Trained = Callable[..., tracking.RunRecord]

pytestmark = pytest.mark.slow

GOES_ON = "going on after epoch"
KEYS = ("train/loss", "train/ce", "train/ib_bound", "train/lr")


def training_ranks(process: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of Ray Train's workers below a run."""
    found = []
    for one in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ends just now
            if "RayTrainWorker" in " ".join(one.cmdline()):
                found.append(one.pid)
    return sorted(found)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray's sockets lie below it, whose paths the system limits."""
    with tempfile.TemporaryDirectory(prefix="ltm-ray-", dir="/tmp") as folder:
        yield Path(folder)


def kill_part(process: subprocess.Popen[bytes] | subprocess.Popen[str], name: str) -> None:
    """A process of Ray's below a run, by its name."""
    found = psutil.Process(process.pid).children(recursive=True)
    (part,) = (p for p in found if p.name().startswith(name))
    part.kill()


def assert_same_curve(store: str, name: str, undisturbed: str) -> None:
    """To the bit, and every step once."""
    for key in KEYS:
        assert history(store, name, key) == history(store, undisturbed, key), key


def test_ranks_that_die_or_hang_cost_nothing_but_time(
    environment: dict[str, str],
    store: str,
    home: Path,
    tiny_job: Path,
    trained: Trained,
) -> None:
    undisturbed = trained(3).name
    overrides = (
        "engine.zero_stage=3",
        "cluster.workers=2",
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
        assert process.wait(TIMEOUT_S) == 0
    assert int(tracking.find_run(store, "hit").tags["ltm.restarts"]) >= 2
    assert_same_curve(store, "hit", undisturbed)


def test_a_run_outlives_its_controller_its_raylet_and_its_gcs(
    environment: dict[str, str], store: str, home: Path, tiny_job: Path
) -> None:
    overrides = (
        "checkpoint.every_steps=10",
        "cluster.max_failures=5",  # of a busy machine, not all are ours
    )
    run = home / "runs/parts"
    log = run / "run.log"
    with submitted(environment, tiny_job, "parts", *overrides) as process:
        await_step(run, 10, process)
        for restarts, part in enumerate(("ray::TrainController", "raylet", "gcs_server")):
            wait_until(lambda: log.read_text().count(GOES_ON) == restarts, process, run)  # noqa: B023
            # else training may end before the loss is noticed
            os.kill(training_ranks(process)[0], signal.SIGSTOP)
            kill_part(process, part)
        assert process.wait(TIMEOUT_S) == 0
    recorded = tracking.find_run(store, "parts")
    assert recorded.status == "FINISHED"
    assert int(recorded.tags["ltm.restarts"]) >= 3
    said = log.read_text()
    for part in ("Ray Train's controller", "node manager (raylet)", "control service (GCS)"):
        assert f"{part} " in said
    assert said.count("; it is tried again") >= 3
    for key in KEYS:
        assert [step for step, _ in history(store, "parts", key)] == list(range(1, STEPS + 1)), key


def test_a_joined_ray_whose_gcs_is_killed_fails_the_run_which_can_be_resumed(
    environment: dict[str, str],
    store: str,
    home: Path,
    tiny_job: Path,
    short_folder: Path,
) -> None:
    port = free_port()
    start = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    start += ["--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "2"]
    start += ["--include-dashboard=false", "--dashboard-agent-listen-port", "0"]
    start += ["--dashboard-port", str(free_port()), "--temp-dir", str(short_folder)]
    patient = environment | {"RAY_raylet_start_wait_time_s": str(TIMEOUT_S)}
    overrides = ("checkpoint.every_steps=10", "recipe.epochs=500")
    family: list[psutil.Process] = []
    words = ["submit", str(tiny_job), "--name", "joined", "--address", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        start, env=patient, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as head:
        try:
            assert head.stdout
            assert any("Ray runtime started" in line for line in head.stdout)
            with in_background(environment, *words, *settings(*overrides)) as process:
                await_step(home / "runs/joined", 10, process)
                # Later some have lost their parent.
                family += psutil.Process(head.pid).children(recursive=True)
                kill_part(head, "gcs_server")
                assert process.wait(TIMEOUT_S) == 1
        finally:
            for one in (*family, *psutil.Process(head.pid).children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            head.kill()
    run = tracking.find_run(store, "joined")
    assert run.status == "FAILED"
    assert "Ray's control service (GCS) at " in (run.error or "")
    assert f":{port} has ended" in (run.error or "")
    log = (home / "runs/joined/run.log").read_text()
    assert "ltm-platform resume joined" in log
    kept = stored(RunFolder(home / "runs/joined"))
    assert check(kept[-1].fetch()).steps_done >= 10


def test_a_gradient_that_is_no_number_ends_the_run_and_a_lower_rate_goes_on(
    cli: Cli, store: str, tiny_job: Path, home: Path
) -> None:
    overrides = (
        "model.method=none",
        "engine.precision=fp32",
        "recipe.optimizer=adamw",
        "recipe.lr=10",
        "recipe.weight_decay=10",  # each step then multiplies the weights by up to a hundred
        "recipe.clip_grad=null",
        "recipe.warmup_epochs=2",
        "checkpoint.every_steps=2",
    )
    done = cli("submit", str(tiny_job), "--name", "diverged", *settings(*overrides))
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
    lower = settings("recipe.lr=1e-7", "recipe.min_lr=0", "recipe.clip_grad=1")
    done = cli("resume", "diverged", "--from", earliest, *lower)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tracking.find_run(store, "diverged")
    assert run.status == "FINISHED"
    assert run.error is None
    assert run.metrics["model/gmacs"] == run.metrics["model/gmacs_base"]
    assert run.tags["ltm.changed.recipe.lr"] == "10.0 -> 1e-07"

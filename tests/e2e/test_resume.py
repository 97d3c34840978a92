"""A run goes on where it was: one that was killed, and one that had finished."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psutil
import pytest

from ltm_platform import tracking
from ltm_platform.storage.checkpoints import stored
from ltm_platform.storage.manifest import check
from ltm_platform.storage.run_folder import RunFolder

from .conftest import STEPS, await_step, history, resume, settings, submitted

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from .conftest import Cli


def listening(process: subprocess.Popen[bytes]) -> set[str]:
    """The addresses on which a command and all that it has started can be reached."""
    command = psutil.Process(process.pid)
    sockets = [
        socket
        for one in (command, *command.children(recursive=True))
        for socket in one.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    return {socket.laddr.ip.removeprefix("::ffff:") for socket in sockets}


def test_a_killed_run_of_two_workers_goes_on_to_its_end(
    cli: Cli, environment: dict[str, str], store: str, home: Path, tiny_job: Path
) -> None:
    run = home / "runs/cut-off"
    overrides = ("engine.zero_stage=1", "cluster.workers=2", "checkpoint.every_steps=10")
    with submitted(environment, tiny_job, "cut-off", *overrides) as process:
        await_step(run, 20, process)
        assert listening(process) == {"127.0.0.1"}
        process.kill()
    resume(cli, store, "cut-off")
    for key in ("train/loss", "train/lr"):
        steps = [step for step, _ in history(store, "cut-off", key)]
        assert steps == list(range(1, STEPS + 1)), key
    last = check(stored(RunFolder(run))[-1].fetch())
    assert (last.world_size, last.steps_done) == (2, STEPS)


@pytest.mark.slow
def test_a_finished_run_is_trained_further(cli: Cli, store: str, tiny_job: Path) -> None:
    alone = settings("engine.zero_stage=0", "cluster.workers=1", "recipe.epochs=1")
    done = cli("submit", str(tiny_job), "--name", "longer", *alone)
    assert done.returncode == 0, done.stdout + done.stderr
    first = history(store, "longer", "train/lr")
    refused = cli("resume", "longer", *settings("recipe.lr=0.1"))
    assert refused.returncode == 2
    assert "has finished its 1 epochs" in refused.stderr
    assert "--set recipe.epochs=2" in refused.stderr
    done = cli("resume", "longer", *settings("recipe.epochs=2"))
    assert done.returncode == 0, done.stdout + done.stderr
    rates = history(store, "longer", "train/lr")
    assert rates[: len(first)] == first
    assert [step for step, _ in rates] == list(range(1, STEPS + 1))
    told = re.search(r"schedule of 2 epochs from here: it is (\S+), and was (\S+)", done.stdout)
    assert told
    assert float(told[1]) == pytest.approx(rates[len(first)][1], rel=0.05)
    assert float(told[2]) < float(told[1]) / 10
    record = tracking.find_run(store, "longer")
    assert (record.status, record.tags["ltm.epoch"]) == ("FINISHED", "2/2")

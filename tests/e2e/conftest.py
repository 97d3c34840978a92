"""The commands as a user runs them: real processes, a home of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from functools import cache
from pathlib import Path

import pexpect
import pytest
from mlflow import MlflowClient

from ltm_platform import tracking
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster import embedded
from ltm_platform.ray_cluster.forked_workers import client, fork_server, needed
from ltm_platform.storage.manifest import read_manifest

from ..conftest import ENVIRONMENT
from .forks import Forks

ROOT = Path(__file__).parents[2]
COMMAND = [str(Path(sys.executable).parent / "ltm-platform")]
TIMEOUT_S = 600
POLL_S = 0.2
STEPS = 45
"""Of the tiny job's two epochs."""
LEAN = ("cluster.workers=1", "engine.zero_stage=0", "tracking.log_model=false")
"""Each process that a run starts costs seconds: tests of several workers, of DeepSpeed or of the
logged model ask for them."""
ELASTIC = "model={compression_ratio: null, target_gmacs: 0.012, elastic: [0.5, 1]}"
"""Every step at another ratio, the network at its end within a budget."""

Cli = Callable[..., subprocess.CompletedProcess[str]]


def command_line(environment: dict[str, str], folder: Path, forks: Forks | None = None) -> Cli:
    """Runs ``ltm-platform`` to its end, in a folder that is not the checkout; forked, if from there
    and if nothing in the environment changes that imports may have read."""

    def run(*args: str, **changes: str) -> subprocess.CompletedProcess[str]:
        if forks and not changes:
            return forks.run([*COMMAND, *args], folder, TIMEOUT_S)
        return subprocess.run(
            [*COMMAND, *args],
            cwd=folder,
            env=environment | changes,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    return run


def in_terminal(environment: dict[str, str], *args: str) -> pexpect.spawn:
    """Start ``ltm-platform`` in a pseudo-terminal, with Ctrl-C enabled as a login shell has it.

    A background job, as these tests may be, hands an ignored SIGINT down to its children.
    """
    return pexpect.spawn(
        COMMAND[0],
        [*args],
        env=environment,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        dimensions=(40, 120),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@contextmanager
def in_background(environment: dict[str, str], *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """``ltm-platform`` in a process group of its own, killed when the block ends."""
    with subprocess.Popen(
        [*COMMAND, *args], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(fulfilled: Callable[[], bool], process: subprocess.Popen[bytes], run: Path) -> None:
    """While the process trains the run or the sweep of a folder."""
    end = time.monotonic() + TIMEOUT_S
    while not fulfilled():
        assert process.poll() is None, (run / "run.log").read_text()[-5000:]
        assert time.monotonic() < end
        time.sleep(POLL_S)


def submitted(
    environment: dict[str, str], job: Path, name: str, *overrides: str
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A run in the background."""
    return in_background(environment, "submit", str(job), "--name", name, *settings(*overrides))


def settings(*overrides: str) -> list[str]:
    """Overrides as words of a command."""
    return [word for override in overrides for word in ("--set", override)]


def await_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until the run in a folder has written a checkpoint of that step or a later one."""
    wait_until(lambda: _steps_done(run) >= step, process, run)


def _steps_done(run: Path) -> int:
    done = 0
    for folder in run.glob("checkpoint_*/"):
        with suppress(UserError):  # it is written or removed just now
            done = max(done, read_manifest(folder).steps_done)
    return done


def resume(cli: Cli, store: str, name: str) -> str:
    """To the end of the run; what is printed."""
    done = cli("resume", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch" in done.stdout
    assert tracking.find_run(store, name).status == "FINISHED"
    return done.stdout


def history(store: str, name: str, key: str) -> list[tuple[int, float]]:
    """What is recorded of a metric, step by step."""
    run = tracking.find_run(store, name)
    found = MlflowClient(tracking_uri=store).get_metric_history(run.run_id, key)
    return [(metric.step, metric.value) for metric in found]


def ended(child: pexpect.spawn) -> int:
    """Wait for the end; the exit code."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Runs, tracking store and cached data of all these tests.

    The store is made before any test: some kill the command that would make it.
    """
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_"))}
    return kept | ENVIRONMENT | {"LTM_PLATFORM_HOME": str(home)}


@pytest.fixture(scope="session")
def store(home: Path) -> str:
    """The address of the embedded tracking store."""
    return f"sqlite:///{home / 'mlflow.db'}"


@pytest.fixture(scope="session")
def forking() -> Iterator[dict[str, str]]:
    """Variables with which runs have their workers from one fork server, that has imported already.

    Commands that are started, not forked, have a server of their own, as a user's.
    """
    with fork_server(needed(JobSpec.load("quickstart")), embedded.ENVIRONMENT):
        yield {name: os.environ.pop(name) for name in (client.SERVER, client.OTHERWISE)}


@pytest.fixture(scope="session")
def forks(environment: dict[str, str], forking: dict[str, str]) -> Iterator[Forks]:
    with closing(Forks(environment | forking)) as forks:
        yield forks


@pytest.fixture(scope="session")
def cli(forks: Forks, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return command_line(environment, tmp_path_factory.mktemp("elsewhere"), forks)


@pytest.fixture(scope="session")
def trained(cli: Cli, store: str, tiny_job: Path) -> Callable[..., tracking.RunRecord]:
    """The tiny job trained by two workers at a ZeRO stage with further settings, once for all
    tests."""

    @cache
    def train(stage: int, *overrides: str) -> tracking.RunRecord:
        name = f"zero-{stage}"
        words = settings("cluster.workers=2", f"engine.zero_stage={stage}", *overrides)
        done = cli("submit", str(tiny_job), "--name", name, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        run = tracking.find_run(store, name)
        assert run.status == "FINISHED"
        return run

    return train


@pytest.fixture(scope="session")
def tiny_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart on a smaller network, for two epochs and as `LEAN`, as a job of its own."""
    path = tmp_path_factory.mktemp("jobs") / "tiny.yaml"
    path.write_text(
        "extends: quickstart\n"
        "model:\n"
        "  backbone: vit_nano_patch4_32\n"
        "recipe:\n"
        "  epochs: 2\n"
        "  global_batch: 64\n"
        "  warmup_epochs: 0\n"
        "  ema_decay: 0.9\n"
        "  ib:\n"
        "    warmup: 0.5\n"
        "engine:\n"
        "  zero_stage: 0\n"
        "cluster:\n"
        "  workers: 1\n"
        "tracking:\n"
        "  log_model: false\n"
    )
    return path

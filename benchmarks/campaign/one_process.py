"""`ltm-platform` in a forked process that trains as the only rank, without Ray.

All that the command does is the product's own (checks, run folder, lock, MLflow, training,
checkpoints, screen, exit code); in place of Ray Train's workers the process itself is the rank, as
in a trial of a sweep. The imports, which are seconds of a command, are done once before the fork.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from .cases import Hit, Stage

STOPPED = 130
"""Exit code after Ctrl-C and SIGTERM."""
CRASHED = 70
"""Exit code of a command whose exception reached the top: a traceback is in its output."""
POLL_S = 0.005
TIMEOUT_S = 600.0
"""For a command that takes seconds, on a machine that is busy."""
_MODULES = (
    "alembic.command",
    "matplotlib.backends.backend_agg",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "ray.train.torch",
    "ltm.views.heatmaps",
    "ltm_platform.cli.commands.reconcile",
    "ltm_platform.cli.commands.resume",
    "ltm_platform.cli.commands.submit",
    "ltm_platform.cli.screen.console",
    "ltm_platform.cli.screen.run",
    "ltm_platform.compat.ray_train",
    "ltm_platform.runs.driver",
    "ltm_platform.runs.reconcile",
    "ltm_platform.training.trainer",
    "ltm_platform.training.worker",
)
"""What commands import on their way."""
_FILE_EVENTS = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"})


def load() -> None:
    """Import what commands need, so that forked processes have it."""
    import torch

    torch.set_num_threads(1)
    from ltm_platform.compat.deepspeed import import_deepspeed

    import_deepspeed()
    for name in _MODULES:
        importlib.import_module(name)
    from PIL import Image

    Image.init()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code; of one that a signal ended, minus the signal."""
    output: str
    stage: str
    """What it was doing when it was hit; empty when it ended before."""


def run(
    words: Sequence[str],
    environment: Mapping[str, str],
    output: Path,
    *,
    hit: Hit | None = None,
    trouble: Callable[[], object] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Ended:
    """Run a command to its end, hit as planned.

    ``trouble`` is called in place of the hit's signal.

    Raises:
        TimeoutError: it did not end by itself; it has been killed.
    """
    reading, writing = os.pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_command, args=(words, environment, output, hit, writing))
    process.start()
    os.close(writing)
    with os.fdopen(reading, "rb") as moments:
        stage = moments.readline().decode().strip() if hit else ""
        if hit and stage and hit.files is None:
            time.sleep(hit.delay_s)
            if trouble:
                trouble()
            elif not strike(process.pid, hit):
                stage = ""
        _await(process.pid, hit, timeout_s)
    process.join()
    assert process.exitcode is not None
    return Ended(process.exitcode, output.read_text(errors="replace"), stage)


def strike(pid: int | None, hit: Hit) -> bool:
    """Send the signal; whether there was a process to send it to."""
    assert pid
    victim = pid
    if hit.victim == "decoder":
        family = psutil.Process(pid).children(recursive=True)
        if not family:
            return False
        victim = family[-1].pid
    if psutil.Process(victim).status() == psutil.STATUS_ZOMBIE:
        return False
    os.kill(victim, hit.signal)
    if victim != pid and hit.signal == signal.SIGSTOP:
        time.sleep(hit.pause_s)
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGCONT)
    return True


def _await(pid: int | None, hit: Hit | None, timeout_s: float) -> None:
    """Until its end. A process that is stopped goes on, or is killed, as planned."""
    assert pid
    end = time.monotonic() + timeout_s
    options = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
    while True:
        changed = os.waitid(os.P_PID, pid, options)
        if changed and changed.si_code == os.CLD_STOPPED:
            assert hit
            time.sleep(hit.pause_s)
            os.kill(pid, signal.SIGKILL if hit.then_kill else signal.SIGCONT)
            os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG)  # else it is reported again
        elif changed:
            return
        elif time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"it did not end within {timeout_s:g} s")
        else:
            time.sleep(POLL_S)


class _Moments:
    """Tells when the stage of a hit has come, and hits this very process at a file operation."""

    def __init__(self, hit: Hit | None, told: int, home: str) -> None:
        self._hit, self._told, self._home = hit, told, home
        self._occurrences = 0
        self._left: int | None = None
        if hit and hit.files is not None:
            sys.addaudithook(self._count)

    def enter(self, stage: Stage) -> None:
        if self._hit is None or self._hit.stage != stage:
            return
        self._occurrences += 1
        if self._occurrences != self._hit.occurrence:
            return
        if self._hit.files is None:
            os.write(self._told, f"{stage}\n".encode())
        else:
            self._left = self._hit.files

    def _count(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._left and event in _FILE_EVENTS and str(arguments[0]).startswith(self._home):
            self._left -= 1
            if self._left == 0:
                assert self._hit
                os.write(self._told, f"{self._hit.stage}\n".encode())
                os.kill(os.getpid(), self._hit.signal)


def _command(
    words: Sequence[str],
    environment: Mapping[str, str],
    output: Path,
    hit: Hit | None,
    told: int,
) -> None:
    """The life of the forked process."""
    os.setsid()
    screen = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for descriptor in (1, 2):
        os.dup2(screen, descriptor)
    os.environ.update(environment)
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        from ltm_platform.cli.app import main

        moments = _Moments(hit, told, environment["LTM_PLATFORM_HOME"])
        with _without_ray(moments):
            moments.enter("start")
            main(words)
    except KeyboardInterrupt:  # before click takes it
        sys.exit(STOPPED)
    except Exception:
        traceback.print_exc()
        sys.exit(CRASHED)


@contextmanager
def _without_ray(moments: _Moments) -> Iterator[None]:
    """In the block, and in this process alone, a run is trained by the process itself."""
    from ltm_platform.api import training
    from ltm_platform.ray_cluster.resources import Resources
    from ltm_platform.ray_cluster.session import Session
    from ltm_platform.runs import driver
    from ltm_platform.training import trainer, worker_context
    from ltm_platform.training.measurement import bench
    from ltm_platform.training.worker import train_rank

    class Rank(worker_context.SingleProcess):
        def keep(self, *taken: Any) -> None:
            moments.enter("checkpoint")
            super().keep(*taken)
            moments.enter("training")

    class Validation(trainer.Validation):
        def __call__(self) -> Any:
            moments.enter("evaluation")
            return super().__call__()

    class NoServices:
        """There is no Ray whose processes could end."""

        @staticmethod
        def here(_: Callable[[], None]) -> None:
            return None

    @contextmanager
    def session(*_: object) -> Iterator[Session]:
        yield Session(Resources(cpus=2, gpus=0), joined=False, stays=True)

    def fit(checked: Any, folder: Any, run_id: str, events: Any, *_: Any, **__: Any) -> None:
        config = driver.worker_config(checked, folder, run_id, events)
        rank = Rank(folder.path, driver.kept_checkpoints(checked.job), config["run"])
        moments.enter("training")
        with _as_in_ray():
            for _epoch in train_rank(config, rank):
                moments.enter("training")
        moments.enter("end")

    for owner, name, stand_in in (
        (training, "session", session),
        (driver, "event_queue", SimpleQueue),
        (driver, "fit", fit),
        (driver, "Services", NoServices),
        (driver, "WatchedQueue", lambda queue, _: queue),
        (trainer, "Validation", Validation),
        (bench, "BUDGET_S", 0.0),  # what it measures is of no use here
    ):
        setattr(owner, name, stand_in)
    yield


@contextmanager
def _as_in_ray() -> Iterator[None]:
    """An exception of the rank reaches the driver as Ray Train would bring it there."""
    import ray.train

    from ltm_platform.ray_cluster.failures import as_run_error

    try:
        yield
    except Exception as error:
        traceback.print_exc()  # into the run's log, as a worker's
        with as_run_error():
            raise ray.train.WorkerGroupError("", {0: error}) from error

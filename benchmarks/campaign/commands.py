"""Whole commands on Ray, in which any process is hit: the command, a worker, Ray's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from . import record
from .kills import compare, left_behind
from .material import NAME, Variant
from .one_process import STOPPED, Ended
from .report import Outcome

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from .cases import Case
    from .material import Material
    from .record import Record

Victim = Literal["command", "worker", "controller", "raylet", "gcs"]

CLI = Path(__file__).parents[2] / "cli.py"
VARIANT = Variant("ray", every=3, keep=3, workers=2, epochs=8, failures=5)
TIMEOUT_S = 600.0
START_S = 300.0
_SIGNALS: Mapping[Victim, tuple[signal.Signals, ...]] = {
    "command": (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP),
    "worker": (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP),
    "controller": (signal.SIGKILL, signal.SIGSTOP),
    "raylet": (signal.SIGKILL,),
    "gcs": (signal.SIGKILL,),
}
_WEIGHTS: Mapping[Victim, int] = {
    "command": 4,
    "worker": 4,
    "controller": 2,
    "raylet": 1,
    "gcs": 1,
}
_NAMES: Mapping[Victim, str] = {
    "worker": "RayTrainWorker",
    "controller": "TrainController",
    "raylet": "raylet/raylet",
    "gcs": "gcs_server",
}
"""What is in the command line of each."""


@dataclass(frozen=True, slots=True)
class Blow:
    """A signal to one process of a run on Ray."""

    victim: Victim
    signal: signal.Signals
    checkpoints: int
    """It comes once so many more have been written; 0: while the run starts."""
    delay_s: float

    def __str__(self) -> str:
        when = f"{self.checkpoints} checkpoints" if self.checkpoints else "the start"
        return f"{self.signal.name} to {self.victim} {self.delay_s:.1f} s after {when}"


def blows(draw: random.Random) -> list[Blow]:
    """Those of one case, in order."""
    found = []
    for _ in range(draw.randint(2, 5)):
        (victim,) = draw.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))
        early = victim == "command" and draw.random() < 0.4
        found.append(
            Blow(
                victim,
                draw.choice(_SIGNALS[victim]),
                0 if early else draw.randint(1, 4),
                draw.uniform(0, 15) if early else draw.uniform(0, 1),
            )
        )
    return found


class Commands:
    """Carries out cases; the undisturbed run is trained once."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._reference: Record | None = None

    def __call__(self, case: Case) -> Outcome:
        draw, outcome = case.draw(), Outcome()
        reference = self._undisturbed()
        home = self._home(str(case))
        verb: str | None = "submit"
        waiting = blows(draw)
        try:
            while verb and not outcome.faults:
                verb = self._command(home, verb, waiting, outcome)
            if not outcome.faults:
                outcome.faults += compare(home, reference)
        finally:
            for process in record.processes(home):
                process.kill()
        return outcome

    def _home(self, name: str) -> Path:
        home = self._material.home(name)
        (home / "job.yaml").write_text(VARIANT.job(self._material.shards))
        return home

    def _undisturbed(self) -> Record:
        if self._reference is None:
            home = self._home("reference-ray")
            process = self._start(home, "submit")
            process.wait(TIMEOUT_S)
            if process.returncode:  # no case could be told from it
                raise SystemExit(f"the undisturbed run failed:\n{_output(home)}")
            self._reference = record.record(home, NAME)
        return self._reference

    def _start(self, home: Path, verb: str) -> subprocess.Popen[bytes]:
        words = [str(home / "job.yaml"), "--name", NAME] if verb == "submit" else [NAME]
        if verb == "reconcile":
            words = []
        with home.with_suffix(".out").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, str(CLI), verb, *words],
                env=os.environ | self._material.environment(home) | {"RAY_TMPDIR": "/tmp"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def _command(self, home: Path, verb: str, waiting: list[Blow], outcome: Outcome) -> str | None:
        """Give a command, hit it until it ends; the next one to give, None after a whole run."""
        process = self._start(home, verb)
        outcome.size += 1
        last: Blow | None = None
        while waiting and process.poll() is None:
            blow = waiting.pop(0)
            if not _moment(home, blow, process):
                break
            pids = [process.pid] if blow.victim == "command" else _pids(home, blow.victim)
            if not pids:
                continue
            _strike(pids[0], blow)
            last = blow
            outcome.counts[f"{blow.signal.name} to {blow.victim}"] += 1
            outcome.story.append(f"{verb}: {blow}")
            if blow.victim == "command" and blow.signal != signal.SIGSTOP:
                break
        try:
            process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            outcome.faults.append(f"{verb} hangs after {last}.")
            return None
        ended = Ended(process.returncode, _output(home), "")
        status = record.status(home, NAME)
        outcome.story.append(f"{verb} ends with {ended.code}, the run is {status}")
        outcome.faults += _judged(ended, last, status)
        outcome.faults += left_behind(home)
        if ended.code == 0 and verb != "reconcile":
            return None
        if status == "RUNNING" and verb != "reconcile":
            return "reconcile"
        if verb == "reconcile" and status == "RUNNING":
            outcome.faults.append("after reconcile a run that nobody trains is RUNNING.")
        return "resume" if status else "submit"


def _judged(ended: Ended, last: Blow | None, status: str | None) -> list[str]:
    found = []
    lines = [line for line in ended.output.splitlines() if line.strip()]
    tail = " / ".join(lines[-3:])[-300:]
    if "Traceback (most recent call last)" in ended.output:
        found.append(f"a traceback is on the screen after {last and last.victim}: {tail}")
    allowed = {0}
    if last and last.victim == "command":
        allowed |= {-last.signal, STOPPED}
    elif last:
        allowed |= {1}
    if ended.code not in allowed:
        found.append(f"the exit code is {ended.code} after {last}: {tail}")
    wanted = {0: "FINISHED", 1: "FAILED", STOPPED: "KILLED"}.get(ended.code)
    if wanted and status and status not in (wanted, "KILLED"):
        found.append(f"the exit code is {ended.code}, but the store has the run as {status}.")
    return found


def _moment(home: Path, blow: Blow, process: subprocess.Popen[bytes]) -> bool:
    """Wait for the moment of a blow; False: the command ended before."""
    if blow.checkpoints:
        run, end = home / "runs" / NAME, time.monotonic() + START_S
        seen = {path.name for path in run.glob("checkpoint_*/")}
        while len({path.name for path in run.glob("checkpoint_*/")} - seen) < blow.checkpoints:
            if process.poll() is not None or time.monotonic() > end:
                return False
            time.sleep(0.05)
    time.sleep(blow.delay_s)
    return process.poll() is None


def _strike(pid: int, blow: Blow) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, blow.signal)
        if blow.signal == signal.SIGSTOP:
            time.sleep(1.0)
            os.kill(pid, signal.SIGCONT)


def _pids(home: Path, victim: Victim) -> list[int]:
    found = []
    for process in record.processes(home):
        with suppress(psutil.NoSuchProcess):
            if _NAMES[victim] in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def _output(home: Path) -> str:
    return home.with_suffix(".out").read_text(errors="replace")

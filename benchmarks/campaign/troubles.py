"""A run whose disk is full, whose folder cannot be written to, or whose store is locked, away or
served by a server that ends; after that it is resumed to its end and compared."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from . import record
from .cases import Hit
from .kills import Run, compare, last_line, left_behind
from .material import VARIANTS
from .report import Outcome
from .servers import TrackingServer

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .cases import Case, Stage
    from .kills import References
    from .material import Material

Trouble = Literal[
    "full disk", "read-only run", "locked store", "store away", "server killed", "server held"
]
SERVED: Mapping[Trouble, signal.Signals] = {
    "server killed": signal.SIGKILL,
    "server held": signal.SIGSTOP,
}
NEED_ROOT: frozenset[Trouble] = frozenset({"full disk", "read-only run"})

DISK_BYTES = 24 << 20
LEFT_BYTES = 200_000
"""At most, on a disk that is called full."""
LONGEST_LOCK_S = 10.0
"""For a server and a store that are away, too."""
STAGES: tuple[Stage, ...] = ("start", "training", "checkpoint", "evaluation", "end")


def can_mount() -> bool:
    """Whether this process may put a small disk somewhere."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


def carry_out(case: Case, material: Material, references: References) -> Outcome:
    """Train a run that meets with a trouble, then resume it without."""
    draw, outcome = case.draw(), Outcome(size=1)
    kinds: tuple[Trouble, ...] = get_args(Trouble)
    kind = draw.choice([one for one in kinds if can_mount() or one not in NEED_ROOT])
    variant = draw.choice([one for one in VARIANTS if not one.decoders])
    reference = references.of(variant)
    hit = Hit(
        signal.SIGCONT, draw.choice(STAGES), draw.choice([1, 1, 2]), None, draw.uniform(0, 0.2)
    )
    with ExitStack() as stack:
        disk = _mount if kind == "full disk" else None
        run = Run(material, variant, str(case), disk)
        if disk:
            stack.callback(_unmount, run.home)
        trouble = _Trouble(kind, run, draw)
        stack.callback(trouble.end)
        with closing(trouble):
            ended = run.command("submit", hit, trouble.begin)
        outcome.story.append(f"{kind} in {ended.stage or 'nothing'}: exit code {ended.code}")
        if ended.stage:
            outcome.counts[kind] += 1
        outcome.story += ended.output.splitlines()[-6:]
        outcome.faults += _judged(kind, ended.code, ended.output, run.status)
        outcome.faults += left_behind(run.home)
        if run.status == "RUNNING":
            run.command("reconcile")
        for _ in range(2):
            if run.status == "FINISHED" or outcome.faults:
                break
            again = run.command("resume" if run.status else "submit")
            outcome.story.append(f"again: exit code {again.code}")
            if again.code:
                outcome.faults.append(f"it cannot go on after a {kind}: {last_line(again)}")
        if not outcome.faults:
            own_store = kind in (*SERVED, "store away")  # which has files of its own
            outcome.faults += compare(run.home, reference, files=not own_store)
    if not outcome.faults:
        shutil.rmtree(run.home)
        run.output.unlink()
    return outcome


def _judged(kind: Trouble, code: int, output: str, status: str | None) -> list[str]:
    tail = " / ".join(line.strip() for line in output.splitlines()[-3:])[-300:]
    if "Traceback (most recent call last)" in output:
        return [f"a traceback after a {kind}: {tail}"]
    if code not in (0, 1, 2):
        return [f"the exit code is {code} after a {kind}: {tail}"]
    if kind == "server killed" and code == 2 and status is None:
        return []  # nobody listened at the first contact: a refusal, and nothing has begun
    if kind in ("locked store", *SERVED) and code:
        return [f"{kind} for up to {LONGEST_LOCK_S:g} s is not waited for: {tail}"]
    wanted = {0: "FINISHED", 1: "FAILED"}.get(code)
    # On a full disk the store cannot note the end.
    if wanted and status not in (wanted, None) and kind != "full disk":
        return [f"the exit code is {code} after a {kind}, but the run is {status}."]
    return []


class _Trouble:
    """One that begins when it is called for and is over when it is closed."""

    def __init__(self, kind: Trouble, run: Run, draw: random.Random) -> None:
        self._kind, self._run = kind, run
        self._left = draw.randrange(LEFT_BYTES)
        self._locked_s = draw.uniform(0.1, LONGEST_LOCK_S)
        self._after = ExitStack()
        self._server: TrackingServer | None = None
        if kind in SERVED:
            self._server = TrackingServer(run.home)
            self._server.start()
            run.tracked_by(self._server.address)

    def begin(self) -> None:
        if self._kind == "full disk":
            self._fill()
        elif self._kind == "read-only run":
            self._forbid(self._run.home / "runs")
        elif self._kind == "locked store":
            self._meanwhile(self._lock)
        elif self._kind == "store away":
            self._meanwhile(self._move_away)
        else:
            self._meanwhile(self._hit_server)

    def close(self) -> None:
        self._after.close()

    def end(self) -> None:
        """All that it has started ends."""
        if self._server:
            self._server.close()

    def _meanwhile(self, trouble: Callable[[], None]) -> None:
        thread = threading.Thread(target=trouble)
        thread.start()
        self._after.callback(thread.join)

    def _fill(self) -> None:
        file = self._run.home / "ballast"
        self._after.callback(partial(file.unlink, missing_ok=True))
        size = shutil.disk_usage(self._run.home).free - self._left
        with file.open("wb") as ballast, suppress(OSError):  # the run has filled it meanwhile
            os.posix_fallocate(ballast.fileno(), 0, max(size, 1))

    def _forbid(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        self._after.callback(_unmount, folder)
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)

    def _move_away(self) -> None:
        database = self._run.home / "mlflow.db"
        away = database.rename(database.with_suffix(".away"))
        time.sleep(self._locked_s)
        if database.exists() and database.stat().st_size:
            away.unlink()  # a run that found none made one of its own, and is recorded there
        else:
            away.rename(database)

    def _hit_server(self) -> None:
        assert self._server
        self._server.hit(SERVED[self._kind], self._locked_s)

    def _lock(self) -> None:
        database = self._run.home / "mlflow.db"
        with closing(sqlite3.connect(database, isolation_level=None, timeout=60)) as store:
            store.execute("BEGIN EXCLUSIVE")
            time.sleep(self._locked_s)
            store.execute("ROLLBACK")


def _mount(folder: Path) -> None:
    options = ["-o", f"size={DISK_BYTES}"]
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", folder], check=True)


def _unmount(folder: Path) -> None:
    for process in record.processes(folder):
        process.kill()
    subprocess.run(["umount", "--lazy", folder], check=True)

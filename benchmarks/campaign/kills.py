"""A run that is hit again and again, resumed each time, and at its end compared."""

from __future__ import annotations

import shutil
import signal
import time
from typing import TYPE_CHECKING

from . import one_process, record
from .cases import hits
from .material import NAME, VARIANTS
from .one_process import STOPPED, Ended
from .report import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .cases import Case, Hit
    from .material import Material, Variant
    from .record import Record

GONE_S = 120.0
"""For what a command has started to end after it."""
RECONCILED = 0.3
"""Share of the kills after which ``reconcile`` comes before ``resume``."""


class References:
    """Undisturbed runs, one a variant; each is trained when it is first asked for."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._known: dict[str, Record] = {}

    def of(self, variant: Variant) -> Record:
        if variant.name not in self._known:
            run = Run(self._material, variant, f"reference-{variant.name}")
            ended = run.command("submit")
            if ended.code:  # no case could be told from it
                raise SystemExit(f"the undisturbed run failed:\n{ended.output}")
            self._known[variant.name] = record.record(run.home, NAME)
        return self._known[variant.name]


class Run:
    """A home with one run, and the commands that are given there."""

    def __init__(
        self,
        material: Material,
        variant: Variant,
        name: str,
        mounted: Callable[[Path], object] | None = None,
    ) -> None:
        """``mounted`` is called with the folder that is to be the home."""
        self.home = material.home(name, mounted)
        self._environment = dict(material.environment(self.home))
        self.output = self.home.with_suffix(".out")
        self._job = self.home / "job.yaml"
        self._job.write_text(variant.job(material.shards))

    def command(
        self, verb: str, hit: Hit | None = None, trouble: Callable[[], object] | None = None
    ) -> Ended:
        """Give one of the commands that a case knows; see `one_process.run`.

        Raises:
            TimeoutError: it did not end.
        """
        words = {
            "submit": ["submit", str(self._job), "--name", NAME],
            "resume": ["resume", NAME],
            "reconcile": ["reconcile"],
        }[verb]
        return one_process.run(words, self._environment, self.output, hit=hit, trouble=trouble)

    def tracked_by(self, address: str) -> None:
        """From now on its commands ask a server."""
        self._environment["MLFLOW_TRACKING_URI"] = address

    @property
    def status(self) -> str | None:
        return record.status(self.home, NAME)

    @property
    def folder(self) -> Path:
        return self.home / "runs" / NAME


def carry_out(case: Case, material: Material, references: References) -> Outcome:
    """Submit a run, hit it and what resumes it, resume it to its end, and compare."""
    draw, outcome = case.draw(), Outcome()
    (variant,) = draw.choices(VARIANTS, weights=[one.weight for one in VARIANTS])
    reference = references.of(variant)
    run = Run(material, variant, str(case))
    outcome.story.append(f"job {variant.name}")
    try:
        for hit in [*hits(draw, decoders=variant.decoders > 0), None]:
            _one_command(run, hit, outcome)
            outcome.size += 1
            if run.status == "FINISHED" or outcome.faults:
                break
            if draw.random() < RECONCILED:
                _reconcile(run, outcome)
        if not outcome.faults:
            outcome.faults += compare(run.home, reference)
    except TimeoutError as error:
        outcome.faults.append(f"a command hung: {error}.")
    for process in record.processes(run.home):
        process.kill()
    if not outcome.faults:
        shutil.rmtree(run.home)
        run.output.unlink()
    return outcome


def _one_command(run: Run, hit: Hit | None, outcome: Outcome) -> None:
    """Start the run or take it up again, as a user would."""
    before, files = run.status, set(record.leftovers(run.home))
    verb = "resume" if before else "submit"
    ended = run.command(verb, hit)
    if ended.code == 2 and before is None and "exists already" in ended.output:
        verb, first = "resume", ended
        ended = run.command(verb, hit)
        if ended.code == 2:
            outcome.faults.append(
                f"neither submit nor resume takes up a run that was killed at its start: "
                f"{last_line(first)} / {last_line(ended)}"
            )
            return
    outcome.story.append(f"{verb}, {hit}: {ended.stage or 'not hit'}, exit code {ended.code}")
    if ended.stage and hit:
        outcome.counts[f"{hit.signal.name} in {ended.stage}"] += 1
    outcome.faults += judged(ended, hit if ended.stage else None, before, run.status)
    outcome.faults += left_behind(run.home)
    if ended.code >= 0:  # what is killed removes nothing
        left = set(record.leftovers(run.home)) - files
        outcome.faults += [f"a file is left: {name}" for name in sorted(left)]


def _reconcile(run: Run, outcome: Outcome) -> None:
    before = run.status
    ended = run.command("reconcile")
    outcome.story.append(f"reconcile: exit code {ended.code}")
    if ended.code:
        outcome.faults.append(f"reconcile ends with {ended.code}: {last_line(ended)}")
    if before == "RUNNING" and run.status != "KILLED":
        outcome.faults.append(f"after reconcile a run that nobody trains is {run.status}.")


def judged(ended: Ended, hit: Hit | None, before: str | None, status: str | None) -> Iterator[str]:
    """What is wrong with the way in which a command ended; ``hit`` as it was carried out.

    ``before`` and ``status``: the run's states before it and after it.
    """
    if "Traceback (most recent call last)" in ended.output:
        yield f"a traceback is on the screen: {last_line(ended)}"
    code, allowed = ended.code, {0}
    if hit and (hit.signal == signal.SIGKILL or hit.then_kill) and hit.victim == "command":
        allowed = {0, -signal.SIGKILL}
    elif hit and hit.victim == "decoder":
        allowed = {0, 1}
    elif hit and hit.signal in (signal.SIGTERM, signal.SIGINT):
        allowed = {0, STOPPED}
        if hit.stage == "start" and status == before:
            allowed |= {-hit.signal}  # nothing has begun yet
    if code not in allowed:
        said = failure(ended) or last_line(ended)
        yield f"the exit code is {code} after {hit and hit.signal.name}: {said}"
    wanted = {0: "FINISHED", 1: "FAILED", STOPPED: "KILLED"}.get(code)
    begun = not (hit and hit.stage == "start" and status == before)
    if wanted and status and status != wanted and begun:
        yield f"the exit code is {code}, but the store has the run as {status}."
    if wanted == "FINISHED" and status is None:
        yield "the command ended well, but the store has no run."


def left_behind(home: Path) -> Iterator[str]:
    """Processes that stayed."""
    end = time.monotonic() + GONE_S
    while (left := record.processes(home)) and time.monotonic() < end:
        time.sleep(0.1)
    for process in left:
        yield f"a process is left: {' '.join(process.cmdline())[:200]}"


def compare(home: Path, reference: Record, *, files: bool = True) -> Iterator[str]:
    """In what a finished run differs from an undisturbed one; ``files``: in those that it left."""
    now = record.status(home, NAME)
    if now != "FINISHED":
        yield f"resumed to its end, the run is {now}."
        return
    for key in record.doubled(home, NAME):
        yield f"{key} has two values at one step."
    found = record.record(home, NAME)
    for key in sorted(found.metrics.keys() | reference.metrics.keys()):
        curve, right = found.metrics.get(key, []), reference.metrics.get(key, [])
        if curve == right:
            continue
        missing = sorted({step for step, _ in right} - {step for step, _ in curve})
        if missing:
            yield f"{key} lacks steps {missing}."
        elif dict(curve) != dict(right):
            steps = [step for step, value in curve if dict(right).get(step) != value]
            yield f"{key} differs at steps {steps}."
    if [steps for steps, _ in found.checkpoints] != [steps for steps, _ in reference.checkpoints]:
        yield f"checkpoints are kept of steps {[steps for steps, _ in found.checkpoints]}."
    elif found.checkpoints != reference.checkpoints:
        yield "the last weights, optimizer or RNG states are others."
    for name in sorted(found.files.keys() | reference.files.keys()) if files else ():
        count, right_count = found.files.get(name, 0), reference.files.get(name, 0)
        if count != right_count and not name.startswith("tmp/"):
            yield f"there are {count} files {name} in place of {right_count}."


def failure(ended: Ended) -> str | None:
    """Why a run failed, as the screen says it."""
    lines = (line.strip() for line in ended.output.splitlines())
    return next((line for line in lines if line.startswith("failed: ")), None)


def last_line(ended: Ended) -> str:
    lines = [line for line in ended.output.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "nothing was printed"

"""The campaign's command: goes through the cases, and keeps the report."""

from __future__ import annotations

import shlex
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .cases import Case
from .report import Outcome, Report

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    CarryOut = Callable[[Case], Outcome]

TROUBLE_EVERY = 12
"""One case of so many is no kill, but a full disk or the like."""
KINDS = ("kill", "ray", "damage", "job")
"""Kills of processes without and with Ray, damaged files, damaged jobs."""


def main(options: argparse.Namespace) -> int:
    """The exit code: 1 if there are faults."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as temporary:
        workers = Workers(options.work or Path(temporary))
        if options.only:
            return _repeat(Case.parse(options.only), workers)
        report = Report.load(options.report)
        if options.merge:
            for path in options.merge:
                report.merge(Report.load(path))
            report.save(options.report)
        before = {kind: report.done(kind) for kind in KINDS}
        ray = round(options.kills * options.ray)
        wanted = dict(
            zip(KINDS, (options.kills - ray, ray, options.damage, options.jobs), strict=True)
        )
        for kind in sorted(KINDS, key=lambda kind: kind == "ray"):
            while report.done(kind) - before[kind] < wanted[kind]:
                case = Case(kind, options.seed, report.first(kind, options.seed))
                began = time.monotonic()
                outcome = _carried_out(workers[kind], case)
                report.add(case, outcome, time.monotonic() - began)
                report.save(options.report)
    show(report, Console())
    return int(bool(report.faults))


def _repeat(case: Case, workers: Workers) -> int:
    outcome = _carried_out(workers[case.kind], case)
    print("\n".join([str(case), *outcome.story]))
    print("\n".join(f"FAULT: {fault}" for fault in outcome.faults) or "all held")
    return int(bool(outcome.faults))


def _carried_out(carry_out: CarryOut, case: Case) -> Outcome:
    """An exception that is not handled anywhere is a fault, too: of the product or of this."""
    try:
        return carry_out(case)
    except Exception as error:
        story = traceback.format_exc().splitlines()
        return Outcome(faults=[f"{type(error).__name__}: {error}"], story=story)


class Workers:
    """What carries out a case of each kind; made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, CarryOut] = {}

    def __getitem__(self, kind: str) -> CarryOut:
        if kind not in self._known:
            self._known[kind] = self._make(kind)
        return self._known[kind]

    def _make(self, kind: str) -> CarryOut:
        from .material import Material

        if kind == "job":
            from .job_files import carry_out as job_file

            return job_file
        if kind == "kill":
            from . import kills, one_process, troubles

            one_process.load()
            material = Material(self._folder)
            references = kills.References(material)
            return lambda case: (
                troubles if case.number % TROUBLE_EVERY == TROUBLE_EVERY - 1 else kills
            ).carry_out(case, material, references)
        if kind == "ray":
            from . import commands

            return commands.Commands(Material(self._folder))
        if kind == "damage":
            from .damage import Damage

            return Damage(Material(self._folder))
        raise ValueError(f"no case is of the kind {kind!r}: there are {', '.join(KINDS)}")


def show(report: Report, console: Console) -> None:
    """What was done, and every fault with the command that repeats it."""
    table = Table("", "what", "done", "faults", box=None)
    for kind in KINDS:
        for name, count in report.counts.get(kind, {}).items():
            table.add_row(kind, name, f"{count:,}", "")
        kinds = sum(1 for _ in report.of_kind(kind))
        table.add_row(kind, "all", f"{report.done(kind):,}", f"{kinds:,} kinds", style="bold")
    console.print(table)
    for fault in report.faults:
        console.print(f"\n{fault.times} x {fault.sentence}", markup=False)
        console.print(f"  {repeating(fault.case)}", markup=False, soft_wrap=True)


def repeating(case: str) -> str:
    """The command that carries out a case again."""
    return shlex.join(["python", "benchmarks/campaign.py", "--only", case])

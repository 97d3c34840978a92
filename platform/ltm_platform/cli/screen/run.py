"""What a user sees of a run: its head, its progress and its result."""

from __future__ import annotations

import shlex
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Self, assert_never

import click
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from ltm_platform import tracking
from ltm_platform.api import RunBegins
from ltm_platform.cli.program import program, way_on
from ltm_platform.cli.screen.console import Doubled
from ltm_platform.errors import RunError
from ltm_platform.events import (
    ControllerStarted,
    Decided,
    EpochEnded,
    Failed,
    GaveUp,
    ImagesLeftOut,
    Measured,
    Profiled,
    Progress,
    Started,
    StoppedOnRequest,
    Waiting,
)
from ltm_platform.job import Bottleneck
from ltm_platform.storage import locations
from ltm_platform.storage.checkpoints import holds_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from ltm_platform.api import RunEvent, RunResult
    from ltm_platform.checks import CheckedJob
    from ltm_platform.storage.run_folder import RunFolder


LINE_S = 60.0
"""Between lines within an epoch, where there is no terminal."""


class Screen:
    """A live line in a terminal; elsewhere plain lines, one an epoch and one a minute. Calling it
    shows an event.

    As a context it shows how the run ends early: then the process ends with that exit code.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._plain = not console.is_terminal
        self._printed = clock()
        """When the last plain line was."""
        self._screen = console
        self._console: Console | Doubled = console
        self._begun: RunBegins | None = None
        self._progress = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=self._plain,
            get_time=clock,
            transient=True,
            # What libraries print belongs to the log, not here.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: TaskID | None = None
        self._started: Started | None = None
        self._latest: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        self._progress.stop()
        if self._begun and isinstance(error, KeyboardInterrupt):
            self.stopped(self._begun.folder)
            raise click.exceptions.Exit(130) from None
        if self._begun and isinstance(error, RunError):
            self.failed(self._begun.folder, error)
            raise click.exceptions.Exit(1) from None

    def _begin(self, event: RunBegins) -> None:
        self._begun = event
        self._console = Doubled(self._screen, event.folder.log)
        self.head(event.checked, event.folder)
        self._progress.start()
        if self._plain:
            self._line("starting the workers")
        self._task = self._progress.add_task("starting the workers", total=None, metrics="")

    def head(self, checked: CheckedJob, folder: RunFolder) -> None:
        """The resolved job in a few lines."""
        job, batch = checked.job, checked.batch
        device = "GPU" if checked.use_gpu else "CPU"
        rows = {
            "model": f"{job.model.backbone}, {_method(checked)}, {_cost(checked)}",
            "data": checked.dataset.describe(),
            "recipe": (
                f"{job.recipe.epochs} epochs, {job.recipe.optimizer}, lr {job.recipe.lr:g}, "
                f"batch {batch.global_batch} = {_division(checked)}"
            ),
            "engine": f"{_sharing(checked)}, {job.engine.precision}, {device}",
            "tracking": locations.shown(tracking.tracking_uri(job.tracking.uri)),
            "log": locations.shown(folder.log),
        }
        self._console.print(folder.name, style="bold")
        for key, value in rows.items():
            self._console.print(Text.assemble((f"  {key:<9} ", "dim"), value))
        for notice in checked.notices:
            self._note(notice)
        for problem in checked.problems:
            self._note(f"overridden: {problem}")

    def _note(self, sentence: str) -> None:
        self._console.print(Text.assemble(("  note      ", "yellow"), sentence))

    def __call__(self, event: RunEvent) -> None:
        match event:
            case RunBegins():
                self._begin(event)
            case Started():
                self._start(event)
            case Waiting():
                self._note(f"it waits for {event.missing}")
            case Decided() | ImagesLeftOut() | Profiled():
                self._note(event.sentence)
            case EpochEnded():
                self._latest.update(event.metrics)
                line = f"{self._epoch(event.epoch)}  {self._losses()}  {self._scores()}"
                self._update(event.step, event.epoch)
                self._line(line)
            case Measured():
                self._latest.update(event.metrics)
            case Progress():
                self._latest.update(event.metrics)
                self._update(event.step, event.epoch)
                if self._plain and self._clock() - self._printed >= LINE_S:
                    self._line(self._within_epoch(event))
            case Failed():
                self._note(f"{event.reason}; it is tried again")
            case GaveUp() | StoppedOnRequest():
                pass  # reported at the end of the run
            case ControllerStarted():
                pass
            case _:
                assert_never(event)

    def _line(self, text: str) -> None:
        self._console.print(text)
        self._printed = self._clock()

    def _within_epoch(self, event: Progress) -> str:
        assert self._started, "metrics came before the start of training"
        steps = f"step {event.step}/{self._started.steps}"
        parts = [self._epoch(event.epoch), steps, self._losses(), self._scores()]
        left = self._progress.tasks[0].time_remaining if self._progress.tasks else None
        if left is not None:
            parts.append(f"{timedelta(seconds=round(left))} left")
        return "  ".join(filter(None, parts))

    def _start(self, event: Started) -> None:
        self._started = event
        if self._plain and self._begun and not event.steps_done:
            waited = self._clock() - self._printed
            self._line(f"training begins after {waited:.0f} s, with {event.workers} workers")
        if event.steps_done:
            self._console.print(
                f"going on after epoch {event.epochs_done}, step {event.steps_done} of "
                f"{event.steps}, with {event.workers} workers"
            )
        self._update(event.steps_done, event.epochs_done)

    def _update(self, step: int, epoch: int) -> None:
        if self._started and self._task is not None:
            self._progress.update(
                self._task,
                description=f"{self._epoch(epoch)}  step {step}",
                completed=step,
                total=self._started.steps,
                metrics=f"{self._losses()}  {self._scores()}" if self._latest else "",
            )

    def _epoch(self, epoch: int) -> str:
        assert self._started, "metrics came before the start of training"
        epochs = self._started.epochs
        return f"epoch {min(epoch + 1, epochs):>{len(str(epochs))}}/{epochs}"

    def _losses(self) -> str:
        shown = {"loss": "train/loss", "ce": "train/ce", "ib": "train/ib_bound"}
        return "  ".join(
            f"{k} {self._latest[v]:.3f}" for k, v in shown.items() if v in self._latest
        )

    def _scores(self) -> str:
        parts = []
        if "val/top1" in self._latest:
            parts.append(f"top-1 {self._latest['val/top1']:.1f} %")
        if "train/images_per_s" in self._latest:
            parts.append(rate(self._latest["train/images_per_s"]))
        return "  ".join(parts)

    def result(self, result: RunResult, command: Sequence[str]) -> None:
        """The figures to remember, and what to type next after ``command``."""
        assert self._begun, "a result came before its run began"
        checked, metrics = self._begun.checked, result.metrics
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_row("top-1", f"{metrics['val/top1']:.2f} % (best {result.best.top1:.2f} %)")
        if "val/ema_top1" in metrics:
            table.add_row("top-1 of the EMA", f"{metrics['val/ema_top1']:.2f} %")
        table.add_row("size", _cost(checked))
        table.add_row("training", rate(metrics["train/images_per_s"]))
        table.add_row(
            "inference",
            f"{rate(metrics['bench/images_per_s'])} at batch 16, "
            f"{metrics['bench/latency_ms']:.1f} ms for one image",
        )
        table.add_row("best checkpoint", locations.shown(result.best.location))
        table.add_row("last checkpoint", locations.shown(result.last.location))
        self._console.print()
        self._console.print(table)
        job = checked.job
        other = ["--set", f"model.method={'ltm' if job.model.method == 'none' else 'none'}"]
        if job.model.method == "none" and not job.recipe.ib.weight:  # LTM's loss has the bound
            other += ["--set", f"recipe.ib.weight={Bottleneck().weight:g}"]
        self._console.print("\nNext:")
        for words, purpose in (
            ([*program(), "ui"], "compare runs in the browser"),
            ([*program(), "runs"], "list them here"),
            ([*command, *other], "the same with and without merging"),
        ):
            line = Text.assemble(f"  {shlex.join(words)}  ", (f"# {purpose}", "dim"))
            self._console.print(line, soft_wrap=True)

    def stopped(self, folder: RunFolder) -> None:
        """After Ctrl-C."""
        self._console.print("stopped")
        self._kept(folder)

    def failed(self, folder: RunFolder, error: RunError) -> None:
        """After an exception in a rank."""
        self._console.print(f"failed: {error}")
        self._console.print(f"the log is {locations.shown(folder.log)}", soft_wrap=True)
        self._kept(folder)

    def _kept(self, folder: RunFolder) -> None:
        text = way_on(folder.name, has_checkpoint=holds_checkpoint(folder))
        self._console.print(text, soft_wrap=True)


def rate(images_per_s: float) -> str:
    digits = 0 if images_per_s >= 10 else 2
    return f"{images_per_s:,.{digits}f} images/s"


def _division(checked: CheckedJob) -> str:
    batch = checked.batch
    if checked.job.recipe.micro_batch == "auto":
        return f"as much as fits x accumulated x {batch.workers} workers"
    return f"{batch.micro_batch} x {batch.accumulation} accumulated x {batch.workers} workers"


def _sharing(checked: CheckedJob) -> str:
    engine = checked.job.engine
    stage = f"ZeRO {engine.zero_stage}"
    shared = engine.stage_of(checked.batch.workers) == engine.zero_stage
    return stage if shared else f"{stage} (one worker alone shares out nothing)"


def _method(checked: CheckedJob) -> str:
    spec = checked.job.model
    if spec.method == "none":
        return "no merging"
    kept = checked.kept_tokens
    if spec.elastic:
        low, high = spec.elastic
        return f"{spec.method} keeping {low:g} to {high:g} of the tokens"
    if kept is None:
        return spec.method
    sites = [*checked.plan]
    if not sites:
        return f"{spec.method} keeping all tokens"
    where = sites[0] if len(sites) == 1 else f"{sites[0]} to {sites[-1]}"
    return f"{spec.method} keeping {kept:.3g} of the tokens at {where}"


def _cost(checked: CheckedJob) -> str:
    cost, base = checked.cost, checked.base_cost
    return (
        f"{cost.gmacs:.3g} GMACs (base {base.gmacs:.3g}), "
        f"{cost.params_m:.3g} M parameters (base {base.params_m:.3g})"
    )

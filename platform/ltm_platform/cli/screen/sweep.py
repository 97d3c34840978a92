"""What a user sees of a sweep: its head, its trials while they run, and what they show."""

from __future__ import annotations

import shlex
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Self, assert_never

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ltm_platform import tracking
from ltm_platform.api import SweepBegins, TrialResult
from ltm_platform.cli.program import program
from ltm_platform.cli.screen.console import WIDTH_OF_FILES, Doubled
from ltm_platform.events import Waiting
from ltm_platform.storage import locations
from ltm_platform.storage.files import BEST_FILE, PICTURE_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from ltm_platform.api import SweepEvent
    from ltm_platform.storage.run_folder import RunFolder
    from ltm_platform.tuning.sweep_driver import Plan, SweepSummary

COLUMNS = {
    "top-1 %": ("val/top1", "{:.2f}"),
    "GMACs": ("model/gmacs", "{:.3g}"),
    "ms": ("bench/latency_ms", "{:.2f}"),
    "images/s": ("train/images_per_s", "{:,.0f}"),
}
SHOWN_ROWS = 20
SHOWN_ERROR = 120
STYLES = {"running": "bold", "failed": "red", "stopped early": "yellow", "waiting": "dim"}


class SweepListener:
    """Shows a sweep from its beginning on; as a context, also how it ends early."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._folder: RunFolder | None = None
        self._screen: SweepScreen | None = None

    def __call__(self, event: SweepEvent) -> None:
        match event:
            case Waiting():
                self.screen.waits(event)
            case SweepBegins():
                self._folder = event.folder
                self._screen = SweepScreen(self._console, event.plan, event.folder.log)
                self._screen.head(event.folder)
                self._screen.__enter__()
            case TrialResult():
                self.screen(event)
            case _:
                assert_never(event)

    @property
    def screen(self) -> SweepScreen:
        assert self._screen, "a trial came before the sweep began"
        return self._screen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, traceback: object) -> None:
        if self._screen and self._folder:
            self._screen.__exit__()
            if isinstance(error, KeyboardInterrupt):
                self._screen.stopped(self._folder)
                raise click.exceptions.Exit(130) from None

    def result(self, summary: SweepSummary) -> None:
        """What the sweep shows; exit code 1 if no trial finished."""
        self.screen.result(summary)
        if summary.best is None:
            raise click.exceptions.Exit(1)


class SweepScreen:
    """A live table in a terminal, one plain line a trial's end elsewhere."""

    def __init__(self, console: Console, plan: Plan, log: Path | None = None) -> None:
        self._console = Doubled(console, log) if log else console
        self._terminal = console if console.is_terminal else None
        self._name = ""
        self._plan = plan
        params = {param.field: param for stage in plan.stages for param in stage.params}
        self._params = list(params.values())
        self._fields = list(params)
        self._total = sum(stage.trials for stage in plan.stages)
        self._trials: dict[str, TrialResult] = {}
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                console=console,
                transient=True,
                get_renderable=self._running_table,
                refresh_per_second=2,
                redirect_stdout=False,
                redirect_stderr=False,
            )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def waits(self, event: Waiting) -> None:
        self._console.print(f"it waits for {event.missing}")

    def head(self, folder: RunFolder) -> None:
        """The sweep in a few lines."""
        self._name = folder.name
        stage, checked = self._plan.stages[0], self._plan.checked
        workers = checked.batch.workers
        noun = "worker" if workers == 1 else "workers"
        scheduler = "" if stage.scheduler == "none" else f", {stage.scheduler} stops early"
        rows = {
            "job": f"{stage.job.name}: {stage.job.model.backbone}, {checked.dataset.describe()}",
            "params": ", ".join(f"{p.field} {p.domain}" for p in self._params),
            "objective": ", ".join(map(str, stage.objectives)),
            "search": f"{stage.search}, {self._total} trials{scheduler}",
            "trial": (
                f"{stage.job.recipe.epochs} epochs on {workers} {noun}, "
                f"{self._plan.at_once} at a time"
            ),
            "tracking": locations.shown(tracking.tracking_uri(stage.job.tracking.uri)),
            "log": locations.shown(folder.log),
        }
        self._console.print(folder.name, style="bold")
        for key, value in rows.items():
            self._console.print(Text.assemble((f"  {key:<9} ", "dim"), value))
        for notice in checked.notices:
            self._console.print(Text.assemble(("  note      ", "yellow"), notice))

    def __call__(self, trial: TrialResult) -> None:
        last = self._trials.get(trial.name)
        self._trials[trial.name] = trial
        if trial.ended and (last is None or last.state != trial.state):
            # A terminal has lines broken between words, a file not at all.
            self._console.print(self._line(trial), soft_wrap=not self._terminal)

    def _line(self, trial: TrialResult) -> Text:
        """A trial that has ended."""
        ended = sum(one.ended for one in self._trials.values())
        total = self._total
        parts = [f"trial {ended:>{len(str(total))}}/{total}  {trial.name}  {trial.state}"]
        if trial.state == "stopped early":
            parts[0] += f" after epoch {trial.epoch}"
        parts += [f"{f} {_value(trial.values[f])}" for f in self._fields if f in trial.values]
        parts += _measured(trial)
        if trial.error:
            # in a terminal all of it is printed once, at the end
            parts.append(shorten(trial.error, SHOWN_ERROR) if self._terminal else trial.error)
        return Text("  ".join(parts), style=STYLES.get(trial.state, ""))

    def _running_table(self) -> Table:
        """Trials that run, and the latest of those that ended."""
        trials = list(self._trials.values())
        running = [t for t in trials if not t.ended]
        ended = [t for t in trials if t.ended]
        counts = f"{len(ended)} of {self._total} trials ended"
        table = self._table([*ended[-max(0, SHOWN_ROWS - len(running)) :], *running])
        table.title, table.title_justify = counts, "left"
        return table

    def _table(self, trials: Sequence[TrialResult]) -> Table:
        """The table with all names in full, where there is room for them."""
        table = self._drawn(trials, narrow=False)
        if self._terminal is None:
            return table
        unbounded = self._terminal.options.update(width=WIDTH_OF_FILES)
        needed = self._terminal.measure(table, options=unbounded).maximum
        return self._drawn(trials, narrow=True) if needed > self._terminal.width else table

    def _drawn(self, trials: Sequence[TrialResult], *, narrow: bool) -> Table:
        fields = [f for f in self._fields if any(f in trial.values for trial in trials)]
        heads = _short(fields) if narrow else fields
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0) if narrow else (0, 1))
        for head in ("trial", "state", "epoch", *heads, *COLUMNS):
            text = head in ("trial", "state")
            table.add_column(head, justify="left" if text else "right", overflow="fold")
        epochs = self._plan.checked.job.recipe.epochs
        for trial in trials:
            cells = [_value(trial.values.get(field, "")) for field in fields]
            for key, shape in COLUMNS.values():
                cells.append(shape.format(trial.metrics[key]) if key in trial.metrics else "")
            table.add_row(
                trial.name.removeprefix(f"{self._name}-") if narrow else trial.name,
                trial.state.split()[0] if narrow else trial.state,
                f"{trial.epoch}/{epochs}",
                *cells,
                style=STYLES.get(trial.state),
            )
        return table

    def result(self, summary: SweepSummary) -> None:
        """What the sweep shows, and what to type next."""
        self._console.print()
        self._console.print(self._table(summary.trials))
        for metric, trials in summary.fronts.items():
            if trials:
                self._console.print(f"\nPareto front of val/top1 against {metric}", style="bold")
            if len(trials) == 1:
                self._console.print(f"{trials[0].name} alone: no other trial is better in either")
            elif trials:
                self._console.print(self._table(trials))
        self._importance(summary)
        self._failures(summary)
        if summary.best is None:
            self._console.print("\nno trial finished")
            return
        values = ", ".join(f"{f} {_value(v)}" for f, v in summary.best.values.items())
        scores = ", ".join(
            f"{o.metric} {summary.best.metrics[o.metric]:.4g}"
            for o in self._plan.stages[0].objectives
        )
        self._console.print(f"\nbest trial  {summary.best.name}: {scores} with {values}")
        job, picture = summary.folder / BEST_FILE, summary.folder / PICTURE_FILE
        self._console.print(f"best job    {locations.shown(job)}", soft_wrap=True)
        self._console.print(f"picture     {locations.shown(picture)}", soft_wrap=True)
        self._console.print("\nNext:")
        for words, purpose in (
            ([*program(), "submit", str(job)], "train the best job"),
            ([*program(), "ui"], "compare the trials in the browser"),
        ):
            line = Text.assemble(f"  {shlex.join(words)}  ", (f"# {purpose}", "dim"))
            self._console.print(line, soft_wrap=True)

    def _importance(self, summary: SweepSummary) -> None:
        reasons = {found.missing for found in summary.importance if found.missing}
        for reason in sorted(reasons):
            metrics = [o.objective.metric for o in summary.importance if o.missing == reason]
            self._console.print(f"\nImportance for {' and '.join(metrics)}: {reason}")
        for found in summary.importance:
            if found.missing:
                continue
            self._console.print(f"\nImportance for {found.objective.metric}", style="bold")
            width = max(map(len, found.shares))
            for field, share in found.shares.items():
                self._console.print(f"{field:<{width}} {100 * share:6.1f} %")

    def _failures(self, summary: SweepSummary) -> None:
        failed = sum(map(len, summary.failures.values()))
        if failed:
            self._console.print(f"\n{failed} of {len(summary.trials)} trials failed")
            for reason, names in summary.failures.items():
                line = f"  {', '.join(names)}: {reason}"
                self._console.print(line, soft_wrap=not self._terminal)

    def stopped(self, folder: RunFolder) -> None:
        """After Ctrl-C."""
        command = shlex.join([*program(), "resume", folder.name])
        self._console.print("stopped")
        self._console.print(f"go on with the trials that are left: {command}", soft_wrap=True)


def _short(fields: Sequence[str]) -> list[str]:
    """Fields by their last names, as many of them as distinguish them."""
    last = [field.rpartition(".")[2] for field in fields]
    return [
        word if last.count(word) == 1 else ".".join(field.split(".")[-2:])
        for field, word in zip(fields, last, strict=True)
    ]


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _measured(trial: TrialResult) -> Sequence[str]:
    units = {"top-1 %": "top-1 {} %", "GMACs": "{} GMACs", "ms": "{} ms"}
    found = []
    for name, shape in units.items():
        key, number = COLUMNS[name]
        if key in trial.metrics:
            found.append(shape.format(number.format(trial.metrics[key])))
    return found

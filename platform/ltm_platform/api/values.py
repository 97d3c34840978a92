"""What calls return, and what their listeners get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform import events
from ltm_platform.errors import RunError, UserError
from ltm_platform.tuning.results import TrialResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ltm_platform.checks import CheckedJob
    from ltm_platform.inference.evaluate import Score
    from ltm_platform.inference.predict import Drawn, Prediction
    from ltm_platform.report.pareto import Measurement
    from ltm_platform.runs.lookup import RunSummary
    from ltm_platform.storage.run_folder import RunFolder
    from ltm_platform.tuning.sweep_driver import Plan

Printed = Callable[[str], None]
"""Called with what Ray, DeepSpeed, torch and their processes print, a line a call."""


@dataclass(frozen=True, slots=True)
class RunBegins:
    """The job is checked and has a name: its workers are about to be started."""

    checked: CheckedJob
    folder: RunFolder


@dataclass(frozen=True, slots=True)
class SweepBegins:
    """The sweep is checked and has a name: its trials are about to be started."""

    plan: Plan
    folder: RunFolder


RunEvent = RunBegins | events.Event
RunListener = Callable[[RunEvent], None]
"""Called with a run's events: `RunBegins` in the caller's thread, the rest in one of its own."""
SweepEvent = SweepBegins | TrialResult
SweepListener = Callable[[SweepEvent], None]
"""Called with a sweep's events: a trial whenever something new is known of it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that a run keeps."""

    location: str
    """A folder, or an address in an object store; `evaluate` takes a folder."""
    top1: float | None
    """Validation top-1 in percent, if it was validated."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that has finished."""

    name: str
    metrics: Mapping[str, float]
    """The latest of each, by its name in MLflow."""
    best: Checkpoint
    """Of the highest validation top-1."""
    last: Checkpoint
    folder: Path
    """With its log, ``run.log``; on a cluster, the head's."""
    run_id: str
    """Of MLflow."""
    tracking_uri: str
    """MLflow's store."""


@dataclass(frozen=True, slots=True)
class SentCommand:
    """A command that a cluster runs, whether this process ends or not."""

    run: str
    """The name of the run that it is about."""
    address: str
    """The cluster's."""
    submission: str
    """Its job there, for Ray's own tools."""

    def follow(self) -> Iterator[str]:
        """What it prints, from its beginning to its end.

        Raises:
            UserError: the cluster is away for too long.
        """
        from ltm_platform.ray_cluster.jobs_api import JobsClient

        yield from JobsClient(self.address).follow(self.submission)

    def ending(self) -> Ending:
        """How it ended, or stands."""
        from ltm_platform.ray_cluster.jobs_api import JobsClient, exit_code

        sent = JobsClient(self.address).look(self.submission)
        unexplained = sent.status != "SUCCEEDED" and sent.exit_code is None
        return Ending(sent.status, exit_code(sent), sent.message if unexplained else "")

    def wait(self, printed: Printed | None = None) -> None:
        """Follow it to its end.

        Raises:
            UserError: the command was refused there; its own sentence.
            KeyboardInterrupt: the run was stopped there, or Ctrl-C came: then it keeps running.
            RunError: it failed.
        """
        last, rest = "", ""
        for piece in self.follow():
            *lines, rest = (rest + piece).split("\n")
            for line in lines:
                last = line or last
                if printed:
                    printed(line)
        self._raise(rest or last)

    def _raise(self, last_line: str) -> None:
        ending = self.ending()
        reason = ending.message or last_line or f"it ended with exit code {ending.exit_code}"
        if ending.exit_code == 2:
            raise UserError(reason)
        if ending.exit_code == 130:
            raise KeyboardInterrupt
        if ending.exit_code:
            raise RunError(f"{self.run} failed on {self.address}: {reason}")


@dataclass(frozen=True, slots=True)
class Ending:
    """Of a command on a cluster."""

    status: str
    """Ray's word for it."""
    exit_code: int
    message: str
    """Ray's, where the command itself could not say why."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where a run is, or would be resumed."""

    name: str
    is_sweep: bool
    address: str
    """Of a Ray, as the job's ``cluster.address``."""
    on_cluster: bool
    """Commands are sent there: this process does not carry them out."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The accuracy of stored weights."""

    scores: tuple[Score, ...]
    """By kind of weights, and within it by ratio."""
    checkpoint: Path
    data: str
    """The data set's name."""
    runs: tuple[str, ...] = ()
    """Under which names it is recorded, of a method that was put on."""
    tracking_uri: str = ""
    """MLflow's store that has those."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One checkpoint at many compression ratios."""

    curves: Mapping[str, Sequence[Measurement]]
    """For each kind of weights, ``weights`` and ``EMA``."""
    checkpoint: Path
    data: str
    run: str | None
    """That it was logged to; None where the checkpoint is no run's, or the data are others."""
    artifacts: str | None
    """Its folder there."""
    tracking_uri: str


@dataclass(frozen=True, slots=True)
class Predicted:
    """What is in images."""

    predictions: tuple[Prediction, ...]
    heatmaps: tuple[Drawn, ...]
    """One an image, if requested."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A network as a file."""

    file: Path
    weights: str
    """Which of a checkpoint's."""
    image_size: int
    """It takes images [B, 3, image_size, image_size]."""
    classes: int
    """It gives logits [B, classes]."""
    difference: float
    """The largest from the trained network's, relative to its largest logit."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a run stands."""

    summary: RunSummary
    waits_for: str
    """Resources that its workers wait for on a cluster that others use, too; else empty."""
    folder: str
    begun: bool
    """Something is recorded of it; else a cluster has it and has not begun."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A run that was requested to stop."""

    name: str
    status: str | None
    """As it was recorded when it had ended; None: it had not begun and was withdrawn, or still
    saves its checkpoint."""

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
    from ltm_platform.inference.analysis import Analysis
    from ltm_platform.inference.evaluate import Score
    from ltm_platform.inference.predict import Drawn, Prediction
    from ltm_platform.report.pareto import Measurement
    from ltm_platform.runs.lookup import RunSummary
    from ltm_platform.runs.rehearsal import Forecast
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
SweepEvent = SweepBegins | events.Waiting | TrialResult
SweepListener = Callable[[SweepEvent], None]
"""Called with a sweep's events: a trial whenever something new is known of it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of a run."""

    location: str
    """A folder, or an address in an object store; `evaluate` accepts folders."""
    top1: float | None
    """Validation top-1 in percent, if it was validated."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that has finished."""

    name: str
    metrics: Mapping[str, float]
    """The latest value of each metric, by its name in MLflow."""
    best: Checkpoint
    """The checkpoint of the highest validation top-1."""
    last: Checkpoint
    folder: Path
    """The run's folder, with its log ``run.log``; on a cluster, a folder of the head."""
    run_id: str
    """The id of its MLflow run."""
    tracking_uri: str
    """The address of MLflow's store."""


@dataclass(frozen=True, slots=True)
class Smoke:
    """A job that was tried, and of which nothing is left."""

    name: str
    epochs: int
    """Of the whole job."""
    checked: CheckedJob
    """What was trained: the job with fewer batches and epochs."""
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class SentCommand:
    """A command that a cluster runs, whether this process ends or not."""

    run: str
    """The name of its run."""
    address: str
    """The address of the cluster."""
    submission: str
    """The id of its Ray job there, for Ray's own tools."""
    notices: tuple[str, ...] = ()
    """What is worth a word about the job, before anything of it is printed there."""

    def follow(self) -> Iterator[str]:
        """What it prints, from its beginning to its end.

        Raises:
            UserError: the cluster cannot be reached for too long.
        """
        from ltm_platform.ray_cluster.jobs_api import JobsClient

        yield from JobsClient(self.address).follow(self.submission)

    def ending(self) -> Ending:
        """Its state, or how it ended."""
        from ltm_platform.ray_cluster.jobs_api import JobsClient, exit_code

        sent = JobsClient(self.address).look(self.submission)
        unexplained = sent.status != "SUCCEEDED" and sent.exit_code is None
        return Ending(sent.status, exit_code(sent), sent.message if unexplained else "")

    def wait(self, printed: Printed | None = None) -> None:
        """Follow it to its end.

        Raises:
            UserError: the command was refused there; the message is its sentence.
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
    """The state of a command on a cluster."""

    status: str
    """Ray's name of the state."""
    exit_code: int
    message: str
    """Ray's message, where the command could not report the reason itself."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where a run is, or would be resumed."""

    name: str
    is_sweep: bool
    address: str
    """The address of a Ray, as the job's ``cluster.address``."""
    on_cluster: bool
    """Whether commands are sent there, rather than run by this process."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The accuracy of stored weights."""

    scores: tuple[Score, ...]
    """Sorted by kind of weights, then by ratio."""
    checkpoint: Path
    data: str
    """The data set's name."""
    runs: tuple[str, ...] = ()
    """The names of the runs that record it, where a method was put on the network."""
    tracking_uri: str = ""
    """The address of MLflow's store that has those runs."""
    left_out: tuple[str, ...] = ()
    """Images that cannot be decoded and are not counted, a sentence each."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One checkpoint at many compression ratios."""

    curves: Mapping[str, Sequence[Measurement]]
    """For each kind of weights, ``weights`` and ``EMA``."""
    checkpoint: Path
    data: str
    run: str | None
    """The run that it was logged to; None for a checkpoint of no run, or for other data."""
    artifacts: str | None
    """Its artifact folder there."""
    tracking_uri: str
    left_out: tuple[str, ...] = ()
    """Images that cannot be decoded and are not counted, a sentence each."""


@dataclass(frozen=True, slots=True)
class Analysed:
    """What networks do with the tokens of the same images."""

    analysis: Analysis
    data: str
    """The data set's name."""
    runs: tuple[str, ...]
    """Those that it was logged to: none for checkpoints of no run, or for other data."""
    artifacts: str
    """The artifact folder there."""
    tracking_uri: str
    files: tuple[Path, ...]
    """In the folder that was asked for: the page of pictures, then the tables."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """The classes of images."""

    predictions: tuple[Prediction, ...]
    heatmaps: tuple[Drawn, ...]
    """One heatmap an image, if requested."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A network as a file, or as a folder."""

    file: Path
    weights: str
    """The kind of weights."""
    image_size: int
    """Its input is images [B, 3, image_size, image_size]."""
    classes: int
    """Its output is logits [B, classes]."""
    difference: float
    """The largest difference from the trained network, relative to its largest logit."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a run."""

    summary: RunSummary
    waits_for: str
    """Resources that its workers wait for on a shared cluster; else empty."""
    folder: str
    begun: bool
    """Whether MLflow has it; else a cluster has it and has not started it."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The result of a request to stop."""

    name: str
    status: str | None
    """The record of the run once it has ended; None if it was withdrawn before its start, or still
    saves its checkpoint."""
    resumable: bool = False
    """Whether `resume` can continue it."""

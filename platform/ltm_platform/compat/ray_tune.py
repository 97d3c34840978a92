"""Ray Tune: its record of a sweep, and its trials beyond what a callback is meant to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

RECORD_PATTERN = "experiment_state-*.json"


def holds_record(folder: Path) -> bool:
    """Whether ``folder`` holds a record of trials to resume from.

    ``Tuner.can_restore`` is true a moment earlier, when there are no trials in it yet.
    """
    return any(folder.glob(RECORD_PATTERN))


def give_up(trial: Trial) -> None:
    """Do not try a trial again, whatever the sweep's ``FailureConfig`` allows for all of them."""
    trial.max_failures = 0


def error_of(trial: Trial) -> BaseException | None:
    """What a trial failed with, as Ray raised it; None where its process just ended.

    A callback is passed that a trial failed, not why. The file on this machine is there first.
    """
    from ray import cloudpickle

    try:
        error: BaseException | None = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):  # of an earlier session
        error = trial.get_pickled_error()
    return error

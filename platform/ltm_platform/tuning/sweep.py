"""All trials of a stage under Ray Tune, from the start or from where they stopped."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import BasicVariantGenerator

from ltm_platform.compat.ray_core import unwrapped
from ltm_platform.compat.ray_tune import error_of, give_up, holds_record
from ltm_platform.errors import RunError, UserError
from ltm_platform.ray_cluster.failures import ControllerLostError, RayLostError
from ltm_platform.ray_cluster.machine.services import Services
from ltm_platform.runs.reservation import free
from ltm_platform.storage.checkpoints import stored
from ltm_platform.storage.permissions import set_umask
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking import ERROR_TAG, STOPPED_TAG
from ltm_platform.tuning.params import Param, Range
from ltm_platform.tuning.results import State, TrialResult
from ltm_platform.tuning.trial import EPOCH, FINISHED, STOPPED, TrialSettings, train

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from ray.tune.search.optuna import OptunaSearch

    from ltm_platform.tracking import TrackedSweep
    from ltm_platform.tuning.spec import Stage

    Begins = Callable[[set[str]], None]
    Watcher = Callable[[TrialResult], None]

ENVIRONMENT = {
    # Tune's own record is written after every event, so that a kill loses hardly anything.
    "TUNE_GLOBAL_CHECKPOINT_S": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # MLflow has what its loggers would write.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Speed is measured once, at a trial's end.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Ctrl-C ends Ray and so all trials at once; there is nothing that Tune would have to save.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
GAVE_UP = "gave_up"
"""Key of a report: why a trial failed in a way that a retry would not change."""
_REDUCTION = 3  # of so many trials ASHA continues one
_STARTUP_TRIALS = 10  # that Optuna draws at random, but not more than half of all


class Trial(tune.Trainable):
    """A trial in a process of Tune's; a step is an epoch.

    The process may run one trial after another: modules stay imported.
    """

    def setup(self, config: dict[str, Any], settings: TrialSettings) -> None:
        self._settings = settings
        set_umask(settings.job.cluster.group)  # on a cluster Ray's own is inherited
        self._begin(config)

    def _begin(self, values: dict[str, Any]) -> None:
        self._reason: Exception | None = None
        self._training: Generator[dict[str, float], None, None] = train(
            self._settings, self.trial_name, values
        )

    def step(self) -> dict[str, Any]:
        if self._reason:
            raise self._reason
        try:
            report: dict[str, Any] = next(self._training)
        except ControllerLostError:
            raise  # another attempt may help
        except (UserError, RunError) as error:
            self._reason = error
            return {GAVE_UP: str(error)}
        return report | {"done": FINISHED in report or STOPPED in report}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self._training.close()


class _Lost(BaseException):
    """Of no kind that Tune handles: it would clean up by asking the Ray that is lost."""

    def __init__(self, error: RayLostError) -> None:
        super().__init__(error)
        self.error = error


class _Board:
    """What is known of every trial; calls the watcher with what is new."""

    def __init__(
        self,
        watchers: tuple[Watcher, ...],
        begins: Begins | None = None,
        services: Services | None = None,
    ) -> None:
        self._watchers = watchers
        self._services = services
        self._begins = begins
        self._reasons: dict[str, str] = {}
        self.trials: dict[str, TrialResult] = {}

    def begin(self, trials: list[TuneTrial]) -> None:
        """Report once which trials Tune knows of before it makes more.

        Raises:
            _Lost: Ray has ended; Tune itself would wait for it.
        """
        try:
            if self._services:
                self._services.check()
        except RayLostError as error:
            raise _Lost(error) from None
        if self._begins:
            self._begins({str(trial) for trial in trials})
            self._begins = None

    def give_up(self, trial: TuneTrial, reason: str) -> None:
        give_up(trial)
        self._reasons[str(trial)] = reason

    def look(self, trials: list[TuneTrial]) -> None:
        for trial in trials:
            name = str(trial)
            last = self.trials.get(name)
            now = self._seen(trial, last)
            if now != last:
                self.trials[name] = now
                for watcher in self._watchers:
                    watcher(now)

    def _seen(self, trial: TuneTrial, last: TrialResult | None) -> TrialResult:
        result = trial.last_result
        state = _state(trial)
        metrics = {key: value for key, value in result.items() if "/" in key}
        error = None
        if state == "failed":
            error = last.error if last and last.error else self._reasons.get(str(trial))
            error = error or _error(trial)
        return TrialResult(
            name=str(trial),
            values=trial.config,
            state=state,
            epoch=max(result.get(EPOCH, 0), last.epoch if last else 0),
            metrics=(dict(last.metrics) if last else {}) | metrics,
            error=error,
        )


def _state(trial: TuneTrial) -> State:
    if trial.status == TuneTrial.ERROR:
        return "failed"
    if trial.status == TuneTrial.TERMINATED:
        return "finished" if FINISHED in trial.last_result else "stopped early"
    return "running" if trial.status == TuneTrial.RUNNING else "waiting"


def _error(trial: TuneTrial) -> str:
    """The exception of a trial in one line, without Ray's wrapping and traceback."""
    error = error_of(trial)
    if error is None:
        return "its process ended"
    cause = unwrapped(error)
    if isinstance(cause, UserError | RunError):
        return str(cause).splitlines()[0]
    return f"{type(cause).__name__}: {cause}".splitlines()[0]


# Tune stores its callbacks with its record of the sweep, so what they report is kept elsewhere.
_board = _Board(())


class _Watch(tune.Callback):
    """Keeps the board of the running sweep."""

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **_: Any) -> None:  # noqa: ARG002 - Tune's signature
        _board.begin(trials)

    def on_trial_result(
        self,
        iteration: int,  # noqa: ARG002
        trials: list[TuneTrial],  # noqa: ARG002
        trial: TuneTrial,
        result: dict[str, Any],
        **_: Any,
    ) -> None:
        if GAVE_UP in result:
            _board.give_up(trial, result[GAVE_UP])

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **_: Any) -> None:  # noqa: ARG002
        _board.look(trials)

    def on_experiment_end(self, trials: list[TuneTrial], **_: Any) -> None:
        _board.look(trials)


@dataclass(frozen=True, slots=True)
class _Namer:
    """The next free number, kept by making the trial's folder."""

    folder: Path
    sweep: str

    def __call__(self, _: TuneTrial) -> str:
        number = 1 + sum(1 for _ in self.folder.iterdir())
        while True:
            name = f"{self.sweep}-{number:03d}"
            try:
                (self.folder / name).mkdir()
            except FileExistsError:
                number += 1
            else:
                return name


def run_stage(
    stage: Stage,
    settings: TrialSettings,
    record: Path,
    sweep: TrackedSweep,
    *,
    earlier: set[str],
    at_once: int,
    use_gpu: bool,
    watcher: Watcher,
) -> list[TrialResult]:
    """Run all trials, or those that are left. Ray must be running.

    Args:
        record: folder of Tune's own record of the stage; if it holds one, the stage is resumed.
        earlier: names of the trials of the stages before.
        at_once: how many trials there is room for.
        watcher: is called with everything that is new about a trial.

    Raises:
        KeyboardInterrupt: SIGINT came; running trials are left as they are.
        UserError: there are trials of the stage, but no record of it.
        RayLostError: Ray has ended.
    """
    global _board

    def begins(known: set[str]) -> None:
        drop_unknown(settings.folder, earlier | known, sweep)

    _board = _Board((_Closer(settings, sweep), watcher), begins, Services.here())
    os.environ.update(ENVIRONMENT)
    settings.folder.mkdir(parents=True, exist_ok=True)
    workers = stage.job.cluster.worker_range[1]
    trainable = tune.with_resources(
        tune.with_parameters(Trial, settings=settings),
        _resources(stage, alone=workers == 1, use_gpu=use_gpu),
    )
    if holds_record(record):
        tuner = tune.Tuner.restore(str(record), trainable)
    else:
        check_not_lost(settings.folder, earlier)
        tuner = tune.Tuner(
            trainable,
            param_space={param.field: _domain(param, stage.search) for param in stage.params},
            tune_config=tune.TuneConfig(
                num_samples=stage.samples,
                # A search without Optuna is configured itself.
                max_concurrent_trials=at_once if stage.search == "optuna" else None,
                search_alg=_search(stage, at_once),
                scheduler=_scheduler(stage),
                # Workers of Ray Train end with their process.
                reuse_actors=workers == 1,
                trial_name_creator=_Namer(settings.folder, settings.folder.parent.name),
                trial_dirname_creator=str,
            ),
            run_config=tune.RunConfig(
                name=record.name,
                storage_path=str(record.parent),
                callbacks=[_Watch()],
                failure_config=tune.FailureConfig(max_failures=stage.job.cluster.max_failures),
                # A trial keeps its own.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
    try:
        tuner.fit()
    except _Lost as lost:
        raise lost.error from None
    return list(_board.trials.values())


def check_not_lost(folder: Path, earlier: set[str]) -> None:
    """See that a stage of which Tune has no record has trained nothing yet.

    Raises:
        UserError: trials besides the ``earlier`` ones have checkpoints, which would be removed.
    """
    trials = [path.name for path in sorted(folder.iterdir()) if path.name not in earlier]
    trained = [name for name in trials if stored(RunFolder(folder / name))]
    if trained:
        raise UserError(
            f"the sweep {folder.parent.name!r} has lost Tune's record of its trials, but not their "
            f"checkpoints ({', '.join(trained)}): start another with ltm-platform tune"
        )


def drop_unknown(folder: Path, known: set[str], sweep: TrackedSweep) -> None:
    """Remove what is left of trials that began just before a sweep was killed, too late for Tune's
    record: Tune makes them again."""
    for trial in folder.iterdir():
        if trial.name not in known:
            sweep.delete_trial(trial)
            shutil.rmtree(trial)


@dataclass(frozen=True, slots=True)
class _Closer:
    """Closes the MLflow runs of trials that were stopped and so could not do it themselves."""

    settings: TrialSettings
    sweep: TrackedSweep

    def __call__(self, trial: TrialResult) -> None:
        folder = self.settings.folder / trial.name
        if trial.state == "stopped early":
            self.sweep.end_trial(folder, "FINISHED", {STOPPED_TAG: str(trial.epoch)})
        if trial.state == "failed":
            free(folder)
            self.sweep.end_trial(folder, "FAILED", {ERROR_TAG: trial.error or ""})


def _resources(stage: Stage, *, alone: bool, use_gpu: bool) -> dict[str, float]:
    """What Tune reserves for a trial; Ray Train itself reserves for several workers."""
    if not alone:
        return {"memory": 1}  # a byte: Ray knows no request for nothing
    gpus = stage.job.cluster.gpus_per_worker if use_gpu else 0
    return {"CPU": stage.job.cluster.cpus_per_worker, "GPU": gpus}


def _domain(param: Param, search: str) -> Any:
    domain = param.domain
    if not isinstance(domain, Range):
        values = list(domain.values)
        grid = domain.grid or search == "grid"
        return tune.grid_search(values) if grid else tune.choice(values)
    if domain.integer:
        draw = tune.lograndint if domain.log else tune.randint
        return draw(int(domain.low), int(domain.high) + 1)
    return (tune.loguniform if domain.log else tune.uniform)(domain.low, domain.high)


def _search(stage: Stage, at_once: int) -> BasicVariantGenerator | OptunaSearch:
    if stage.search != "optuna":
        return BasicVariantGenerator(max_concurrent=at_once, random_state=stage.seed)
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(
        # Lists, also of one: then what is measured at a trial's end may be an objective.
        metric=[objective.metric for objective in stage.objectives],
        mode=[objective.direction for objective in stage.objectives],
        sampler=optuna.samplers.TPESampler(
            seed=stage.seed,
            n_startup_trials=min(_STARTUP_TRIALS, stage.samples // 2),
            constant_liar=True,  # trials that run at the same time keep apart
        ),
    )


def _scheduler(stage: Stage) -> TrialScheduler:
    first = stage.objectives[0]
    judged = {"time_attr": EPOCH, "metric": first.metric, "mode": first.direction}
    if stage.scheduler == "asha":
        return ASHAScheduler(
            **judged,
            grace_period=stage.grace,
            max_t=stage.job.recipe.epochs - 1,
            reduction_factor=_REDUCTION,
            stop_last_trials=False,
        )
    if stage.scheduler == "median":
        return MedianStoppingRule(
            **judged,
            grace_period=stage.grace,
            min_time_slice=math.inf,  # it would pause trials until it has seen enough
        )
    return FIFOScheduler()

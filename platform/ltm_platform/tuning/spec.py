"""A sweep as a value: all that is needed to start and to resume it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from ltm.errors import named, quoted
from ltm_platform.errors import UserError, first_invalid, nearest, typed
from ltm_platform.job import JobSpec, completed
from ltm_platform.storage.files import SWEEP_FILE
from ltm_platform.tuning.objectives import SweepObjective, read_objectives
from ltm_platform.tuning.params import FOLD, Param, Range, Values, grid_size, read_params

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SEARCHES = ("optuna", "random", "grid")
SCHEDULERS = ("none", "asha", "median")
DEFAULT_TRIALS = 8
MOST_TRIALS = 10_000
LARGEST_SEED = 2**32 - 1
PROTOCOLS = ("published",)
PUBLISHED_SUBSET = 0.1
PUBLISHED_FOLDS = 5
PUBLISHED_GRIDS = {
    # The values are ours: the source names the protocol, not its grids.
    "ib_weight": "grid:0.02,0.05,0.1,0.2,0.5",
    "ib_warmup": "grid:0.1,0.2,0.3,0.4,0.5",
}
NO_PBT = (
    "--scheduler pbt: population based training overwrites the weights and the settings of a trial "
    "with another's while it runs, so that no job file would describe the best trial any more: "
    "use asha or median"
)


@dataclass(frozen=True, slots=True)
class Stage:
    """Trials that are chosen together: by one search over some fields."""

    job: JobSpec
    """The parameters that its trials vary."""
    params: tuple[Param, ...]
    objectives: tuple[SweepObjective, ...]
    search: Literal["optuna", "random", "grid"]
    samples: int
    """How many values the search suggests; with grids, for every combination."""
    scheduler: Literal["none", "asha", "median"]
    grace: int
    """Epochs that every trial has before it can be stopped early."""
    seed: int

    @property
    def trials(self) -> int:
        return self.samples * (
            _combinations(self.params) if self.search == "grid" else grid_size(self.params)
        )


@dataclass(frozen=True, slots=True)
class Sweep:
    """What the user gave, as written, with the whole job."""

    name: str
    job: dict[str, Any]
    params: tuple[str, ...]
    objectives: tuple[str, ...] = ()
    search: str | None = None
    trials: int | None = None
    scheduler: str = "none"
    grace: int = 1
    seed: int = 0
    protocol: str | None = None

    def save(self, folder: Path) -> None:
        (folder / SWEEP_FILE).write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def load(cls, folder: Path) -> Sweep:
        """UserError: the folder is no sweep's."""
        file = folder / SWEEP_FILE
        try:
            sweep = TypeAdapter(cls).validate_json(file.read_bytes(), strict=True)
            return replace(sweep, job=completed(sweep.job))
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            field, problem = first_invalid(error)
            raise UserError(f"{file} is no sweep: {named(field or 'it')}: {problem}") from None


def named_as_sweep(job: JobSpec) -> JobSpec:
    """The job with the name that sweeps of it begin with."""
    return job.replace("name", f"{job.name[:50]}-sweep")


def read_stages(sweep: Sweep) -> tuple[Stage, ...]:
    """The stages, searched one after another; each starts from the best values of the one before.

    Raises:
        UserError: a name or a value is invalid, or two exclude each other.
    """
    if sweep.protocol is None:
        return (_read_stage(sweep),)
    _one_of("--protocol", sweep.protocol, PROTOCOLS)
    return _published(sweep)


def _published(sweep: Sweep) -> tuple[Stage, ...]:
    """The IB weight, then the warm-up share, each by cross-validation on a part of the data."""
    if (sweep.search or "grid") != "grid" or sweep.trials is not None or sweep.objectives:
        raise UserError(
            "--protocol published tries all values of its grids for val/top1: "
            "leave --search, --trials and --objective out"
        )
    given = {text.partition("=")[0].strip(): text for text in sweep.params}
    for name, text in given.items():
        if name not in PUBLISHED_GRIDS:
            raise UserError(
                f"--param {typed(text)}: the published protocol tunes "
                f"{' and '.join(PUBLISHED_GRIDS)} alone"
            )
    data = sweep.job["data"] | {"subset": PUBLISHED_SUBSET, "folds": PUBLISHED_FOLDS}
    folds = f"{FOLD}=grid:{','.join(map(str, range(PUBLISHED_FOLDS)))}"
    return tuple(
        _read_stage(
            replace(
                sweep,
                job=sweep.job | {"data": data},
                params=(given.get(name, f"{name}={grid}"), folds),
                search="grid",
            )
        )
        for name, grid in PUBLISHED_GRIDS.items()
    )


def _read_stage(sweep: Sweep) -> Stage:
    from ltm_platform.tuning import keep_ratios

    job = JobSpec.from_dict(sweep.job)
    objectives = read_objectives(sweep.objectives)
    params = read_params(sweep.params, job, lambda: keep_ratios.sites(job))
    _one_of("--search", sweep.search or "optuna", SEARCHES)
    if sweep.scheduler == "pbt":
        raise UserError(NO_PBT)
    _one_of("--scheduler", sweep.scheduler, SCHEDULERS)
    _check_objectives(job, objectives, sweep.scheduler)
    if sweep.scheduler != "none" and not 1 <= sweep.grace < job.recipe.epochs:
        raise UserError(
            f"--grace is {quoted(sweep.grace)}, but with recipe.epochs {job.recipe.epochs} a trial "
            f"can be stopped early after 1 to {job.recipe.epochs - 1} epochs"
        )
    _within("--seed", sweep.seed, 0, LARGEST_SEED)
    search, samples = _search(sweep, params)
    stage = Stage(
        job=job,
        params=params,
        objectives=objectives,
        search=search,
        samples=samples,
        scheduler=sweep.scheduler,  # type: ignore[arg-type]  # checked above
        grace=sweep.grace,
        seed=sweep.seed,
    )
    if stage.trials > MOST_TRIALS:
        raise UserError(
            f"--param: that makes {stage.trials} trials, but at most {MOST_TRIALS} can be run"
        )
    return stage


def _within(option: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(f"{option} is {quoted(value)}, but must be from {low} to {high}")


def _one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(
            f"{option} is {quoted(value)}{nearest(value, allowed)} (allowed: {', '.join(allowed)})"
        )


def _check_objectives(job: JobSpec, objectives: Sequence[SweepObjective], scheduler: str) -> None:
    first = objectives[0]
    if scheduler != "none" and not first.every_epoch:
        raise UserError(
            f"--scheduler {scheduler} judges trials after every epoch by the first objective, "
            f"but {first.metric} is not measured then: name val/top1 first"
        )
    if any(one.metric == "val/ema_top1" for one in objectives) and not job.recipe.ema_decay:
        raise UserError("--objective val/ema_top1 needs recipe.ema_decay, which the job lacks")


def _search(
    sweep: Sweep, params: Sequence[Param]
) -> tuple[Literal["optuna", "random", "grid"], int]:
    """Which search, and how many trials it suggests."""
    grids = [p for p in params if isinstance(p.domain, Values) and p.domain.grid]
    ranges = [p for p in params if isinstance(p.domain, Range)]
    if sweep.search == "grid" or (sweep.search is None and len(grids) == len(params)):
        if ranges:
            field, low, high = ranges[0].field, ranges[0].domain.low, ranges[0].domain.high  # type: ignore[union-attr]
            raise UserError(
                f"--search grid tries every value, but {field} is a range: "
                f"list them, as --param {field}=grid:{low:g},{high:g}"
            )
        if sweep.trials is not None:
            raise UserError(
                f"--trials is {quoted(sweep.trials)}, but a grid has {_combinations(params)} "
                f"trials: leave it out, or use --search random"
            )
        return "grid", 1
    if sweep.search == "optuna" and grids:
        raise UserError(
            f"--search optuna chooses values itself, but {grids[0].field} is a grid: "
            f"say choice: instead, or use --search random"
        )
    samples = DEFAULT_TRIALS if sweep.trials is None else sweep.trials
    _within("--trials", samples, 1, MOST_TRIALS)
    return ("random" if grids or sweep.search == "random" else "optuna"), samples


def _combinations(params: Sequence[Param]) -> int:
    size = 1
    for param in params:
        size *= len(param.domain.ends)
    return size

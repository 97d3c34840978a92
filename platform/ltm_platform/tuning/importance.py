"""Which of the fields made the difference, as Optuna estimates it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.tuning.params import Param, Range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna

    from ltm_platform.tuning.objectives import SweepObjective
    from ltm_platform.tuning.results import TrialResult

LEAST_TRIALS = 4


@dataclass(frozen=True, slots=True)
class Importance:
    """How much each field matters for an objective."""

    objective: SweepObjective
    shares: Mapping[str, float]
    """Each field's share of the variance of the objective; they sum to 1, the largest first."""
    missing: str | None = None
    """Why there are no shares."""


def importance(
    trials: Sequence[TrialResult], params: Sequence[Param], objective: SweepObjective
) -> Importance:
    """By fANOVA, of the trials that have finished."""
    if len(params) < 2:
        return Importance(objective, {}, "one field alone has nothing to be compared with")
    scored = [
        (trial, value)
        for trial in trials
        if trial.state == "finished" and (value := objective.of(trial.metrics)) is not None
    ]
    if len(scored) < LEAST_TRIALS:
        reason = f"it takes {LEAST_TRIALS} finished trials to tell, and there are {len(scored)}"
        return Importance(objective, {}, reason)
    if len({value for _, value in scored}) == 1:
        return Importance(objective, {}, f"all {len(scored)} finished trials are equal")
    return Importance(objective, _shares(scored, params, objective))


def _shares(
    scored: Sequence[tuple[TrialResult, float]], params: Sequence[Param], objective: SweepObjective
) -> dict[str, float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {param.field: distribution(param) for param in params}
    study = optuna.create_study(
        direction="maximize" if objective.direction == "max" else "minimize"
    )
    for trial, value in scored:
        given = {param.field: trial.values[param.field] for param in params}
        study.add_trial(optuna.create_trial(params=given, distributions=space, value=value))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {field: float(share) for field, share in found.items()}


def distribution(param: Param) -> optuna.distributions.BaseDistribution:
    """The domain as Optuna's distribution."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    domain = param.domain
    if not isinstance(domain, Range):
        return CategoricalDistribution(domain.values)
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)

"""Which of the fields made the difference, as Optuna estimates it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_platform.tuning.params import Param, Range

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna

    from ltm_platform.tuning.objectives import Objective
    from ltm_platform.tuning.results import TrialResult

LEAST_TRIALS = 4


def importance(
    trials: Sequence[TrialResult], params: Sequence[Param], objective: Objective
) -> dict[str, float]:
    """Share of each field in the spread of the objective, adding up to 1, the largest first.

    Nothing with too few finished trials to tell, or when all of them are equal.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {param.field: distribution(param) for param in params}
    study = optuna.create_study(
        direction="maximize" if objective.direction == "max" else "minimize"
    )
    values = []
    for trial in trials:
        value = objective.of(trial.metrics)
        if trial.state == "finished" and value is not None:
            values.append(value)
            given = {param.field: trial.values[param.field] for param in params}
            study.add_trial(optuna.create_trial(params=given, distributions=space, value=value))
    if len(values) < LEAST_TRIALS or len(set(values)) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {field: float(share) for field, share in found.items()}


def distribution(param: Param) -> optuna.distributions.BaseDistribution:
    """What Optuna calls the domain."""
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

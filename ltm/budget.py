"""The plan whose multiply-accumulates come closest to a budget from below."""

from __future__ import annotations

import logging
from typing import Any

from ltm._arguments import check_budget
from ltm.errors import FieldError
from ltm.flops import count
from ltm.modes import unchanged_on_error

_logger = logging.getLogger(__name__)
_SMALLEST = 1e-6  # a ratio that keeps as little as a plan can


def fit_budget(model: Any, gmacs: float, field: str = "gmacs") -> None:
    """Compress a model to at most `gmacs` (1e9 MACs an image, attention included).

    Searches the ratios that give different plans, by bisection: more tokens never cost less. The
    choice is logged, and stands in `model.plan`.

    model: a `ltm.backbones.MergingModel`. field: what the budget is called where it is given.

    FieldError, with the range that is possible, and no change, for a target below the cost of the
    smallest plan.
    """
    target = check_budget(field, gmacs)
    with unchanged_on_error(model):
        _search(model, target, field)


def _search(model: Any, target: float, field: str) -> None:
    least_ratio = max(model.least_ratio, _SMALLEST)
    model.set_compression(least_ratio)
    steps = next((site.tokens for site in model.sites.values()), 1)

    known: dict[str, float] = {}  # many ratios make the same plan of a grid

    def cost(step: int) -> float:
        model.set_compression(max(least_ratio, step / steps))
        plan = str(model.plan)
        if plan not in known:
            known[plan] = count(model, model.image_size).gmacs
        return known[plan]

    most, least = cost(steps), cost(1)
    if target < least:
        raise FieldError(
            field,
            target,
            f"{least:.4g} or more for this model at {model.image_size[0]} x "
            f"{model.image_size[1]} pixels; without merging it takes {most:.4g}",
        )
    low, high = 1, steps + 1  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        if cost(middle) <= target:
            low = middle
        else:
            high = middle
    takes = cost(low)
    _logger.info("target %.4g GMACs: plan %s takes %.4g", target, model.plan, takes)

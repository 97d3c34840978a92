"""The plan whose multiply-accumulates come closest to a budget from below."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ltm.errors import FieldError
from ltm.flops import count

if TYPE_CHECKING:
    from ltm.backbones import MergingModel

_logger = logging.getLogger(__name__)
_SMALLEST = 1e-6  # a ratio that keeps as little as a plan can


def fit_budget(model: MergingModel, target_gmacs: float) -> None:
    """Compress a model to at most `target_gmacs` (1e9 MACs an image, attention included).

    Searches the ratios that give different plans, by bisection: more tokens never cost less. The
    choice is logged, and stands in `model.plan`. FieldError, with the range that is possible, for
    a target below the cost of the smallest plan.
    """
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
    if not target_gmacs >= least:
        model.set_compression()
        raise FieldError(
            "target_gmacs",
            target_gmacs,
            f"{least:.4g} or more for this model at {model.image_size[0]} x "
            f"{model.image_size[1]} pixels; without merging it takes {most:.4g}",
        )
    low, high = 1, steps + 1  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        if cost(middle) <= target_gmacs:
            low = middle
        else:
            high = middle
    gmacs = cost(low)
    _logger.info("target %.4g GMACs: plan %s takes %.4g", target_gmacs, model.plan, gmacs)

"""Keep ratios, one a site, and the plan that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm.plan import grid_for_ratio, tokens_for_ratio
from ltm_platform.job import BUDGETS
from ltm_platform.models import create_model
from ltm_platform.tuning.params import KEEP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ltm.interfaces import Grid, Kept
    from ltm_platform.job import JobSpec

_CLASSES = 2  # any number will do


def sites(job: JobSpec) -> tuple[list[str], list[str]]:
    """All sites where the job's network may merge, and those that merge by default."""
    model = create_model(_unplanned(job), _CLASSES, method="ltm")
    default = model.default_plan()
    names = list(default) if isinstance(default, dict) else model.default_sites()
    return model.site_names(), names


def with_keep_ratios(job: JobSpec, values: Mapping[str, Any]) -> JobSpec:
    """The job with the plan that the ``keep_ratio.SITE`` in ``values`` make; else as it is."""
    ratios = {
        name.removeprefix(f"{KEEP}."): ratio
        for name, ratio in values.items()
        if name.startswith(f"{KEEP}.")
    }
    if not ratios or job.model.method == "none":
        return job
    job = _unplanned(job)
    model = create_model(job, _CLASSES)

    def choose(name: str, grid: Grid | None, tokens: int) -> Kept | None:
        if name not in ratios:
            return None
        if model.needs_grid and grid is not None:
            return grid_for_ratio(ratios[name], grid, model.smallest_grid)
        return tokens_for_ratio(ratios[name], tokens)

    plan = {site.name: site.kept for site in model.walk(choose)}
    return job.replace(
        "model.plan", {k: v if isinstance(v, int) else [*v] for k, v in plan.items()}
    )


def _unplanned(job: JobSpec) -> JobSpec:
    for budget in BUDGETS:
        job = job.replace(budget, None)
    return job

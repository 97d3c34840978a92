"""From keep ratios, one a site, to the plan of a trial's job."""

from __future__ import annotations

import pytest

from ltm_platform.job import JobSpec
from ltm_platform.tuning import keep_ratios


@pytest.fixture(scope="module")
def job() -> JobSpec:
    return JobSpec.load("quickstart")


def test_the_sites_are_named_all_and_those_of_the_default_plan(job: JobSpec) -> None:
    every, default = keep_ratios.sites(job.replace("model.target_gmacs", None))
    assert every == [f"blocks.{number}" for number in range(4)]
    assert default
    assert set(default) < set(every)


def test_without_keep_ratios_or_a_method_a_job_stays_as_it_is(job: JobSpec) -> None:
    assert keep_ratios.with_keep_ratios(job, {"recipe.lr": 0.1}) is job
    unmerged = job.replace("model.method", "none")
    assert keep_ratios.with_keep_ratios(unmerged, {"keep_ratio.blocks.0": 0.5}) is unmerged


def test_keep_ratios_become_a_plan_site_by_site(job: JobSpec) -> None:
    values = {"keep_ratio.blocks.0": 0.5, "keep_ratio.blocks.2": 0.5}
    assert keep_ratios.with_keep_ratios(job, values).model.plan == {"blocks.0": 32, "blocks.2": 16}


def test_keep_ratios_keep_a_grid_where_the_network_needs_one(job: JobSpec) -> None:
    staged = job.replace("model.backbone", "mobilevit_xs").replace("model.image_size", 224)
    _, sites = keep_ratios.sites(staged)
    values = {f"keep_ratio.{site}": 0.7 for site in sites}
    plan = keep_ratios.with_keep_ratios(staged, values).model.plan
    assert len(sites) > 1
    assert plan
    assert all(isinstance(kept, tuple) for kept in plan.values())

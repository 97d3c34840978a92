from __future__ import annotations

import importlib
import logging
from pathlib import Path

import pytest
import ray

from ltm_platform.compat import ray_jobs

DASHBOARD = Path(ray.__file__).parent / "dashboard" / "modules" / "job"


@pytest.mark.parametrize("name", ray_jobs.CLIENT_LOGGERS)
def test_a_module_of_the_client_sets_a_level_of_its_own(name: str) -> None:
    importlib.import_module(name)
    assert name in logging.root.manager.loggerDict
    ray_jobs.quiet_client()
    assert logging.getLogger(name).level == logging.WARNING


def test_a_head_without_an_agent_says_so() -> None:
    text = "No available agent to submit job, please try again later."
    assert text in (DASHBOARD / "job_head.py").read_text()
    assert ray_jobs.is_agent_missing(RuntimeError(f"Request failed with status code 500:\n{text}"))
    assert not ray_jobs.is_agent_missing(RuntimeError("Request failed with status code 400: no"))


def test_a_job_is_given_time_by_its_environment() -> None:
    assert f'"{ray_jobs.STOP_WAIT_VARIABLE}"' in (DASHBOARD / "job_supervisor.py").read_text()


def test_the_dashboard_tells_its_version() -> None:
    assert f'@routes.get("{ray_jobs.VERSION_PATH}")' in (DASHBOARD / "job_head.py").read_text()

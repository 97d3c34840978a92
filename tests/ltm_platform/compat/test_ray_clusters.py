from __future__ import annotations

import importlib
import logging
from pathlib import Path

import pytest
import ray
from jsonschema import Draft7Validator
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.utils import ClusterStatusFormatter

from ltm_platform.compat import ray_clusters

TRACEBACK = """Traceback (most recent call last):
  File "ray", line 8, in <module>
    raise CouldNotStart(name)
ray.autoscaler.CouldNotStartError: first

During handling of the above exception, another exception occurred:

RuntimeError: Head node of cluster (ltm) not found!\r"""
DASHBOARD = Path(ray.__file__).parent / "dashboard" / "modules" / "job"


@pytest.mark.parametrize("name", ray_clusters.CLIENT_LOGGERS)
def test_a_module_of_the_client_sets_a_level_of_its_own(name: str) -> None:
    importlib.import_module(name)
    assert name in logging.root.manager.loggerDict
    ray_clusters.quiet_client()
    assert logging.getLogger(name).level == logging.WARNING


def test_a_head_without_an_agent_says_so() -> None:
    text = "No available agent to submit job, please try again later."
    assert text in (DASHBOARD / "job_head.py").read_text()
    assert ray_clusters.is_agent_missing(
        RuntimeError(f"Request failed with status code 500:\n{text}")
    )
    assert not ray_clusters.is_agent_missing(
        RuntimeError("Request failed with status code 400: no")
    )


def test_a_job_is_given_time_by_its_environment() -> None:
    assert f'"{ray_clusters.STOP_WAIT_VARIABLE}"' in (DASHBOARD / "job_supervisor.py").read_text()


def test_the_dashboard_tells_its_version() -> None:
    assert f'@routes.get("{ray_clusters.VERSION_PATH}")' in (DASHBOARD / "job_head.py").read_text()


def test_the_schema_knows_what_a_cluster_file_must_have() -> None:
    schema = ray_clusters.cluster_file_schema()
    Draft7Validator.check_schema(schema)
    valid = Draft7Validator(schema).is_valid
    assert valid({"cluster_name": "x", "provider": {"type": "aws"}})
    assert not valid({"cluster_name": "x", "provider": {"type": "aws"}, "max_workers": "many"})


@pytest.mark.parametrize(
    ("output", "reason"),
    [(TRACEBACK, "Head node of cluster (ltm) not found!"), ("all is well", None)],
)
def test_the_reason_is_the_last_exceptions(output: str, reason: str | None) -> None:
    assert ray_clusters.failure_of(output) == reason


def test_the_status_begins_with_its_title() -> None:
    page = ClusterStatusFormatter.format(ClusterStatus())
    title = page.lstrip().splitlines()[0]
    assert title.startswith("======== Autoscaler status")
    shown = ray_clusters.status_page(f"Loaded cached provider configuration\n{page}")
    assert shown == page.lstrip()
    assert ray_clusters.status_page("no page") == "no page"

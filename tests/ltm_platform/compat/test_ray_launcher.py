from __future__ import annotations

import pytest
from jsonschema import Draft7Validator
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.utils import ClusterStatusFormatter

from ltm_platform.compat import ray_launcher

TRACEBACK = """Traceback (most recent call last):
  File "ray", line 8, in <module>
    raise CouldNotStart(name)
ray.autoscaler.CouldNotStartError: first

During handling of the above exception, another exception occurred:

RuntimeError: Head node of cluster (ltm) not found!\r
"""


def test_the_schema_knows_what_a_cluster_file_must_have() -> None:
    schema = ray_launcher.cluster_file_schema()
    Draft7Validator.check_schema(schema)
    valid = Draft7Validator(schema).is_valid
    assert valid({"cluster_name": "x", "provider": {"type": "aws"}})
    assert not valid({"cluster_name": "x", "provider": {"type": "aws"}, "max_workers": "many"})


@pytest.mark.parametrize(
    ("output", "reason"),
    [(TRACEBACK, "Head node of cluster (ltm) not found!"), ("all is well", None)],
)
def test_the_reason_is_the_last_exceptions(output: str, reason: str | None) -> None:
    assert ray_launcher.failure_of(output) == reason


def test_the_status_begins_with_its_title() -> None:
    page = ClusterStatusFormatter.format(ClusterStatus())
    title = page.lstrip().splitlines()[0]
    assert title.startswith("======== Autoscaler status")
    shown = ray_launcher.status_page(f"Loaded cached provider configuration\n{page}")
    assert shown == page.lstrip()
    assert ray_launcher.status_page("no page") == "no page"

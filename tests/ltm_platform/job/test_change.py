"""What may differ when a run goes on."""

from __future__ import annotations

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec, changes

OLD = JobSpec.load("quickstart")


def test_what_differs_is_told_with_both_values() -> None:
    new = JobSpec.load("quickstart", ["recipe.lr=0.001", "cluster.workers=[1,2]"])
    assert changes(OLD, new) == {"cluster.workers": "2 -> [1, 2]", "recipe.lr": "0.002 -> 0.001"}
    assert changes(OLD, OLD) == {}


@pytest.mark.parametrize(
    "override",
    [
        "model.compression_ratio=0.5",
        "recipe.global_batch=64",
        "recipe.seed=1",
        "data.path=/elsewhere",
        "cluster.storage=/elsewhere",
        "engine.zero_stage=3",
    ],
)
def test_what_would_make_it_another_run_is_refused(override: str) -> None:
    key, value = override.split("=")
    with pytest.raises(UserError) as error:
        changes(OLD, JobSpec.load("quickstart", [override]))
    sentence = str(error.value)
    assert f"--set {override}: {key} is" in sentence
    assert value in sentence
    assert "allowed to change are recipe.epochs" in sentence

"""Settings of DeepSpeed: which of them a field decides, and how the others join ours."""

from __future__ import annotations

from typing import Any

import pytest

from ltm_platform.job.deepspeed_settings import FIELD_OF, merged, taken
from ltm_platform.job.spec import JobSpec


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, None),
        ({"zero_optimization": {"overlap_comm": True}}, None),
        ({"fp16": {"initial_scale_power": 8}}, None),
        ({"zero_optimization": {"offload_optimizer": {"pin_memory": True}}}, None),
        ({"train_batch_size": 8}, ("train_batch_size", "recipe.global_batch")),
        ({"zero_optimization": {"stage": 1}}, ("zero_optimization.stage", "engine.zero_stage")),
        ({"bf16": {"enabled": True}}, ("bf16", "engine.precision")),
        ({"optimizer": {"type": "Adam"}}, ("optimizer", "recipe.optimizer")),
        # what is no section takes the place of all that is in it
        ({"zero_optimization": None}, ("zero_optimization", "engine.zero_stage")),
        ({"prescale_gradients": True, "amp": {}}, ("amp", "engine.precision")),
    ],
)
def test_a_setting_that_a_field_decides_is_found(
    settings: dict[str, Any], found: tuple[str, str] | None
) -> None:
    assert taken(settings) == found


def test_fields_that_decide_are_fields() -> None:
    fields = JobSpec.load("quickstart").flat()
    assert {field for field in FIELD_OF.values() if field not in fields} == set()


def test_settings_join_a_configuration_section_by_section() -> None:
    ours = {"zero_optimization": {"stage": 2, "buckets": {"size": 1}}, "clip": 0.0}
    theirs = {"zero_optimization": {"overlap_comm": True, "buckets": {"size": 2}}, "new": [1]}
    assert merged(ours, theirs) == {
        "zero_optimization": {"stage": 2, "buckets": {"size": 2}, "overlap_comm": True},
        "clip": 0.0,
        "new": [1],
    }
    assert ours["zero_optimization"] == {"stage": 2, "buckets": {"size": 1}}

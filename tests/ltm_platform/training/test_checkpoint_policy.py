"""When a checkpoint is due within an epoch."""

from __future__ import annotations

from ltm_platform.training.checkpoint_policy import CheckpointPolicy

from .small_run import FolderContext, after_each


def due(policy: CheckpointPolicy, steps: int = 40) -> list[int]:
    return [step for step in range(1, steps + 1) if policy.is_due(step)]


def test_without_a_schedule_none_is_due(context: FolderContext) -> None:
    assert due(CheckpointPolicy(None, context)) == []


def test_the_schedule_counts_steps_since_the_start_of_training(context: FolderContext) -> None:
    assert due(CheckpointPolicy(15, context)) == [15, 30]


def test_ranks_ask_each_other_every_tenth_step(context: FolderContext) -> None:
    asked: list[str] = []
    after_each(context, "stop_is_requested", lambda: asked.append("stop"))
    after_each(context, "is_preempted", lambda: asked.append("preempted"))
    due(CheckpointPolicy(1, context), steps=29)
    assert asked == ["stop", "preempted"] * 2


def test_a_preemption_is_answered_once(context: FolderContext) -> None:
    context.preempted = True
    policy = CheckpointPolicy(None, context)
    assert due(policy) == [10]
    assert not policy.stopping


def test_a_request_to_stop_is_answered_and_said(context: FolderContext) -> None:
    policy = CheckpointPolicy(7, context)
    assert due(policy, steps=9) == [7]
    assert not policy.stopping
    context.stop_requested = True
    assert policy.is_due(10)
    assert policy.stopping

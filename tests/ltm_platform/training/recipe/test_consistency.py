"""A second pass in which fewer tokens leave: MCTF's consistency between two reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import ltm
from ltm.errors import FieldError
from ltm_platform.training.recipe.consistency import (
    check_consistency,
    inconsistency,
    removals,
)

from ..small_run import MODEL, small_job

if TYPE_CHECKING:
    from ..conftest import StartRun
    from ..small_run import FolderContext

RECIPE: dict[str, Any] = {
    "epochs": 2,
    "global_batch": 8,
    "optimizer": "sgd",
    "lr": 0.02,
    "ib": {"weight": 0.0},
    "consistency": {"below": 5, "weight": 3.0, "confidence": 0.05},
}
JOB = {"model": MODEL | {"method": "tome"}, "recipe": RECIPE}


def test_only_images_that_the_network_is_sure_of_count() -> None:
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 1.0, 0.0]])
    features = torch.tensor([[1.0, 2.0], [0.0, 0.0], [5.0, 5.0]], requires_grad=True)
    again = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 1, 1])  # with probabilities 0.96, 0.96 and 0.58
    apart = inconsistency(logits, features, again, labels, 0.9)
    torch.testing.assert_close(apart, torch.tensor((5 / 2 + 2 / 2) / 2))
    apart.backward()
    assert features.grad is not None
    assert again.grad is None
    assert inconsistency(logits, features, again, labels, 0.99) == 0
    shares = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0], [0.0, 0.4, 0.6]])
    # of the last one its two classes have 0.79 together
    mixed = inconsistency(logits, features, again, shares, 0.7)
    torch.testing.assert_close(mixed, torch.tensor((5 / 2 + 50 / 2) / 2))


def test_every_step_draws_for_itself_from_all_numbers_below() -> None:
    drawn = [removals(5, 0, step) for step in range(100)]
    assert set(drawn) == set(range(5))
    assert drawn == [removals(5, 0, step) for step in range(100)]
    assert drawn != [removals(5, 1, step) for step in range(100)]


def test_both_passes_learn_and_the_second_one_loses_what_was_drawn(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB), context)
    arrived: list[int] = []
    plan = run.model.plan
    passes: list[list[int]] = []

    def note(_: Any, args: Any, merge: Any) -> None:
        if run.model.training:
            arrived.append(args[0].site.tokens - merge.slots)

    def passed(*_: Any) -> None:
        if run.model.training:
            passes.append(arrived.copy())
            arrived.clear()

    run.model.method.register_forward_hook(note)
    run.components.engine.module.register_forward_hook(passed)
    run.train()
    assert run.model.plan == plan
    for step, lost in enumerate(passes):
        first, second = lost[: len(plan)], lost[len(plan) :]
        assert sum(first) > 5 * len(plan)
        assert second == [r for r in [removals(5, 0, step)] * 4 if r]
    parts = run.components.objective.parts
    assert parts[3:] == ("train/ce_again", "train/inconsistency")
    total, first_ce, _, second_ce, apart = torch.tensor(run.losses).T
    torch.testing.assert_close(total, first_ce + second_ce + 3 * apart)
    assert (apart > 0).any()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"engine__zero_stage": 3}, "engine.zero_stage is 3"),
        ({"engine__grad_checkpointing": True}, "engine.grad_checkpointing is true"),
        ({"model__elastic": (0.5, 1.0)}, "model.elastic is given"),
        ({"model__method": "none"}, "'none', which reduces no tokens"),
        ({"model__method": "sit"}, "'sit' are for one plan"),
        ({"model__method": "dpcknn"}, "'dpcknn' are for one plan"),
        ({"model__method": "s2vite"}, "'s2vite', which reduces no tokens"),
        ({"model__backbone": "swin_nano_patch2_window4_32"}, "a grid stays here"),
    ],
)
def test_what_cannot_pass_again_is_refused(changes: dict[str, Any], says: str) -> None:
    job = small_job(JOB, **changes)
    model = ltm.create_model(job.model.backbone, job.model.method, num_classes=10)
    with pytest.raises(FieldError) as caught:
        check_consistency(model, job)
    assert says in str(caught.value)
    assert caught.value.field == "recipe.consistency.below"

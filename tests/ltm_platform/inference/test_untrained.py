"""A method that is put on a network which was trained without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.inference.evaluate import prepare
from ltm_platform.ray_cluster.resources import Resources

if TYPE_CHECKING:
    from ltm_platform.inference.evaluate import Evaluation

    from ..conftest import MakeCheckpoint


def prepared(make_checkpoint: MakeCheckpoint, method: str) -> Evaluation:
    base = make_checkpoint("model.method=none", "model.compression_ratio=null")
    here = Resources(cpus=2, gpus=0)
    return prepare(base, data=None, ratios=(0.6, 0.8), workers=1, resources=here, method=method)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("tome", {"pool_by_size": None}),
        ("ltm", {"pool_by_size": None, "start": "alike"}),
        ("topk", {"pool_by_size": None}),
    ],
)
def test_it_gets_the_options_that_suit_a_trained_network(
    make_checkpoint: MakeCheckpoint, method: str, options: dict[str, object]
) -> None:
    evaluation = prepared(make_checkpoint, method)
    assert evaluation.job.model.method == method
    assert evaluation.job.model.options == options
    fewer, more = (one.cost for one in evaluation.compressions)
    assert fewer.gmacs < more.gmacs


def test_a_budget_is_met_from_below(make_checkpoint: MakeCheckpoint) -> None:
    base = make_checkpoint("model.method=none", "model.compression_ratio=null")
    here = Resources(cpus=2, gpus=0)
    asked = {"data": None, "workers": 1, "resources": here, "method": "tome"}
    evaluation = prepare(base, ratios=(0.8,), target_gmacs=(0.012, 0.014), **asked)
    first, *budgets = evaluation.compressions
    assert first.ratio == 0.8
    for one, budget in zip(budgets, (0.012, 0.014), strict=True):
        assert 0.95 * budget < one.cost.gmacs <= budget
        (again,) = prepare(base, ratios=(one.ratio,), **asked).compressions
        assert again.plan == one.plan
        assert again.kept_tokens == one.kept_tokens
        assert 0 < one.kept_tokens < 1
    with pytest.raises(UserError, match=r"gmacs is 0.001, allowed is .* or more"):
        prepare(base, ratios=(), target_gmacs=(0.001,), **asked)


@pytest.mark.parametrize("method", ["dtem", "patchmerger", "dynamicvit"])
def test_what_only_training_gives_is_refused(make_checkpoint: MakeCheckpoint, method: str) -> None:
    with pytest.raises(UserError, match="has weights of its own, which only training gives"):
        prepared(make_checkpoint, method)


def test_a_network_that_was_trained_with_a_method_keeps_it(make_checkpoint: MakeCheckpoint) -> None:
    merged = make_checkpoint()
    here = Resources(cpus=2, gpus=0)
    with pytest.raises(UserError, match="was trained with ltm"):
        prepare(merged, data=None, ratios=(), workers=1, resources=here, method="tome")

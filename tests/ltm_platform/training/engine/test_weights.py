"""Whole weights gathered from shards, and their moving average."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import ltm

from .. import scenarios
from ..scenarios import EMA_DECAY

if TYPE_CHECKING:
    from torch import Tensor

    from ..rank_pool import RankPool

STAGES = (0, 1, pytest.param(2, marks=pytest.mark.slow), 3)


def shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def new_state() -> dict[str, Tensor]:
    model = ltm.create_model(
        "vit_nano_patch4_32", compression_ratio=0.7, image_size=32, num_classes=10
    )
    return model.state_dict()


# --- whole weights


@pytest.mark.parametrize("stage", [0, 1])
def test_gathered_weights_are_the_state_dict(ranks: RankPool, stage: int) -> None:
    seen, _ = ranks.run(2, scenarios.validated, stage)
    gathered = seen["weights"][-1]
    assert gathered.keys() == seen["state dict"].keys()
    assert all(torch.equal(gathered[name], seen["state dict"][name]) for name in gathered)


def test_shards_are_gathered_whole(ranks: RankPool) -> None:
    sharded, whole = (ranks.run(2, scenarios.validated, stage)[0]["weights"] for stage in (3, 0))
    assert shapes(sharded[0]) == shapes(new_state())
    for mine, reference in zip(sharded, whole, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_only_rank_0_holds_the_gathered_weights(ranks: RankPool, stage: int) -> None:
    first, second = ranks.run(2, scenarios.validated, stage)
    assert all(first["weights"])
    assert not any(second["weights"])


def test_the_padding_of_a_shard_is_no_weight(ranks: RankPool) -> None:
    seen = ranks.run(4, scenarios.padded)
    assert sum(one["padding"] for one in seen) > 0
    assert all(one["finite"] for one in seen)
    trained = sum(weight.numel() for name, weight in new_state().items() if "anchor" not in name)
    assert sum(one["weights"] for one in seen) >= trained


# --- the moving average


@pytest.mark.parametrize("stage", STAGES)
def test_the_average_of_shards_is_the_average_of_the_weights(ranks: RankPool, stage: int) -> None:
    seen, _ = ranks.run(2, scenarios.validated, stage)
    first, *later = seen["weights"]
    assert len(later) == len(seen["averages"]) == 3
    expected = {name: start.double() for name, start in first.items()}
    for weights, average in zip(later, seen["averages"], strict=True):
        for name, weight in weights.items():
            expected[name] = EMA_DECAY * expected[name] + (1 - EMA_DECAY) * weight.double()
            torch.testing.assert_close(
                average[name].double(), expected[name], rtol=1e-5, atol=1e-7, msg=name
            )
    assert all(torch.equal(seen["average"][name], value) for name, value in average.items())
    moved = [not torch.equal(later[-1][name], value) for name, value in average.items()]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("stage", STAGES)
def test_the_weights_are_restored_exactly(ranks: RankPool, stage: int) -> None:
    seen, _ = ranks.run(2, scenarios.validated, stage)
    for name, weight in seen["weights"][-1].items():
        assert torch.equal(seen["restored"][name], weight), name
    assert seen["restored scores"] == seen["scores"]


@pytest.mark.parametrize(("stage", "share"), [(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.5)])
def test_a_rank_averages_what_it_owns(ranks: RankPool, stage: int, share: float) -> None:
    parameters = sum(tensor.numel() for tensor in new_state().values())
    for seen in ranks.run(2, scenarios.validated, stage):
        assert seen["average elements"] == pytest.approx(share * parameters, rel=0.02)


@pytest.mark.parametrize("stage", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_set_to_0_is_0_for_the_optimizer_too(ranks: RankPool, stage: int) -> None:
    for seen in ranks.run(2, scenarios.zeroed, stage):
        start, end = (seen[when]["blocks.0.mlp.fc1.weight"] for when in ("start", "end"))
        assert not start[3:200].any()
        assert end.any(1).all()  # it has learned, if hardly
        torch.testing.assert_close(end, start, rtol=0, atol=1e-6)

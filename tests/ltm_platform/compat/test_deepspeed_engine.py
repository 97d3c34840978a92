"""What compat takes out of DeepSpeed's engine, at every stage, in one real process of one rank."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_platform.compat.deepspeed_engine import LOSS_SCALE_KEYS, estimated_states

if TYPE_CHECKING:
    from collections.abc import Mapping

STAGES = (0, 1, 2, 3)
SHAPES = [(5, 3), (5,), (2, 5), (2,)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Any, dict[str, Any]]:
    """What `engines.py` saw, by the stage."""
    file = tmp_path_factory.mktemp("engines") / "seen.pt"
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("engines.py"), file],
        # the test's own search path, so that it holds for a checkout and for an installed package
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    found: Mapping[Any, dict[str, Any]] = torch.load(file, weights_only=False)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_fragment_is_the_parameters_part_of_the_flat_weights(
    seen: Mapping[Any, dict[str, Any]], stage: int
) -> None:
    found = seen[stage]["fragments"]
    assert [one["shapes"] for one in found] == [(shape, shape) for shape in SHAPES]
    for one in found:
        assert torch.equal(one["kept"], one["whole"])
        assert torch.equal(one["shard"], one["whole"])  # one rank holds all of them
        assert one["state"]["exp_avg"] == one["state"]["exp_avg_sq"] == one["flat"]
        assert one["state"]["step"] == ()


@pytest.mark.parametrize("stage", STAGES)
def test_a_change_of_the_shards_is_one_of_the_network(
    seen: Mapping[Any, dict[str, Any]], stage: int
) -> None:
    assert seen[stage]["shards are the weights"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_engine_counts_on_from_what_it_is_given(
    seen: Mapping[Any, dict[str, Any]], stage: int
) -> None:
    assert seen[stage]["steps"] == (1, 0)
    # The trainer takes a step that ZeRO leaves out for divergence; without ZeRO none is left out.
    assert seen[stage]["after an overflow"] == (2, min(1, stage))
    assert seen[stage]["further steps"] == (41, 3)


@pytest.mark.parametrize("stage", STAGES)
def test_the_engine_says_where_it_is(seen: Mapping[Any, dict[str, Any]], stage: int) -> None:
    told = seen[stage]["attributes"]
    assert (told["rank"], told["workers"], told["boundary"]) == (0, 1, True)
    assert isinstance(told["device"], torch.device)


def test_the_loss_scale_is_that_of_the_precision(seen: Mapping[Any, dict[str, Any]]) -> None:
    assert [seen[stage]["scale"] for stage in STAGES] == [{}] + [{"cur_scale": 1.0}] * 3
    first, then = seen["half"]["first"], seen["half"]["then"]
    assert tuple(first) == LOSS_SCALE_KEYS
    assert then == first | {"cur_scale": 256.0, "cur_iter": 7}
    assert isinstance(then["cur_iter"], int)


def test_a_layer_without_a_gradient_moves_unless_the_last_one_is_cleared(
    seen: Mapping[Any, dict[str, Any]],
) -> None:
    """Where this fails with the first, DeepSpeed clears gradients itself."""
    stale = {(stage, offload) for stage in (1, 2, 3) for offload in (False, True)}
    stale -= {(1, False), (2, False)}
    moves = seen["moves"]
    assert {key[:2] for key, moved in moves.items() if moved and not key[2]} == stale
    assert not any(moved for key, moved in moves.items() if key[2])


def test_estimates_fall_with_the_stage_and_with_what_is_offloaded() -> None:
    two = estimated_states(10**6, 10**5, 2, 4, 1, weights=False)
    three = estimated_states(10**6, 10**5, 3, 4, 1, weights=True)
    assert two[0] > two[1] > three[1]
    assert two[0] > three[0] > three[1]

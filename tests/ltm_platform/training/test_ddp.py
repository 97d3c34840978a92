"""Training without ZeRO, on four ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ltm_platform.training.ddp import BUCKET_MB

from .conftest import run_program

RANKS = range(4)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ddp")
    run_program("ddp_ranks.py", folder)
    return [torch.load(folder / f"{rank}.pt") for rank in RANKS]


@pytest.mark.parametrize("rank", RANKS)
def test_ranks_train_what_one_process_trains_with_torch_alone(
    ranks: list[dict[str, Any]], rank: int
) -> None:
    """Accumulated and clipped, with parameters that are frozen, that no loss depends on, and that a
    loss depends on but no output."""
    seen = ranks[rank]
    torch.testing.assert_close(seen["ranks"], seen["plain"], rtol=1e-4, atol=1e-6)
    assert (seen["ranks"]["unused"] < 1).all()  # it decays
    assert (seen["ranks"]["frozen"] == 1).all()


@pytest.mark.parametrize("rank", RANKS)
def test_ranks_that_resume_go_on_to_the_bit(ranks: list[dict[str, Any]], rank: int) -> None:
    undisturbed = ranks[rank]["undisturbed"]
    assert sum(weight.nbytes for weight in undisturbed.values()) > 2 * BUCKET_MB * 2**20
    for name, weight in undisturbed.items():
        assert torch.equal(ranks[rank]["resumed"][name], weight), name
        assert torch.equal(ranks[0]["undisturbed"][name], weight), name


def test_deepspeed_is_not_loaded(ranks: list[dict[str, Any]]) -> None:
    assert [seen["deepspeed"] for seen in ranks] == [[]] * len(RANKS)

"""The micro-batch that fits: which are tried, and how memory is told on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ltm_platform.job import JobSpec
from ltm_platform.training.measurement.micro_batch import (
    activation_bytes,
    fits_gpu,
    training_step,
)

from .. import collectives

if TYPE_CHECKING:
    from .rank_pool import RankPool

CPU = torch.device("cpu")


def job(**engine: object) -> JobSpec:
    return JobSpec.from_dict(
        {
            "model": {"backbone": "vit_nano_patch4_32"},
            "data": {"path": "digits"},
            "recipe": {"mix": {"mixup": 0.8}, "sync_bn": True, "micro_batch": "auto"},
            "engine": engine,
        }
    )


def test_activations_grow_with_the_batch_and_shrink_when_computed_again() -> None:
    plain, again = (training_step(job(grad_checkpointing=on), 10, CPU) for on in (False, True))
    four, eight = (activation_bytes(plain, size) for size in (4, 8))
    twelve = activation_bytes(plain, 12)
    assert twelve - eight == pytest.approx(eight - four, rel=0.05)
    # 64 tokens of 64 channels in fp32, some dozen times in each of 4 blocks
    assert 4 * 12 * 64 * 64 * 4 < (eight - four) / 4 < 4 * 60 * 64 * 64 * 4
    assert activation_bytes(again, 8) < 0.6 * eight


def test_what_is_kept_is_there_before_the_backward_pass() -> None:
    whole, forward = (
        training_step(job(precision="bf16"), 10, CPU, backward=backward)
        for backward in (True, False)
    )
    of_whole, of_forward = (
        activation_bytes(step, 8) - activation_bytes(step, 4) for step in (whole, forward)
    )
    assert of_forward == pytest.approx(of_whole, rel=0.01)


@pytest.fixture
def _cuda_for_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no GPU for."""
    for name in ("set_per_process_memory_fraction", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)


@pytest.mark.usefixtures("_cuda_for_show")
def test_a_step_that_runs_out_of_memory_does_not_fit() -> None:
    def step(size: int) -> None:
        if size > 8:
            raise torch.OutOfMemoryError("tried to allocate too much")
        if size == 3:
            raise RuntimeError("another error")

    fits = fits_gpu(step, CPU)
    assert [fits(size) for size in (1, 8, 9, 64)] == [True, True, False, False]
    with pytest.raises(RuntimeError, match="another error"):
        fits(3)


# --- on several ranks


def test_all_ranks_take_the_micro_batch_that_fits_the_smallest(ranks: RankPool) -> None:
    """Rank 0 has room for 16 images, rank 1 for 7; 24 are to be divided."""
    for seen in ranks.run(2, collectives.micro_batches):
        assert seen["agreed"] == 6
        assert len(seen["tried"]) <= 6
        assert "a step of 16 images does not fit" in seen["refused"]


def test_a_small_network_has_room_for_its_whole_share(ranks: RankPool) -> None:
    assert [seen["found"] for seen in ranks.run(2, collectives.micro_batches)] == [24, 24]

"""Validation over several ranks: every image once, of the weights that are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from . import scenarios
from .small_run import VAL_IMAGES

if TYPE_CHECKING:
    from .rank_pool import RankPool

STAGES = (0, 1, *(pytest.param(stage, marks=pytest.mark.slow) for stage in (2, 3)))


@pytest.mark.parametrize("weights", ["", "average "])
@pytest.mark.parametrize("stage", STAGES)
def test_every_image_counts_once(ranks: RankPool, stage: int, weights: str) -> None:
    """21 images on 2 ranks in batches of 4: the last round has one image, the rest is padding."""
    both = ranks.run(2, scenarios.validated, stage)
    expected = both[0][f"plain {weights}scores"]
    for seen in both:
        assert seen[f"{weights}scores"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_an_epoch_tells_the_scores_of_its_weights_and_of_their_average(
    ranks: RankPool, stage: int
) -> None:
    for seen in ranks.run(2, scenarios.validated, stage):
        told = {key: seen["told"][f"val/{key}"] for key in ("top1", "top5", "loss")}
        assert told == seen["scores"]
        assert seen["told"]["val/ema_top1"] == seen["average scores"]["top1"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_image_is_in_the_confusion_matrix_once(ranks: RankPool, stage: int) -> None:
    both = ranks.run(2, scenarios.validated, stage)
    for seen in both:
        assert seen["confusion"].sum() == VAL_IMAGES
        hits = int(seen["confusion"].trace())
        assert 100 * hits / VAL_IMAGES == pytest.approx(seen["scores"]["top1"])
    assert torch.equal(*(seen["confusion"] for seen in both))


@pytest.mark.parametrize("stage", STAGES)
def test_inside_the_block_the_average_is_evaluated(ranks: RankPool, stage: int) -> None:
    seen, _ = ranks.run(2, scenarios.validated, stage)
    assert seen["average scores"]["loss"] != pytest.approx(seen["scores"]["loss"], rel=1e-3)


def test_with_batch_norm_the_network_that_is_stored_is_the_one_that_is_evaluated(
    ranks: RankPool,
) -> None:
    """Every rank has running statistics of its own images; a checkpoint has one set."""
    seen, _ = ranks.run(2, scenarios.validated_batch_norm)
    assert seen["weights"][-1].keys() == seen["state dict"].keys()
    assert seen["scores"] == pytest.approx(seen["plain scores"], rel=1e-4)
    assert seen["average scores"] == pytest.approx(seen["plain average scores"], rel=1e-4)

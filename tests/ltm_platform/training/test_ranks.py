"""The real Trainer on several ranks: what ZeRO and the number of workers must not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import ltm
from ltm_platform.models import with_weights

from . import scenarios
from .scenarios import CLIP_GRAD
from .small_run import BAD, CLASSES, MODEL

if TYPE_CHECKING:
    from .rank_pool import RankPool

STAGES = (0, 1, 2, 3)


def losses_of(seen: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(seen["losses"])


# --- the losses


@pytest.mark.parametrize(
    ("workers", "stage"),
    [
        (1, 1),
        *((2, stage) for stage in STAGES),
        *(pytest.param(4, stage, marks=pytest.mark.slow) for stage in STAGES),
    ],
)
def test_workers_and_stage_change_no_loss(ranks: RankPool, workers: int, stage: int) -> None:
    (plain,) = ranks.run(1, scenarios.plain)
    scenario = scenarios.validated if workers == 2 else scenarios.losses
    for seen in ranks.run(workers, scenario, stage):
        torch.testing.assert_close(losses_of(seen), losses_of(plain), rtol=1e-4, atol=1e-5)


def test_the_losses_tell_something(ranks: RankPool) -> None:
    (plain,) = ranks.run(1, scenarios.plain)
    total, cross_entropy, bound = losses_of(plain).T
    assert torch.equal(total[:3], cross_entropy[:3])
    torch.testing.assert_close(total[3:], cross_entropy[3:] + bound[3:])
    assert total.std() > 1e-2
    assert min(plain["norms"]) < CLIP_GRAD < max(plain["norms"])


@pytest.mark.parametrize("scenario", [scenarios.plain, scenarios.plain_everything])
def test_no_feature_lies_between_two_clusters(ranks: RankPool, scenario: Any) -> None:
    """Else the noise of another CPU would put it into the other one, and losses would differ."""
    (seen,) = ranks.run(1, scenario)
    assert seen["margin"] > 3e-5


@pytest.mark.parametrize(
    ("stage", "micro_batch"), [(1, 8), pytest.param(3, 4, marks=pytest.mark.slow)]
)
def test_the_whole_recipe_is_the_same_for_all(
    ranks: RankPool, stage: int, micro_batch: int
) -> None:
    """Mixup and CutMix, a teacher, frozen parts, layer decay: one worker with torch alone and 16
    images at a time, against two with DeepSpeed and 8 or 4."""
    (alone,) = ranks.run(1, scenarios.plain_everything)
    two, _ = ranks.run(2, scenarios.everything, stage, micro_batch)
    torch.testing.assert_close(losses_of(two), losses_of(alone), rtol=1e-4, atol=1e-5)


def test_frozen_parts_keep_their_weights_and_no_others(ranks: RankPool) -> None:
    seen, _ = ranks.run(2, scenarios.everything, 1, 8)
    for name, start in seen["start"].items():
        frozen = name.startswith("patch_embed.") or name.endswith(".norm1.bias")
        assert torch.equal(start, seen["end"][name]) == frozen, name


@pytest.mark.slow
def test_a_compiled_network_has_the_same_losses(ranks: RankPool) -> None:
    (plain,), (compiled,) = ranks.run(1, scenarios.plain), ranks.run(1, scenarios.compiled)
    torch.testing.assert_close(losses_of(compiled), losses_of(plain), rtol=1e-4, atol=1e-5)


# --- images that cannot be decoded


def test_bad_images_are_replaced_alike_on_one_and_two_ranks_and_named_by_all(
    ranks: RankPool,
) -> None:
    (plain,) = ranks.run(1, scenarios.plain_damaged)
    (alone,) = ranks.run(1, scenarios.damaged)
    both = ranks.run(2, scenarios.damaged)
    torch.testing.assert_close(losses_of(alone), losses_of(plain), rtol=1e-4, atol=1e-5)
    for seen in both:
        torch.testing.assert_close(losses_of(seen), losses_of(alone), rtol=1e-4, atol=1e-5)
        assert seen["told"] == alone["told"], "whatever rank met them"
        assert seen["top1"] == pytest.approx(alone["top1"])
    # 20 of 21 images are scored.
    assert all(score / 5 == pytest.approx(round(score / 5)) for score in alone["top1"])
    (told,) = alone["told"]
    assert {part: len(named) for part, named in told.items()} == {
        part: len(BAD[split]) for part, split in (("training", "train"), ("validation", "val"))
    }
    assert "image 'train/17' of " in told["training"][0]


# --- methods that remove structure


def test_workers_change_nothing_of_what_savit_removes(ranks: RankPool) -> None:
    (alone,) = ranks.run(1, scenarios.structured, "savit", 1)
    both = ranks.run(2, scenarios.structured, "savit", 1)
    for seen in both:
        assert seen["plan"] == alone["plan"]
        assert all(torch.equal(*pair) for pair in zip(seen["kept"], alone["kept"], strict=True))
    torch.testing.assert_close(losses_of(both[0]), losses_of(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_and_stages_agree_on_what_s2vite_drops_and_grows(ranks: RankPool, stage: int) -> None:
    (expected,) = ranks.run(1, scenarios.structured, "s2vite", 0)
    first, *rest, before, last = expected["kept"]
    assert any(not torch.equal(first, kept) for kept in rest)
    assert torch.equal(before, last)  # in the last fifth of the steps nothing changes
    both = ranks.run(2, scenarios.structured, "s2vite", stage)
    for seen in both:
        pairs = zip(seen["kept"], expected["kept"], strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    torch.testing.assert_close(losses_of(both[0]), losses_of(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "stage"),
    [("savit", 1), *(pytest.param("s2vite", stage, marks=pytest.mark.slow) for stage in (1, 2))],
)
def test_a_pruned_network_is_stored_with_what_stays(
    ranks: RankPool, method: str, stage: int
) -> None:
    seen, _ = ranks.run(2, scenarios.structured, method, stage)
    model: Any = ltm.create_model("vit_nano_patch4_32", method, image_size=32, num_classes=10)
    small = with_weights(model, seen["weights"])
    assert small.plan == seen["plan"]
    assert not small.gated
    assert ltm.count(small).gmacs <= 0.7 * model.base_gmacs


# --- methods that are made for a plan


@pytest.mark.parametrize(
    ("method", "stage"),
    [
        pytest.param(method, stage, marks=pytest.mark.slow)
        for method in ("patchmerger", "sit", "sinkhorn")
        for stage in (0, 1, 2, 3)
    ],
)
def test_ranks_and_stages_learn_the_same_slots(ranks: RankPool, method: str, stage: int) -> None:
    (alone,) = ranks.run(1, scenarios.made_for_a_plan, method, 0)
    both = ranks.run(2, scenarios.made_for_a_plan, method, stage)
    torch.testing.assert_close(losses_of(both[0]), losses_of(alone), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[0]["weights"], alone["weights"], rtol=1e-4, atol=1e-5)
    ratio = MODEL["compression_ratio"]
    model: Any = ltm.create_model(
        MODEL["backbone"], method, compression_ratio=ratio, num_classes=CLASSES
    )
    assert with_weights(model, both[0]["weights"]).plan == both[0]["plan"]


# --- fp16


@pytest.mark.parametrize("stage", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_fp16_learns_as_fp32_does(ranks: RankPool, stage: int) -> None:
    half, _ = ranks.run(2, scenarios.fp16, stage)
    full, _ = ranks.run(2, scenarios.validated, stage)
    torch.testing.assert_close(losses_of(half), losses_of(full)[:3], rtol=2e-2, atol=2e-2)
    assert half["skipped"] == 0


def test_steps_that_overflow_are_skipped_and_counted(ranks: RankPool) -> None:
    for seen in ranks.run(2, scenarios.overflow):
        assert seen["skipped"] == len(seen["losses"]) == seen["told"] == 3
        for name, start in seen["start"].items():
            assert torch.equal(start, seen["end"][name]), name

"""Training in real processes: what ZeRO and the number of workers must not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import ltm
from ltm_platform.models import with_weights
from ltm_platform.training.ddp import BUCKET_MB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    Ranks = Mapping[int, list[dict[str, Any]]]

EMA_DECAY = 0.6  # of ranks.py
CLIP_GRAD = 2.0
STAGES = (0, 1, 2, 3)


def shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def new_state() -> dict[str, Tensor]:
    model = ltm.create_model(
        "vit_nano_patch4_32", compression_ratio=0.7, image_size=32, num_classes=10
    )
    return model.state_dict()


# --- the losses


@pytest.mark.parametrize(
    ("workers", "stage"),
    [(1, 1), *((workers, stage) for workers in (2, 4) for stage in STAGES)],
)
def test_workers_and_stage_change_no_loss(ranks: Ranks, stage: int, workers: int) -> None:
    plain = torch.tensor(ranks[1][0]["plain"]["losses"])
    losses = torch.tensor(ranks[workers][0][f"zero {stage}"]["losses"])
    torch.testing.assert_close(losses, plain, rtol=1e-4, atol=1e-5)


def test_gradients_travel_in_several_buckets(ranks: Ranks) -> None:
    alone, first, second = ranks[1][0]["buckets"], ranks[2][0]["buckets"], ranks[2][1]["buckets"]
    assert sum(weight.nbytes for weight in alone["end"].values()) > 2 * BUCKET_MB * 2**20
    for one in (first, second):
        # but for the bound, whose clusters know no float noise
        losses = [torch.tensor(seen["losses"])[:, :2] for seen in (one, alone)]
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one["end"], alone["end"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
def test_weights_without_gradient_decay_like_all(ranks: Ranks, workers: int) -> None:
    seen = ranks[workers][0]["buckets"]
    start, end = (seen[when]["method.masks.192.project.weight"] for when in ("start", "end"))
    assert end.norm() < start.norm()


def test_the_losses_tell_something(ranks: Ranks) -> None:
    plain = ranks[1][0]["plain"]
    total, cross_entropy, bound = torch.tensor(plain["losses"]).T
    assert torch.equal(total[:3], cross_entropy[:3])
    torch.testing.assert_close(total[3:], cross_entropy[3:] + bound[3:])
    assert total.std() > 1e-2
    assert min(plain["norms"]) < CLIP_GRAD < max(plain["norms"])


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_no_feature_lies_between_two_clusters(ranks: Ranks, name: str) -> None:
    """Else the noise of another CPU would put it into the other one, and losses would differ."""
    assert ranks[1][0][name]["margin"] > 3e-5


@pytest.mark.parametrize("stage", [1, 3])
def test_the_whole_recipe_is_the_same_for_all(ranks: Ranks, stage: int) -> None:
    """Mixup and CutMix, a teacher, frozen parts, layer decay: one worker with torch alone and 16
    images at a time, against two with DeepSpeed and 8 or 4."""
    alone = torch.tensor(ranks[1][0]["everything"]["losses"])
    losses = torch.tensor(ranks[2][0][f"everything {stage}"]["losses"])
    torch.testing.assert_close(losses, alone, rtol=1e-4, atol=1e-5)


def test_frozen_parts_keep_their_weights_and_no_others(ranks: Ranks) -> None:
    seen = ranks[2][0]["everything 1"]
    for name, start in seen["start"].items():
        frozen = name.startswith("patch_embed.") or name.endswith(".norm1.bias")
        assert torch.equal(start, seen["end"][name]) == frozen, name


def test_a_compiled_network_has_the_same_losses(ranks: Ranks) -> None:
    plain = torch.tensor(ranks[1][0]["plain"]["losses"])
    compiled = torch.tensor(ranks[1][0]["compiled"]["losses"])
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)


# --- batch norm over all workers


def test_batch_norm_over_two_workers_is_that_of_the_whole_batch(ranks: Ranks) -> None:
    alone, two = (torch.tensor(ranks[workers][0]["sync bn"]["losses"]) for workers in (1, 2))
    torch.testing.assert_close(two, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["torch", "timm"])
@pytest.mark.parametrize("rank", [0, 1])
def test_synchronised_layers_equal_torchs_on_the_whole_batch(
    ranks: Ranks, kind: str, rank: int
) -> None:
    seen = ranks[2][rank]["norm layers"]
    out, grad, scored, weight_grads, state = seen[f"{kind} all"]
    first, last = seen["share"]
    expected = [out[first:last], grad[first:last], scored, weight_grads, state]
    torch.testing.assert_close(seen[f"{kind} ranks"], expected, rtol=1e-4, atol=1e-5)


# --- fp16


def test_workers_change_nothing_of_what_savit_removes(ranks: Ranks) -> None:
    alone, both = ranks[1][0]["savit 1"], [seen["savit 1"] for seen in ranks[2]]
    for seen in both:
        assert seen["plan"] == alone["plan"]
        assert all(torch.equal(*pair) for pair in zip(seen["kept"], alone["kept"], strict=True))
    losses = torch.tensor([seen["losses"] for seen in (alone, both[0])])
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_ranks_and_stages_agree_on_what_s2vite_drops_and_grows(ranks: Ranks, stage: int) -> None:
    expected = ranks[1][0]["s2vite 0"]
    first, second, last = expected["kept"]
    assert not torch.equal(first, second)
    assert torch.equal(second, last)  # after three quarters of the steps nothing changes
    for seen in (rank[f"s2vite {stage}"] for rank in ranks[2]):
        pairs = zip(seen["kept"], expected["kept"], strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    losses = ranks[2][0][f"s2vite {stage}"]["losses"]
    torch.testing.assert_close(losses, expected["losses"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["savit 1", "s2vite 1", "s2vite 2"])
def test_a_pruned_network_is_stored_with_what_stays(ranks: Ranks, name: str) -> None:
    seen = ranks[2][0][name]
    method = name.split()[0]
    model: Any = ltm.create_model("vit_nano_patch4_32", method, image_size=32, num_classes=10)
    small = with_weights(model, seen["weights"])
    assert small.plan == seen["plan"]
    assert not small.gated
    assert ltm.count(small).gmacs <= 0.7 * model.base_gmacs


@pytest.mark.parametrize("stage", [1, 3])
def test_fp16_learns_as_fp32_does(ranks: Ranks, stage: int) -> None:
    seen = ranks[2][0][f"fp16 {stage}"]
    full = torch.tensor(ranks[2][0][f"zero {stage}"]["losses"])
    torch.testing.assert_close(torch.tensor(seen["losses"]), full[:3], rtol=2e-2, atol=2e-2)
    assert seen["skipped"] == 0


def test_steps_that_overflow_are_skipped_and_counted(ranks: Ranks) -> None:
    for seen in ranks[2]:
        assert seen["overflow"]["skipped"] == len(seen["overflow"]["losses"]) == 3
        for name, start in seen["overflow"]["start"].items():
            assert torch.equal(start, seen["overflow"]["end"][name]), name


# --- the micro-batch that fits


def test_all_ranks_take_the_micro_batch_that_fits_the_smallest(ranks: Ranks) -> None:
    """Rank 0 has room for 16 images, rank 1 for 7; 24 are to be divided."""
    for seen in ranks[2]:
        assert seen["micro batches"]["agreed"] == 6
        assert len(seen["micro batches"]["tried"]) <= 6
        assert "a step of 16 images does not fit" in seen["micro batches"]["refused"]


def test_a_small_network_has_room_for_its_whole_share(ranks: Ranks) -> None:
    assert [seen["micro batches"]["found"] for seen in ranks[2]] == [24, 24]


# --- whole weights


@pytest.mark.parametrize("stage", [0, 1])
def test_gathered_weights_are_the_state_dict(ranks: Ranks, stage: int) -> None:
    seen = ranks[2][0][f"zero {stage}"]
    gathered = seen["weights"][-1]
    assert gathered.keys() == seen["state dict"].keys()
    assert all(torch.equal(gathered[name], seen["state dict"][name]) for name in gathered)


def test_shards_are_gathered_whole(ranks: Ranks) -> None:
    sharded, whole = (ranks[2][0][f"zero {stage}"]["weights"] for stage in (3, 0))
    assert shapes(sharded[0]) == shapes(new_state())
    for mine, reference in zip(sharded, whole, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_only_rank_0_holds_the_gathered_weights(ranks: Ranks, stage: int) -> None:
    assert ranks[2][0][f"zero {stage}"]["weights"][0]
    assert ranks[2][1][f"zero {stage}"]["weights"][0] == {}


# --- the moving average


@pytest.mark.parametrize("stage", STAGES)
def test_the_average_of_shards_is_the_average_of_the_weights(ranks: Ranks, stage: int) -> None:
    seen = ranks[2][0][f"zero {stage}"]
    first, *later = seen["weights"]
    assert len(later) == 3
    for name, start in first.items():
        expected = start.double()
        for weights in later:
            expected = EMA_DECAY * expected + (1 - EMA_DECAY) * weights[name].double()
        torch.testing.assert_close(
            seen["average"][name].double(), expected, rtol=1e-5, atol=1e-7, msg=name
        )
    moved = [not torch.equal(later[-1][name], average) for name, average in seen["average"].items()]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("stage", STAGES)
def test_the_weights_are_restored_exactly(ranks: Ranks, stage: int) -> None:
    seen = ranks[2][0][f"zero {stage}"]
    for name, weight in seen["weights"][-1].items():
        assert torch.equal(seen["restored"][name], weight), name
    assert seen["restored scores"] == seen["scores"]


@pytest.mark.parametrize(("stage", "share"), [(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.5)])
def test_a_rank_averages_what_it_owns(ranks: Ranks, stage: int, share: float) -> None:
    parameters = sum(tensor.numel() for tensor in new_state().values())
    for seen in ranks[2]:
        elements = seen[f"zero {stage}"]["average elements"]
        assert elements == pytest.approx(share * parameters, rel=0.02)


# --- evaluation


@pytest.mark.parametrize("weights", ["", "average "])
@pytest.mark.parametrize("stage", STAGES)
def test_every_image_counts_once(ranks: Ranks, stage: int, weights: str) -> None:
    """21 images on 2 ranks in batches of 4: the last round has one image, the rest is padding."""
    for seen in ranks[2]:
        expected = ranks[2][0][f"zero {stage}"][f"plain {weights}scores"]
        assert seen[f"zero {stage}"][f"{weights}scores"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_every_image_is_in_the_confusion_matrix_once(ranks: Ranks, stage: int) -> None:
    for seen in ranks[2]:
        counts, scores = seen[f"zero {stage}"]["confusion"], seen[f"zero {stage}"]["scores"]
        assert counts.sum() == 21
        assert 100 * int(counts.trace()) / 21 == pytest.approx(scores["top1"])
    assert torch.equal(*(seen[f"zero {stage}"]["confusion"] for seen in ranks[2]))


@pytest.mark.parametrize("stage", STAGES)
def test_inside_the_block_the_average_is_evaluated(ranks: Ranks, stage: int) -> None:
    seen = ranks[2][0][f"zero {stage}"]
    assert seen["average scores"]["loss"] != pytest.approx(seen["scores"]["loss"], rel=1e-3)


def test_with_batch_norm_the_network_that_is_stored_is_the_one_that_is_evaluated(
    ranks: Ranks,
) -> None:
    """Every rank has running statistics of its own images; a checkpoint has one set."""
    seen = ranks[2][0]["batch norm"]
    assert seen["weights"][-1].keys() == seen["state dict"].keys()
    assert seen["scores"] == pytest.approx(seen["plain scores"], rel=1e-4)
    assert seen["average scores"] == pytest.approx(seen["plain average scores"], rel=1e-4)

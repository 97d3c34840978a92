"""The rivals on tokens so few that the merge can be worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ltm
from ltm.merge import Assigned, MaxMagnitude, NormKept
from ltm.methods.cubistmerge import merge_neighbours
from ltm.methods.dtem import merge_softly
from ltm.methods.ltmp import Thresholds, relative_macs, threshold_softly, threshold_to
from ltm.methods.matching import merge_pairs, reduce_grid, reduce_tokens
from ltm.methods.pitome import energy, merge_by_energy
from ltm.methods.relaxed import LEFT_OVER, Threshold
from ltm.methods.spvit import drop_in_row, package, package_softly
from ltm.methods.tofu import prune_pairs
from ltm.methods.tome import removals

TINY = "vit_nano_patch4_32"


def on_circle(*degrees: float) -> Tensor:
    """Unit vectors [1, N, 2]: cosines are those of the differences."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], -1)[None]


# tokens 0 and 3 are closest, then 4 and 1; 2 is alone
SIX = on_circle(0, 60, 170, 1, 57, 115)


def test_tome_weighs_by_size_through_two_matchings() -> None:
    mass = torch.tensor([[1.0, 2.0, 1.0, 3.0, 1.0, 1.0]])
    x = torch.arange(6.0).view(1, 6, 1)
    merge = merge_pairs(SIX, mass, 4)  # {1, 4}, {2}, {0, 3}, {5}
    expected = [(2 * 1 + 4) / 3, 2, (0 + 3 * 3) / 4, 5]
    torch.testing.assert_close(merge(x).flatten(), torch.tensor(expected))
    assert merge.sizes(mass).tolist() == [[3, 1, 4, 1]]
    one = reduce_tokens(SIX, mass, 1, merge_pairs)
    torch.testing.assert_close(one(x).flatten(), (mass * x[..., 0]).sum(1) / mass.sum())


def test_tome_schedules() -> None:
    assert removals(8, "constant", 4) == [8, 8, 8, 8]
    assert removals(8, "decreasing", 5) == [16, 12, 8, 4, 0]
    assert ltm.create_model(TINY, "tome", r=8).plan == {
        f"blocks.{i}": kept for i, kept in enumerate((56, 48, 40, 32))
    }
    model = ltm.create_model(TINY, "tome", r=[40, 0, 8, 1])
    assert model.plan == {"blocks.0": 32, "blocks.2": 24, "blocks.3": 23}  # half at most
    even, decreasing = (
        ltm.create_model(TINY, "tome", compression_ratio=0.6, schedule=schedule).plan
        for schedule in ("constant", "decreasing")
    )
    full = dict.fromkeys(even, 64)
    for plan in (even, decreasing):
        kept = list(({**full, **plan}).values())
        assert sum(kept[:3]) + min(plan.values()) == pytest.approx(4 * 64 * 0.6, abs=2)
    assert decreasing["blocks.0"] < even["blocks.0"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"r": -1}, "'r' is -1"),
        ({"r": [1, 2]}, "list of 2 numbers, allowed is one for each of the 4 blocks"),
        ({"r": 4, "compression_ratio": 0.5}, "'r' is given beside compression_ratio"),
        ({"r": 4, "target_gmacs": 0.01}, "'r' is given beside target_gmacs"),
        ({"schedule": "rising"}, "constant and decreasing"),
        ({"method": "tofu", "prune_blocks": 5}, "from 0 to 4"),
        ({"method": "pitome", "margin": -1}, "'margin' is -1"),
        ({"method": "cubistmerge", "plan": {"blocks.0": 40}}, "1 x 1 to 8 x 8"),
        ({"method": "spvit", "heads": 7}, "divides 64 channels"),
        ({"method": "dtem", "dim": 0}, "'dim' is 0"),
    ],
)
def test_what_is_not_possible_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ltm.create_model(TINY, **{"method": "tome", **options})


def test_r_is_refused_where_a_grid_stays() -> None:
    with pytest.raises(ValueError, match="keeps a grid"):
        ltm.create_model("mobilevit_xxs", "tome", r=4)


def test_tofu_prunes_the_source() -> None:
    x = torch.arange(6.0).view(1, 6, 1)
    mass = torch.ones(1, 6)
    merge = prune_pairs(SIX, mass, 4)  # {1, 4}, {2}, {0, 3}, {5}: B tokens 1, 3 and 5 stay
    assert merge(x).flatten().tolist() == [1, 2, 3, 5]
    assert merge.sizes(mass).tolist() == [[2, 1, 2, 1]]


def test_mlerp_has_the_direction_of_the_mean_and_the_largest_norm() -> None:
    x = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [0.0, -2.0]]])
    slot = torch.tensor([[0, 0, 1]])
    merge = NormKept.normalised(slot, torch.tensor([[1.0, 3.0, 1.0]]), 2)
    mean = torch.tensor([3 / 4, 12 / 4])
    expected = torch.stack([4 * mean / mean.norm(), torch.tensor([0.0, -2.0])])
    torch.testing.assert_close(merge(x)[0], expected)


def test_tofu_prunes_early_and_merges_late() -> None:
    model: Any = ltm.create_model(TINY, "tofu", compression_ratio=0.6, prune_blocks=3)
    kinds: list[str] = []
    model.method.register_forward_hook(lambda _m, _a, merge: kinds.append(type(merge).__name__))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert kinds == ["Assigned", "Assigned", "Assigned", "NormKept"]


def test_pitome_energy() -> None:
    """Tokens at 0 and 60 degrees, margin 0.9: f(1) = 1 and f(0.5) = exp(-0.4) - 1."""
    expected = (1 + math.exp(0.5 - 0.9) - 1) / 2
    torch.testing.assert_close(energy(on_circle(0, 60), 0.9), torch.full((1, 2), expected))
    expected = (1 + 0.5) / 2  # above the margin it is the cosine
    torch.testing.assert_close(energy(on_circle(0, 60), 0.4), torch.full((1, 2), expected))


def test_pitome_protects_what_is_alone() -> None:
    # a group of four near 0 degrees, and two that are alone
    metric = on_circle(0, 90, 2, 3, 200, 5)
    merge = merge_by_energy(metric, torch.ones(1, 6), 4, margin=0.9, alpha=1.0)
    groups = [set((merge.slot[0] == s).nonzero().flatten().tolist()) for s in range(4)]
    assert {1} in groups
    assert {4} in groups
    assert sorted(map(len, groups)) in ([1, 1, 2, 2], [1, 1, 1, 3])


def test_cubistmerge_joins_neighbours_and_keeps_their_order() -> None:
    merge = merge_neighbours(on_circle(0, 50, 55, 120, 124, 180), torch.ones(1, 6), 4)
    assert merge.slot.tolist() == [[0, 1, 1, 2, 2, 3]]
    x = torch.tensor([[[1.0, -5.0], [-2.0, 3.0], [1.5, -3.5]]])
    most = MaxMagnitude.normalised(torch.tensor([[0, 1, 1]]), torch.ones(1, 3), 2)
    assert most(x).tolist() == [[[1.0, -5.0], [-2.0, -3.5]]]


def test_the_value_farthest_from_0_is_found_among_any_number_of_tokens() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 7, 5, requires_grad=True)
    slot = torch.tensor([[2, 0, 2, 1, 2, 0, 2], [0, 1, 1, 1, 2, 2, 0]])
    merged = MaxMagnitude.normalised(slot, torch.ones(2, 7), 3)(x)
    merged.sum().backward()
    assert x.grad is not None
    for image in range(2):
        for s in range(3):
            tokens = (slot[image] == s).nonzero().flatten()
            farthest = tokens[x[image, tokens].abs().argmax(0)]
            expected = x[image, farthest, torch.arange(5)]
            torch.testing.assert_close(merged[image, s], expected)
            assert (x.grad[image, farthest, torch.arange(5)] == 1).all()
    assert x.grad.sum() == merged.numel()


def test_the_grid_rule_keeps_rows_and_columns() -> None:
    torch.manual_seed(0)
    merge = reduce_grid(torch.randn(2, 24, 8), torch.ones(2, 24), (4, 6), (3, 4), merge_neighbours)
    slot = merge.slot.view(2, 4, 6)
    assert sorted(set(slot.flatten().tolist())) == list(range(12))
    # neighbours alone merge: numbers never fall along a row, nor along a column
    assert (slot.diff(dim=2) % 4 <= 3).all()
    assert ((slot % 4).diff(dim=2) >= 0).all()


def test_a_threshold_is_hard_forward_and_a_sigmoid_backward() -> None:
    threshold = Threshold(0.9, 0.1)
    values = torch.tensor([0.95, 0.7])
    out = threshold(values)
    torch.testing.assert_close(out, torch.tensor([1.0, 0.0]))
    out.sum().backward()
    s = torch.sigmoid((values - 0.9) / 0.1)
    expected = -(s * (1 - s) / 0.1).sum()
    assert threshold.theta.grad is not None
    torch.testing.assert_close(threshold.theta.grad, expected[None])


def test_ltmp_masks_in_training_what_it_removes() -> None:
    thresholds = Thresholds()
    torch.nn.init.constant_(thresholds.merge.theta, 0.99)  # 0 and 3, 1 degree apart; 4 and 1, 3
    torch.nn.init.constant_(thresholds.prune.theta, 0.1)
    received = torch.tensor([[0.2, 0.2, 0.05, 0.2, 0.2, 0.15]])
    merge = threshold_softly(SIX, received, torch.ones(1, 6), thresholds)
    gone = LEFT_OVER
    torch.testing.assert_close(merge.mass, torch.tensor([[gone, 2, gone, 2, gone, 1]]))
    x = torch.arange(6.0).view(1, 6, 1)
    assert merge(x).flatten().tolist() == pytest.approx([0, 2.5, 2, 1.5, 4, 5], abs=1e-5)
    merge.mass.sum().backward()
    assert thresholds.prune.theta.grad is not None
    assert thresholds.prune.theta.grad < 0  # a higher threshold leaves less


def test_ltmp_merges_first_and_prunes_then() -> None:
    thresholds = Thresholds()
    torch.nn.init.constant_(thresholds.merge.theta, 0.9999 - 1e-2)
    torch.nn.init.constant_(thresholds.prune.theta, 0.1)
    received = torch.tensor([[0.2, 0.2, 0.05, 0.2, 0.2, 0.15]])
    x = torch.arange(6.0).view(1, 6, 1)
    ones = torch.ones(1, 6)
    with torch.no_grad():
        three = threshold_to(SIX, received, ones, 3, thresholds)
    # 0 joins 3, 4 joins 1, and 2, which nobody attends to, is dropped
    torch.testing.assert_close(three(x).flatten(), torch.tensor([2.5, 1.5, 5.0]))


def test_ltmp_counts_what_it_saves() -> None:
    assert float(relative_macs(torch.ones(4), 64, 64)) == pytest.approx(1)
    # one block, no attention products to speak of: 4 of 12 parts before the merge, 8 after it
    half = float(relative_macs(torch.tensor([0.5]), 1, 10**6))
    assert half == pytest.approx((4 + 8 * 0.5) / 12, rel=1e-4)


def test_dtem_is_tomes_matching_in_the_limit() -> None:
    mass = torch.ones(1, 6)
    soft = merge_softly(SIX, mass, 2, tau=1e-4)
    torch.testing.assert_close(
        soft.mass, torch.tensor([[LEFT_OVER, 2, 1, 2, LEFT_OVER, 1]]), atol=1e-3, rtol=0
    )
    x = torch.arange(6.0).view(1, 6, 1)
    hard = merge_pairs(SIX, mass, 4)
    torch.testing.assert_close(soft(x)[:, [1, 2, 3, 5]], hard(x), atol=1e-3, rtol=0)


def test_dtem_moves_the_part_of_a_token_that_its_score_says() -> None:
    """Two A tokens, 10 and 60 degrees from the only B token, of which one should leave."""
    near, far = math.cos(math.radians(10)), math.cos(math.radians(60))
    mass = torch.tensor([[2.0, 1.0, 3.0]])
    merge = merge_softly(on_circle(10, 0, 60), mass, 1, tau=0.1)
    # the bound is half-way between the two scores
    goes = 1 / (1 + math.exp(-(near - far) / 2 / 0.1))
    stays = 1 - goes
    expected = [2 * stays, 1 + 2 * goes + 3 * stays, 3 * goes]
    torch.testing.assert_close(merge.mass, torch.tensor([expected]), atol=1e-4, rtol=0)
    x = torch.tensor([[[1.0], [10.0], [100.0]]])
    taken = (10 + 2 * goes * 1 + 3 * stays * 100) / expected[1]
    torch.testing.assert_close(merge(x).flatten(), torch.tensor([1.0, taken, 100.0]))


def test_dtem_learns_what_to_merge() -> None:
    embedding = SIX.clone().requires_grad_()
    merge = merge_softly(embedding, torch.ones(1, 6), 2, tau=0.1)
    merge(torch.randn(1, 6, 3)).square().sum().backward()
    assert embedding.grad is not None
    assert embedding.grad.isfinite().all()
    assert embedding.grad.abs().sum() > 0


def test_spvit_packs_what_it_drops() -> None:
    score = torch.tensor([[0.9, 0.2, 0.6, 0.4]])
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    merge = package(score, 3, first=True)
    packed = (0.2 * 2 + 0.4 * 4) / 0.6
    torch.testing.assert_close(merge(x).flatten(), torch.tensor([1.0, 3.0, packed]))
    # the last token is a package by now, and stays one: with a score of 1
    again = package(score, 2, first=False)
    packed = (0.2 * 2 + 0.6 * 3 + 1 * 4) / 1.8
    torch.testing.assert_close(again(x).flatten(), torch.tensor([1.0, packed]))


def test_spvit_in_training_is_what_it_is_outside() -> None:
    score = torch.tensor([[0.9, 0.2, 0.6, 0.4]])
    keep = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    soft = package_softly(score, keep, torch.ones(1, 4), first=True)
    torch.testing.assert_close(soft.mass, torch.tensor([[1, LEFT_OVER, 1, LEFT_OVER, 1]]))
    hard = package(score, 3, first=True)
    torch.testing.assert_close(soft(x)[:, [0, 2, 4]], hard(x))


def test_spvit_decides_hard_and_learns_as_if_it_were_soft() -> None:
    """d package / d keep_j = -s_j (x_j - package) / sum of the scores in it."""
    score = torch.tensor([[0.9, 0.2, 0.6, 0.4]])
    keep = torch.tensor([[1.0, 0.0, 1.0, 0.0]], requires_grad=True)
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    merge = package_softly(score, keep, torch.ones(1, 4), first=True)
    packed = (0.2 * 2 + 0.4 * 4) / 0.6
    (by_package,) = torch.autograd.grad(merge(x)[0, 4, 0], keep, retain_graph=True)
    expected = -score * (x[..., 0] - packed) / 0.6
    torch.testing.assert_close(by_package, expected)
    (by_mass,) = torch.autograd.grad(merge.mass[0, :4].sum(), keep)
    torch.testing.assert_close(by_mass, torch.full((1, 4), 1 - LEFT_OVER))


def test_spvit_packs_later_what_nothing_was_packed_with_before() -> None:
    score = torch.tensor([[0.9, 0.2, 0.6]])
    x = torch.tensor([[[1.0], [2.0], [3.0]]])
    empty = package_softly(score, torch.ones(1, 3), torch.ones(1, 3), first=True)
    torch.testing.assert_close(empty.mass, torch.tensor([[1, 1, 1, LEFT_OVER]]))
    score, present = torch.tensor([[0.9, 0.2, 0.6, 0.5]]), empty.mass
    keep = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    merge = package_softly(score, keep, present, first=False)
    torch.testing.assert_close(merge.mass, torch.tensor([[1, LEFT_OVER, 1, 1]]))
    torch.testing.assert_close(merge(empty(x))[0, 3], x[0, 1], atol=1e-4, rtol=0)
    # with a package there already, that one counts as one token of score 1
    merge = package_softly(score, keep, torch.ones(1, 4), first=False)
    y = torch.tensor([[[1.0], [2.0], [3.0], [5.0]]])
    torch.testing.assert_close(merge(y)[0, 3, 0], torch.tensor((0.2 * 2 + 5) / 1.2))


def test_spvit_on_a_grid_joins_the_kept_one_before() -> None:
    merge: Assigned = drop_in_row(torch.tensor([[[0.1], [0.9], [0.3], [0.8]]]), torch.ones(1, 4), 2)
    assert merge.slot.tolist() == [[0, 0, 0, 1]]
    torch.testing.assert_close(merge.weight, torch.tensor([[0.1, 0.9, 0.3, 1.3]]) / 1.3)

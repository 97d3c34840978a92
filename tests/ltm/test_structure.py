"""Heads and units: what leaves, that it leaves for good, and that nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ltm
from ltm.create import load_checkpoint
from ltm.structure.select import best, even_plan, remove, swap, taylor_cost

if TYPE_CHECKING:
    from pathlib import Path

TINY = "vit_nano_patch4_32"
SMALL = {TINY: 32, "mobilevit_xxs": 64, "efficientvit_b0": 64}


def create(backbone: str = TINY, method: str = "savit", **options: Any) -> Any:
    torch.manual_seed(0)
    size = SMALL.get(backbone)
    return ltm.create_model(backbone, method, num_classes=5, image_size=size, **options)


def images(size: int = 32, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def score(model: Any, x: Tensor, labels: Tensor) -> None:
    """The scoring pass, as training makes it."""
    model.eval()
    model.method.before_scoring(model)
    for part in zip(x.split(4), labels.split(4), strict=True):
        model.method.score(model, F.cross_entropy(model(part[0]), part[1]))
    model.method.after_scoring(model)


# --- selection


def test_cross_terms_tell_components_that_cancel() -> None:
    """Of three, the first two always add up to nothing: they go together, the third alone."""
    samples = torch.tensor([[2.0, -2.0, 1.0], [-2.0, 2.0, 1.0]])
    cost = taylor_cost(samples)
    none = torch.zeros(3, dtype=torch.bool)
    torch.testing.assert_close(cost(none), torch.tensor([4.0, 4.0, 1.0]))
    # with the first gone, mean (s_i^2 + 2 s_i s_0) = 4 - 8, and 1 + (2 x 2 - 2 x 2) / 2
    torch.testing.assert_close(
        cost(torch.tensor([True, False, False]))[1:], torch.tensor([-4.0, 1])
    )
    args = (torch.ones(3), torch.zeros(3, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    assert remove(cost, *args, excess=1).tolist() == [True, True, False]


def test_what_is_dear_but_large_leaves_before_what_is_cheap_but_small() -> None:
    worth, macs = torch.tensor([4.0, 3.0, 2.0]), torch.tensor([4.0, 1.0, 1.0])
    one = torch.ones(1, dtype=torch.long)
    kept = remove(lambda _: worth, macs, torch.zeros(3, dtype=torch.long), one, excess=3.5)
    assert kept.tolist() == [False, True, True]


def test_a_part_keeps_its_last_component_and_what_still_fits_comes_back() -> None:
    worth, macs = torch.tensor([1.0, 1.1, 9.0, 20.0]), torch.tensor([1.0, 1.0, 4.0, 4.0])
    part, least = torch.tensor([0, 0, 1, 1]), torch.ones(2, dtype=torch.long)
    kept = remove(lambda _: worth, macs, part, least, excess=4.5)
    assert kept.tolist() == [False, True, False, True]
    kept = remove(lambda _: worth, macs, part, least, excess=4.0)
    assert kept.tolist() == [True, True, False, True]  # the first one fits again
    assert remove(lambda _: worth, macs, part, least, excess=99).tolist() == [
        False,
        True,
        False,
        True,
    ]


def test_drop_and_grow() -> None:
    kept = torch.tensor([True, True, True, False, False])
    worth, promise = torch.tensor([3.0, 1, 2, 0, 0]), torch.tensor([9.0, 9, 9, 1, 2])
    assert swap(kept, worth, promise, 1).tolist() == [True, False, True, False, True]
    assert swap(kept, worth, promise, 9).tolist() == [True, False, False, True, True]
    assert swap(kept, worth, promise, 0).tolist() == kept.tolist()
    assert best(worth, 2).tolist() == [True, False, True, False, False]


def test_units_make_up_for_the_rounding_of_heads() -> None:
    sizes, macs = {"attn": 3, "mlp": 100}, {"attn": 10.0, "mlp": 1.0}
    plan = even_plan(sizes, macs, ["attn"], excess=26)  # 0.8 of 130
    assert plan == {"attn": 2, "mlp": 84}
    assert even_plan(sizes, macs, ["attn"], excess=0) == sizes


# --- networks


@pytest.mark.parametrize("method", ["savit", "s2vite"])
@pytest.mark.parametrize("backbone", SMALL)
def test_what_gates_close_can_be_removed(backbone: str, method: str) -> None:
    base, model = create(backbone, "none"), create(backbone, method, compression_ratio=0.7).eval()
    for part, gate in model.gated:  # not the first ones, and not the largest
        gate.close(gate.kept[torch.randperm(part.size)])
    small: Any = ltm.compacted(model)
    cost, whole = ltm.count(small), ltm.count(base)
    assert cost.gmacs / whole.gmacs == pytest.approx(0.7, abs=0.02)
    assert cost.gmacs <= 0.7 * whole.gmacs
    assert cost.gmacs == pytest.approx(model.gmacs_of(small.plan))
    assert cost.params_m < whole.params_m
    assert cost.params_m == sum(p.numel() for p in small.parameters()) / 1e6
    for part in small.parts():
        assert part.size == small.plan[part.name] == model.plan[part.name]
    x = images(SMALL[backbone])
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x))


def test_ratio_1_is_exactly_the_base_network() -> None:
    base, model = create(method="none"), create(compression_ratio=1)
    with torch.no_grad():
        assert torch.equal(model(images()), base(images()))
        assert torch.equal(ltm.compacted(model)(images()), base(images()))


@pytest.mark.parametrize("compact", [True, False])
def test_the_shape_follows_from_the_state_dict(compact: bool, tmp_path: Path) -> None:
    model = create(compression_ratio=0.6).eval()
    score(model, images(count=8), torch.arange(8) % 5)
    stored = ltm.compacted(model) if compact else model
    torch.save(stored.state_dict(), tmp_path / "w.pt")
    torch.save(create(method="none").state_dict(), tmp_path / "whole.pt")
    again = create(compression_ratio=0.6).eval()
    for _ in range(2):  # another network's weights in between: it grows, and shrinks again
        load_checkpoint(again, tmp_path / "w.pt")
        assert not again.gated
        assert again.plan == model.plan
        with torch.no_grad():
            torch.testing.assert_close(again(images()), model(images()))
        with pytest.raises(ValueError, match="do not come back"):
            again.set_compression(0.5)
        again.set_compression(model.plan)
        load_checkpoint(again, tmp_path / "whole.pt")
        assert again.gated
        assert again.gmacs_of(again.plan) <= 0.6 * again.base_gmacs


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(create("mobilevit_xxs", "none").state_dict(), tmp_path / "w.pt")
    model = create(compression_ratio=0.6)
    plan = model.plan
    with pytest.raises(ValueError, match="lacks"):
        load_checkpoint(model, tmp_path / "w.pt")
    assert model.plan == plan


def test_closed_components_learn_nothing_and_all_others_learn() -> None:
    model = create(compression_ratio=0.5).train()
    model(images()).square().sum().backward()
    block = model.blocks[1].mlp
    kept = block.norm.kept
    assert (block.fc1.weight.grad.abs().sum(1) > 0).tolist() == kept.tolist()
    assert (block.fc2.weight.grad.abs().sum(0) > 0).tolist() == kept.tolist()


@pytest.mark.parametrize("backbone", SMALL)
def test_the_derivative_by_a_gate_is_the_sum_of_w_g(backbone: str) -> None:
    model = create(backbone, compression_ratio=1).eval()
    for _, gate in model.gated:
        gate.watched = "image"
    loss = model(images(SMALL[backbone])).square().mean()
    part, gate = next((p, g) for p, g in model.gated if not p.heads)
    reader = {"Mlp": "fc2", "MBConv": "point_conv.conv"}[type(part.module).__name__]
    weight = part.module.get_submodule(reader).weight
    leaf = gate.take_leaf()
    by_gate, by_weight = torch.autograd.grad(loss, [leaf, weight])
    expected = (weight * by_weight).transpose(0, 1).flatten(1).sum(1)
    torch.testing.assert_close(by_gate.sum(0), expected, atol=1e-6, rtol=1e-4)


def test_gates_of_blocks_that_are_computed_again_have_the_same_derivatives() -> None:
    seen: list[tuple[Tensor, ...]] = []
    for checkpointing in (False, True):
        model = create(method="s2vite", compression_ratio=0.7).train()
        model.set_grad_checkpointing(checkpointing)
        model.method.before_training(model)
        for part in images(count=4).split(2):  # two micro-batches of one step
            model(part).square().mean().backward()
        seen.append(tuple(gate.take_gradient() for _, gate in model.gated))
    torch.testing.assert_close(*seen)


# --- savit


def test_savit_removes_what_the_loss_does_not_need() -> None:
    model = create(compression_ratio=0.7)
    useless = model.blocks[2].mlp.fc2
    with torch.no_grad():
        useless.weight[:, 10:90] = 0  # no L1 norm of their own, but fc1 makes up for it below
        model.blocks[2].mlp.fc1.weight[10:90] *= 100
    model.set_compression(0.7)
    assert model.blocks[2].mlp.norm.kept[10:90].all()
    score(model, images(count=16), torch.arange(16) % 5)
    assert not model.blocks[2].mlp.norm.kept[10:90].any()
    spent = ltm.count(ltm.compacted(model)).gmacs
    assert 0.69 * model.base_gmacs < spent <= 0.7 * model.base_gmacs


def test_savit_follows_a_plan_within_its_parts() -> None:
    plan = {"blocks.0.attn": 1, "blocks.3.mlp": 40}
    model = create(plan=plan)
    score(model, images(count=4), torch.arange(4))
    full = {f"blocks.{i}.{part}": n for i in range(4) for part, n in (("attn", 2), ("mlp", 256))}
    assert model.plan == {**full, **plan}


# --- s2vite


def test_s2vite_changes_a_share_that_falls_along_a_cosine() -> None:
    method = create(method="s2vite", update_every=10, share=0.4, until=0.8).method
    assert method.share_at(11, 100) == 0
    assert method.share_at(40, 100) == pytest.approx(0.2)
    assert method.share_at(80, 100) == 0
    shares = [method.share_at(step, 100) for step in range(10, 90, 10)]
    assert shares == sorted(shares, reverse=True)


def test_s2vite_drops_and_regrows_and_its_macs_stay() -> None:
    model = create(method="s2vite", compression_ratio=0.5, update_every=2, share=0.5).train()
    plan = model.plan
    model.method.before_training(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    seen = [gate.kept.clone() for _, gate in model.gated]
    for step in range(1, 5):
        for micro in images(count=8).split(4):
            model(micro).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.method.after_step(model, step, steps=8)
        assert model.plan == plan
        now = [gate.kept.clone() for _, gate in model.gated]
        moved = [bool((a != b).any()) for a, b in zip(seen, now, strict=True)]
        assert any(moved) == (step % 2 == 0)
        seen = now
    changed = [name for name, p in model.named_parameters() if not p.isfinite().all()]
    assert not changed


def test_s2vite_grows_what_the_loss_asks_for() -> None:
    model = create(method="s2vite", compression_ratio=0.5, update_every=2, share=0.01).train()
    model.method.before_training(model)
    _, gate = next((p, g) for p, g in model.gated if p.name == "blocks.1.mlp")
    wanted = int((~gate.kept).nonzero()[3])
    with torch.no_grad():
        model.blocks[1].mlp.fc2.weight[:, wanted] *= 1000
    for step in (1, 2):
        model(images()).square().mean().backward()
        model.method.after_step(model, step, steps=100)
    assert gate.kept[wanted]


# --- refusals


@pytest.mark.parametrize(
    ("backbone", "options", "says"),
    [
        ("swin_nano_patch2_window4_32", {}, "cannot remove heads and units of swin_nano"),
        (TINY, {"compression_ratio": 0.01}, r"compression_ratio is 0\.01, allowed .* to 1"),
        (TINY, {"compression_ratio": 1.5}, r"\(0, 1\]"),
        (TINY, {"target_gmacs": 1e-5}, "target_gmacs is 1e-05, allowed"),
        (TINY, {"plan": {"blocks.0.attn": 3}}, "from 1 to 2"),
        (TINY, {"plan": {"blocks.0.att": 1}}, "blocks.0.att"),
        (TINY, {"plan": {"blocks.0.attn": (1, 1)}}, "from 1 to 2"),
        (TINY, {"images": 0}, "'images' is 0"),
        (TINY, {"image": 9}, "did you mean 'images'"),
        (TINY, {"method": "s2vite", "share": 2}, "'share' is 2, allowed is a number from 0 to 1"),
        (TINY, {"method": "s2vite", "update_every": 1.5}, "'update_every' is 1.5"),
    ],
)
def test_what_is_not_possible_is_named(backbone: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ltm.create_model(backbone, **{"method": "savit", **options})


def test_a_budget_means_what_it_means_for_tokens() -> None:
    model = create(target_gmacs=0.012)
    spent = ltm.count(ltm.compacted(model)).gmacs
    assert 0.98 * 0.012 < spent <= 0.012

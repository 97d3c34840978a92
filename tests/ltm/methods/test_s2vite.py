"""S2ViTE: structure moves while weights learn."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ltm

from ..structure.conftest import TINY, create, images

COUNT = 8
LABELS = torch.arange(COUNT) % 5


def network(seed: int = 0, **options: Any) -> Any:
    """Half of it is there, in float64, with biases, without which no closed unit can grow."""
    options = {"compression_ratio": 0.5, "update_every": 3, **options}
    model = create(method="s2vite", **options).double().train()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or ".head" in name:
                parameter.normal_(0, 0.5, generator=generator)
    return model


def train(model: Any, micro_batches: int, step: int, steps: int) -> Any:
    """The gradients of one batch, and what happens after its step."""
    x, labels = images(count=COUNT).double(), LABELS
    for part, label in zip(x.chunk(micro_batches), labels.chunk(micro_batches), strict=True):
        (F.cross_entropy(model(part), label) / micro_batches).backward()
    model.zero_grad()
    return model.method.after_step(model, step, steps)


# --- as published: the weights of what is not there are 0, in a network without gates


def masked(model: Any) -> Any:
    """timm's own network; a head that is not there has no biases either, which is ours."""
    base = create(method="none").double()
    state = {k: v.clone() for k, v in model.state_dict().items() if not k.endswith("kept")}
    for i, block in enumerate(model.blocks):
        heads, units = block.attn.norm.kept, block.mlp.norm.kept
        width = block.attn.head_dim
        for row in range(3 * len(heads) * width):
            if not heads[row % (len(heads) * width) // width]:
                state[f"blocks.{i}.attn.qkv.weight"][row] = 0
                state[f"blocks.{i}.attn.qkv.bias"][row] = 0
        for unit in range(len(units)):
            if not units[unit]:
                state[f"blocks.{i}.mlp.fc1.weight"][unit] = 0
                state[f"blocks.{i}.mlp.fc2.weight"][:, unit] = 0
    base.load_state_dict(state)
    return base.train()


def published(model: Any, rate: float) -> list[dict[str, set[int]]]:
    """What is there after an update, of each block, one component after the other."""
    base, before = masked(model), model.blocks
    attended: list[Tensor] = []

    def keep(_: Any, given: tuple[Tensor]) -> None:
        given[0].retain_grad()
        attended.append(given[0])

    for block in base.blocks:
        block.attn.proj.register_forward_pre_hook(keep)
    F.cross_entropy(base(images(count=COUNT).double()), LABELS).backward()
    chosen = []
    for block, was, a in zip(base.blocks, before, attended, strict=True):
        assert a.grad is not None
        width = block.attn.head_dim
        death, growth = {}, {}
        for head in range(block.attn.num_heads):
            channels = slice(head * width, (head + 1) * width)
            images_of = zip(a.detach(), a.grad, strict=True)
            own = [(x[:, channels], g[:, channels]) for x, g in images_of]
            death[head] = sum(float((x * g).sum().abs()) for x, g in own) / COUNT
            growth[head] = sum(float(g.abs().sum()) for _, g in own) / COUNT
        heads = moved(was.attn.norm.kept, death, growth, rate)
        fc1, fc2 = block.mlp.fc1.weight, block.mlp.fc2.weight
        death, growth = {}, {}
        for unit in range(len(fc1)):
            death[unit] = float(fc1.detach()[unit].abs().sum() + fc2.detach()[:, unit].abs().sum())
            by_fc1, by_fc2 = fc1.grad[unit], fc2.grad[:, unit]
            growth[unit] = float(by_fc1.abs().sum() + by_fc2.abs().sum())
        chosen.append({"attn": heads, "mlp": moved(was.mlp.norm.kept, death, growth, rate)})
    return chosen


def moved(kept: Tensor, death: dict[int, float], growth: dict[int, float], rate: float) -> set[int]:
    there = {i for i, is_kept in enumerate(kept.tolist()) if is_kept}
    number = math.ceil(rate * len(there))
    there -= set(sorted(there, key=lambda i: death[i])[:number])
    closed = set(death) - there
    return there | set(sorted(closed, key=lambda i: -growth[i])[:number])


@pytest.mark.parametrize(("seed", "micro_batches"), [(0, 1), (2, 2), (3, 1)])
def test_what_dies_and_grows_is_what_the_paper_says(seed: int, micro_batches: int) -> None:
    model = network(seed)
    base = masked(model)
    x = images().double()
    torch.testing.assert_close(model(x), base(x), rtol=0, atol=1e-9)
    expected = published(model, model.method.rate_at(3, 9))
    before = [(b.attn.norm.kept.clone(), b.mlp.norm.kept.clone()) for b in model.blocks]
    model.method.before_training(model)
    train(model, micro_batches, 3, 9)
    after = [(b.attn.norm.kept, b.mlp.norm.kept) for b in model.blocks]
    got = [
        {name: set(kept.nonzero()[:, 0].tolist()) for name, kept in zip(parts, both, strict=True)}
        for both in after
        for parts in [("attn", "mlp")]
    ]
    assert got == expected
    changed = [
        [not torch.equal(*pair) for pair in zip(*both, strict=True)]
        for both in zip(before, after, strict=True)
    ]
    assert any(heads for heads, _ in changed)
    assert all(units for _, units in changed)


def test_what_grows_begins_at_0_and_what_died_at_once_has_lost_nothing() -> None:
    model = network()
    before = copy.deepcopy(model)
    model.method.before_training(model)
    zeroed = train(model, 1, 3, 9)
    for block, was in zip(model.blocks, before.blocks, strict=True):
        grown = block.mlp.norm.kept & ~was.mlp.norm.kept
        assert grown.any()
        assert not block.mlp.fc1.weight[grown].any()
        assert not block.mlp.fc2.weight[:, grown].any()
        for name in ("fc1", "fc2"):
            new, old = block.mlp.get_submodule(name), was.mlp.get_submodule(name)
            assert any(new.weight is one for one in zeroed)
            assert torch.equal(new.bias, old.bias)
        assert torch.equal(block.mlp.fc1.weight[~grown], was.mlp.fc1.weight[~grown])
        heads = block.attn.norm.kept & ~was.attn.norm.kept
        rows = block.attn.qkv.weight.view(3, 2, -1)
        assert not rows[:, heads].any()
        assert torch.equal(rows[:, ~heads], was.attn.qkv.weight.view(3, 2, -1)[:, ~heads])
        assert torch.equal(block.attn.proj.weight, was.attn.proj.weight)
    # what has grown learns
    train(model, 1, 4, 9)
    F.cross_entropy(model(images().double()), LABELS[:2]).backward()
    assert (block.mlp.fc2.weight.grad[:, grown].abs().sum(0) > 0).all()


def test_of_a_new_network_no_unit_grows_before_one_that_has_just_died() -> None:
    """Its biases are 0, and so are the gradients of units that are 0."""
    model = create(method="s2vite", compression_ratio=0.5, update_every=1).train()
    before = [block.mlp.norm.kept.clone() for block in model.blocks]
    model.method.before_training(model)
    train(model.double(), 1, 1, 9)
    for block, kept in zip(model.blocks, before, strict=True):
        assert torch.equal(block.mlp.norm.kept, kept)


# --- when, how many, and which at the start


def test_the_rate_falls_along_a_cosine_of_all_steps() -> None:
    method = create(method="s2vite", update_every=10).method
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100, eta_min=0.005)
    for step in range(1, 101):
        optimizer.step()
        cosine.step()
        updates = step % 10 == 0 and step < 80
        expected = cosine.get_last_lr()[0] if updates else 0
        assert method.rate_at(step, 100) == pytest.approx(expected)


def test_the_interval_is_a_hundredth_of_the_run_as_in_the_paper() -> None:
    method = create(method="s2vite").method
    steps = 600 * 2502  # of 512 images, an epoch of ImageNet
    (first,) = [step for step in range(14_900, 15_100) if method.rate_at(step, steps)]
    assert first == pytest.approx(15_000, rel=1e-3)
    assert [step for step in range(1000) if method.rate_at(step, 1000)] == list(range(10, 800, 10))
    assert [step for step in range(20) if method.rate_at(step, 20)] == list(range(1, 16))


def test_the_start_is_random_with_the_same_share_in_every_layer() -> None:
    model = create(method="s2vite", compression_ratio=0.6)
    kept = {part.name: gate.kept.clone() for part, gate in model.gated}
    units = [kept[f"blocks.{i}.mlp"] for i in range(4)]
    assert len({int(x.sum()) for x in units}) == 1
    assert not any(torch.equal(units[0], other) for other in units[1:])
    magnitude = model.parts()[1].magnitude()
    largest = magnitude.argsort(descending=True)[: int(units[0].sum())]
    assert 0.4 < units[0][largest].float().mean() < 0.8
    torch.rand(3)
    model.set_compression(0.6)  # once more, whatever was drawn meanwhile
    assert all(torch.equal(gate.kept, kept[part.name]) for part, gate in model.gated)
    torch.manual_seed(1)
    other: Any = ltm.create_model(TINY, "s2vite", num_classes=5, compression_ratio=0.6)
    assert any(not torch.equal(gate.kept, kept[part.name]) for part, gate in other.gated)


def test_s2vite_drops_and_regrows_and_its_macs_stay() -> None:
    model = network(update_every=2)
    plan = model.plan
    model.method.before_training(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    seen = [gate.kept.clone() for _, gate in model.gated]
    for step in range(1, 5):
        for micro in images(count=8).double().split(4):
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


def test_between_updates_nothing_is_watched() -> None:
    model = network(update_every=3)
    model.method.before_training(model)
    watched = []
    for step in range(1, 7):
        train(model, 1, step, 9)
        weights = [block.mlp.fc1.weight._backward_hooks for block in model.blocks]
        assert len({bool(hooks) for hooks in weights}) == 1
        watched.append((model.gated[0][1].watched, bool(weights[0])))
    assert watched == [(step % 3 == 2, step % 3 == 2) for step in range(1, 7)]


def test_a_copy_in_the_middle_of_training_goes_on_by_itself() -> None:
    model = network(update_every=1)
    model.method.before_training(model)
    train(model, 1, 1, 9)
    model(images().double()).sum().backward()
    other = copy.deepcopy(model)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    other.method.before_training(other)
    train(other, 1, 2, 9)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert any(not torch.equal(v, state[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("backbone", ["mobilevit_xxs", "efficientvit_b0"])
def test_other_families_drop_and_grow(backbone: str) -> None:
    model = create(backbone, "s2vite", compression_ratio=0.8, update_every=1).train()
    plan, was = model.plan, [gate.kept.clone() for _, gate in model.gated]
    model.method.before_training(model)
    F.cross_entropy(model(images(64, count=COUNT)), LABELS).backward()
    model.method.after_step(model, 1, 9)
    assert model.plan == plan
    moved = [
        part for (part, gate), x in zip(model.gated, was, strict=True) if (gate.kept != x).any()
    ]
    assert any(part.heads for part in moved)

"""SAViT: what the loss does not need leaves before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ltm
from ltm.structure.select import joint

from ..structure.conftest import create, images, score

HEADS, UNITS = 2, 256  # of a block of the small ViT, which has four


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


# --- as published: gates in timm's own network, batches of 32


class Gated:
    """Gates of timm's ViT: of heads before the projection, of units before the activation."""

    def __init__(self, base: Any) -> None:
        self.heads = [torch.ones(HEADS, dtype=torch.float64) for _ in base.blocks]
        self.units = [torch.ones(UNITS, dtype=torch.float64) for _ in base.blocks]
        self.base = base
        for i, block in enumerate(base.blocks):
            block.attn.fused_attn = False
            block.attn.proj.register_forward_pre_hook(self._of_heads(i))
            block.mlp.act.register_forward_pre_hook(self._of_units(i))

    def _of_heads(self, i: int) -> Any:
        return lambda _, x: x[0] * self.heads[i].repeat_interleave(x[0].shape[-1] // HEADS)

    def _of_units(self, i: int) -> Any:
        return lambda _, x: x[0] * self.units[i]

    def own(self, x: Tensor, y: Tensor) -> Tensor:
        """(dL/dgate)^2 of a batch, [4 x (2 + 256)] in the order of the parts."""
        gates = [
            gate.requires_grad_()
            for pair in zip(self.heads, self.units, strict=True)
            for gate in pair
        ]
        loss = F.cross_entropy(self.base(x), y)
        return torch.cat([g.square() for g in torch.autograd.grad(loss, gates)])

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Second derivatives by one factor for all heads and one for all units: the sums of those
        by pairs of gates."""

        def loss(both: Tensor) -> Tensor:
            self.heads = [both[0].expand(HEADS) for _ in self.heads]
            self.units = [both[1].expand(UNITS) for _ in self.units]
            return F.cross_entropy(self.base(x), y)

        found: Any = torch.autograd.functional.hessian(loss, torch.ones(2, dtype=torch.float64))
        self.heads = [torch.ones(HEADS, dtype=torch.float64) for _ in self.heads]
        self.units = [torch.ones(UNITS, dtype=torch.float64) for _ in self.units]
        return found


def chosen(model: Any, own: Tensor, between: Tensor) -> list[bool]:
    """What stays, by trying every number of heads."""
    scores, at = {}, 0
    macs = {}
    for part in model.parts():
        for index in range(part.size):
            scores[part.name, index] = float(own[at])
            macs[part.name, index] = model.part_gmacs[part.name]
            at += 1
    leaving: dict[str, list[tuple[str, int]]] = {"attn": [], "mlp": []}
    for part in model.parts():
        of_part = sorted((i for i in scores if i[0] == part.name), key=scores.__getitem__)
        stays = max(1, int(0.05 * part.size))
        leaving[part.name.split(".")[-1]] += of_part[:-stays]
    for order in leaving.values():
        order.sort(key=scores.__getitem__)
    channels = {"attn": 4 * model.embed_dim, "mlp": 4 * UNITS}
    c = [
        [float(between[i, j]) / (channels[a] * channels[b]) for j, b in enumerate(channels)]
        for i, a in enumerate(channels)
    ]
    excess = model.base_gmacs - model.target_gmacs(model.compression)
    best: tuple[float, list[Any]] | None = None
    for heads in range(len(leaving["attn"]) + 1):
        gone = leaving["attn"][:heads]
        if sum(macs[i] for i in gone[:-1]) >= excess - 1e-12 and heads:
            break  # the one before was enough
        units = 0
        while sum(macs[i] for i in gone) < excess - 1e-12 and units < len(leaving["mlp"]):
            gone = [*gone, leaving["mlp"][units]]
            units += 1
        if sum(macs[i] for i in gone) < excess - 1e-12:
            continue
        r = (heads / (4 * HEADS), units / (4 * UNITS))
        cost = sum(c[i][j] * r[i] * r[j] for i in range(2) for j in range(2))
        if best is None or cost < best[0]:
            best = cost, gone
    assert best is not None
    return [component not in best[1] for component in scores]


def test_scores_interactions_and_choice_are_those_of_the_paper() -> None:
    model = create(compression_ratio=0.5, images=64).double().eval()
    base = create(method="none").double().eval()
    with torch.no_grad():
        for one in (model, base):
            torch.manual_seed(3)
            one.head.weight.normal_()
    x, y = images(count=70).double(), torch.arange(70) % 5
    seen: dict[str, Tensor] = {}
    choose = model.method.choose

    def keep(model: Any, own: Tensor, between: Tensor) -> Any:
        seen.update(own=own, between=between)
        return choose(model, own, between)

    model.method.choose = keep
    model.method.before_scoring(model)
    for part in range(0, 70, 10):  # no part of a batch is a whole one
        at = slice(part, part + 10)
        model.method.score(model, F.cross_entropy(model(x[at]), y[at]))
    model.method.after_scoring(model)
    gated = Gated(base)
    batches = [(x[:32], y[:32]), (x[32:64], y[32:64])]  # 64 images, as was asked for
    own = sum(gated.own(*batch) for batch in batches) / 2
    between = sum(gated.between(*batch) for batch in batches) / 2
    torch.testing.assert_close(seen["own"], own, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(seen["between"], between, rtol=1e-9, atol=1e-12)
    kept = torch.cat([gate.kept for _, gate in model.gated])
    assert kept.tolist() == chosen(model, own, between)
    for ratio in (0.4, 0.8, 1):
        model.set_compression(ratio)
        kept = torch.cat(choose(model, own, between))
        assert kept.tolist() == chosen(model, own, between)
    assert all(block.attn.fused_attn for block in model.blocks)


@pytest.mark.parametrize("backbone", ["vit_nano_patch4_32", "mobilevit_xxs", "efficientvit_b0"])
def test_gates_of_blocks_that_are_computed_again_have_the_same_derivatives(backbone: str) -> None:
    size = 32 if backbone.startswith("vit") else 64
    kept = []
    for checkpointing in (False, True):
        model = create(backbone, compression_ratio=0.8)
        model.set_grad_checkpointing(checkpointing)
        score(model, images(size, count=4), torch.arange(4))
        kept.append(torch.cat([gate.kept for _, gate in model.gated]))
        assert model.gmacs_of(model.plan) <= 0.8 * model.base_gmacs
    assert torch.equal(*kept)


# --- components that have nothing to do with each other


def independent(batches: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """48 heads and 3952 units: true costs, own scores, between, MACs, whether it is a head."""
    generator = torch.Generator().manual_seed(0)
    heads = torch.arange(4000) < 48
    macs = torch.where(heads, 64.0, 1.0).double()
    true = torch.rand(4000, dtype=torch.float64, generator=generator) * macs
    drawn = torch.randn(batches, 4000, dtype=torch.float64, generator=generator)
    own = (drawn * true.sqrt()).square().mean(0)
    channels = torch.tensor([48 * 64, 3952]).double()
    between = torch.diag(torch.stack([own[heads].sum(), own[~heads].sum()]) / channels.square())
    return true, own, between, macs, heads


@pytest.mark.parametrize("batches", [16, 500])
@pytest.mark.parametrize("share", [0.2, 0.3, 0.5])
def test_savit_beats_own_scores_on_independent_components(batches: int, share: float) -> None:
    """An estimate that finds interactions in noise promises a tenth of what it costs."""
    true, own, between, macs, heads = independent(batches)
    excess = share * float(macs.sum())
    part = torch.where(heads, 0, 1)
    kept = joint(own, between, macs, part, heads, torch.tensor([2, 197]), excess)
    assert excess <= macs[~kept].sum() < excess + 1
    order = own.argsort()
    ranked = order[: int((macs[order].cumsum(0) < excess).sum()) + 1]
    assert true[~kept].sum() < 0.8 * true[ranked].sum()
    assert own[~kept].sum() > 0.7 * true[~kept].sum()


def test_components_of_one_kind_leave_by_own_score() -> None:
    _, own, _, _, heads = independent(16)
    one = ~heads
    every = torch.zeros(int(one.sum()), dtype=torch.long)
    ones, none = torch.ones(len(every)).double(), every.bool()
    kept = joint(own[one], torch.eye(2).double(), ones, every, none, torch.tensor([197]), 1000)
    assert set((~kept).nonzero()[:, 0].tolist()) == set(own[one].argsort()[:1000].tolist())

"""DynamicViT, beside an implementation of its own that follows the paper token by token."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ltm
from ltm.errors import FieldError
from ltm.merge import Masked, Selected
from ltm.methods.selectors import best, draw, half_global

from . import dropping

TINY = "vit_nano_patch4_32"
PLAN = {"blocks.3": 11, "blocks.6": 8, "blocks.9": 5}


def scores(selector: Any, x: Tensor, keep: Tensor) -> Tensor:
    """log softmax(MLP([local, global])), [B, N, 2], with keep [B, N] of zeros and ones."""
    norm, first = selector.project[0], selector.project[1]
    one, two, three = (selector.score[i] for i in (0, 2, 4))
    D = x.shape[-1]
    out = []
    for tokens, there in zip(x, keep, strict=True):
        y = []
        for token in tokens:
            centred = token - token.mean()
            normed = centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias
            y.append(F.gelu(first.weight @ normed + first.bias))
        mean = sum(t[D // 2 :] for t, k in zip(y, there, strict=True) if k) / there.sum()
        logits = []
        for token in y:
            z = torch.cat([token[: D // 2], mean])
            z = F.gelu(one.weight @ z + one.bias)
            z = F.gelu(two.weight @ z + two.bias)
            logits.append(three.weight @ z + three.bias)
        out.append(torch.stack(logits).log_softmax(-1))
    return torch.stack(out)


@pytest.mark.parametrize("pool", dropping.POOLS)
def test_training_is_that_of_the_paper(pool: str) -> None:
    ours, images = dropping.run("dynamicvit", pool, training=True, plan=PLAN)
    model, selectors = ours.model, iter(ours.model.method.selectors)
    x = dropping.embedded(model, images)
    first = model.num_prefix_tokens
    keep, merges, gaps = torch.ones(2, 16).double(), iter(ours.merges), []
    torch.manual_seed(dropping.CHANCE)
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            if i in (3, 6, 9):
                keep = keep * dropping.gumbel_keeps(scores(next(selectors), x[:, first:], keep))
                merge = next(merges)
                assert isinstance(merge, Masked)
                assert ((merge.mass > 0.5) == (keep > 0.5)).all()
                planned = PLAN[f"blocks.{i}"] / 16
                gaps += [(share.mean() - planned) ** 2 for share in keep]
            x = dropping.block(block, x, F.pad(keep, (first, 0), value=1.0))
        expected = dropping.classified(model, x, F.pad(keep, (first, 0), value=1.0))
    assert 0 < keep.mean() < 0.7
    torch.testing.assert_close(ours.logits, expected, rtol=0, atol=1e-9)
    (term,) = model.method.loss_terms().values()
    torch.testing.assert_close(term, 2 * torch.stack(gaps).mean(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("pool", dropping.POOLS)
def test_inference_gathers_the_highest_scores(pool: str) -> None:
    ours, images = dropping.run("dynamicvit", pool, training=False, plan=PLAN)
    model, selectors = ours.model, iter(ours.model.method.selectors)
    x = dropping.embedded(model, images)
    first, merges = model.num_prefix_tokens, iter(ours.merges)
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            if i in (3, 6, 9):
                tokens = x[:, first:]
                keep = scores(next(selectors), tokens, torch.ones(tokens.shape[:2]))[..., 0]
                rows, merge = [], next(merges)
                assert isinstance(merge, Selected)
                for b in range(2):
                    order = sorted(range(tokens.shape[1]), key=lambda n: -keep[b, n].item())
                    kept = order[: PLAN[f"blocks.{i}"]]
                    assert set(merge.index[b].tolist()) == set(kept)
                    rows.append(torch.cat([x[b, :first], tokens[b, kept]]))
                x = torch.stack(rows)
            x = dropping.block(block, x)
        expected = dropping.classified(model, x)
    torch.testing.assert_close(ours.logits, expected, rtol=0, atol=1e-9)


def test_gradients_of_masks_are_those_of_the_paper() -> None:
    """d loss / d log keep, through exp(q k) G / sum exp(q k) G with G_ii = 1, by autograd of it."""
    torch.manual_seed(0)
    merging: Any = ltm.create_model(
        "vit_tiny_patch16_224", "dynamicvit", plan={"blocks.9": 8}, image_size=64, num_classes=7
    ).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    decision = (torch.rand(2, 16) > 0.5).double()
    grads = []
    keep = decision.clone().requires_grad_()
    x = dropping.embedded(merging, images)
    for i, block in enumerate(merging.blocks):
        x = dropping.block(block, x, F.pad(keep, (1, 0), value=1.0) if i >= 9 else None)
    dropping.classified(merging, x).square().sum().backward()
    grads.append(keep.grad)
    keep = decision.clone().requires_grad_()
    merging.train().method.decide = lambda *_: Masked(keep * (1 - 1e-12) + 1e-12)
    merging(images).square().sum().backward()
    grads.append(keep.grad)
    assert grads[0] is not None
    assert (grads[0][decision == 0] != 0).all()
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-9)


def test_a_decision_is_hard_and_learns_as_if_it_were_soft() -> None:
    logs = torch.randn(2, 50, 2).log_softmax(-1).requires_grad_()
    torch.manual_seed(3)
    keep = draw(logs)
    assert set(keep.unique().tolist()) == {0.0, 1.0}
    torch.manual_seed(3)
    soft = F.gumbel_softmax(logs)[..., 0]
    weight = torch.randn(2, 50)
    ours, theirs = (torch.autograd.grad((y * weight).sum(), logs)[0] for y in (keep, soft))
    torch.testing.assert_close(ours, theirs)


def test_what_is_gone_has_no_part_in_the_mean() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]]])
    y = half_global(x, torch.tensor([[1.0, 1.0, 0.0]]))
    assert y.tolist() == [[[1, 3], [3, 3], [5, 3]]]


def test_the_best_are_those_of_the_largest_odds() -> None:
    odds = torch.tensor([[0.1, 2.0, -3.0, 1.0]])
    logs = torch.stack([odds, torch.zeros_like(odds)], -1).log_softmax(-1)
    assert best(logs, 2).tolist() == [[1, 3]]


def test_the_paper_keeps_powers_of_the_ratio() -> None:
    model: Any = ltm.create_model("vit_small_patch16_224", "dynamicvit", compression_ratio=0.7)
    assert model.plan == {"blocks.3": 137, "blocks.6": 96, "blocks.9": 67}


@pytest.mark.parametrize("method", ["dynamicvit", "spvit"])
def test_selectors_stand_where_they_are_wanted(method: str) -> None:
    model: Any = ltm.create_model(TINY, method, plan={"blocks.0": 30}, blocks=[0, 2])
    assert len(model.method.selectors) == 2
    assert ltm.create_model(TINY, method, r=8, blocks=[0, 1, 2, 3]).plan["blocks.3"] == 32
    with pytest.raises(FieldError, match=r"at blocks\.0, where there is no selector"):
        ltm.create_model(TINY, method, plan={"blocks.0": 30})
    with pytest.raises(FieldError, match="numbers from 0 to 3"):
        ltm.create_model(TINY, method, blocks=[4])


@pytest.mark.parametrize("method", ["dynamicvit", "spvit"])
def test_a_network_can_be_copied_after_a_step(method: str) -> None:
    model: Any = ltm.create_model(TINY, method, compression_ratio=0.6).train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    other: Any = copy.deepcopy(model)
    assert other.method.loss_terms() == {}
    assert model.method.loss_terms().keys() == {"keep_ratio"}

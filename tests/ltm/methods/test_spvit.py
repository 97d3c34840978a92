"""SPViT, beside an implementation of its own that follows the paper token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ltm
from ltm.merge import Masked, Selected, WithPackage

from . import dropping

PLAN = {"blocks.3": 12, "blocks.6": 9, "blocks.9": 6}  # with 1, 2 and 3 packages
KEPT = {3: 11, 6: 7, 9: 3}
H, d = 6, 64


def scores(selector: Any, x: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Mean log-softmaxes [B, N, 2] and keep scores [B, N], head by head and token by token."""
    norm, first = selector.project[0], selector.project[1]
    one, two, three = (selector.score[i] for i in (0, 2, 4))
    narrow, widen = selector.branch[0], selector.branch[2]
    logs, keeps = torch.zeros(*x.shape[:2], 2).double(), torch.zeros(x.shape[:2]).double()
    for b, tokens in enumerate(x):
        share = []
        for token in tokens:
            pooled = torch.stack([token[h * d : (h + 1) * d].mean() for h in range(H)])
            a = F.gelu(narrow.weight @ pooled + narrow.bias)
            a = torch.sigmoid(widen.weight @ a + widen.bias)
            share.append(a / a.sum())
        for h in range(H):
            y = []
            for token in tokens:
                own = token[h * d : (h + 1) * d]
                centred = own - own.mean()
                normed = centred / (centred.square().mean() + 1e-5).sqrt() * norm.weight + norm.bias
                y.append(F.gelu(first.weight @ normed + first.bias))
            mean = sum(t[d // 2 :] for t, k in zip(y, keep[b], strict=True) if k) / keep[b].sum()
            for n, token in enumerate(y):
                z = torch.cat([token[: d // 2], mean])
                z = F.gelu(one.weight @ z + one.bias)
                z = F.gelu(two.weight @ z + two.bias)
                z = three.weight @ z + three.bias
                logs[b, n] += share[n][h] * z.log_softmax(-1)
                keeps[b, n] += share[n][h] * z.softmax(-1)[0]
    return logs, keeps


@pytest.mark.parametrize("pool", dropping.POOLS)
def test_training_is_that_of_the_paper(pool: str) -> None:
    ours, images = dropping.run("spvit", pool, training=True, plan=PLAN)
    model, selectors = ours.model, iter(ours.model.method.selectors)
    x = dropping.embedded(model, images)
    first, merges, gaps = model.num_prefix_tokens, iter(ours.merges), []
    keep, packages = torch.ones(2, 16).double(), 0
    torch.manual_seed(dropping.CHANCE)
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            if i in KEPT:
                there = F.pad(keep, (0, packages), value=1.0)
                logs, s = scores(next(selectors), x[:, first:], there)
                left = keep * dropping.gumbel_keeps(logs)[:, :16]
                rows = []
                for b in range(2):
                    dropped = [n for n in range(16) if keep[b, n] and not left[b, n]]
                    rows.append(sum(s[b, n] * x[b, first + n] for n in dropped))
                x = torch.cat([x, torch.stack(rows)[:, None]], 1)
                keep, packages, merge = left, packages + 1, next(merges)
                assert isinstance(merge, WithPackage)
                assert isinstance(merge.merge, Masked)
                assert ((merge.sizes()[:, :16] > 0.5) == (keep > 0.5)).all()
                assert (merge.sizes()[:, 16:] > 1 - 1e-9).all()
                gaps.append((keep.mean() - KEPT[i] / 16) ** 2)
            mask = F.pad(F.pad(keep, (first, 0), value=1.0), (0, packages), value=1.0)
            x = dropping.block(block, x, mask)
        expected = dropping.classified(model, x, mask)
    assert packages == 3
    assert 0 < keep.mean() < 0.7
    torch.testing.assert_close(ours.logits, expected, rtol=0, atol=1e-9)
    (term,) = model.method.loss_terms().values()
    torch.testing.assert_close(term, 2 * torch.stack(gaps).mean(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("pool", dropping.POOLS)
def test_inference_gathers_the_best_and_the_packages(pool: str) -> None:
    ours, images = dropping.run("spvit", pool, training=False, plan=PLAN)
    model, selectors = ours.model, iter(ours.model.method.selectors)
    x = dropping.embedded(model, images)
    first, merges, packages = model.num_prefix_tokens, iter(ours.merges), 0
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            if i in KEPT:
                tokens = x[:, first:]
                image = tokens.shape[1] - packages
                logs, s = scores(next(selectors), tokens, torch.ones(tokens.shape[:2]))
                odds, rows, merge = logs[..., 0] - logs[..., 1], [], next(merges)
                assert isinstance(merge, WithPackage)
                assert isinstance(merge.merge, Selected)
                for b in range(2):
                    order = sorted(range(image), key=lambda n: -odds[b, n].item())
                    kept, dropped = order[: KEPT[i]], order[KEPT[i] :]
                    stay = [*kept, *range(image, image + packages)]
                    assert set(merge.merge.index[b].tolist()) == set(stay)
                    package = sum(s[b, n] * tokens[b, n] for n in dropped)
                    rows.append(torch.cat([x[b, :first], tokens[b, stay], package[None]]))
                x, packages = torch.stack(rows), packages + 1
            x = dropping.block(block, x)
        expected = dropping.classified(model, x)
    torch.testing.assert_close(ours.logits, expected, rtol=0, atol=1e-9)


def test_every_selector_has_the_parameters_of_the_paper() -> None:
    """One set of weights for all heads: far fewer than DynamicViT's."""
    model: Any = ltm.create_model("vit_small_patch16_224", "spvit")
    each = 2 * d + (d * d + d) + (d * d // 2 + d // 2) + (d * d // 8 + d // 4) + (d // 2 + 2)
    branch = (H * H // 2 + H // 2) + (H * H // 2 + H)
    assert sum(p.numel() for p in model.method.parameters()) == 3 * (each + branch)


def test_the_last_package_takes_in_those_that_find_no_room() -> None:
    """Four slots, then two, then one: the second package joins, then all are in one."""
    torch.manual_seed(0)
    plan = {"blocks.1": 4, "blocks.2": 2, "blocks.3": 1}
    model: Any = ltm.create_model("vit_nano_patch4_32", "spvit", plan=plan).eval()
    merges: list[Any] = []
    model.method.register_forward_hook(lambda _m, _a, merge: merges.append(merge))
    with torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
    second, third = merges[1].weights(), merges[2].weights()
    # the package of the first selector is its fourth slot, and stays; its three tokens leave
    assert second[:, 3].tolist() == [[1, 0]] * 2
    assert (second[:, :3, 1] > 0).all()
    assert third.tolist() == [[[1], [1]]] * 2

"""A number of tokens that differs by image: a batch is padded, and padding changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ltm

from ..declared import assert_declared
from . import toys
from .conftest import images
from .nets import classy, pooled

VARYING = [toys.Varies, toys.VariesOnInput, toys.VariesBySize, toys.VariesStatic]


@torch.no_grad()
@pytest.mark.parametrize("toy", VARYING)
@pytest.mark.parametrize("make", [classy, pooled])
def test_padded_images_are_what_they_are_alone(make: Any, toy: Any) -> None:
    plan = {"blocks.1": 14, "blocks.2": 12} if make is classy else {"blocks.1": 60, "blocks.2": 50}
    model, x = make(toy, plan), images(64 if make is classy else 32, 5)
    together = model(x)
    counts = [given.present.sum(1) for given in model.method.seen if given.present is not None]
    assert counts, "nothing was padded"
    assert len(set(counts[0].tolist())) > 1, "every image kept as many tokens"
    padded = next(given for given in model.method.seen if given.present is not None)
    if toy is not toys.VariesStatic:
        assert padded.tokens.shape[1] == counts[0].max()
    for given in model.method.seen:
        assert_declared(given, model.method.decide(given))
    alone = []
    for i in range(len(x)):
        model.method.seen.clear()
        alone.append(model(x[i : i + 1]))
        last = model.method.seen[-1]
        if toy is not toys.VariesStatic:
            assert last.present is None
        n = int(padded.present[i].sum())
        for name in ("received", "received_before", "class_attention"):
            shown, own = getattr(padded, name), getattr(last, name)
            if own is not None and shown is not None:
                torch.testing.assert_close(shown[i, ..., :n], own[0, ..., :n], msg=name)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("toy", VARYING)
def test_padding_has_no_gradient_that_is_not_finite(toy: Any) -> None:
    model, x = classy(toy, {"blocks.1": 14, "blocks.2": 12}), images(64, 5)
    gradients: list[list[Tensor]] = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        model.train()(x).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients[0])
    torch.testing.assert_close(*gradients)


@torch.no_grad()
def test_dense_features_of_dropped_tokens_are_0() -> None:
    model, x = pooled(toys.Varies, {"blocks.1": 60}), images(32, 3)
    feature = model.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
    assert feature.shape == (3, 64, 8, 8)
    (given,) = model.method.seen
    kept = model.method.decide(given).weights().sum(2) > 0
    assert torch.equal(feature.flatten(2).abs().sum(1) > 0, kept)


def test_a_dropped_token_has_an_empty_heatmap() -> None:
    model, x = pooled(toys.Toy, {"blocks.1": 8}), images(32)
    assert ltm.heatmap(model, x[0], (0, 3)).sources == 1
    gone = ltm.heatmap(model, x[0], (7, 7))
    assert gone.sources == 0
    assert gone.picture(torch.rand(3, 32, 32)).dtype == torch.uint8

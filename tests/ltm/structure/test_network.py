"""Heads and units: what leaves, that it leaves for good, and that nothing else changes."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

import ltm
from ltm.backbones import find_backbone
from ltm.checkpoints import load_checkpoint
from ltm.create import merged

from .conftest import SMALL, TINY, create, images, score


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
def test_a_watched_gate_sees_the_sum_of_w_g_of_every_image(backbone: str) -> None:
    model = create(backbone, compression_ratio=1).eval()
    part, gate = next((p, g) for p, g in model.gated if not p.heads)
    gate.watched = True
    model(images(SMALL[backbone], count=1)).square().mean().backward()
    reader = {"Mlp": "fc2", "MBConv": "point_conv.conv"}[type(part.module).__name__]
    weight = part.module.get_submodule(reader).weight
    expected = (weight * weight.grad).transpose(0, 1).flatten(1).sum(1).abs()
    torch.testing.assert_close(gate.take().effect, expected, atol=1e-6, rtol=1e-4)
    assert gate.take() is None


def test_gates_of_blocks_that_are_computed_again_see_the_same() -> None:
    seen: list[tuple[Tensor, ...]] = []
    for checkpointing in (False, True):
        model = create(method="s2vite", compression_ratio=0.7).train()
        model.set_grad_checkpointing(checkpointing)
        model.method.before_training(model)
        for part in images(count=4).split(2):  # two micro-batches of one step
            model(part).square().mean().backward()
        seen.append(tuple(x for _, gate in model.gated for x in gate.take()))
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize("method", ["savit", "s2vite"])
def test_images_of_one_channel_and_a_copy_after_a_step(method: str) -> None:
    name, family = find_backbone(TINY)
    base = timm.create_model(name, in_chans=1, num_classes=5)
    model: Any = merged(name, family, base, method, {"compression_ratio": 0.7}, {})
    x = torch.randn(4, 1, 32, 32)
    model.method.before_training(model.train())
    model(x).square().mean().backward()
    copy = deepcopy(model)
    with torch.no_grad():
        assert torch.equal(copy.eval()(x), model.eval()(x))
        torch.testing.assert_close(ltm.compacted(copy)(x), model(x))
    model.method.before_scoring(model)
    model.method.score(model, model(x).square().mean())
    model.method.after_scoring(model)
    assert ltm.count(ltm.compacted(model)).gmacs <= 0.7 * model.base_gmacs


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

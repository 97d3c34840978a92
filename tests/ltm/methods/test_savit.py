"""SAViT: what the loss does not need leaves before training."""

import torch

import ltm

from ..structure.conftest import create, images, score


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

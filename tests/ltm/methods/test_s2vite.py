"""S2ViTE: structure moves while weights learn."""

import pytest
import torch

from ..structure.conftest import create, images


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

"""The recipe of methods with selectors, through the real trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import ltm

from ..small_run import CLASSES, FolderContext, small_job

if TYPE_CHECKING:
    from pathlib import Path

    from ..conftest import StartRun


@pytest.mark.parametrize("method", ["dynamicvit", "spvit"])
def test_selectors_learn_alone_and_then_with_the_backbone(
    start_run: StartRun, context: FolderContext, tmp_path: Path, method: str
) -> None:
    model = {"backbone": "vit_nano_patch4_32", "image_size": 32, "compression_ratio": 0.7}
    base = ltm.create_model("vit_nano_patch4_32", image_size=32, num_classes=CLASSES, method="none")
    torch.save(base.state_dict(), tmp_path / "base.pt")
    recipe = {
        "epochs": 2,
        "global_batch": 24,
        "lr": 1e-3,
        "ib": {"weight": 0.0},
        "backbone": {"frozen_epochs": 1, "share": 0.01, "constant": True},
        "distill": {"teacher": "itself", "labels": 1.0, "weight": 0.5, "tokens": 0.5},
    }
    job = small_job({"model": model | {"method": method}, "recipe": recipe})
    job = job.replace("model.checkpoint", str(tmp_path / "base.pt"))
    run = start_run(job, context)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    epochs = run.trainer.epochs()
    next(epochs)
    moved = {n for n, p in run.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all(name.startswith("method.") for name in moved)
    list(epochs)
    assert not torch.equal(run.model.head.weight, before["head.weight"])
    parts = run.components.objective.parts
    assert parts[3:] == ("train/distill", "train/distill_tokens", "train/method_loss")
    for told in run.losses:
        loss, ce, _, apart, distance, own = told
        assert loss == pytest.approx(ce + 0.5 * apart + 0.5 * distance + own, rel=1e-4)
        assert distance > 0

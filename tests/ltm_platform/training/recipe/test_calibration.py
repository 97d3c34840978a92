"""Calibration: the mask module learns alone, from the network's own outputs, through the real
trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

import ltm

from ..small_run import CLASSES, FolderContext, small_job

if TYPE_CHECKING:
    from pathlib import Path

    from ..conftest import StartRun

MODEL: dict[str, Any] = {"backbone": "mobilevit_xxs", "image_size": 64}
RECIPE: dict[str, Any] = {
    "epochs": 2,
    "global_batch": 24,
    "lr": 0.01,
    "backbone": {"frozen_epochs": 2},
    "distill": {"teacher": "itself", "labels": 0.0, "weight": 1.0, "features": 1.0},
    "ib": {"weight": 0.0},
}


def test_all_but_the_mask_stands_still_and_no_label_is_learned(
    start_run: StartRun, context: FolderContext, tmp_path: Path
) -> None:
    base = ltm.create_model(**MODEL, num_classes=CLASSES, method="none")
    torch.save(base.state_dict(), tmp_path / "base.pt")
    job = small_job({"model": MODEL, "recipe": RECIPE})
    run = start_run(job.replace("model.checkpoint", str(tmp_path / "base.pt")), context)
    before = {name: x.detach().clone() for name, x in run.model.state_dict().items()}
    assert [n for n in before if n.endswith("running_mean")]
    run.train()
    moved = {n for n, x in run.model.state_dict().items() if not torch.equal(x, before[n])}
    assert moved
    assert all(name.startswith("method.") for name in moved)
    loss, _, _, apart, distance = torch.tensor(run.losses).T
    torch.testing.assert_close(loss, apart + distance)

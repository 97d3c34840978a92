"""Checkpoint folders with first weights: what a command reads of a run, without a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ltm_platform.job import JobSpec
from ltm_platform.models import create_model
from ltm_platform.storage.manifest import EMA_FILE, JOB_FILE, WEIGHTS_FILE

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """A checkpoint's folder of the quickstart with overrides; the moving average differs."""

    def make(*overrides: str, classes: int = 10, ema: bool = False) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        job = JobSpec.load("quickstart", overrides)
        (folder / JOB_FILE).write_text(job.to_yaml())
        for seed, file in enumerate((WEIGHTS_FILE, EMA_FILE) if ema else (WEIGHTS_FILE,)):
            torch.manual_seed(seed)
            model = create_model(job, classes)
            for name, parameter in model.named_parameters():
                if name.endswith("omega") or "head" in name:  # a step, and logits that differ
                    torch.nn.init.normal_(parameter)
            save_file(model.state_dict(), folder / file)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(ema=True)

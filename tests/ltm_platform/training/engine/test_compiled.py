"""A compiled network is compiled for the shapes of training once, and never again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_platform.training.engine.compiled import COMPILED_RATIOS, compile_network

from ..small_run import MODEL, FolderContext, small_job

if TYPE_CHECKING:
    from ..conftest import StartRun

RECIPE: dict[str, Any] = {"epochs": 3, "global_batch": 4}  # 12 steps each


@pytest.mark.parametrize(
    ("model", "training"),
    [
        pytest.param(MODEL, 1, id="one plan"),
        pytest.param(
            MODEL | {"compression_ratio": None, "elastic": (0.3, 0.9)},
            COMPILED_RATIOS,
            id="elastic",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_shape_is_compiled_once(
    start_run: StartRun, context: FolderContext, model: dict[str, Any], training: int
) -> None:
    job = small_job({"model": model, "recipe": RECIPE}, engine__compile=True)
    run = start_run(job, context)
    made: list[bool] = []

    def note(graph: Any, _inputs: Any) -> Any:
        made.append(torch.is_grad_enabled())
        return graph.forward

    torch.compiler.reset()
    compile_network(run.components.engine.module, backend=note)
    run.trainer.restore()
    by_epoch = [len(made) for _ in run.trainer.epochs()]
    assert sum(made) == training
    assert len(made) - sum(made) == 1, "validation"
    if training == 1:
        assert by_epoch == [2, 2, 2]

"""Where training calls the method: a pass over some images before it begins, and every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from ltm.modes import evaluating
from ltm_platform.models import method_of
from ltm_platform.training.engine.weights import copy_zeros
from ltm_platform.training.prefetch import DevicePrefetcher

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ltm_platform.data.loader import TrainingBatch
    from ltm_platform.data.pixels.on_device import ToNetwork
    from ltm_platform.training.engine.interface import Engine


def scoring_pass(engine: Engine, batches: Iterable[TrainingBatch], to_network: ToNetwork) -> None:
    """Show the method as many training images as it wants, without a step. Collective.

    batches: micro-batches of this rank, as many on all ranks and of the same size; the rest of them
    is left. The network is in evaluation mode, so that chance has no part in the scores.
    """
    network, seen = engine.module, 0
    method = method_of(network.model)
    if not method.scoring_images:
        return
    dtype = next(network.parameters()).dtype
    with evaluating(network):
        method.before_scoring(network.model)
        for batch in DevicePrefetcher(batches, engine.device):
            logits, _ = network(to_network(batch.images, batch.changes).to(dtype))
            method.score(network.model, F.cross_entropy(logits.float(), batch.labels))
            seen += len(batch.labels) * engine.world_size
            if seen >= method.scoring_images:
                break
        method.after_scoring(network.model)


def before_training(engine: Engine) -> None:
    """The next step is the first one, or that after the checkpoint."""
    model = engine.module.model
    method_of(model).before_training(model)


def after_step(engine: Engine, step: int, steps: int) -> None:
    """Optimizer step ``step``, from 1, of all ``steps`` is done. Collective."""
    model = engine.module.model
    zeroed = method_of(model).after_step(model, step, steps)
    copy_zeros(engine, zeroed or ())

"""Where training calls the method: a pass over some images before it begins, and every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deepspeed import DeepSpeedEngine
    from torch import Tensor

    from ltm.methods import Hooks


def method_of(engine: DeepSpeedEngine) -> Hooks | None:
    """None for a base network."""
    return getattr(engine.module.model, "method", None)


def scoring_pass(engine: DeepSpeedEngine, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Show the method as many training images as it wants, without a step. Collective.

    batches: micro-batches of this rank, as many on all ranks and of the same size; the rest of them
    is left. The network is in evaluation mode, so that chance has no part in the scores.
    """
    method = method_of(engine)
    if method is None or not method.scoring_images:
        return
    network, seen = engine.module, 0
    dtype = next(network.parameters()).dtype
    was_training = network.training
    network.eval()
    method.before_scoring(network.model)
    for images, labels in batches:
        images, labels = images.to(engine.device, dtype), labels.to(engine.device)
        logits, _ = network(images)
        method.score(network.model, F.cross_entropy(logits.float(), labels))
        seen += len(images) * engine.world_size
        if seen >= method.scoring_images:
            break
    method.after_scoring(network.model)
    network.train(was_training)


def before_training(engine: DeepSpeedEngine) -> None:
    """The next step is the first one, or that after the checkpoint."""
    method = method_of(engine)
    if method is not None:
        method.before_training(engine.module.model)


def after_step(engine: DeepSpeedEngine, step: int, steps: int) -> None:
    """Optimizer step ``step``, from 1, of all ``steps`` is done. Collective."""
    method = method_of(engine)
    if method is not None:
        method.after_step(engine.module.model, step, steps)

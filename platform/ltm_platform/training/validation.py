"""An epoch's validation: the network, its moving average and what the bottleneck has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ltm_platform.training.engine.weights import average_buffers
from ltm_platform.training.measurement.evaluation import evaluate

if TYPE_CHECKING:
    from torch import Tensor

    from ltm_platform.training.components import Components
    from ltm_platform.training.watchdog import Watchdog

CONFUSION_CLASSES = 2000
"""With more classes their confusion matrix would be larger than many a network."""


class Validation:
    """Scores what is trained with on the validation images."""

    def __init__(self, components: Components, watchdog: Watchdog) -> None:
        self._components, self._watchdog = components, watchdog

    def __call__(self) -> tuple[dict[str, float], Tensor | None]:
        """Metrics, and the confusion matrix of the weights unless there are too many classes.

        Collective. The network's buffers are averaged over ranks, for good.
        """
        its = self._components
        average_buffers(its.engine, its.ema)
        confusion = None
        if its.num_classes <= CONFUSION_CLASSES:
            shape, device = (its.num_classes, its.num_classes), its.engine.device
            confusion = torch.zeros(shape, dtype=torch.int64, device=device)
        metrics = {f"val/{k}": v for k, v in self._evaluate(confusion).items()}
        if its.ema:
            with its.ema.applied():
                metrics["val/ema_top1"] = self._evaluate()["top1"]
        metrics |= {f"ib/{k}": v for k, v in its.bottleneck.summary().items()}
        return metrics, confusion

    def _evaluate(self, confusion: Tensor | None = None) -> dict[str, float]:
        its = self._components
        batches = self._watchdog.watched(its.val_loader)
        return evaluate(its.engine, batches, its.to_network, confusion)

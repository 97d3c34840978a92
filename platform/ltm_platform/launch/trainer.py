"""Ray Train's trainer, without what these runs have no use for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.callback import RayTrainCallback


class LeanTrainer(TorchTrainer):
    """Ranks read their images themselves, so Ray Data stays away.

    Without a data set to share out, its callback would still start a process and have every rank
    import Ray Data.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]

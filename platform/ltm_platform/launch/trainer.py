"""Ray Train's trainer, without what these runs have no use for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

if TYPE_CHECKING:
    from ray.train.v2._internal.execution.callback import RayTrainCallback


class LeanTrainer(TorchTrainer):
    """Starts two processes fewer, each of which costs seconds of imports.

    Ranks read their images themselves: without a data set to share out, Ray Data's callback would
    still start a process and have every rank import Ray Data. And nobody has to clean up after a
    driver, whose end frees all that it placed; after a trial, which is an actor, somebody has to.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        unused: tuple[type, ...] = (DatasetsCallback,)
        if ray.get_runtime_context().get_actor_id() is None:
            unused += (PlacementGroupCleanerCallback,)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, unused)]

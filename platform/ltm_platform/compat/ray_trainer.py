"""Ray Train's trainer without parts that these runs do not use: it has no options for them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from ltm_platform.compat.ray_core import autoscaled_groups

if TYPE_CHECKING:
    from ray.train import Result
    from ray.train.v2._internal.execution.callback import RayTrainCallback
    from ray.train.v2._internal.execution.context import TrainRunContext


ABORT_TIMEOUT_S = 30.0


class LeanTrainer(TorchTrainer):
    """Starts up to three processes fewer, each of which costs seconds of imports.

    Ranks read their images themselves: without a data set to shard, Ray Data's callback would
    still start a process and have every rank import Ray Data. A driver's placement groups are freed
    when it ends, so no process has to clean them up; those of a trial, which is an actor, are not.
    Without an autoscaler there are no requests for nodes to coordinate.
    """

    _controller: Any = None

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        unused: tuple[type, ...] = (DatasetsCallback,)
        if ray.get_runtime_context().get_actor_id() is None:
            unused += (PlacementGroupCleanerCallback,)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, unused)]

    def _initialize_and_run_controller(self, **options: Any) -> Result:
        if isinstance(options["scaling_policy"], FixedScalingPolicy) and not autoscaled_groups():
            options["scaling_policy"] = _NoResourceRequests(self.scaling_config)
        return super()._initialize_and_run_controller(**options)

    def _register_sigint_handler(self, controller: Any) -> None:
        """Interrupts stay Python's, and the workers end with their driver, or by `abort`.

        Ray's own handler would first ask the workers to end. Schedulers and service managers
        signal all processes of a job, Ray's too, and then it would wait for an answer for ever.
        """
        self._controller = controller

    def abort(self) -> None:
        """Stop the workers that an interrupted `fit` has left in a Ray that keeps running."""
        if self._controller is not None:
            with suppress(ray.exceptions.RayError):  # the process that would answer ends
                ray.get(self._controller.abort.remote(), timeout=ABORT_TIMEOUT_S)


class _NoResourceRequests(FixedScalingPolicy):
    """A fixed number of workers on the nodes that are there."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Leaves out the first request, and with it the process that takes them."""

    def _maybe_send_resource_request(self) -> None:
        pass

"""Ray Train's trainer without parts that these runs do not use: it has no options for them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray._raylet import RAY_NODE_ID_KEY  # type: ignore[attr-defined]
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import (
    DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE,
    RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR,
    get_env_vars_to_propagate,
)
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from ltm_platform.compat.ray_core import autoscaled_groups
from ltm_platform.compat.ray_torch import LocalTorchConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ray.train import Result, TrainingFailedError
    from ray.train.v2._internal.execution.callback import RayTrainCallback
    from ray.train.v2._internal.execution.context import TrainRunContext


ABORT_TIMEOUT_S = 30.0
POLL_S = 1.0


def awaited(reference: Any, check: Callable[[], None]) -> Any:
    """The value of an object reference; ``check`` is called every second until it is there.

    What Ray has to answer may never come when a part of Ray has ended: then ``check`` raises.
    """
    while not ray.wait([reference], timeout=POLL_S)[0]:
        check()
    return ray.get(reference)


class CausePolicy(DefaultFailurePolicy):
    """Decides in Ray Train's controller whether failed workers are started again.

    Ray Train's own policy counts failures and does not look at their cause.
    """

    def is_final(self, causes: Mapping[int, Exception]) -> bool:
        """Whether another attempt would fail in the same way; ``causes`` by rank."""
        raise NotImplementedError

    def on_retry(self, error: TrainingFailedError) -> None:
        """The workers are about to be started again."""
        raise NotImplementedError

    def _is_retryable_error(self, training_failed_error: TrainingFailedError) -> bool:
        if not super()._is_retryable_error(training_failed_error):
            return False
        causes = getattr(training_failed_error, "worker_failures", {})
        return not self.is_final(causes)

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        decision = super().make_decision(training_failed_error)
        if decision == FailureDecision.RETRY:
            self.on_retry(training_failed_error)
        return decision


class LeanTrainer(TorchTrainer):
    """Starts up to three processes fewer, each of which costs seconds of imports.

    Ranks read their images themselves: without a data set to shard, Ray Data's callback would
    still start a process and have every rank import Ray Data. A driver's placement groups are freed
    when it ends, so no process has to clean them up; those of a trial, which is an actor, are not.
    Without an autoscaler there are no requests for nodes to coordinate.

    While it waits for the controller it calls ``check``, whose exception ends `fit`: the answer of
    a controller never comes when Ray itself is gone.
    """

    _controller: Any = None

    def __init__(
        self,
        *args: Any,
        check: Callable[[], None] = lambda: None,
        policy: CausePolicy | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, torch_config=LocalTorchConfig(), **kwargs)
        self._check, self._policy = check, policy

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        unused: tuple[type, ...] = (DatasetsCallback,)
        if ray.get_runtime_context().get_actor_id() is None:
            unused += (PlacementGroupCleanerCallback,)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, unused)]

    def _initialize_and_run_controller(self, **options: Any) -> Result:
        """As Ray Train's own, which blocks until the controller answers.

        Interrupts stay Python's, and the workers end with their driver, or by `abort`. Ray's own
        handler would first ask the workers to end. Schedulers and service managers signal all
        processes of a job, Ray's too, and then it would wait for an answer for ever.
        """
        if isinstance(options["scaling_policy"], FixedScalingPolicy) and not autoscaled_groups():
            options["scaling_policy"] = _NoResourceRequests(self.scaling_config)
        if self._policy:
            options["failure_policy"] = self._policy
        silent = {
            RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: (
                DEFAULT_RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_VALUE
            )
        }
        controller_class = ray.remote(
            num_cpus=0,
            label_selector={RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()},
            runtime_env={"env_vars": silent | get_env_vars_to_propagate()},
        )(TrainController)
        self._controller = controller_class.remote(**options)
        awaited(self._controller.run.remote(), self._check)
        result: Result = awaited(self._controller.get_result.remote(), self._check)
        return result

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

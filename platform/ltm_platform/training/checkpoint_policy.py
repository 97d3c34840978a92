"""When a checkpoint is due within an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ltm_platform.training.step_metrics import CHECK_STEPS

if TYPE_CHECKING:
    from ltm_platform.training.worker_context import WorkerContext


class CheckpointPolicy:
    """Every so many steps, once when the cluster takes a node away, and before an end that was
    asked for. Ranks ask each other every `CHECK_STEPS` steps alone.

    every_steps: None for no checkpoints on schedule.
    stopping: an end was asked for; it comes after the checkpoint that is due.
    """

    def __init__(self, every_steps: int | None, context: WorkerContext) -> None:
        self._every_steps, self._context = every_steps, context
        self._preempted = False
        self.stopping = False

    def is_due(self, step: int) -> bool:
        """Whether to save after this step of all steps, counted from 1. Collective."""
        if step % CHECK_STEPS == 0:
            self.stopping = self._context.stop_is_requested()
            if self.stopping:
                return True
            if not self._preempted:
                self._preempted = self._context.is_preempted()
                if self._preempted:
                    return True
        return self._every_steps is not None and step % self._every_steps == 0
